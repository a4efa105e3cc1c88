"""The pictures, as Vega-Lite specifications; colours are CSS variables, so that light, dark and print just follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from learnable.report.facts import View
from learnable.report.tables import Group, Histogram, score_range
from learnable.report.wording import decimal, snippet

SHOWN_POINTS = 4_000
SHOWN_CHOSEN = 2_000
SHOWN_SOURCES = 20
TREND_BINS = 10
_CHOSEN, _REST, _POOL, _SELECTION = "chosen", "not chosen", "share of the pool", "share of the selection"

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
    "legend": {"labelColor": "var(--text)", "labelFontSize": 13, "symbolOpacity": 1, "columnPadding": 16, "orient": "top"},
    "text": {"color": "var(--text)", "fontSize": 12},
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart: its specification, what it shows in one sentence for those who cannot see it, and a remark on limits."""

    name: str
    spec: dict[str, Any]
    label: str
    remark: str


def points(view: View) -> dict[str, list[Any]]:
    """The dots of the scatter plots, column by column: a fixed sample that prefers the chosen.

    Returns:
        Lists of equal length, at most `SHOWN_POINTS`; the chosen come last, so that they are drawn on top.
    """
    frame = _sample(view.scored)
    numbers = {"before": "loss_before", "after": "loss_after", "score": "score_used", "response": "response_tokens"}
    columns: dict[str, list[Any]] = {
        name: _rounded(frame[column]) for name, column in numbers.items() if column in frame.columns
    }
    columns["group"] = [_CHOSEN if kept else _REST for kept in frame["is_kept"]]
    columns["source"] = [snippet(name) for name in frame["source"]]
    if view.facts.by != "learnability" and view.has("learnability"):
        columns["S"] = _rounded(frame["learnability"])
    if view.has("tokens"):
        columns["tokens"] = frame["tokens"].to_list()
    if view.facts.examples is None:
        columns["id"] = frame["id"].to_list()
        return columns
    texts = view.facts.examples.select(pl.col("id").cast(pl.String), "messages")
    found = frame.select("id").join(texts, on="id", how="left", maintain_order="left")["messages"].to_list()
    columns["question"] = [_start(messages, answer=False) for messages in found]
    columns["answer"] = [_start(messages, answer=True) for messages in found]
    return columns


def _sample(frame: pl.DataFrame) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    kept, rest = frame.filter("is_kept"), frame.filter(~pl.col("is_kept"))
    if kept.height > SHOWN_CHOSEN:
        kept = kept[np.sort(rng.choice(kept.height, SHOWN_CHOSEN, replace=False))]
    room = SHOWN_POINTS - kept.height
    if rest.height > room:
        rest = rest[np.sort(rng.choice(rest.height, room, replace=False))]
    return pl.concat([rest, kept])


def _rounded(values: pl.Series) -> list[float | None]:
    return [None if value is None else float(f"{value:.4g}") for value in values.to_list()]


def _start(messages: list[dict[str, str]] | None, *, answer: bool) -> str:
    said = [m["content"] or "" for m in messages or () if (m["role"] == "assistant") == answer and m["role"] != "system"]
    return snippet(said[0]) if said else "–"  # noqa: RUF001


