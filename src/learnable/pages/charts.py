"""The pictures of the page, as Vega-Lite specifications."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from learnable.pages import dots
from learnable.pages.drawing import (
    CHOSEN,
    POOL,
    REST,
    SELECTION,
    Picture,
    colours,
    dot_style,
    finish,
    label,
)
from learnable.pages.facts import View
from learnable.pages.tables import Group, Histogram, score_range
from learnable.pages.wording import decimal, snippet

SHOWN_SOURCES = 20
TREND_BINS = 10


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
    marks = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(
            f"isValid(datum.before) && isValid(datum.after) && max(datum.before, datum.after) <= {top}"
        )
        .mark_circle(stroke="var(--page)", strokeWidth=0.4)
        .encode(
            x=alt.X("before:Q", scale=scale, title="loss before, nats per token"),
            y=alt.Y("after:Q", scale=scale, title="loss after, nats per token"),
            **dot_style(),
            tooltip=dots.tooltip(view),
        )
    )
    rays = [(0.0, "learnability 0: nothing gained")]
    cutoff = view.cutoff
    if view.facts.by == "learnability" and cutoff is not None and 0.03 < cutoff < 1:
        rays.append((cutoff, f"learnability {decimal(cutoff, 2)}: least of the chosen"))
    lines = [_ray(learnability, top) for learnability, _ in rays]
    labels = [_ray_label(learnability, top, text) for learnability, text in rays]
    below = losses.filter(pl.col("loss_after") < pl.col("loss_before")).height
    return Picture(
        name="plane",
        spec=finish(alt.layer(marks, *lines, *labels), height=430),
        label=f"Scatter plot of loss before against loss after for {both.height:,} examples; "
        f"{below:,} lie below the diagonal, where the reference does better than the base model.",
        remark=dots.remark(view, both.height)
        + (f" {outside:,} with higher losses lie outside the picture." if outside else ""),
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

    ends: list[dict[str, Any]] = [{"x": 0, "y": 0}, {"x": top, "y": top * (1 - learnability)}]
    line = alt.Chart(alt.InlineData(values=ends)).encode(x="x:Q", y="y:Q")
    return line.mark_line(
        color="var(--text)", strokeWidth=1.2, strokeDash=[1, 0] if learnability else [5, 4], opacity=0.8
    )


def _ray_label(learnability: float, top: float, text: str) -> Any:
    import altair as alt

    end: list[dict[str, Any]] = [{"x": 0.97 * top, "y": 0.97 * top * (1 - learnability), "text": text}]
    place = alt.Chart(alt.InlineData(values=end)).encode(x="x:Q", y="y:Q")
    return label(place, align="right", baseline="bottom", dx=-6, dy=-4)


def spread(view: View, shape: Histogram) -> Picture | None:
    """Histogram of the score used: chosen against the rest, and the line where the selection ends."""
    import altair as alt

    if not shape.bars:
        return None
    values = [
        {"low": bar.low, "high": bar.high, "group": group, "order": order, "examples": number}
        for bar in shape.bars
        for order, (group, number) in enumerate(((CHOSEN, bar.kept), (REST, bar.rest)))
        if number
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
            color=colours([CHOSEN, REST]),
            order="order:Q",
            tooltip=tooltip,
        )
    )
    layers: list[Any] = [bars]
    cutoff = view.cutoff
    if cutoff is not None:
        layers.append(_threshold(view, cutoff, shape))
    kept = sum(bar.kept for bar in shape.bars)
    whole = kept + sum(bar.rest for bar in shape.bars)
    tails = [f"{n:,} {word}" for n, word in ((shape.below, "below"), (shape.above, "above")) if n]
    return Picture(
        name="spread",
        spec=finish(alt.layer(*layers), height=280),
        label=f"Histogram of {view.facts.by} for {whole:,} examples, {kept:,} of them chosen.",
        remark=f"All scored examples ({whole:,}) are counted."
        + (f" {' and '.join(tails)} the picture are in its outermost bars." if tails else ""),
    )


def _threshold(view: View, cutoff: float, shape: Histogram) -> Any:
    import altair as alt

    low, high = shape.bars[0].low, shape.bars[-1].high
    edge = min(max(cutoff, low), high)
    right = edge < (low + high) / 2
    word = "lowest" if view.facts.higher_is_better else "highest"
    mark = {"x": edge, "text": f"{word} chosen: {decimal(cutoff)}"}
    base = alt.Chart(alt.InlineData(values=[mark])).encode(x="x:Q")
    rule = base.mark_rule(color="var(--text)", strokeWidth=1.2, strokeDash=[5, 4])
    place = base.encode(y=alt.value(2))
    return alt.layer(
        rule, label(place, align="left" if right else "right", dx=6 if right else -6, baseline="top")
    )


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
    first, last = both["response_tokens"].to_numpy().min(), both["response_tokens"].to_numpy().max()
    reach = alt.Scale(type="log", domain=[0.9 * first, 1.1 * last], nice=False)
    ticks = _log_ticks(int(first), int(last))
    axis = alt.Axis(format=",d", values=ticks, tickCount=len(ticks))
    x = alt.X("response:Q", scale=reach, title="response tokens", axis=axis)
    marks = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(inside)
        .mark_circle(stroke="var(--page)", strokeWidth=0.4)
        .encode(
            x=x,
            y=alt.Y("score:Q", scale=scale, title=view.facts.by),
            **dot_style(),
            tooltip=dots.tooltip(view),
        )
    )
    trend = alt.Chart(alt.InlineData(values=_trend(both))).mark_line(
        color="var(--text)", strokeWidth=2, clip=True
    )
    outside = both.filter((pl.col("score_used") < low) | (pl.col("score_used") > high)).height
    return Picture(
        name="length",
        spec=finish(alt.layer(marks, trend.encode(x="response:Q", y="score:Q")), height=360),
        label=f"Scatter plot of {view.facts.by} against response tokens for {both.height:,} examples.",
        remark=dots.remark(view, both.height)
        + " The line is the median score, from short to long answers."
        + (f" {outside:,} with extreme scores lie outside the picture." if outside else ""),
    )


def _log_ticks(first: int, last: int) -> list[int]:
    """1, 2, 5, 10, 20 ... inside the range; only 1, 10, 100 ... over more than three decades."""
    heads = (1,) if last > 1_000 * first else (1, 2, 5)
    steps = [head * 10**power for power in range(len(str(last))) for head in heads]
    return [step for step in steps if first <= step <= last] or [first]


def _trend(frame: pl.DataFrame) -> list[dict[str, Any]]:
    bins = frame.sort("response_tokens").with_row_index("bin")
    bins = bins.with_columns(pl.col("bin") * TREND_BINS // frame.height)
    medians = bins.group_by("bin", maintain_order=True).agg(
        response=pl.col("response_tokens").median(), score=pl.col("score_used").median()
    )
    return medians.select("response", "score").to_dicts()


def mix(groups: Sequence[Group], *, name: str, title: str, pool: int, kept: int) -> Picture | None:
    """Share of the pool beside share of the selection, one pair of bars per group."""
    import altair as alt

    if not groups or not kept:
        return None
    pairs = [(snippet(group.name), group.examples, group.kept) for group in groups[:SHOWN_SOURCES]]
    rest = groups[SHOWN_SOURCES:]
    values = [
        {"name": label, "group": group, "share": part / whole, "examples": part}
        for label, examples, chosen in pairs
        for group, part, whole in ((POOL, examples, pool), (SELECTION, chosen, kept))
    ]
    bars = alt.Chart(alt.InlineData(values=values)).mark_bar(cornerRadiusEnd=2)
    chart = bars.encode(
        y=alt.Y(
            "name:N",
            sort=[pair[0] for pair in pairs],
            title=None,
            axis=alt.Axis(labelLimit=120),
        ),
        yOffset=alt.YOffset("group:N", sort=[POOL, SELECTION]),
        x=alt.X("share:Q", title="share of all", axis=alt.Axis(format="%")),
        color=colours([POOL, SELECTION]),
        tooltip=[
            alt.Tooltip("name:N", title=title),
            alt.Tooltip("group:N", title="what"),
            alt.Tooltip("share:Q", format=".1%"),
            alt.Tooltip("examples:Q", format=","),
        ],
    )
    return Picture(
        name=name,
        spec=finish(chart, height=34 * len(pairs) + 10),
        label=f"Bar chart: share of the pool and of the selection per {title}; the table below has the same figures.",
        remark=f"The {SHOWN_SOURCES} largest are drawn; the table has all {len(groups):,}." if rest else "",
    )
