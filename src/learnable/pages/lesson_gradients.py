"""Whether the buffer buffers: how gradients of the task, of the buffer, and of their mixes agree before training."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from learnable.pages.html import keys, markup, remark, text
from learnable.pages.lesson_facts import PAPER_RATIO, LessonFacts, rows_words
from learnable.pages.page import Panels, Part, Picture, Section
from learnable.pages.pictures import SHADE, drawn, finish, label, reach, tips
from learnable.pages.words import decimal

SEEN = 1.96
"""Standard errors on each side of a value; a difference beyond them is said to be one."""
CLOSE = 1.5
"""Two ratios that differ by less than this factor share a mark."""
FARTHEST = 1.2
"""Debiased cosines beyond this are noise, and not drawn."""
WORDINGS = {"task": ("its own wording", "var(--chosen)"), "reworded": ("many wordings", "var(--scoring)")}
_PANELS = {
    "coherence": "coherence: do the gradients agree?",
    "cosine_to_task": "cosine: the mean gradient beside the task's",
}


def gradients_section(lesson: LessonFacts) -> Section:
    """Say whether the buffer buffers; without parts where gradients were not measured."""
    parts: list[Part] = []
    if lesson.buffering is not None:
        frame = lesson.buffering.filter(pl.col("estimate") == "debiased")
        there = {name: words for name, words in WORDINGS.items() if name in set(frame["wording"])}
        panels = [_picture(lesson, frame, quantity) for quantity in _PANELS]
        parts = [text(sentence(lesson, frame, name)) for name in there]
        if len(there) > 1:
            parts.append(keys((colour, "", f"task in {words}") for words, colour in there.values()))
        parts.append(Panels(pictures=[panel for panel in panels if panel], kind="panels plots"))
        note = (
            "Gradients of single rows, before training. Coherence is the length of the mean gradient over the mean length: 1 where "
            "all rows pull in one direction, 0 where they cancel. Both are debiased (n rows without anything in common would agree "
            "to about 1/√n otherwise), so values just below 0 are to be read as 0, and a cosine may exceed 1. ± is one standard "
            "error, the bands are 1.96 of them. Dots at the ends are the task alone and the buffer alone."
        )
        parts.append(remark(note))
    return Section(id="buffering", nav="gradients", title="Does the buffer buffer?", parts=parts)


def sentence(lesson: LessonFacts, frame: pl.DataFrame, wording: str) -> str:
    """Say in one sentence what happens to the task's gradients in the mix that was trained on."""
    here = frame.filter(pl.col("wording") == wording)
    wanted = lesson.ratio or PAPER_RATIO
    mixes = here.filter(pl.col("set") == "mix")["ratio"].unique().to_list()
    ratio = min(mixes, key=lambda one: abs(math.log(one / wanted)))
    alone, mixed, along = (
        here.filter((pl.col("quantity") == quantity) & (pl.col("ratio") == at)).row(0, named=True)
        for quantity, at in (("coherence", 0.0), ("coherence", ratio), ("along_task", ratio))
    )
    left = 1 / (1 + ratio)
    if not _is_known(along):
        meaning = "too few gradients to tell what the buffer does"
    elif abs(along["value"] - left) <= SEEN * along["error"]:
        meaning = "the buffer dilutes the task, and no pull with it or against it is seen"
    else:
        meaning = (
            f"the buffer {'pulls the same way as' if along['value'] > left else 'pulls against'} the task"
        )
    mix = f"mixed with {rows_words(ratio)} of the buffer each"
    return (
        f"With the task in {WORDINGS[wording][0]}, gradients agree to {_written(alone)} alone and to {_written(mixed)} {mix}; a "
        f"step of that mix goes {_written(along)} as far in the task's direction as one of the task alone, where "
        f"{decimal(left, 3)} is what a buffer without any relation to the task leaves: {meaning}."
    )


def _is_known(row: dict[str, Any]) -> bool:
    return math.isfinite(row["value"]) and math.isfinite(row["error"])


