"""The pictures of a lesson, as Vega-Lite specifications."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from learnable.pages.contest import ASKED, Evaluated
from learnable.pages.html import markup
from learnable.pages.lesson_facts import LessonFacts
from learnable.pages.page import Picture
from learnable.pages.pictures import ROW, SHADE, a_sample, dot_of, drawn, finish, reach, tips, whiskers
from learnable.pages.words import count, enumeration, snippet

MARGIN = 0.06
"""Of the axis, free on both sides of what is drawn."""
NEAR = 1.0
"""An untuned model is drawn when it is at most so many widths of the rest away from it."""
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


def values(lesson: LessonFacts) -> list[list[Picture]]:
    """Draw what every arm came to, as dots with whiskers: for each theme, a picture for each way to ask."""
    found = []
    for number, theme in enumerate(lesson.themes):
        known = {place: each for place, each in enumerate(theme) if any(line.half for line in each.lines)}
        domain, panels = _domain(list(known.values())), list[Picture]()
        for place, each in known.items():
            title = ASKED[each.asked].capitalize() or each.name
            panels += [_values(f"values-{number}-{place}", each, domain, title=title)] if domain else []
        found.append(panels)
    return found


def _domain(evaluated: Sequence[Evaluated]) -> list[float]:
    """Return the ends of the axis that all panels of a theme share; [] where nothing is to be drawn.

    All trained arms with their whiskers are on it, and the untuned model where it is near.
    """
    ends, untuned = list[float | None](), list[float | None]()
    for each in evaluated:
        untuned += [line.value for line in each.beside]
        ends += [end for line in each.lines if line.competes for end in (line.value, *line.by_seed)]
        if (base := each.baseline.value) is not None:
            ends += [base + end for line in each.compared for end in (line.low, line.high) if end is not None]
    known = [end for end in ends if end is not None]
    if not known:
        return []
    low, high = min(known), max(known)
    far = NEAR * (high - low)
    near = [end for end in untuned if end is not None and (not far or low - far <= end <= high + far)]
    low, high = min([low, *near]), max([high, *near])
    room = MARGIN * (high - low or abs(high) or 1.0)
    if (bounds := evaluated[0].bounds) is not None:  # an interval may reach beyond what there can be
        low, high = max(low, bounds[0]), min(high, bounds[1])
        room = min(room, MARGIN * (bounds[1] - bounds[0]))
    return reach(low, high, room=room, digits=6)


def _values(name: str, each: Evaluated, domain: list[float], *, title: str) -> Picture:
    order, base, figure = [snippet(line.arm) for line in each.lines], each.baseline, f".{each.digits}f"
    dots, ticks, levels, outside = [], [], [], []
    for line in each.lines:
        if line.value is None:
            continue
        arm, look = snippet(line.arm), dot_of(line)
        if not domain[0] <= line.value <= domain[1]:
            side = "left" if line.value < domain[0] else "right"
            outside.append(f"{arm}, at {each.figure(line.value)}, lies outside, to the {side}.")
            continue
        is_whole = line.competes and line.half is not None
        low, high = ((base.value or 0) + (end or 0) if is_whole else None for end in (line.low, line.high))
        place = {"arm": arm, "value": line.value, "low": low, "high": high}
        beside = {"difference": line.difference, "from": line.low, "to": line.high}
        dots.append(place | beside | look | {"seen": line.words if line.competes else "untuned"})
        if line is base or not line.competes:
            levels.append({"value": line.value, "dash": "no" if line is base else "yes"})
        if line.competes and len(line.by_seed) > 1:
            ticks += [
                {"arm": arm, "seed": seed, "value": value, "shade": look["shade"]}
                for seed, value in enumerate(line.by_seed)
                if domain[0] <= value <= domain[1]
            ]
    way = "higher is better →" if each.higher_is_better else "← lower is better"
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    x = alt.X("value:Q", title=f"{each.unit} ({way})", scale=scale)
    axis = alt.Axis(domain=False, ticks=False, labelLimit=140, labelColor="var(--text)")
    y = alt.Y("arm:N", sort=order, scale=alt.Scale(domain=order), title=None, axis=axis)
    dashes = alt.Scale(domain=["no", "yes"], range=[[1, 0], [3, 4]])
    numbers = ("value", "value", figure), ("difference", f"difference to {base.arm}", figure)
    tooltip = tips("arm", *numbers, ("from", "from", figure), ("to", "to", figure), "seen")
    layers = [
        drawn(*levels)
        .mark_rule(color="var(--text)", opacity=0.7)
        .encode(x=x, strokeDash=alt.StrokeDash("dash:N", scale=dashes, legend=None)),
        drawn(*ticks)
        .mark_tick(thickness=2, size=11, opacity=0.75)
        .encode(
            x=x, y=y, color=SHADE, tooltip=tips("arm", ("seed", "seed", "d"), ("value", "value", figure))
        ),
        *whiskers(dots, x=x, y=y, tooltip=tooltip),
    ]
    said = [
        f"{line.arm} {each.figure(line.value)} ({line.words if line.competes else 'untuned'})"
        for line in each.lines
    ]
    return Picture(
        name=name,
        spec=finish(*layers, height=ROW * len(order)),
        label=f"Dots with whiskers on {each.title}: {enumeration(said)}; the table below has the same figures.",
        remark=" ".join(outside),
        caption=markup("<strong>{title}</strong>", title=title),
    )


def wordings_map(lesson: LessonFacts) -> Picture | None:
    """Return the texts as points of a plane; None where they have no places."""
    frame = lesson.wordings
    if frame is None or not {"x", "y"} <= set(frame.columns):
        return None
    frame = frame.filter(pl.col("x").is_finite() & pl.col("y").is_finite())
    points, sizes, said = [], list[str](), []
    for kind, (words, colour, shape) in KINDS.items():
        own = frame.filter(pl.col("kind") == kind)
        shown = a_sample(own, SHOWN_POINTS)
        look = {"kind": words, "colour": colour, "shape": shape, "size": 60 if kind == "task" else 34}
        for x, y, text in shown.select("x", "y", "text").iter_rows():
            points.append({"x": float(f"{x:.4g}"), "y": float(f"{y:.4g}"), "text": both_ends(text)} | look)
        if own.height:
            sizes.insert(0, f"{own.height:,} {words}")
        if shown.height < own.height:
            said.append(f"{count(shown.height)} of {count(own.height)} of the {words}")
    if not points:
        return None
    axis = alt.Axis(labels=False, ticks=False, grid=False, title=None)
    scale = alt.Scale(zero=False, nice=False, padding=12)
    marks = drawn(*points).mark_point(filled=True, opacity=0.75, stroke="var(--page)", strokeWidth=0.4)
    chart = marks.encode(
        x=alt.X("x:Q", axis=axis, scale=scale),
        y=alt.Y("y:Q", axis=axis, scale=scale),
        color=alt.Color("colour:N", scale=None),
        shape=alt.Shape("shape:N", scale=None),
        size=alt.Size("size:Q", scale=None),
        tooltip=tips("kind", "text"),
    )
    return Picture(
        name="wordings",
        spec=finish(chart, height=380),
        label=f"Scatter plot of texts by their word vectors: {enumeration(sizes)}.",
        remark=f"Drawn at random: {enumeration(said)}." if said else "",
        caption="Each mark is an instruction, or a question of the buffer; near ones have like words (the two directions in "
        "which their word vectors differ most). Point at one to read it.",
    )


def both_ends(text: str) -> str:
    """Return a text for a tooltip: a long one by its beginning and its end."""
    if len(text) <= HEAD + TAIL:
        return snippet(text)
    return f"{snippet(text[:HEAD]).removesuffix('…')} … {snippet(text[-TAIL:])}"
