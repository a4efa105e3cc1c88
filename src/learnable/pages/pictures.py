"""How all pictures look: colours are CSS variables, so that light, dark and print just follow."""

from collections.abc import Sequence
from typing import Any

import altair as alt

CHOSEN, REST = "chosen", "not chosen"
POOL, SELECTION = "pool", "selection"
_STRONG = (CHOSEN, SELECTION)


def colours(names: Sequence[str]) -> Any:
    """The colour of each group, with a legend in this order."""
    shades = ["var(--chosen)" if name in _STRONG else "var(--rest)" for name in names]
    return alt.Color(
        "group:N", scale=alt.Scale(domain=list(names), range=shades), legend=alt.Legend(title=None)
    )


def dot_style() -> dict[str, Any]:
    """Chosen dots are larger and stronger."""
    chosen = alt.datum.group == CHOSEN
    return {
        "color": colours([CHOSEN, REST]),
        "opacity": alt.condition(chosen, alt.value(0.9), alt.value(0.55)),
        "size": alt.condition(chosen, alt.value(46), alt.value(22)),
    }


def label(place: Any, **style: Any) -> Any:
    """Text with an edge in the colour of the page, so that it reads on top of dots and lines."""
    place = place.encode(text="text:N")
    edge = place.mark_text(stroke="var(--page)", strokeWidth=4, strokeJoin="round", **style)
    return alt.layer(edge, place.mark_text(**style))


def finish(chart: Any, *, height: int) -> dict[str, Any]:
    """The specification of a chart that is as wide as its place on the page."""
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding", resize=True)
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=autosize).to_dict()
    return {name: value for name, value in spec.items() if name not in ("config", "$schema")}