def _written(row: dict[str, Any]) -> str:
    digits = 3 if row["error"] < 0.01 else 2
    value = decimal(row["value"], digits)
    return f"{value}\u00a0±\u00a0{decimal(row['error'], digits)}" if _is_known(row) else value


def _picture(lesson: LessonFacts, whole: pl.DataFrame, quantity: str) -> Picture | None:
    frame, title = whole.filter(pl.col("quantity") == quantity), _PANELS[quantity]
    inside = frame.filter(pl.col("value").is_finite() & (pl.col("value").abs() <= FARTHEST))
    ratios = sorted(frame.filter(pl.col("set") == "mix")["ratio"].unique().to_list())
    if inside.is_empty() or not ratios:
        return None
    task, buffer = ratios[0] / 2.5, ratios[-1] * 2.5
    points = [_point(row, {0.0: task, math.inf: buffer}) for row in inside.iter_rows(named=True)]
    ticks = [task, *(ratio for ratio in ratios if ratio in (1, 4, 16, 64, PAPER_RATIO)), buffer]
    words = f"datum.value <= {task} ? 'task' : datum.value >= {buffer} ? 'buffer' : format(datum.value, '~g')"
    scale = alt.Scale(type="log", domain=[task / 1.3, buffer * 1.3], nice=False)
    axis = alt.Axis(values=ticks, tickCount=len(ticks), labelExpr=words, grid=False, labelOverlap=False)
    x = alt.X("x:Q", scale=scale, axis=axis, title="rows of the buffer for each row of the task")
    ends = [0.0, *(point["value"] for point in points)]
    room = 0.12 * (max(ends) - min(ends) or 1.0)  # bands that reach farther are cut
    domain = reach(min(ends), max(ends) + room, room=room)
    y = alt.Y("value:Q", scale=alt.Scale(domain=domain, nice=False), title=None)
    base = drawn(*points).encode(x=x, color=SHADE)
    lines = base.transform_filter("datum.set === 'mix'")
    band = lines.mark_area(opacity=0.16, clip=True).encode(y=alt.Y("low:Q"), y2="high:Q")
    names = ("what", "mix"), ("wording", "task in")
    numbers = ("value", quantity.replace("_", " "), ".3f"), ("error", "standard error", ".3f")
    dots = base.mark_point(size=40, filled=True, opacity=1)
    layers = [
        drawn({"value": 0}).mark_rule(color="var(--muted)", opacity=0.6).encode(y=y),
        *_marks(lesson, ratios, x),
        band.transform_filter("isValid(datum.low)"),
        lines.mark_line(strokeWidth=2).encode(y=y),
        dots.encode(y=y, tooltip=tips(*names, *numbers)),
    ]
    missing = frame.height - inside.height
    return Picture(
        name=f"gradients-{quantity.split('_')[0]}",
        spec=finish(*layers, height=230),
        label=f"Lines: {title} Against the ratio of the mix, with bands of {SEEN} standard errors.",
        remark=f"{missing} undefined or beyond ±{FARTHEST}, and not drawn." if missing else "",
        caption=markup("<strong>{title}</strong>", title=title.capitalize()),
    )


def _point(row: dict[str, Any], ends: dict[float, float]) -> dict[str, Any]:
    error = row["error"] if math.isfinite(row["error"]) else None
    names = {"task": "the task alone", "buffer": "the buffer alone"}
    words, shade = WORDINGS[row["wording"]]
    return {
        "x": ends.get(row["ratio"], row["ratio"]),
        "set": row["set"],
        "what": names.get(row["set"], f"{row['ratio']:g} to 1"),
        "wording": words,
        "shade": shade,
        "value": row["value"],
        "error": error,
        "low": None if error is None else row["value"] - SEEN * error,
        "high": None if error is None else row["value"] + SEEN * error,
    }


def _marks(lesson: LessonFacts, ratios: Sequence[float], x: Any) -> list[Any]:
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
        chart = drawn(place).encode(x=x)
        layers.append(chart.mark_rule(color="var(--text)", strokeDash=[3, 4]))
        words = chart.encode(y=alt.value(2))
        layers.append(label(words, align=place["align"], dx=place["dx"], baseline="top"))
    return layers
