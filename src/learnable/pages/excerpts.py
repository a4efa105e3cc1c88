"""Examples to read: the best, those around the border, and the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from learnable.pages.facts import View
from learnable.pages.wording import count, decimal

BEST = 8
BORDER = 4
WORST = 8
_SHORT_CHARACTERS = 500
_PREVIEW_CHARACTERS = 280
_FULL_CHARACTERS = 8_000
_SHOWN_MESSAGES = 12
_ROLES = {"system": "System", "user": "Question", "assistant": "Answer", "tool": "Result of a tool"}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: its text, the start to show while it is folded ("" = not folded), and characters left out."""

    role: str
    text: str
    preview: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """One example with its figures; ``state`` says whether it was chosen, or why not."""

    id: str
    source: str
    is_kept: bool
    state: str
    figures: tuple[tuple[str, str], ...]
    turns: tuple[Turn, ...]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A few examples under one heading."""

    name: str
    about: str
    excerpts: tuple[Excerpt, ...]


def shelves(view: View) -> list[Shelf]:
    """Pick the examples to show by the score used; none is shown twice, and empty shelves are left out."""
    if view.facts.examples is None or not view.has("score"):
        return []
    ranked = view.scored.sort("merit", "id", descending=[True, False], nulls_last=True)
    kept, rest = ranked.filter("is_kept"), ranked.filter(~pl.col("is_kept"))
    taken: set[str] = set()
    picked = {
        "best": _new(kept, taken, BEST),
        "last": _new(kept.reverse(), taken, BORDER).reverse(),
        "first": _new(rest, taken, BORDER),
        "worst": _new(ranked.reverse(), taken, WORST),
    }
    titles = (
        ("best", "Best of the chosen", "The highest scores in the selection."),
        ("last", "Just in", "The chosen examples with the least good scores."),
        ("first", "Just out", "The best scores that were not chosen; each says why."),
        ("worst", "Worst", "The least good scores of all, the worst one first."),
    )
    return [
        Shelf(name=name, about=about, excerpts=excerpts_of(view, picked[key]))
        for key, name, about in titles
        if picked[key].height
    ]


def _new(frame: pl.DataFrame, taken: set[str], number: int) -> pl.DataFrame:
    found = frame.filter(~pl.col("id").is_in(list(taken))).head(number)
    taken.update(found["id"])
    return found


def excerpts_of(view: View, frame: pl.DataFrame) -> tuple[Excerpt, ...]:
    """Return the examples in the rows of a frame, in its order; none where there are no texts."""
    if view.facts.examples is None:
        return ()
    texts = view.facts.examples.select(pl.col("id").cast(pl.String), "messages").join(
        frame, on="id", how="semi"
    )
    messages = dict(texts.select("id", "messages").iter_rows())
    return tuple(
        Excerpt(
            id=row["id"],
            source=row["source"],
            is_kept=row["is_kept"],
            state=f"chosen, pick {row['rank'] + 1:,}"
            if row["is_kept"]
            else f"not chosen: {row['reason'] or 'no reason given'}",
            figures=tuple(_figures(view, row)),
            turns=turns,
            left_out=left_out,
        )
        for row in frame.iter_rows(named=True)
        for turns, left_out in [turns_of(messages.get(row["id"]))]
    )


def turns_of(messages: Sequence[Mapping[str, str | None]] | None) -> tuple[tuple[Turn, ...], int]:
    """Return the first messages of a conversation, as they are shown, and how many more there are."""
    given = messages or ()
    turns = tuple(_turn(str(each["role"]), each["content"] or "") for each in given[:_SHOWN_MESSAGES])
    return turns, max(0, len(given) - _SHOWN_MESSAGES)


def _figures(view: View, row: dict[str, float | None]) -> list[tuple[str, str]]:
    scores = [name for name in dict.fromkeys([view.facts.by, *view.facts.scorers]) if name in row]
    figures = [(name, decimal(row[name])) for name in scores]
    if row.get("loss_before") is not None:
        losses = decimal(row["loss_before"])
        if "loss_after" in row:
            losses += f" → {decimal(row['loss_after'])}"
        figures.append(("loss", losses))
    if row.get("response_tokens") is not None:
        figures.append(("response tokens", count(row["response_tokens"])))
    return figures


def _turn(role: str, text: str) -> Turn:
    folded = len(text) > _SHORT_CHARACTERS
    return Turn(
        role=_ROLES.get(role, role),
        text=text[:_FULL_CHARACTERS],
        preview=text[:_PREVIEW_CHARACTERS].rstrip() + "…" if folded else "",
        left_out=max(0, len(text) - _FULL_CHARACTERS),
    )