def plane(view: View) -> Picture | None:
    """Loss before against loss after, with the lines where S is 0 and where the selection starts."""
    import altair as alt

    if not view.has("loss_before", "loss_after"):
        return None
    both = view.scored.drop_nulls(["loss_before", "loss_after"])
    if both.is_empty():
        return None
    losses = both.select("loss_before", "loss_after", "is_kept")
    top, outside = _plane_limit(losses)
    scale = alt.Scale(domain=[0, top], nice=False)
    dots = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(f"isValid(datum.before) && isValid(datum.after) && max(datum.before, datum.after) <= {top}")
        .mark_circle(stroke="var(--page)", strokeWidth=0.4)
        .encode(
            x=alt.X("before:Q", scale=scale, title="loss before, nats per token"),
            y=alt.Y("after:Q", scale=scale, title="loss after, nats per token"),
            **_dot_style(),
            tooltip=_tooltip(view),
        )
    )
    rays = [(0.0, "S = 0: nothing gained")]
    cutoff = view.cutoff
    if view.facts.by == "learnability" and cutoff is not None and 0.03 < cutoff < 1:
        rays.append((cutoff, f"S = {decimal(cutoff, 2)}: least of the chosen"))
    lines = [_ray(learnability, top) for learnability, _ in rays]
    labels = [_ray_label(learnability, top, text) for learnability, text in rays]
    below = losses.filter(pl.col("loss_after") < pl.col("loss_before")).height
    return Picture(
        name="plane",
        spec=_finish(alt.layer(dots, *lines, *labels), height=430),
        label=f"Scatter plot of loss before against loss after for {both.height:,} examples; "
        f"{below:,} lie below the diagonal, where the reference does better than the base model.",
        remark=_shown(view, both.height) + (f" {outside:,} with higher losses lie outside the picture." if outside else ""),
    )


def _plane_limit(losses: pl.DataFrame) -> tuple[float, int]:
    """The end of both axes: all the chosen and all but extreme losses are inside."""
    highest = losses.select(pl.max_horizontal("loss_before", "loss_after"), "is_kept")
    values = highest["loss_before"].to_numpy()
    chosen = highest.filter("is_kept")["loss_before"].to_numpy()
    common = float(np.quantile(values, 0.99)) * 1.5
    top = min(float(values.max()), max(common, float(chosen.max(initial=0.0))))
    top = float(f"{max(top, 0.01) * 1.03:.3g}")
    return top, int((values > top).sum())


def _ray(learnability: float, top: float) -> Any:
    import altair as alt

    ends = [{"x": 0, "y": 0}, {"x": top, "y": top * (1 - learnability)}]
    line = alt.Chart(alt.InlineData(values=ends)).encode(x="x:Q", y="y:Q")
    return line.mark_line(color="var(--text)", strokeWidth=1.2, strokeDash=[1, 0] if learnability else [5, 4], opacity=0.8)


def _ray_label(learnability: float, top: float, text: str) -> Any:
    import altair as alt

    end = [{"x": 0.97 * top, "y": 0.97 * top * (1 - learnability), "text": text}]
    place = alt.Chart(alt.InlineData(values=end)).encode(x="x:Q", y="y:Q")
    return _label(place, align="right", baseline="bottom", dx=-6, dy=-4)


def spread(view: View, shape: Histogram) -> Picture | None:
    """Histogram of the score used: chosen against the rest, and the line where the selection ends."""
    import altair as alt

    if not shape.bars:
        return None
    groups = ((_CHOSEN, "kept"), (_REST, "rest"))
    values = [
        {"low": bar.low, "high": bar.high, "group": name, "order": order, "examples": getattr(bar, field)}
        for bar in shape.bars
        for order, (name, field) in enumerate(groups)
        if getattr(bar, field)
    ]
    tooltip = [
        alt.Tooltip("low:Q", title="from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
        alt.Tooltip("group:N", title="which"),
        alt.Tooltip("examples:Q", format=","),
    ]
    bars = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("low:Q", bin="binned", title=view.facts.by, scale=alt.Scale(nice=False)),
            x2="high:Q",
            y=alt.Y("examples:Q", title="examples", stack="zero"),
            color=_colours(_CHOSEN, _REST),
            order="order:Q",
            tooltip=tooltip,
        )
    )
    layers = [bars]
    cutoff = view.cutoff
    if cutoff is not None:
        layers.append(_threshold(view, cutoff, shape))
    kept = sum(bar.kept for bar in shape.bars)
    whole = kept + sum(bar.rest for bar in shape.bars)
    tails = [f"{n:,} {word}" for n, word in ((shape.below, "below"), (shape.above, "above")) if n]
    return Picture(
        name="spread",
        spec=_finish(alt.layer(*layers), height=280),
        label=f"Histogram of {view.facts.by} for {whole:,} examples, {kept:,} of them chosen.",
        remark=f"All {whole:,} scored examples are counted."
        + (f" {' and '.join(tails)} the picture are in its outermost bars." if tails else ""),
    )


