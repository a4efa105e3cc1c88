"""How pictures are drawn: colours are CSS variables, so that light, dark and print just follow."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from learnable.pages.contest import Line

ROW = 24
"""Height of a line with a dot and whiskers."""
SHADE, FILL = alt.Color("shade:N", scale=None), alt.Fill("fill:N", scale=None)
"""Colours that the values name themselves."""
_SHADES = {"better": "var(--fine-edge)", "worse": "var(--chosen)", "baseline": "var(--text)"}


def drawn(*values: Mapping[str, Any]) -> Any:
    """A chart of values; its marks and their places are still to be given."""
    return alt.Chart(alt.InlineData(values=[dict(each) for each in values]))


def tips(*fields: str | tuple[str, str] | tuple[str, str, str]) -> list[Any]:
    """What a mark tells when the pointer is on it: fields, each with its title, and with its format if it is a number."""
    found = []
    for field in fields:
        name, title, *form = (field, field) if isinstance(field, str) else field
        style: dict[str, Any] = {"title": title} if title != name else {}
        style |= {"format": form[0]} if form else {}
        found.append(alt.Tooltip(f"{name}:{'Q' if form else 'N'}", **style))
    return found


def groups(*names: str, strong: str) -> Any:
    """The colour of each group, with a legend in this order."""
    shades = ["var(--chosen)" if name == strong else "var(--rest)" for name in names]
    scale = alt.Scale(domain=list(names), range=shades)
    return alt.Color("group:N", scale=scale, legend=alt.Legend(title=None))


def label(place: Any, **style: Any) -> Any:
    """Text with an edge in the colour of the page, so that it reads on top of dots and lines."""
    place = place.encode(text="text:N")
    edge = place.mark_text(stroke="var(--page)", strokeWidth=4, strokeJoin="round", **style)
    return alt.layer(edge, place.mark_text(**style))


def dot_of(line: Line) -> dict[str, Any]:
    """The look of a line's dot: filled where something was seen, a diamond where it only gives the scale."""
    shade = _SHADES.get(line.outcome) if line.competes else None
    return {
        "shade": shade or "var(--muted)",
        "fill": shade or "var(--page)",
        "shape": "circle" if line.competes else "diamond",
    }


def whiskers(dots: Sequence[Mapping[str, Any]], *, x: Any, y: Any, tooltip: Sequence[Any]) -> list[Any]:
    """Dots at ``x`` with whiskers from ``low`` to ``high``, where there are these."""
    base = drawn(*dots).encode(y=y, color=SHADE, tooltip=tooltip)
    lines = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, clip=True)
    points = base.mark_point(size=70, opacity=1, strokeWidth=2)
    shape = alt.Shape("shape:N", scale=None)
    return [lines.encode(x=alt.X("low:Q"), x2="high:Q"), points.encode(x=x, fill=FILL, shape=shape)]


def reach(low: float, high: float, *, room: float, digits: int = 4) -> list[float]:
    """The ends of an axis, with room on both sides."""
    return [float(f"{end:.{digits}g}") for end in (low - room, high + room)]


def a_sample(frame: pl.DataFrame, size: int) -> pl.DataFrame:
    """At most so many rows of a frame, in its order, always the same ones."""
    if frame.height <= size:
        return frame
    return frame[np.sort(np.random.default_rng(0).choice(frame.height, size, replace=False))]


def finish(*layers: Any, height: int) -> dict[str, Any]:
    """The specification of a chart that is as wide as its place on the page, from its layers, the lowest first."""
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding", resize=True)
    chart = alt.layer(*layers) if len(layers) > 1 else layers[0]
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=autosize).to_dict()
    return {name: value for name, value in spec.items() if name not in ("config", "$schema")}
