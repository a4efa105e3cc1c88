"""The map of the wordings: the task's instructions, their paraphrases, those of the test, and the buffer's questions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from learnable.pages.lesson.facts import Lesson
from learnable.pages.pictures import Picture, finish
from learnable.pages.verdicts import finite
from learnable.pages.words import count, enumeration, snippet

SHOWN_POINTS = 600
"""Of each kind; more are a fixed random sample."""
HEAD, TAIL = 80, 100
"""Characters of a long text that a tooltip shows: its beginning, and its end, where an instruction often stands."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of text, and how it is drawn."""

    name: str
    words: str
    colour: str
    shape: str


KINDS = (
    Kind(name="buffer", words="questions of the buffer", colour="var(--rest)", shape="circle"),
    Kind(name="paraphrases", words="paraphrases", colour="var(--scoring)", shape="triangle-up"),
    Kind(name="unseen", words="unseen wordings", colour="var(--fine-edge)", shape="square"),
    Kind(name="task", words="instructions of the task", colour="var(--chosen)", shape="diamond"),
)
"""In the order of drawing: the largest first, so that the task lies on top."""


@dataclass(frozen=True, kw_only=True)
class Diverse:
    """The figures of one kind of n ``texts``; None where they are too few for one."""

    kind: Kind
    texts: int
    mean_distance: float | None
    distinct_1: float | None
    distinct_2: float | None


def diverse(lesson: Lesson) -> list[Diverse]:
    """Return the figures of each kind, the task first."""
    found = []
    for kind in reversed(KINDS):
        figures = lesson.facts.diversity.get(kind.name)
        if figures is not None:
            names = ("mean_distance", "distinct_1", "distinct_2")
            known: dict[str, Any] = {name: finite(figures.get(name)) for name in names}
            found.append(Diverse(kind=kind, texts=int(figures["texts"]), **known))
    return found


def wordings_map(lesson: Lesson) -> Picture | None:
    """Return the texts as points of a plane; None where they have no places."""
    import altair as alt

    frame = lesson.facts.wordings
    if frame is None or not {"x", "y"} <= set(frame.columns):
        return None
    frame = frame.filter(pl.col("x").is_finite() & pl.col("y").is_finite())
    kinds = [kind for kind in KINDS if kind.name in set(frame["kind"])]
    if not kinds:
        return None
    values, said = [], []
    for kind in kinds:
        own = frame.filter(pl.col("kind") == kind.name)
        drawn = _sample(own)
        if drawn.height < own.height:
            said.append(f"{count(drawn.height)} of {count(own.height)} of the {kind.words}")
        values += [_point(kind, row) for row in drawn.iter_rows(named=True)]
    axis = alt.Axis(labels=False, ticks=False, grid=False, title=None)
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_point(filled=True, opacity=0.75, stroke="var(--page)", strokeWidth=0.4)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False, nice=False, padding=12)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False, nice=False, padding=12)),
            color=alt.Color("colour:N", scale=None),
            shape=alt.Shape("shape:N", scale=None),
            size=alt.Size("size:Q", scale=None),
            tooltip=[alt.Tooltip("kind:N"), alt.Tooltip("text:N")],
        )
    )
    sizes = [f"{frame.filter(pl.col('kind') == kind.name).height:,} {kind.words}" for kind in reversed(kinds)]
    return Picture(
        name="wordings",
        spec=finish(chart, height=380),
        label=f"Scatter plot of texts by their word vectors: {enumeration(sizes)}.",
        remark=f"Drawn at random: {enumeration(said)}." if said else "",
    )


def _sample(frame: pl.DataFrame) -> pl.DataFrame:
    if frame.height <= SHOWN_POINTS:
        return frame
    rng = np.random.default_rng(0)
    return frame[np.sort(rng.choice(frame.height, SHOWN_POINTS, replace=False))]


def _point(kind: Kind, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": float(f"{row['x']:.4g}"),
        "y": float(f"{row['y']:.4g}"),
        "kind": kind.words,
        "colour": kind.colour,
        "shape": kind.shape,
        "size": 60 if kind.name == "task" else 34,
        "text": both_ends(row["text"]),
    }


def both_ends(text: str) -> str:
    """Return a text for a tooltip: a long one by its beginning and its end."""
    if len(text) <= HEAD + TAIL:
        return snippet(text)
    return f"{snippet(text[:HEAD]).removesuffix('…')} … {snippet(text[-TAIL:])}"
