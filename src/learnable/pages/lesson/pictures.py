"""What every arm came to, as dots with whiskers beside the baseline and the untuned model."""

from collections.abc import Sequence
from typing import Any

from learnable.pages.lesson.facts import Evaluated, Lesson, Line, asked_words
from learnable.pages.pictures import Picture, finish
from learnable.pages.words import enumeration, snippet

ROW = 24
MARGIN = 0.06
"""Of the axis, free on both sides of what is drawn."""
NEAR = 1.0
"""An untuned model is drawn when it is at most so many widths of the rest away from it."""
_SHADES = {"better": "var(--fine-edge)", "worse": "var(--chosen)", "baseline": "var(--text)"}
_PLAIN = "var(--muted)"


def values(lesson: Lesson) -> tuple[dict[str, Picture], list[list[tuple[str, str]]]]:
    """Return the pictures by name; and for each theme, how it was asked and the name of the picture."""
    found: dict[str, Picture] = {}
    panels: list[list[tuple[str, str]]] = []
    for number, theme in enumerate(lesson.themes):
        domain = _domain(theme.evaluated)
        panel = []
        for place, each in enumerate(theme.evaluated):
            picture = _picture(f"values-{number}-{place}", each, domain) if domain else None
            if picture is not None:
                found[picture.name] = picture
                panel.append((asked_words(each.asked), picture.name))
        panels.append(panel)
    return found, panels


def _ends(each: Evaluated) -> list[float]:
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


def _domain(evaluated: Sequence[Evaluated]) -> tuple[float, float] | None:
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


def _picture(name: str, each: Evaluated, domain: tuple[float, float]) -> Picture | None:
    import altair as alt

    if not any(line.half for line in (*each.compared, *each.untuned)):
        return None
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
    )


def _mark(line: Line, each: Evaluated) -> dict[str, Any]:
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


def _ticks(each: Evaluated, domain: tuple[float, float]) -> list[dict[str, Any]]:
    """Return a tick for each seed of the trained arms."""
    return [
        {"arm": snippet(line.arm), "seed": seed, "value": value, "shade": _SHADES.get(line.outcome, _PLAIN)}
        for line in each.lines
        if line.is_trained and len(line.by_seed) > 1
        for seed, value in enumerate(line.by_seed)
        if domain[0] <= value <= domain[1]
    ]


def _tooltip(each: Evaluated) -> list[Any]:
    import altair as alt

    figure = f".{each.digits}f"
    return [
        alt.Tooltip("arm:N"),
        alt.Tooltip("value:Q", format=figure),
        alt.Tooltip("difference:Q", title=f"difference to {each.baseline.arm}", format=figure),
        alt.Tooltip("from:Q", format=figure),
        alt.Tooltip("to:Q", format=figure),
        alt.Tooltip("seen:N"),
    ]


def _figures(each: Evaluated) -> str:
    return enumeration([f"{line.arm} {each.figure(line.value)} ({_word(line)})" for line in each.lines])


def _word(line: Line) -> str:
    return line.words if line.is_trained else "untuned"


def _outside(each: Evaluated, marks: Sequence[dict[str, Any]], domain: tuple[float, float]) -> str:
    """Say where what is not drawn would be."""
    said = [
        f"{mark['arm']}, at {each.figure(mark['value'])}, lies outside, to the "
        f"{'left' if mark['value'] < domain[0] else 'right'}."
        for mark in marks
    ]
    return " ".join(said)
