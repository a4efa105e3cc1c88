"""What a model lost and learned on each token: pieces of text with their losses, the colours, and how a page shows them."""

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


def token_parts(views: Sequence[TokenView], examples: Iterable[Markup]) -> list[Markup]:
    """Return examples that show ``spelled``, below what explains their colours.

    Args:
        views: What they show.
        examples: As markup.
    """
    shown: list[By] = ["learned", "before", "after"] if any(view.compares for view in views) else ["before"]
    parts = [
        text(
            "A few examples as the model reads them, from the first chosen to the least good: faint is what it is "
            "given, the rest is what it should say. Point at a word for its figures, or tap it."
        )
    ]
    if len(shown) > 1:
        form = '<label><input type="radio" name="colours" value="{by}"{checked}> {by}</label>'
        checked = {shown[0]: Markup(" checked")}
        options = [markup(form, by=by, checked=checked.get(by, "")) for by in shown]
        form = '<fieldset class="switch"><legend>Colours show</legend>{options}</fieldset>'
        parts.append(markup(form, options=joined(options)))
    kind = "choice" if len(shown) > 1 else shown[0]
    return [*parts, box(f"spelled by-{kind}", [*map(_legend, shown), *examples])]


def _legend(by: By) -> Markup:
    steps = Markup("").join(
        markup('<li><span class="token {by}{number}">{words}</span></li>', by=by, number=number, words=words)
        for number, words in scale(by)
    )
    return markup(
        '<div class="scale {by}"><p id="scale-{by}">{title}</p><ul aria-labelledby="scale-{by}">{steps}</ul></div>',
        by=by,
        title=_QUESTIONS[by],
        steps=steps,
    )


def spelled(measured: TokenView, title: str, scored_with: float | None) -> list[Markup]:
    """Return an example token by token: its coloured text, the same in words and as a table.

    Args:
        measured: Its tokens.
        title: Where it is from.
        scored_with: Its loss after in the scores, where that is known.
    """
    columns: list[By] = ["before", "after", "learned"] if measured.compares else ["before"]
    shown, left_out = _first(measured.pieces)
    spans = [_spans(kind, run, columns) for kind, run in runs(shown)]
    said = [
        (f"… and {plural(left_out, 'more scored token')}, not in this page." if left_out else "", "remark"),
        (_summary(measured), "summary"),
        (_remark(measured, scored_with), "remark"),
    ]
    name = measured.id[:8]
    rows = [
        (
            markup('<code class="exact">{text}</code>', text=piece.text.replace("\n", "↵")),
            *(decimal(piece.nats(by)) for by in columns),
        )
        for piece in shown
        if piece.kind == "scored"
    ]
    figures = table(
        f"Loss in nats of each scored token of {name}",
        ("token", *columns),
        rows,
        label=f"Losses of {title} {name}",
        kind="narrow",
    )
    return [
        markup('<div class="words" dir="auto">{spans}</div>', spans=Markup("").join(spans)),
        *(text(words, kind) for words, kind in said if words),
        fold(f"The figures of {plural(len(rows), 'token')} as a table", [figures]),
    ]


def _first(pieces: tuple[Piece, ...]) -> tuple[tuple[Piece, ...], int]:
    """Return the pieces up to the last scored one that is shown, and how many scored ones are not."""
    places = [place for place, piece in enumerate(pieces) if piece.kind == "scored"]
    left_out = max(0, len(places) - SHOWN_TOKENS)
    return pieces[: places[SHOWN_TOKENS]] if left_out else pieces, left_out


def _spans(kind: Kind, run: list[Piece], columns: list[By]) -> Markup:
    if kind == "scored":
        form = '<span class="{style}" title="{about}" tabindex="-1">{text}</span>'
        spans = [
            markup(form, style=_style(piece, columns), about=_figures(piece, columns), text=piece.text)
            for piece in run
        ]
        return Markup("").join(spans)
    whole = "".join(piece.text for piece in run)
    if len(whole) > MASKED_CHARACTERS:
        half = MASKED_CHARACTERS // 2
        whole = f"{whole[:half]} [… {len(whole) - 2 * half:,} characters …] {whole[-half:]}"
    return markup('<span class="{kind}">{text}</span>', kind=kind, text=whole)


def _style(piece: Piece, columns: list[By]) -> str:
    steps = [f"{by}{number}" for by in columns if (number := step(piece.nats(by), by))]
    return " ".join(["token", *steps, *(["end"] if "\n" in piece.text else [])])


def _figures(piece: Piece, columns: list[By]) -> str:
    figures = " · ".join(f"{by} {decimal(piece.nats(by))}" for by in columns)
    several = f", {piece.tokens} tokens of one character together" if piece.tokens > 1 else ""
    return f"{_quoted(piece.text)} {figures} nats{several}"


def _summary(measured: TokenView) -> str:
    """Say where most was learned, for whoever does not see the colours, or none of them."""
    by: By = "learned" if measured.compares else "before"
    ranked = sorted(measured.scored, key=lambda piece: -(piece.nats(by) or 0.0))
    most = [piece for piece in ranked[:NAMED] if step(piece.nats(by), by) > 0]
    worse = [piece for piece in ranked[-1:] if step(piece.nats(by), by) < 0]
    named = enumeration([f"{_quoted(_bare(piece.text))} ({decimal(piece.nats(by), 2)})" for piece in most])
    what = "Most was learned on" if measured.compares else "Most is lost on"
    said = f"{what} {named}, in nats." if most else "Little was learned on any token."
    if not measured.compares and not most:
        said = "Little is lost on any token."
    if worse:
        said += f" It got worst on {_quoted(_bare(worse[0].text))} ({decimal(worse[0].nats(by), 2)})."
    return said


def _remark(measured: TokenView, scored_with: float | None) -> str:
    after = measured.mean("after")
    if after is None or scored_with is None or abs(after - scored_with) <= APART_NATS:
        return ""
    return (
        f"The mean of the losses after is {decimal(after)} here, and {decimal(scored_with)} in the scores: "
        "those were measured otherwise, for example while the reference was still being trained."
    )


def _bare(text: str) -> str:
    """Return a text without the spaces around it: many tokens begin with the space before their word."""
    return text.strip(" ") or text


def _quoted(text: str) -> str:
    return "“" + text.replace("\n", "↵") + "”"
