"""Whether the buffer buffers: how gradients of the task, of the buffer, and of their mixes agree before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import polars as pl

from learnable.pages.lesson_facts import PAPER_RATIO, LessonContest, rows_words
from learnable.pages.page import Panels, Part, Picture, Section, keys, markup, remark, text
from learnable.pages.pictures import finish, label
from learnable.pages.words import decimal

SEEN = 1.96
"""Standard errors on each side of a value; a difference beyond them is said to be one."""
CLOSE = 1.5
"""Two ratios that differ by less than this factor share a mark."""
FARTHEST = 1.2
"""Debiased cosines beyond this are noise, and not drawn."""
_OWN = "its own wording"
WORDINGS = {"task": "own wording", "reworded": "many wordings"}
_SHADES = {"task": "var(--chosen)", "reworded": "var(--scoring)"}
_PANELS = (
    ("coherence", "coherence: do the gradients agree?"),
    ("cosine_to_task", "cosine: the mean gradient beside the task's"),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A debiased value with its standard error."""

    value: float
    error: float

    @property
    def is_known(self) -> bool:
        """Whether both are defined."""
        return math.isfinite(self.value) and math.isfinite(self.error)

    def __str__(self) -> str:
        digits = 3 if self.error < 0.01 else 2
        value = decimal(self.value if math.isfinite(self.value) else None, digits)
        return f"{value}\u00a0±\u00a0{decimal(self.error, digits)}" if self.is_known else value


def gradients_section(lesson: LessonContest) -> Section:
    """Say whether the buffer buffers; without parts where gradients were not measured."""
    section = Section(id="buffering", nav="gradients", title="Does the buffer buffer?", parts=[])
    if lesson.facts.buffering is None:
        return section
    frame = lesson.facts.buffering.filter(pl.col("estimate") == "debiased")
    wordings = [name for name in WORDINGS if name in set(frame["wording"])]
    shades = [
        (_SHADES[name], "", f"task in {_OWN if not place else WORDINGS[name]}")
        for place, name in enumerate(wordings)
    ]
    drawn = [
        picture
        for quantity, title in _PANELS
        if (picture := _picture(lesson, frame.filter(pl.col("quantity") == quantity), quantity, title))
        is not None
    ]
    note = (
        "Gradients of single rows, before training. Coherence is the length of the mean gradient over the mean length: 1 where "
        "all rows pull in one direction, 0 where they cancel. Both are debiased (n rows without anything in common would agree "
        "to about 1/√n otherwise), so values just below 0 are to be read as 0, and a cosine may exceed 1. ± is one standard "
        "error, the bands are 1.96 of them. Dots at the ends are the task alone and the buffer alone."
    )
    parts: list[Part] = [text(sentence(lesson, frame, name)) for name in wordings]
    parts += [keys(shades)] if len(wordings) > 1 else []
    return replace(section, parts=[*parts, Panels(pictures=drawn, kind="panels plots"), remark(note)])


def sentence(lesson: LessonContest, frame: pl.DataFrame, wording: str) -> str:
    """Say in one sentence what happens to the task's gradients in the mix that was trained on."""
    here = frame.filter(pl.col("wording") == wording)
    wanted = lesson.ratio or PAPER_RATIO
    mixes = here.filter(pl.col("set") == "mix")["ratio"].unique().to_list()
    ratio = min(mixes, key=lambda one: abs(math.log(one / wanted)))
    alone, mixed = _estimate(here, "coherence", 0.0), _estimate(here, "coherence", ratio)
    along, left = _estimate(here, "along_task", ratio), 1 / (1 + ratio)
    mix = f"mixed with {rows_words(ratio)} of the buffer each"
    return (
        f"With the task in {_OWN if wording == 'task' else WORDINGS[wording]}, gradients agree to {alone} alone and to {mixed} {mix}; a step of that "
        f"mix goes {along} as far in the task's direction as one of the task alone, where {decimal(left, 3)} is what "
        f"a buffer without any relation to the task leaves: {_meaning(along, left)}."
    )


def _meaning(along: Estimate, left: float) -> str:
    if not along.is_known:
        return "too few gradients to tell what the buffer does"
    if abs(along.value - left) <= SEEN * along.error:
        return "the buffer dilutes the task, and no pull with it or against it is seen"
    if along.value > left:
        return "the buffer pulls the same way as the task"
    return "the buffer pulls against the task"


def _estimate(here: pl.DataFrame, quantity: str, ratio: float) -> Estimate:
    row = here.filter((pl.col("quantity") == quantity) & (pl.col("ratio") == ratio)).row(0, named=True)
    return Estimate(value=row["value"], error=row["error"])


