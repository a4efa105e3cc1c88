"""What the models wrote, side by side: the same few items for every arm, in the order in which they were asked."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from learnable.pages.excerpts import Turn, turns_of
from learnable.pages.lesson.facts import Asked, Evaluated, Lesson, asked_words
from learnable.pages.verdicts import finite
from learnable.pages.words import decimal

SHOWN_ITEMS = 3
"""Of each way to ask."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What one evaluation said of a text; ``kind`` is right, wrong, or neither."""

    name: str
    kind: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Written:
    """What one arm wrote, and its marks."""

    arm: str
    turn: Turn
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item: its prompt, and what each arm wrote."""

    prompt: Turn
    written: tuple[Written, ...]


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The items of one way to ask."""

    title: str
    items: tuple[Item, ...]


def shelves(lesson: Lesson) -> list[Shelf]:
    """Return the first items of each way to ask; the names of the evaluations are in the marks where there are several."""
    frame = lesson.facts.samples
    if frame is None or frame.is_empty():
        return []
    by_label = {each.label: each for each in lesson.evaluated}
    places: dict[tuple[Asked, str], list[str]] = {}
    for label in frame["evaluation"].unique(maintain_order=True):
        each = by_label[label]
        places.setdefault((each.asked, each.name if each.asked == "elsewhere" else ""), []).append(label)
    order = ("unseen", "seen", "general", "elsewhere")
    return [
        _shelf(lesson, frame.filter(pl.col("evaluation").is_in(labels)), by_label, asked, name)
        for (asked, name), labels in sorted(places.items(), key=lambda place: order.index(place[0][0]))
    ]


def _shelf(
    lesson: Lesson, frame: pl.DataFrame, by_label: Mapping[str, Evaluated], asked: Asked, name: str
) -> Shelf:
    several = frame["evaluation"].n_unique() > 1
    items = []
    # By prompt: an item of two evaluations has two ids, as it is graded by other things.
    for (prompt,), part in list(frame.group_by("prompt", maintain_order=True))[:SHOWN_ITEMS]:
        written = []
        for arm in lesson.ordered(part):
            own = part.filter(pl.col("arm") == arm)
            for (text,), same in own.group_by("completion", maintain_order=True):
                marks = tuple(
                    _mark(by_label[label], finite(value), named=several)
                    for label, value in same.select("evaluation", "value").iter_rows()
                )
                written.append(Written(arm=arm, turn=_turn("assistant", text), marks=marks))
        items.append(Item(prompt=_turn("user", prompt), written=tuple(written)))
    title = f"In {asked_words(asked)}" if asked_words(asked) else name
    return Shelf(title=title, items=tuple(items))


def _turn(role: str, text: object) -> Turn:
    (turn,), _ = turns_of([{"role": role, "content": str(text)}])
    return turn


def _mark(each: Evaluated, value: float | None, *, named: bool) -> Mark:
    name = each.name if named else ""
    if value is None:
        return Mark(name=name, kind="", words="not graded")
    if each.unit == "share correct" and value in (0.0, 1.0):
        kind = "right" if value else "wrong"
        return Mark(name=name, kind=kind, words=kind)
    return Mark(name=name, kind="", words=f"{decimal(value, 2)} {each.unit}")