def _threshold(view: View, cutoff: float, shape: Histogram) -> Any:
    import altair as alt

    low, high = shape.bars[0].low, shape.bars[-1].high
    place = min(max(cutoff, low), high)
    right = place < (low + high) / 2
    word = "lowest" if view.facts.higher_is_better else "highest"
    base = alt.Chart(alt.InlineData(values=[{"x": place, "text": f"{word} chosen: {decimal(cutoff)}"}])).encode(x="x:Q")
    rule = base.mark_rule(color="var(--text)", strokeWidth=1.2, strokeDash=[5, 4])
    place = base.encode(y=alt.value(2))
    return alt.layer(rule, _label(place, align="left" if right else "right", dx=6 if right else -6, baseline="top"))


def length(view: View) -> Picture | None:
    """Score against response length on a logarithmic axis, with the median along it."""
    import altair as alt

    if not view.has("score", "response_tokens"):
        return None
    both = view.scored.filter(pl.col("response_tokens") >= 1).select("response_tokens", "score_used")
    if both.is_empty():
        return None
    low, high = score_range(both["score_used"].to_numpy())
    inside = f"isValid(datum.score) && datum.response >= 1 && datum.score >= {low - 1e-3} && datum.score <= {high + 1e-3}"
    scale = alt.Scale(domain=[low, high] if high > low else [low - 0.5, low + 0.5], zero=False)
    x = alt.X("response:Q", scale=alt.Scale(type="log"), title="response tokens", axis=alt.Axis(format=",d"))
    dots = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(inside)
        .mark_circle(stroke="var(--page)", strokeWidth=0.4)
        .encode(x=x, y=alt.Y("score:Q", scale=scale, title=view.facts.by), **_dot_style(), tooltip=_tooltip(view))
    )
    trend = alt.Chart(alt.InlineData(values=_trend(both))).mark_line(color="var(--text)", strokeWidth=2, clip=True)
    outside = both.filter((pl.col("score_used") < low) | (pl.col("score_used") > high)).height
    return Picture(
        name="length",
        spec=_finish(alt.layer(dots, trend.encode(x="response:Q", y="score:Q")), height=360),
        label=f"Scatter plot of {view.facts.by} against response tokens for {both.height:,} examples.",
        remark=_shown(view, both.height)
        + " The line is the median score, from short to long answers."
        + (f" {outside:,} with extreme scores lie outside the picture." if outside else ""),
    )


