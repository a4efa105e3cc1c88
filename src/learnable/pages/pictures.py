"""Pictures of a page, and how all of them look: colours are CSS variables, so that light, dark and print just follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHOSEN, REST = "chosen", "not chosen"
POOL, SELECTION = "pool", "selection"
_STRONG = (CHOSEN, SELECTION)

CONFIG: dict[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titlePadding": 8,
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "tickCount": 6,
    },
    "legend": {
        "labelColor": "var(--text)",
        "labelFontSize": 13,
        "symbolOpacity": 1,
        "columnPadding": 16,
        "orient": "top",
    },
    "text": {"color": "var(--text)", "fontSize": 12},
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart.

    Args:
        name: Unlike those of all other pictures of the page.
        spec: Its Vega-Lite specification.
        label: What it shows, in one sentence for those who cannot see it.
        remark: On its limits.
        caption: How to read it.
    """

    name: str
    spec: dict[str, Any]
    label: str
    remark: str = ""
    caption: str = ""


def colours(names: Sequence[str]) -> Any:
    """The colour of each group, with a legend in this order."""
    import altair as alt

    shades = ["var(--chosen)" if name in _STRONG else "var(--rest)" for name in names]
    return alt.Color(
        "group:N", scale=alt.Scale(domain=list(names), range=shades), legend=alt.Legend(title=None)
    )


def dot_style() -> dict[str, Any]:
    """Chosen dots are larger and stronger."""
    import altair as alt

    chosen = alt.datum.group == CHOSEN
    return {
        "color": colours([CHOSEN, REST]),
        "opacity": alt.condition(chosen, alt.value(0.9), alt.value(0.55)),
        "size": alt.condition(chosen, alt.value(46), alt.value(22)),
    }


def label(place: Any, **style: Any) -> Any:
    """Text with an edge in the colour of the page, so that it reads on top of dots and lines."""
    import altair as alt

    place = place.encode(text="text:N")
    edge = place.mark_text(stroke="var(--page)", strokeWidth=4, strokeJoin="round", **style)
    return alt.layer(edge, place.mark_text(**style))


def finish(chart: Any, *, height: int) -> dict[str, Any]:
    """The specification of a chart that is as wide as its place on the page."""
    import altair as alt

    autosize = alt.AutoSizeParams(type="fit-x", contains="padding", resize=True)
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=autosize).to_dict()
    return {name: value for name, value in spec.items() if name not in ("config", "$schema")}
