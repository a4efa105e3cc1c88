"""What a model lost and learned on each token: pieces of text with their losses, the colours, and how a page shows them."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from learnable.pages.html import box, fold, joined, markup, table, text
from learnable.pages.words import decimal, enumeration, plural

Kind = Literal["masked", "scored", "cut"]
By = Literal["before", "after", "learned"]

LOSS_EDGES_NATS = (0.5, 1.0, 2.0, 4.0, 8.0)
LEARNED_EDGES_NATS = (0.25, 1.0, 2.0, 4.0)
"""What was learned has the same steps below 0, for what got worse."""
SHOWN_TOKENS = 400
MASKED_CHARACTERS = 600
NAMED = 3
APART_NATS = 0.05
"""A loss per token that differs by more from the one in the scores is no rounding."""
_QUESTIONS: dict[By, str] = {
    "learned": "Learned: loss before minus loss after, in nats; below 0 it got worse",
    "before": "Loss before, under the base model, in nats",
    "after": "Loss after, under the reference, in nats",
}


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
        value: float | None = getattr(self, by)
        return value


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
    ranges = [*pairwise(edges), (edges[-1], math.inf)]
    above = [f"{low:g} to {high:g}" if high < math.inf else f"{low:g} or more" for low, high in ranges]
    if by != "learned":
        return list(enumerate([f"under {edges[0]:g}", *above]))
    minus = "\N{MINUS SIGN}"
    below = [
        f"{minus}{high:g} to {minus}{low:g}" if high < math.inf else f"{minus}{low:g} or less"
        for low, high in ranges
    ]
    return list(enumerate([*reversed(below), f"within ±{edges[0]:g}", *above], start=-len(below)))


def token_parts(views: Sequence[TokenView], examples: Iterable[Markup]) -> list[Markup]:
    """Return examples, as markup that ``spelled`` made of views, below what explains their colours."""
    shown: list[By] = ["learned", "before", "after"] if any(view.compares for view in views) else ["before"]
    about = (
        "A few examples as the model reads them, from the first chosen to the least good: faint is what it is "
        "given, the rest is what it should say. Point at a word for its figures, or tap it."
    )
    parts, kind = [text(about)], shown[0] if len(shown) == 1 else "choice"
    if len(shown) > 1:
        form = '<label><input type="radio" name="colours" value="{by}"{checked}> {by}</label>'
        checked = {shown[0]: Markup(" checked")}
        options = joined(markup(form, by=by, checked=checked.get(by, "")) for by in shown)
        form = '<fieldset class="switch"><legend>Colours show</legend>{options}</fieldset>'
        parts.append(markup(form, options=options))
    return [*parts, box(f"spelled by-{kind}", [*map(_legend, shown), *examples])]


def _legend(by: By) -> Markup:
    form = '<li><span class="token {by}{number}">{words}</span></li>'
    steps = Markup("").join(markup(form, by=by, number=number, words=words) for number, words in scale(by))
    form = '<div class="scale {by}"><p id="scale-{by}">{title}</p><ul aria-labelledby="scale-{by}">{steps}</ul></div>'
    return markup(form, by=by, title=_QUESTIONS[by], steps=steps)


def spelled(measured: TokenView, title: str, scored_with: float | None) -> list[Markup]:
    """Return an example token by token: its coloured text, the same in words and as a table.

    Args:
        measured: Its tokens.
        title: Where it is from.
        scored_with: Its loss after in the scores, where that is known.
    """
    columns: list[By] = ["before", "after", "learned"] if measured.compares else ["before"]
    # Up to the last scored piece that is shown.
    places = [place for place, piece in enumerate(measured.pieces) if piece.kind == "scored"]
    left_out = max(0, len(places) - SHOWN_TOKENS)
    shown = measured.pieces[: places[SHOWN_TOKENS]] if left_out else measured.pieces
    spans = [_spans(kind, run, columns) for kind, run in runs(shown)]
    said = [
        (f"… and {plural(left_out, 'more scored token')}, not in this page." if left_out else "", "remark"),
        (_summary(measured), "summary"),
        (_remark(measured, scored_with), "remark"),
    ]
    name, form = measured.id[:8], '<code class="exact">{text}</code>'
    rows = [
        (markup(form, text=_shown(piece.text)), *(decimal(piece.nats(by)) for by in columns))
        for piece in shown
        if piece.kind == "scored"
    ]
    caption, label = f"Loss in nats of each scored token of {name}", f"Losses of {title} {name}"
    figures = table(caption, ("token", *columns), rows, label=label, kind="narrow")
    return [
        markup('<div class="words" dir="auto">{spans}</div>', spans=Markup("").join(spans)),
        *(text(words, kind) for words, kind in said if words),
        fold(f"The figures of {plural(len(rows), 'token')} as a table", [figures]),
    ]


def _spans(kind: Kind, run: list[Piece], columns: list[By]) -> Markup:
    if kind == "scored":
        return Markup("").join(_span(piece, columns) for piece in run)
    whole = "".join(piece.text for piece in run)
    if len(whole) > MASKED_CHARACTERS:
        half = MASKED_CHARACTERS // 2
        whole = f"{whole[:half]} [… {len(whole) - 2 * half:,} characters …] {whole[-half:]}"
    return markup('<span class="{style}">{text}</span>', style=kind, text=whole)


def _span(piece: Piece, columns: list[By]) -> Markup:
    steps = [f"{by}{number}" for by in columns if (number := step(piece.nats(by), by))]
    figures = " · ".join(f"{by} {decimal(piece.nats(by))}" for by in columns)
    several = f", {piece.tokens} tokens of one character together" if piece.tokens > 1 else ""
    return markup(
        '<span class="{style}" title="{about}" tabindex="-1">{text}</span>',
        style=" ".join(["token", *steps, *(["end"] if "\n" in piece.text else [])]),
        about=f"“{_shown(piece.text)}” {figures} nats{several}",
        text=piece.text,
    )


def _summary(measured: TokenView) -> str:
    """Say where most was learned, for whoever does not see the colours, or none of them."""
    by: By = "learned" if measured.compares else "before"
    ranked = sorted(measured.scored, key=lambda piece: -(piece.nats(by) or 0.0))
    # Many tokens begin with the space before their word.
    named = [
        (
            step(piece.nats(by), by),
            f"“{_shown(piece.text.strip(' ') or piece.text)}” ({decimal(piece.nats(by), 2)})",
        )
        for piece in ranked
    ]
    most = [words for number, words in named[:NAMED] if number > 0]
    if most:
        said = f"Most {'was learned' if measured.compares else 'is lost'} on {enumeration(most)}, in nats."
    else:
        said = f"Little {'was learned' if measured.compares else 'is lost'} on any token."
    worse = [f" It got worst on {words}." for number, words in named[-1:] if number < 0]
    return said + "".join(worse)


def _remark(measured: TokenView, scored_with: float | None) -> str:
    after = measured.mean("after")
    if after is None or scored_with is None or abs(after - scored_with) <= APART_NATS:
        return ""
    return (
        f"The mean of the losses after is {decimal(after)} here, and {decimal(scored_with)} in the scores: "
        "those were measured otherwise, for example while the reference was still being trained."
    )


def _shown(text: str) -> str:
    return text.replace("\n", "↵")
