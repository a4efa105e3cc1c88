"""The pictures of a lesson, as Vega-Lite specifications."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from markupsafe import Markup

from learnable.pages.lesson_facts import ArmLine, Asking, LessonContest, asked_words
from learnable.pages.page import Picture, markup
from learnable.pages.pictures import finish
from learnable.pages.words import count, enumeration, snippet

ROW = 24
MARGIN = 0.06
"""Of the axis, free on both sides of what is drawn."""
NEAR = 1.0
"""An untuned model is drawn when it is at most so many widths of the rest away from it."""
_SHADES = {"better": "var(--fine-edge)", "worse": "var(--chosen)", "baseline": "var(--text)"}
_PLAIN = "var(--muted)"

SHOWN_POINTS = 600
"""Of each kind; more are a fixed random sample."""
HEAD, TAIL = 80, 100
"""Characters of a long text that a tooltip shows: its beginning, and its end, where an instruction often stands."""


KINDS = {
    "buffer": ("questions of the buffer", "var(--rest)", "circle"),
    "paraphrases": ("paraphrases", "var(--scoring)", "triangle-up"),
    "unseen": ("unseen wordings", "var(--fine-edge)", "square"),
    "task": ("instructions of the task", "var(--chosen)", "diamond"),
}
"""Words, colour and shape of each kind of text, in the order of drawing: the task lies on top."""


def _titled(title: str) -> Markup:
    return markup("<strong>{title}</strong>", title=title)


def values(lesson: LessonContest) -> list[list[Picture]]:
    """Draw what every arm came to, as dots with whiskers: for each theme, a picture for each way to ask."""
    found = []
    for number, theme in enumerate(lesson.themes):
        domain = _domain(theme.evaluated)
        drawn = [
            _values(
                f"values-{number}-{place}",
                each,
                domain,
                title=asked_words(each.asked).capitalize() or theme.name,
            )
            for place, each in enumerate(theme.evaluated)
            if domain and any(line.half for line in (*each.compared, *each.untuned))
        ]
        found.append(drawn)
    return found


def _ends(each: Asking) -> list[float]:
    """Return what has to be on the axis: the trained arms with their whiskers."""
    base = each.baseline.value
    ends = [
        value
        for line in each.lines
        if line.is_trained
        for value in (line.value, *line.by_seed)
        if value is not None
    ]
    if base is not None:
        ends += [base + end for line in each.compared for end in (line.low, line.high) if end is not None]
    return ends


def _domain(evaluated: Sequence[Asking]) -> tuple[float, float] | None:
    """Return the ends of the axis that all panels of a theme share; None where nothing differs."""
    drawn = [each for each in evaluated if any(line.half for line in (*each.compared, *each.untuned))]
    ends = [end for each in drawn for end in _ends(each)]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    reach = NEAR * (high - low)
    near = [
        line.value
        for each in drawn
        for line in each.untuned
        if line.value is not None and (not reach or low - reach <= line.value <= high + reach)
    ]
    low, high = min([low, *near]), max([high, *near])
    room = MARGIN * (high - low or abs(high) or 1.0)
    if (bounds := evaluated[0].bounds) is not None:  # an interval may reach beyond what there can be
        low, high = max(low, bounds[0]), min(high, bounds[1])
        room = min(room, MARGIN * (bounds[1] - bounds[0]))
    return float(f"{low - room:.6g}"), float(f"{high + room:.6g}")


def _values(name: str, each: Asking, domain: tuple[float, float], *, title: str) -> Picture:
    order = [snippet(line.arm) for line in each.lines]
    marks = [_mark(line, each) for line in each.lines if line.value is not None]
    inside = [mark for mark in marks if domain[0] <= mark["value"] <= domain[1]]
    outside = [mark for mark in marks if mark not in inside]
    way = "higher is better →" if each.higher_is_better else "← lower is better"
    x = alt.X(
        "value:Q",
        title=f"{each.unit} ({way})",
        scale=alt.Scale(domain=list(domain), nice=False, zero=False),
    )
    y = alt.Y(
        "arm:N",
        sort=order,
        scale=alt.Scale(domain=order),
        title=None,
        axis=alt.Axis(domain=False, ticks=False, labelLimit=140, labelColor="var(--text)"),
    )
    base = alt.Chart(alt.InlineData(values=inside)).encode(
        y=y, color=alt.Color("shade:N", scale=None), tooltip=_tooltip(each)
    )
    levels = [
        {"value": mark["value"], "dash": "yes" if mark["seen"] == "untuned" else "no"}
        for mark in inside
        if mark["seen"] in ("untuned", "the baseline")
    ]
    rules = alt.Chart(alt.InlineData(values=levels)).mark_rule(color="var(--text)", opacity=0.7)
    layers = [
        rules.encode(
            x=x,
            strokeDash=alt.StrokeDash(
                "dash:N", scale=alt.Scale(domain=["no", "yes"], range=[[1, 0], [3, 4]]), legend=None
            ),
        ),
        alt.Chart(alt.InlineData(values=_ticks(each, domain)))
        .mark_tick(thickness=2, size=11, opacity=0.75)
        .encode(
            x=x,
            y=y,
            color=alt.Color("shade:N", scale=None),
            tooltip=["arm:N", alt.Tooltip("seed:Q"), alt.Tooltip("value:Q", format=f".{each.digits}f")],
        ),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2, clip=True)
        .encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(size=70, opacity=1, strokeWidth=2).encode(
            x=x,
            fill=alt.Fill("fill:N", scale=None),
            shape=alt.Shape("shape:N", scale=None),
        ),
    ]
    return Picture(
        name=name,
        spec=finish(alt.layer(*layers), height=ROW * len(order)),
        label=f"Dots with whiskers on {each.title}: {_figures(each)}; the table below has the same figures.",
        remark=_outside(each, outside, domain),
        caption=_titled(title),
    )


def _mark(line: ArmLine, each: Asking) -> dict[str, Any]:
    base = each.baseline.value
    whisker = base is not None and line.half is not None and line.is_trained
    shade = _SHADES.get(line.outcome, _PLAIN) if line.is_trained else _PLAIN
    filled = line.outcome in _SHADES and line.is_trained
    return {
        "arm": snippet(line.arm),
        "value": line.value,
        "low": (base or 0) + (line.low or 0) if whisker else None,
        "high": (base or 0) + (line.high or 0) if whisker else None,
        "difference": line.difference,
        "from": line.low,
        "to": line.high,
        "seen": line.words if line.is_trained else "untuned",
        "shade": shade,
        "fill": shade if filled else "var(--page)",
        "shape": "circle" if line.is_trained else "diamond",
    }


def _ticks(each: Asking, domain: tuple[float, float]) -> list[dict[str, Any]]:
    """Return a tick for each seed of the trained arms."""
    return [
        {"arm": snippet(line.arm), "seed": seed, "value": value, "shade": _SHADES.get(line.outcome, _PLAIN)}
        for line in each.lines
        if line.is_trained and len(line.by_seed) > 1
        for seed, value in enumerate(line.by_seed)
        if domain[0] <= value <= domain[1]
    ]


def _tooltip(each: Asking) -> list[Any]:
    figure = f".{each.digits}f"
    return [
        alt.Tooltip("arm:N"),
        alt.Tooltip("value:Q", format=figure),
        alt.Tooltip("difference:Q", title=f"difference to {each.baseline.arm}", format=figure),
        alt.Tooltip("from:Q", format=figure),
        alt.Tooltip("to:Q", format=figure),
        alt.Tooltip("seen:N"),
    ]


def _figures(each: Asking) -> str:
    return enumeration([f"{line.arm} {each.figure(line.value)} ({_word(line)})" for line in each.lines])


def _word(line: ArmLine) -> str:
    return line.words if line.is_trained else "untuned"


def _outside(each: Asking, marks: Sequence[dict[str, Any]], domain: tuple[float, float]) -> str:
    """Say where what is not drawn would be."""
    said = [
        f"{mark['arm']}, at {each.figure(mark['value'])}, lies outside, to the "
        f"{'left' if mark['value'] < domain[0] else 'right'}."
        for mark in marks
    ]
    return " ".join(said)


def wordings_map(lesson: LessonContest) -> Picture | None:
    """Return the texts as points of a plane; None where they have no places."""
    frame = lesson.facts.wordings
    if frame is None or not {"x", "y"} <= set(frame.columns):
        return None
    frame = frame.filter(pl.col("x").is_finite() & pl.col("y").is_finite())
    kinds = [kind for kind in KINDS if kind in set(frame["kind"])]
    if not kinds:
        return None
    values, said = [], []
    for kind in kinds:
        own = frame.filter(pl.col("kind") == kind)
        drawn = _sample(own)
        if drawn.height < own.height:
            said.append(f"{count(drawn.height)} of {count(own.height)} of the {KINDS[kind][0]}")
        values += [_place(kind, row) for row in drawn.iter_rows(named=True)]
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
    sizes = [f"{frame.filter(pl.col('kind') == kind).height:,} {KINDS[kind][0]}" for kind in reversed(kinds)]
    return Picture(
        name="wordings",
        spec=finish(chart, height=380),
        label=f"Scatter plot of texts by their word vectors: {enumeration(sizes)}.",
        remark=f"Drawn at random: {enumeration(said)}." if said else "",
        caption="Each mark is an instruction, or a question of the buffer; near ones have like words (the two directions in "
        "which their word vectors differ most). Point at one to read it.",
    )


def _sample(frame: pl.DataFrame) -> pl.DataFrame:
    if frame.height <= SHOWN_POINTS:
        return frame
    rng = np.random.default_rng(0)
    return frame[np.sort(rng.choice(frame.height, SHOWN_POINTS, replace=False))]


def _place(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    words, colour, shape = KINDS[kind]
    return {
        "x": float(f"{row['x']:.4g}"),
        "y": float(f"{row['y']:.4g}"),
        "kind": words,
        "colour": colour,
        "shape": shape,
        "size": 60 if kind == "task" else 34,
        "text": both_ends(row["text"]),
    }


def both_ends(text: str) -> str:
    """Return a text for a tooltip: a long one by its beginning and its end."""
    if len(text) <= HEAD + TAIL:
        return snippet(text)
    return f"{snippet(text[:HEAD]).removesuffix('…')} … {snippet(text[-TAIL:])}"