def _picture(lesson: LessonContest, frame: pl.DataFrame, quantity: str, title: str) -> Picture | None:
    inside = frame.filter(pl.col("value").is_finite() & (pl.col("value").abs() <= FARTHEST))
    ratios = sorted(frame.filter(pl.col("set") == "mix")["ratio"].unique().to_list())
    if inside.is_empty() or not ratios:
        return None
    ends = {0.0: ratios[0] / 2.5, math.inf: ratios[-1] * 2.5}
    points = [_point(row, ends) for row in inside.iter_rows(named=True)]
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", domain=[ends[0.0] / 1.3, ends[math.inf] * 1.3], nice=False),
        axis=_axis(ratios, ends),
        title="rows of the buffer for each row of the task",
    )
    low, high = _domain([point["value"] for point in points])
    y = alt.Y("value:Q", scale=alt.Scale(domain=[low, high], nice=False), title=None)
    base = alt.Chart(alt.InlineData(values=points)).encode(x=x, color=alt.Color("shade:N", scale=None))
    lines = base.transform_filter("datum.set === 'mix'")
    zero = alt.Chart(alt.InlineData(values=[{"value": 0}])).mark_rule(color="var(--muted)", opacity=0.6)
    layers = [
        zero.encode(y=y),
        *_marks(lesson, ratios, x),
        lines.mark_area(opacity=0.16, clip=True)
        .encode(y=alt.Y("low:Q"), y2="high:Q")
        .transform_filter("isValid(datum.low)"),
        lines.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(size=40, filled=True, opacity=1).encode(y=y, tooltip=_tooltip(quantity)),
    ]
    missing = frame.height - inside.height
    return Picture(
        name=f"gradients-{quantity.split('_')[0]}",
        spec=finish(alt.layer(*layers), height=230),
        label=f"Lines: {title} Against the ratio of the mix, with bands of {SEEN} standard errors.",
        remark=f"{missing} undefined or beyond ±{FARTHEST}, and not drawn." if missing else "",
        caption=markup("<strong>{title}</strong>", title=title.capitalize()),
    )


def _point(row: Mapping[str, Any], ends: Mapping[float, float]) -> dict[str, Any]:
    known = math.isfinite(row["error"])
    names = {"task": "the task alone", "buffer": "the buffer alone"}
    return {
        "x": ends.get(row["ratio"], row["ratio"]),
        "set": row["set"],
        "what": names.get(row["set"], f"{row['ratio']:g} to 1"),
        "wording": WORDINGS[row["wording"]],
        "shade": _SHADES[row["wording"]],
        "value": row["value"],
        "error": row["error"] if known else None,
        "low": row["value"] - SEEN * row["error"] if known else None,
        "high": row["value"] + SEEN * row["error"] if known else None,
    }


def _axis(ratios: Sequence[float], ends: Mapping[float, float]) -> Any:
    inner = [ratio for ratio in ratios if ratio in (1, 4, 16, 64, PAPER_RATIO)]
    task, buffer = ends[0.0], ends[math.inf]
    values = [task, *inner, buffer]
    return alt.Axis(
        values=values,
        tickCount=len(values),
        labelExpr=f"datum.value <= {task} ? 'task' : datum.value >= {buffer} ? 'buffer' : format(datum.value, '~g')",
        grid=False,
        labelOverlap=False,
    )


def _domain(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis: 0 and all values, with room; bands that reach farther are cut."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.12 * (high - low or 1.0)
    return float(f"{low - room:.4g}"), float(f"{high + 2 * room:.4g}")


def _marks(lesson: LessonContest, ratios: Sequence[float], x: Any) -> list[Any]:
    """Mark the ratio that was trained on, and that of DELIA's authors."""
    places: list[dict[str, Any]] = []
    if lesson.ratio is not None:
        places.append({"x": lesson.ratio, "text": "trained", "align": "left", "dx": 4})
    if places and max(lesson.ratio or 1, PAPER_RATIO) < CLOSE * min(lesson.ratio or 1, PAPER_RATIO):
        places[0] |= {"text": "trained, as in DELIA", "align": "right", "dx": -4}
    elif ratios[0] <= PAPER_RATIO <= ratios[-1]:
        places.append({"x": PAPER_RATIO, "text": "DELIA", "align": "right", "dx": -4})
    layers = []
    for place in places:
        chart = alt.Chart(alt.InlineData(values=[place])).encode(x=x)
        layers.append(chart.mark_rule(color="var(--text)", strokeDash=[3, 4]))
        layers.append(
            label(chart.encode(y=alt.value(2)), align=place["align"], dx=place["dx"], baseline="top")
        )
    return layers


def _tooltip(quantity: str) -> list[Any]:
    return [
        alt.Tooltip("what:N", title="mix"),
        alt.Tooltip("wording:N", title="task in"),
        alt.Tooltip("value:Q", title=quantity.replace("_", " "), format=".3f"),
        alt.Tooltip("error:Q", title="standard error", format=".3f"),
    ]
