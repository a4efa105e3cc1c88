"""What a model lost and learned on each token: pieces of text with their losses, and the steps of the colour scale."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["masked", "scored", "cut"]
By = Literal["before", "after", "learned"]

LOSS_EDGES_NATS = (0.5, 1.0, 2.0, 4.0, 8.0)
LEARNED_EDGES_NATS = (0.25, 1.0, 2.0, 4.0)
"""What was learned has the same steps below 0, for what got worse."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Text that one token stands for, or several that share a character.

    Args:
        text: Never empty; all pieces of an example in a row are the text that the model was given.
        kind: ``scored`` counts in the loss, ``masked`` does not, ``cut`` lies beyond the length limit.
        tokens: Tokens behind it.
        before: Loss under the base model in nats, summed over its tokens; None where it is not scored.
        after: The same under the reference; None without one.
    """

    text: str
    kind: Kind
    tokens: int = 1
    before: float | None = None
    after: float | None = None

    @property
    def learned(self) -> float | None:
        """Loss before less loss after, in nats: below 0 where the reference does worse."""
        return None if self.before is None or self.after is None else self.before - self.after

    def nats(self, by: By) -> float | None:
        """Return one of the three figures."""
        return {"before": self.before, "after": self.after, "learned": self.learned}[by]


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """One example in pieces."""

    id: str
    pieces: tuple[Piece, ...]

    @property
    def scored(self) -> tuple[Piece, ...]:
        """The pieces that count in the loss."""
        return tuple(piece for piece in self.pieces if piece.kind == "scored")

    @property
    def compares(self) -> bool:
        """True where there is a loss after beside the loss before."""
        return any(piece.after is not None for piece in self.pieces)

    def mean(self, by: By) -> float | None:
        """Return a figure in nats per scored token; None where there is none."""
        values = [value for piece in self.scored if (value := piece.nats(by)) is not None]
        return sum(values) / sum(piece.tokens for piece in self.scored) if values else None


def token_view(
    id: str,
    text: str,
    offsets: NDArray[np.int64],
    mask: NDArray[np.bool_],
    *,
    before: NDArray[np.float32],
    after: NDArray[np.float32] | None = None,
) -> TokenView:
    """Cut a text into the pieces that its tokens stand for.

    Tokens of which each holds a part of the same character make one piece, whose losses are their sums; text between
    two tokens that belongs to neither goes with the second. So no character is torn, lost or doubled.

    Args:
        id: Of the example.
        text: The whole conversation as the chat template writes it.
        offsets: Start and end of each token of the text in characters, (T, 2).
        mask: True where the loss counts, (t,); t < T where tokens were cut off at the length limit.
        before: Loss of the scored tokens under the base model in nats, (P,), P the number of True in ``mask``.
        after: The same under the reference, (P,).
    """
    numbers = np.cumsum(mask) - 1
    pieces: list[Piece] = []
    start = 0
    for tokens, end in _groups(offsets):
        scored = [numbers[token] for token in tokens if token < len(mask) and mask[token]]
        kind: Kind = "scored" if scored else "masked" if tokens[0] < len(mask) else "cut"
        pieces.append(
            Piece(
                text=text[start:end],
                kind=kind,
                tokens=len(scored) if scored else len(tokens),
                before=float(before[scored].sum(dtype=np.float64)) if scored else None,
                after=float(after[scored].sum(dtype=np.float64)) if scored and after is not None else None,
            )
        )
        start = end
    if start < len(text):
        pieces.append(Piece(text=text[start:], kind="masked", tokens=0))
    return TokenView(id=id, pieces=tuple(pieces))


def _groups(offsets: NDArray[np.int64]) -> Iterator[tuple[list[int], int]]:
    """Yield the tokens that stand for the same characters, and where these end."""
    tokens: list[int] = []
    last = 0
    for token, (start, end) in enumerate(offsets.tolist()):
        if last and start >= last and end > last:
            yield tokens, last
            tokens = []
        tokens.append(token)
        last = max(last, end)
    if last:
        yield tokens, last


def runs(pieces: Iterable[Piece]) -> Iterator[tuple[Kind, list[Piece]]]:
    """Yield the pieces of one kind that follow each other."""
    for kind, run in groupby(pieces, key=lambda piece: piece.kind):
        yield kind, list(run)


def step(nats: float | None, by: By) -> int:
    """Return the step of the scale that a figure is in: 0 has no colour, below 0 is what got worse."""
    if nats is None:
        return 0
    if by != "learned":
        return bisect_right(LOSS_EDGES_NATS, nats)
    size = bisect_right(LEARNED_EDGES_NATS, abs(nats))
    return size if nats > 0 else -size


def scale(by: By) -> list[tuple[int, str]]:
    """Return the steps of a scale, lowest first, each with its range in words, in nats."""
    edges = LEARNED_EDGES_NATS if by == "learned" else LOSS_EDGES_NATS
    ranges = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    above = list(enumerate([*ranges, f"{edges[-1]:g} or more"], start=1))
    if by != "learned":
        return [(0, f"under {edges[0]:g}"), *above]
    ranges = [f"\N{MINUS SIGN}{high:g} to \N{MINUS SIGN}{low:g}" for low, high in pairwise(edges)]
    below = [
        (-number, words)
        for number, words in enumerate([*ranges, f"\N{MINUS SIGN}{edges[-1]:g} or less"], start=1)
    ]
    return [*reversed(below), (0, f"within ±{edges[0]:g}"), *above]
