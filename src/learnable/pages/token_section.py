"""The section of a page that shows a few examples token by token."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from learnable.pages.excerpts import Excerpt, excerpts_of
from learnable.pages.facts import View
from learnable.pages.tokens import By, Kind, Piece, TokenView, runs, scale, step
from learnable.pages.wording import decimal, enumeration

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
class Span:
    """A piece as the page shows it: its steps on the scales, and its figures; a masked run is one span."""

    text: str
    kind: Kind
    steps: tuple[tuple[str, int], ...] = ()
    figures: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: figures by column, a dash where there is none."""

    text: str
    figures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """One example: who it is, its coloured text, the same in words and as a table, and what is not shown."""

    excerpt: Excerpt
    spans: tuple[Span, ...]
    summary: str
    rows: tuple[Row, ...]
    left_out: int
    remark: str


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A legend: which figure the colours show, in words, and its steps."""

    by: By
    title: str
    steps: tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class TokenSection:
    """The examples, and the figures they can be coloured by; the first is the one that is seen at first."""

    examples: tuple[Spelled, ...]
    scales: tuple[Scale, ...]


def examples_to_spell(view: View, number: int) -> list[str]:
    """Return ids of a few scored examples: the first chosen ones, one in the middle, and the least good one left out.

    Args:
        view: The selection.
        number: How many; 1 is a chosen one, 2 a chosen and a left-out one.
    """
    ranked = view.scored.sort("merit", "id", descending=[True, False], nulls_last=True)["id"].to_list()
    kept = view.kept["id"].to_list()
    chosen = kept[: max(1, number - 2)]
    out = set(ranked).difference(kept)
    worst = [id for id in reversed(ranked) if id in out][: max(0, number - 1)][:1]
    rest = [id for id in ranked if id not in {*chosen, *worst}]
    middle = rest[len(rest) // 2 :][: 1 if number > 2 else 0]
    return [*chosen, *middle, *worst][:number]


def token_section(view: View) -> TokenSection | None:
    """Return what the page shows of the examples that were measured token by token; None where there are none."""
    measured = {each.id: each for each in view.facts.tokens if each.scored}
    if not measured:
        return None
    frame = pl.DataFrame({"id": list(measured)}).join(view.frame, on="id", maintain_order="left")
    compares = any(each.compares for each in measured.values())
    shown: list[By] = ["learned", "before", "after"] if compares else ["before"]
    losses = dict(frame.select("id", "loss_after").iter_rows()) if view.has("loss_after") else {}
    return TokenSection(
        examples=tuple(
            _spelled(excerpt, measured[excerpt.id], losses) for excerpt in excerpts_of(view, frame)
        ),
        scales=tuple(Scale(by=by, title=_QUESTIONS[by], steps=tuple(scale(by))) for by in shown),
    )


def _spelled(excerpt: Excerpt, measured: TokenView, losses: Mapping[str, float | None]) -> Spelled:
    shown, left_out = _first(measured.pieces)
    scored = [piece for piece in shown if piece.kind == "scored"]
    columns: list[By] = ["before", "after", "learned"] if measured.compares else ["before"]
    return Spelled(
        excerpt=excerpt,
        spans=tuple(span for kind, run in runs(shown) for span in _spans(kind, run, columns)),
        summary=_summary(measured),
        rows=tuple(
            Row(text=piece.text, figures=tuple(decimal(piece.nats(by)) for by in columns)) for piece in scored
        ),
        left_out=left_out,
        remark=_remark(measured, losses.get(excerpt.id)),
    )


def _first(pieces: tuple[Piece, ...]) -> tuple[list[Piece], int]:
    """Return the pieces up to the last scored one that is shown, and how many scored ones are not."""
    shown: list[Piece] = []
    scored = sum(piece.kind == "scored" for piece in pieces)
    for piece in pieces:
        if piece.kind == "scored" and sum(each.kind == "scored" for each in shown) == SHOWN_TOKENS:
            break
        shown.append(piece)
    return shown, max(0, scored - SHOWN_TOKENS)


def _spans(kind: Kind, run: list[Piece], columns: list[By]) -> list[Span]:
    if kind == "scored":
        return [
            Span(
                text=piece.text,
                kind=kind,
                steps=tuple((by, step(piece.nats(by), by)) for by in columns),
                figures=_figures(piece, columns),
            )
            for piece in run
        ]
    text = "".join(piece.text for piece in run)
    if len(text) > MASKED_CHARACTERS:
        half = MASKED_CHARACTERS // 2
        text = f"{text[:half]} [… {len(text) - 2 * half:,} characters …] {text[-half:]}"
    return [Span(text=text, kind=kind)]


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
