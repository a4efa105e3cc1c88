"""The pictures of a comparison, as Vega-Lite specifications."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from learnable.experiments import FULL
from learnable.pages.comparison_facts import ByBudget, Comparison, MethodLine
from learnable.pages.page import Picture, breakable, markup
from learnable.pages.pictures import finish
from learnable.pages.words import count, enumeration, snippet

ROW = 24
MARGIN = 0.22
"""Of the axis, free on both sides of what is drawn: room for the words "better" and "worse"."""
STAGES = ("scoring", "reference", "training")
_SHADES = {"better": "var(--fine-edge)", "worse": "var(--chosen)"}
_PLAIN = "var(--muted)"


def differences(name: str, each: ByBudget) -> Picture | None:
    """Differences to the random draw with their intervals, a row for each budget under the name of its method."""
    lines = [line for line in each.compared if line.low is not None]
    if not any(line.half for line in lines):
        return None
    methods = list(dict.fromkeys(line.arm for line in sorted(lines, key=_largest_budget_first(each))))
    order, marks, heads = ["0|"], [], []
    for number, method in enumerate(methods, start=1):
        order.append(f"{number}|")
        heads.append({"row": order[-1], "text": snippet(method)})
        for line in sorted((one for one in lines if one.arm == method), key=lambda one: one.budget or 0):
            order.append(f"{number}|{count(line.budget)}")
            marks.append(_mark(line, order[-1]))
    several = len(each.budgets) > 1
    low, high = _domain(lines)
    axis = (
        alt.Axis(labelExpr="split(datum.label, '|')[1]", domain=False, ticks=False, grid=False)
        if several
        else None
    )
    y = alt.Y("row:O", sort=order, scale=alt.Scale(domain=order), title=None, axis=axis)
    x = alt.X(
        "difference:Q",
        title=f"difference to random, {each.unit}",
        scale=alt.Scale(domain=[low, high], nice=False),
    )
    base = alt.Chart(alt.InlineData(values=marks)).encode(
        y=y, color=alt.Color("shade:N", scale=None), tooltip=_tooltip(each)
    )
    layers = [
        _better_side(each, low, high, ROW * len(order)),
        alt.Chart(alt.InlineData(values=[{"difference": 0}])).mark_rule(color="var(--text)").encode(x=x),
        _side_words(each, y),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(size=70, opacity=1, strokeWidth=2).encode(x=x, fill=alt.Fill("fill:N", scale=None)),
        alt.Chart(alt.InlineData(values=heads))
        .mark_text(align="left", baseline="bottom", dy=11, dx=4, fontSize=13)
        .encode(x=alt.value(0), y=y, text="text:N"),
    ]
    return Picture(
        name=name,
        spec=finish(alt.layer(*layers), height=ROW * len(order)),
        label=f"Dots with whiskers: difference to a random draw on {each.label} for {enumeration(methods)}. "
        + _summary(lines),
        caption="Each dot is the mean difference to the random draw of the same tokens, each whisker its interval"
        + ("; budgets in tokens" if several else "")
        + ". A whisker that crosses the line at 0 (hollow dot) is “no difference seen”.",
    )


def _largest_budget_first(each: ByBudget) -> Any:
    """Order of the methods: by their difference at the largest budget, the best first."""
    sign = -1 if each.higher_is_better else 1
    return lambda line: (-(line.budget or 0), sign * (line.difference or 0.0))


def _mark(line: MethodLine, row: str) -> dict[str, Any]:
    shade = _SHADES.get(line.outcome, _PLAIN)
    return {
        "row": row,
        "method": snippet(line.arm),
        "tokens": line.budget,
        "difference": line.difference,
        "low": line.low,
        "high": line.high,
        "words": line.words,
        "shade": shade,
        "fill": shade if line.outcome in _SHADES else "var(--page)",
    }


def _domain(lines: Sequence[MethodLine]) -> tuple[float, float]:
    """The ends of the axis, with 0 in it and room on both sides."""
    low = min(0.0, *(line.low or 0.0 for line in lines))
    high = max(0.0, *(line.high or 0.0 for line in lines))
    room = (high - low or 1.0) * MARGIN
    return float(f"{low - room:.4g}"), float(f"{high + room:.4g}")


def _better_side(each: ByBudget, low: float, high: float, height: int) -> Any:
    side = {"from": 0, "to": high if each.higher_is_better else low}
    place = alt.Chart(alt.InlineData(values=[side])).encode(
        x="from:Q", x2="to:Q", y=alt.value(0), y2=alt.value(height)
    )
    return place.mark_rect(color="var(--fine-page)")


def _side_words(each: ByBudget, y: Any) -> Any:
    left, right = ("worse", "better") if each.higher_is_better else ("better", "worse")
    place = alt.Chart(alt.InlineData(values=[{"difference": 0, "row": "0|"}])).encode(x="difference:Q", y=y)
    return alt.layer(
        place.mark_text(align="right", dx=-7, text=f"← {left}", color="var(--muted)"),
        place.mark_text(align="left", dx=7, text=f"{right} →", color="var(--muted)"),
    )


def _tooltip(each: ByBudget, what: str = "difference") -> list[Any]:
    figure = f".{each.digits}f"
    return [
        alt.Tooltip("method:N"),
        alt.Tooltip("tokens:Q", format=","),
        alt.Tooltip(f"{what}:Q", format=figure),
        alt.Tooltip("low:Q", title="from", format=figure),
        alt.Tooltip("high:Q", title="to", format=figure),
        alt.Tooltip("words:N", title="seen"),
    ]


def _summary(lines: Sequence[MethodLine]) -> str:
    words = [line.words for line in lines]
    counts = [
        f"{words.count(word)} {word}" for word in ("better", "worse", "no difference seen") if word in words
    ]
    return f"{enumeration(counts)}; the table below has the same figures."


def curves(name: str, each: ByBudget) -> list[Picture]:
    """Value against tokens, a small picture for each method beside the random draw.

    None for a single budget, or where nothing differs.
    """
    if len(each.budgets) < 2 or not any(line.half for line in each.compared):
        return []
    random = [
        line
        for budget in each.budgets
        if (line := each.random(budget)) is not None and line.value is not None
    ]
    methods = list(dict.fromkeys(line.arm for line in each.compared if line.low is not None))
    rules, low, high = _rules(each, random)
    return [
        _curve(f"{name}-{number}", each, method, random, rules=rules, domain=(low, high))
        for number, method in enumerate(methods)
        if random
    ]


def _rules(each: ByBudget, random: Sequence[MethodLine]) -> tuple[list[dict[str, Any]], float, float]:
    """The untuned model and the full pool as lines, where they do not press all else together; and the axis."""
    ends = [end for line in each.compared for end in _whisker(line, each)] + [
        line.value or 0.0 for line in random
    ]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    reach = max(high - low, 1e-9)
    found = sorted(
        (line.value, "full pool" if line.arm == FULL else line.arm)
        for line in each.outside
        if line.value is not None and low - reach <= line.value <= high + reach
    )
    # The words above the upper line, below the lower one: they may be close.
    rules: list[dict[str, Any]] = [
        {"value": value, "text": text, "baseline": "bottom" if number == len(found) else "top"}
        for number, (value, text) in enumerate(found, start=1)
    ]
    values = [low, high, *(value for value, _ in found)]
    room = 0.08 * (max(values) - min(values) or 1.0)
    return rules, float(f"{min(values) - room:.6g}"), float(f"{max(values) + room:.6g}")


def _whisker(line: MethodLine, each: ByBudget) -> list[float]:
    random = each.random(line.budget or 0)
    if random is None or random.value is None or line.low is None or line.high is None:
        return []
    return [random.value + line.low, random.value + line.high]


def _curve(
    name: str,
    each: ByBudget,
    method: str,
    random: Sequence[MethodLine],
    *,
    rules: Sequence[dict[str, Any]],
    domain: tuple[float, float],
) -> Picture:
    mine = [
        line
        for budget in each.budgets
        for line in each.at(budget)
        if line.arm == method and _whisker(line, each)
    ]
    base = [{"tokens": line.budget, "value": line.value} for line in random]
    points = [_point(line, each) for line in mine]
    x = alt.X(
        "tokens:Q",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(values=each.budgets, format=",d", grid=False, labelOverlap=True),
        title="tokens",
    )
    y = alt.Y("value:Q", scale=alt.Scale(domain=list(domain), nice=False, zero=False), title=None)
    grey = alt.Chart(alt.InlineData(values=base)).encode(x=x, y=y)
    own = alt.Chart(alt.InlineData(values=points)).encode(x=x, color=alt.Color("shade:N", scale=None))
    layers = [
        grey.mark_line(color="var(--rest)", strokeWidth=2),
        own.mark_line(strokeWidth=2).encode(y=y, color=alt.value("var(--text)")),
        own.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        own.mark_point(size=50, opacity=1, strokeWidth=2).encode(
            y=y, fill=alt.Fill("fill:N", scale=None), tooltip=_tooltip(each, "value")
        ),
    ]
    if rules:
        level = alt.Chart(alt.InlineData(values=list(rules))).encode(y=y)
        layers.insert(0, level.mark_rule(color="var(--muted)", strokeDash=[3, 4]))
        words = alt.Chart(alt.InlineData(values=list(rules))).mark_text(
            align="right", baseline=alt.ExprRef("datum.baseline"), fontSize=11, color="var(--muted)"
        )
        layers.append(words.encode(y=y, x=alt.value("width"), text="text:N"))
    said = "; ".join(f"{count(line.budget)} tokens {each.figure(line.value)} ({line.words})" for line in mine)
    return Picture(
        name=name,
        spec=finish(alt.layer(*layers), height=190),
        label=f"{method} on {each.label} against tokens, beside a random draw: {said}.",
        caption=breakable(method),
    )


def _point(line: MethodLine, each: ByBudget) -> dict[str, Any]:
    low, high = _whisker(line, each)
    return {**_mark(line, ""), "value": (low + high) / 2, "low": low, "high": high}


def seconds(comparison: Comparison) -> Picture | None:
    """Time of scoring, of the reference and of one training, as bars; None where nothing was timed."""
    lines = comparison.at_largest_budget
    values = [
        {"method": snippet(line.arm), "stage": stage, "order": order, "seconds": seconds}
        for line in lines
        for order, (stage, seconds) in enumerate(
            zip(STAGES, (line.score_s, line.reference_s, line.training_s), strict=True)
        )
        if seconds
    ]
    if not any(value["stage"] != "training" for value in values):
        return None
    bars = alt.Chart(alt.InlineData(values=values)).mark_bar(cornerRadius=1)
    chart = bars.encode(
        y=alt.Y(
            "method:N",
            sort=[snippet(line.arm) for line in lines],
            title=None,
            axis=alt.Axis(labelLimit=130),
        ),
        x=alt.X("seconds:Q", title="seconds", stack="zero"),
        color=alt.Color(
            "stage:N",
            scale=alt.Scale(domain=list(STAGES), range=["var(--scoring)", "var(--chosen)", "var(--rest)"]),
            legend=None,
        ),
        order="order:Q",
        tooltip=[alt.Tooltip("method:N"), alt.Tooltip("stage:N"), alt.Tooltip("seconds:Q", format=",.1f")],
    )
    return Picture(
        name="seconds",
        spec=finish(chart, height=26 * len(lines) + 10),
        label="Bar chart: seconds of scoring, of the reference and of one training per method; the table has them.",
        caption=markup(
            'Seconds of choosing, paid once (<span class="key scoring">scoring</span>, <span class="key reference">training a '
            'reference</span>), and of <span class="key training">one training</span> {at}.',
            at=comparison.at_largest,
        ),
    )