def _trend(frame: pl.DataFrame) -> list[dict[str, Any]]:
    bins = frame.sort("response_tokens").with_row_index("bin")
    bins = bins.with_columns(pl.col("bin") * TREND_BINS // frame.height)
    medians = bins.group_by("bin", maintain_order=True).agg(response=pl.col("response_tokens").median(), score=pl.col("score_used").median())
    return medians.select("response", "score").to_dicts()


def mix(groups: Sequence[Group], *, name: str, title: str, pool: int, kept: int) -> Picture | None:
    """Share of the pool beside share of the selection, one pair of bars per group."""
    import altair as alt

    if not groups or not kept:
        return None
    shown = list(groups[:SHOWN_SOURCES])
    pairs = [(snippet(group.name), group.examples, group.kept) for group in shown]
    rest = groups[SHOWN_SOURCES:]
    if rest:
        pairs.append((f"{len(rest):,} others", sum(g.examples for g in rest), sum(g.kept for g in rest)))
    values = [
        {"name": label, "group": group, "share": part / whole, "examples": part}
        for label, examples, chosen in pairs
        for group, part, whole in ((_POOL, examples, pool), (_SELECTION, chosen, kept))
    ]
    bars = alt.Chart(alt.InlineData(values=values)).mark_bar(cornerRadiusEnd=2)
    chart = bars.encode(
        y=alt.Y("name:N", sort=[pair[0] for pair in pairs], title=title, axis=alt.Axis(labelLimit=130, titlePadding=10)),
        yOffset=alt.YOffset("group:N", sort=[_POOL, _SELECTION]),
        x=alt.X("share:Q", title="share", axis=alt.Axis(format="%")),
        color=_colours(_SELECTION, _POOL, show=[_POOL, _SELECTION]),
        tooltip=[
            alt.Tooltip("name:N", title=title),
            alt.Tooltip("group:N", title="what"),
            alt.Tooltip("share:Q", format=".1%"),
            alt.Tooltip("examples:Q", format=","),
        ],
    )
    return Picture(
        name=name,
        spec=_finish(chart, height=34 * len(pairs) + 10),
        label=f"Bar chart: share of the pool and of the selection per {title}; the table below has the same figures.",
        remark=f"The {SHOWN_SOURCES} largest are shown one by one." if rest else "",
    )


def _colours(strong: str, quiet: str, *, show: list[str] | None = None) -> Any:
    import altair as alt

    colours: Mapping[str, str] = {strong: "var(--chosen)", quiet: "var(--rest)"}
    names = show or [strong, quiet]
    scale = alt.Scale(domain=names, range=[colours[name] for name in names])
    return alt.Color("group:N", scale=scale, legend=alt.Legend(title=None))


def _dot_style() -> dict[str, Any]:
    import altair as alt

    chosen = alt.datum.group == _CHOSEN
    return {
        "color": _colours(_CHOSEN, _REST),
        "opacity": alt.condition(chosen, alt.value(0.9), alt.value(0.55)),
        "size": alt.condition(chosen, alt.value(46), alt.value(22)),
    }


def _tooltip(view: View) -> list[Any]:
    import altair as alt

    given = [
        ("score", alt.Tooltip("score:Q", title=view.facts.by, format=".3f")),
        ("learnability", alt.Tooltip("S:Q", title="S", format=".3f")),
        ("loss_before", alt.Tooltip("before:Q", title="loss before", format=".3f")),
        ("loss_after", alt.Tooltip("after:Q", title="loss after", format=".3f")),
        ("response_tokens", alt.Tooltip("response:Q", title="response tokens", format=",")),
        ("tokens", alt.Tooltip("tokens:Q", title="tokens", format=",")),
    ]
    texts = ["id"] if view.facts.examples is None else ["question", "answer"]
    numbers = [tip for name, tip in given if view.has(name) and (name != "learnability" or view.facts.by != name)]
    return [alt.Tooltip("group:N", title="which"), alt.Tooltip("source:N"), *numbers, *(alt.Tooltip(f"{t}:N") for t in texts)]


def _label(place: Any, **style: Any) -> Any:
    """Text with an edge in the colour of the page, so that it reads on top of dots and lines."""
    import altair as alt

    place = place.encode(text="text:N")
    edge = place.mark_text(stroke="var(--page)", strokeWidth=4, strokeJoin="round", **style)
    return alt.layer(edge, place.mark_text(**style))


def _shown(view: View, number: int) -> str:
    shown = min(number, _sample(view.scored).height)
    if shown == number:
        return f"All {number:,} scored examples are drawn."
    kept = view.kept.height
    chosen = f"all {kept:,}" if kept <= SHOWN_CHOSEN else f"{SHOWN_CHOSEN:,} of the {kept:,}"
    return f"{shown:,} of {number:,} scored examples are drawn, {chosen} chosen ones among them; the others are a fixed random sample."


def _finish(chart: Any, *, height: int) -> dict[str, Any]:
    import altair as alt

    autosize = alt.AutoSizeParams(type="fit-x", contains="padding", resize=True)
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=autosize).to_dict()
    return {name: value for name, value in spec.items() if name not in ("config", "$schema")}
