"""How near a new token has come to what it means: the concept distance, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from learnable.reporting.drawing import Picture, finish
from learnable.reporting.lesson.facts import Lesson
from learnable.reporting.lesson.palette import Style
from learnable.reporting.wording import count, decimal, enumeration

PAPER_LAYERS = (1, 2)
"""Those of DELIA's figure."""
ALIKE = 0.01
"""Of the baseline's distance: what is nearer to it than this is not said to differ, whatever the seeds say."""
TICKS = 12


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Mean over the seeds, and their range; None where it is undefined."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int

    @property
    def range(self) -> str:
        """The range of the seeds; nothing where they do not differ in what is written."""
        low, high = _figure(self.low), _figure(self.high)
        return f"{low} to {high}" if low != high else ""

    @property
    def written(self) -> str:
        """The mean."""
        return _figure(self.mean)


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A token and the words it is compared with: distances of each arm at some layers, and what they say."""

    token: str
    words: str
    prompts: int
    picture: str
    layers: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Distance, ...]], ...]
    said: str


def concepts(lesson: Lesson, styles: dict[str, Style]) -> tuple[dict[str, Picture], list[Concept]]:
    """Return a picture and a table for each token and word; nothing where no distance is known."""
    frame = lesson.facts.concepts
    if frame is None or frame.is_empty():
        return {}, []
    spread = (
        frame.filter(pl.col("distance").is_finite())
        .group_by("token", "words", "arm", "layer", maintain_order=True)
        .agg(
            mean=pl.col("distance").mean(),
            low=pl.col("distance").min(),
            high=pl.col("distance").max(),
            seeds=pl.len(),
            prompts=pl.col("prompts").max(),
        )
        .sort("layer", maintain_order=True)
    )
    pictures, found = {}, []
    for number, (token, words) in enumerate(
        frame.select("token", "words").unique(maintain_order=True).rows()
    ):
        here = spread.filter((pl.col("token") == token) & (pl.col("words") == words))
        if here.is_empty():
            continue
        picture = _picture(f"concept-{number}", lesson, here, styles, f"{token} and {words}")
        pictures[picture.name] = picture
        found.append(_concept(lesson, here, token, words, picture.name))
    return pictures, found


def _concept(lesson: Lesson, here: pl.DataFrame, token: str, words: str, picture: str) -> Concept:
    known = {
        (row["arm"], row["layer"]): Distance(
            mean=row["mean"], low=row["low"], high=row["high"], seeds=row["seeds"]
        )
        for row in here.iter_rows(named=True)
    }
    last = max(layer for _, layer in known)
    layers = tuple(sorted({layer for layer in (0, *PAPER_LAYERS, last // 2, last) if layer <= last}))
    nothing = Distance(mean=None, low=None, high=None, seeds=0)
    return Concept(
        token=token,
        words=words,
        prompts=int(here["prompts"].max()),  # type: ignore[arg-type]
        picture=picture,
        layers=layers,
        rows=tuple(
            (arm, tuple(known.get((arm, layer), nothing) for layer in layers)) for arm in lesson.ordered(here)
        ),
        said=_said(lesson, known),
    )


def _said(lesson: Lesson, known: dict[tuple[str, int], Distance]) -> str:
    """Put the arm in focus beside the baseline at the layers of the paper."""
    parts = []
    for layer in PAPER_LAYERS:
        mine = known.get((lesson.focus or "", layer))
        base = known.get((lesson.facts.baseline, layer))
        if mine is None or base is None or None in (mine.low, mine.high, base.low, base.high):
            continue
        beside = f"{lesson.focus} {mine.written}, {lesson.facts.baseline} {base.written}"
        parts.append(f"at layer {layer} {beside} ({_apart(mine, base)})")
    said = "; ".join(parts)
    return said[:1].upper() + said[1:] + ("." if said else "")


def _apart(mine: Distance, base: Distance) -> str:
    if abs((mine.mean or 0) - (base.mean or 0)) < ALIKE * (base.mean or 0):
        return f"alike within {ALIKE:.0%}"
    if min(mine.seeds, base.seeds) < 2:
        return "one seed: no range"
    if (mine.high or 0) < (base.low or 0):
        return "nearer in every seed"
    if (mine.low or 0) > (base.high or 0):
        return "farther in every seed"
    return "the ranges of the seeds overlap"


def _picture(name: str, lesson: Lesson, here: pl.DataFrame, styles: dict[str, Style], pair: str) -> Picture:
    import altair as alt

    arms, last = lesson.ordered(here), int(here["layer"].max())  # type: ignore[arg-type]
    ticks = list(range(0, last + 1, -(-last // TICKS) or 1))
    values = [_point(row, styles[row["arm"]]) for row in here.iter_rows(named=True)]
    kind: Literal["log", "linear"] = "log" if min(value["low"] for value in values) > 0 else "linear"
    x = alt.X(
        "layer:Q",
        title="layer (0 = embeddings)",
        axis=alt.Axis(values=ticks, tickCount=len(ticks), format="d", grid=False),
        scale=alt.Scale(nice=False),
    )
    y = alt.Y(
        "mean:Q",
        title="L2 distance" + (", log" if kind == "log" else ""),
        scale=alt.Scale(type=kind, nice=False, padding=6),
        axis=alt.Axis(format="~g"),
    )
    lines = []
    for arm in sorted(arms, key=(lesson.facts.baseline, lesson.focus).count):  # what matters lies on top
        own = [value for value in values if value["arm"] == arm]
        chart = alt.Chart(alt.InlineData(values=own)).encode(x=x)
        style = styles[arm]
        if any(value["seeds"] > 1 for value in own):
            lines.append(
                chart.mark_area(color=style.colour, opacity=0.16).encode(y=alt.Y("low:Q"), y2="high:Q")
            )
        lines.append(
            chart.mark_line(color=style.colour, strokeWidth=2, strokeDash=list(style.dash)).encode(y=y)
        )
    dots = alt.Chart(alt.InlineData(values=values)).mark_point(size=22, filled=True, opacity=0.9)
    lines.append(dots.encode(x=x, y=y, color=alt.Color("colour:N", scale=None), tooltip=_tooltip()))
    return Picture(
        name=name,
        spec=finish(alt.layer(*lines), height=280),
        label=f"Lines: distance between {pair} against the layer, for {enumeration(arms)}; the table has figures.",
        remark="",
    )


def _point(row: dict[str, Any], style: Style) -> dict[str, Any]:
    numbers = {name: float(f"{row[name]:.5g}") for name in ("mean", "low", "high")}
    return {
        "arm": row["arm"],
        "layer": row["layer"],
        "seeds": row["seeds"],
        "colour": style.colour,
        **numbers,
    }


def _tooltip() -> Sequence[Any]:
    import altair as alt

    return [
        alt.Tooltip("arm:N"),
        alt.Tooltip("layer:Q"),
        alt.Tooltip("mean:Q", title="distance", format=".3~g"),
        alt.Tooltip("low:Q", title="least of the seeds", format=".3~g"),
        alt.Tooltip("high:Q", title="most", format=".3~g"),
    ]


def _figure(value: float | None) -> str:
    """Three digits that say something."""
    if value is None:
        return decimal(None)
    return count(value) if abs(value) >= 1000 else decimal(value, 1 if abs(value) >= 100 else 2)
