"""The pictures of a comparison, as Vega-Lite specifications."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from learnable.experiments import FULL
from learnable.pages import html
from learnable.pages.comparison_facts import ComparisonFacts
from learnable.pages.contest import Evaluated, Line
from learnable.pages.html import breakable, markup
from learnable.pages.page import Part, Picture, Section
from learnable.pages.pictures import FILL, ROW, SHADE, dot_of, drawn, finish, reach, tips, whiskers
from learnable.pages.words import count, enumeration, plural, snippet

MARGIN = 0.22
"""Of the axis, free on both sides of what is drawn: room for the words "better" and "worse"."""
STAGES = {"scoring": "var(--scoring)", "reference": "var(--chosen)", "training": "var(--rest)"}


def differences(name: str, each: Evaluated, *, to: str) -> Picture | None:
    """Differences to the baseline with their intervals, a row for each budget under the name of its arm."""
    lines = [line for line in each.compared if line.low is not None]
    if not any(line.half for line in lines):
        return None
    sign = -1 if each.higher_is_better else 1
    best_first = sorted(lines, key=lambda line: (-(line.budget_tokens or 0), sign * (line.difference or 0.0)))
    methods = list(dict.fromkeys(line.arm for line in best_first))
    order, marks, heads = ["0|"], [], []
    for number, method in enumerate(methods, start=1):
        order.append(f"{number}|")
        heads.append({"row": order[-1], "text": snippet(method)})
        own = [line for line in lines if line.arm == method]
        for line in sorted(own, key=lambda one: one.budget_tokens or 0):
            order.append(f"{number}|{count(line.budget_tokens)}")
            marks.append(_mark(line) | {"row": order[-1], "difference": line.difference})
    several, height = len(each.budgets) > 1, ROW * len(order)
    words = "split(datum.label, '|')[1]"
    axis = alt.Axis(labelExpr=words, domain=False, ticks=False, grid=False) if several else None
    y = alt.Y("row:O", sort=order, scale=alt.Scale(domain=order), title=None, axis=axis)
    ends = [0.0, *(end for line in lines for end in (line.low, line.high) if end is not None)]
    domain = reach(min(ends), max(ends), room=(max(ends) - min(ends) or 1.0) * MARGIN)
    scale = alt.Scale(domain=domain, nice=False)
    x = alt.X("difference:Q", title=f"difference to {to}, {each.unit}", scale=scale)
    side = drawn({"from": 0, "to": domain[1] if each.higher_is_better else domain[0]})
    side = side.encode(x="from:Q", x2="to:Q", y=alt.value(0), y2=alt.value(height))
    zero = drawn({"difference": 0, "row": "0|"}).encode(x="difference:Q", y=y)
    left, right = ("worse", "better") if each.higher_is_better else ("better", "worse")
    layers = [
        side.mark_rect(color="var(--fine-page)"),
        drawn({"difference": 0}).mark_rule(color="var(--text)").encode(x=x),
        zero.mark_text(align="right", dx=-7, text=f"← {left}", color="var(--muted)"),
        zero.mark_text(align="left", dx=7, text=f"{right} →", color="var(--muted)"),
        *whiskers(marks, x=x, y=y, tooltip=_tooltip(each, "difference")),
        drawn(*heads)
        .mark_text(align="left", baseline="bottom", dy=11, dx=4, fontSize=13)
        .encode(x=alt.value(0), y=y, text="text:N"),
    ]
    outcomes = [line.words for line in lines]
    seen = [word for word in ("better", "worse", "no difference seen") if word in outcomes]
    return Picture(
        name=name,
        spec=finish(*layers, height=height),
        label=f"Dots with whiskers: difference to {to} on {each.label} for {enumeration(methods)}. "
        f"{enumeration([f'{outcomes.count(word)} {word}' for word in seen])}; the table below has the same figures.",
        caption=f"Each dot is the mean difference to {to}, each whisker its interval"
        + ("; budgets in tokens" if several else "")
        + ". A whisker that crosses the line at 0 (hollow dot) is “no difference seen”.",
    )


def all_differences(evaluated: Sequence[Evaluated], *, to: str) -> tuple[Section | None, list[list[Part]]]:
    """Return the first picture as the section that opens a page, and what stands above the table of each evaluation."""
    drawn = [differences(f"differences-{number}", each, to=to) for number, each in enumerate(evaluated)]
    first = next((number for number, picture in enumerate(drawn) if picture), None)
    above: list[list[Part]] = [
        [picture or html.remark(each.no_picture)] for picture, each in zip(drawn, evaluated, strict=True)
    ]
    if first is None:
        return None, above
    above[first] = [html.remark("Its picture is the one at the top of this page.")]
    others = len(evaluated) - 1
    beside = [html.remark(f"{plural(others, 'more evaluation')} below.")] if others else []
    title = f"{evaluated[first].label}: difference to {to}"
    return Section(id="opening", title=title, parts=[*filter(None, [drawn[first]]), *beside]), above


def _mark(line: Line) -> dict[str, Any]:
    names = {"method": snippet(line.arm), "tokens": line.budget_tokens, "words": line.words}
    return names | {"low": line.low, "high": line.high} | dot_of(line)


def _tooltip(each: Evaluated, what: str) -> list[Any]:
    figure = f".{each.digits}f"
    ends = ("low", "from", figure), ("high", "to", figure), ("words", "seen")
    return tips("method", ("tokens", "tokens", ","), (what, what, figure), *ends)


def curves(name: str, each: Evaluated) -> list[Picture]:
    """Value against tokens, a small picture for each method; none for a single budget, or where nothing differs."""
    if len(each.budgets) < 2 or not any(line.half for line in each.compared):
        return []
    random = [{"tokens": line.budget_tokens, "value": line.value} for line in _draws(each)]
    if not random:
        return []
    rules, domain = _rules(each, random)
    axis = alt.Axis(values=each.budgets, format=",d", grid=False, labelOverlap=True)
    x = alt.X("tokens:Q", scale=alt.Scale(type="log", nice=False, padding=14), axis=axis, title="tokens")
    y = alt.Y("value:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), title=None)
    level, found = drawn(*rules).encode(y=y), []
    words = level.mark_text(
        align="right", baseline=alt.ExprRef("datum.baseline"), fontSize=11, color="var(--muted)"
    )
    below = [level.mark_rule(color="var(--muted)", strokeDash=[3, 4])] if rules else []
    above = [words.encode(x=alt.value("width"), text="text:N")] if rules else []
    methods = dict.fromkeys(line.arm for line in each.compared if line.low is not None)
    for number, method in enumerate(methods):
        lines = [line for b in each.budgets if (line := each.of(method, b)) and _whisker(line, each)]
        points = []
        for line in lines:
            low, high = _whisker(line, each)
            points.append(_mark(line) | {"value": (low + high) / 2, "low": low, "high": high})
        own = drawn(*points).encode(x=x, color=SHADE)
        dots = own.mark_point(size=50, opacity=1, strokeWidth=2)
        layers = [
            *below,
            drawn(*random).encode(x=x, y=y).mark_line(color="var(--rest)", strokeWidth=2),
            own.mark_line(strokeWidth=2).encode(y=y, color=alt.value("var(--text)")),
            own.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
            dots.encode(y=y, fill=FILL, tooltip=_tooltip(each, "value")),
            *above,
        ]
        said = [
            f"{count(line.budget_tokens)} tokens {each.figure(line.value)} ({line.words})" for line in lines
        ]
        picture = Picture(
            name=f"{name}-{number}",
            spec=finish(*layers, height=190),
            label=f"{method} on {each.label} against tokens, beside the baseline: {'; '.join(said)}.",
            caption=breakable(method),
        )
        found.append(picture)
    return found


def _draws(each: Evaluated) -> list[Line]:
    """What the baseline came to, budget by budget, where it was graded."""
    lines = [each.of(each.baseline.arm, budget) for budget in each.budgets]
    return [line for line in lines if line and line.value is not None]


def growth(comparison: ComparisonFacts) -> Section | None:
    """What the baseline comes to at each budget, where nothing else was trained; None for a single budget."""
    each = comparison.evaluated[0]
    lines = _draws(each)
    if len(lines) < 2:
        return None
    points = [
        {"tokens": line.budget_tokens, "value": line.value, "low": line.value_low, "high": line.value_high}
        for line in lines
    ]
    axis = alt.Axis(values=each.budgets, format=",d", grid=False, labelOverlap=True)
    x = alt.X("tokens:Q", scale=alt.Scale(nice=False, padding=14), axis=axis, title="tokens trained on")
    y = alt.Y("value:Q", scale=alt.Scale(zero=False), title=each.unit)
    figure = f".{each.digits}f"
    own = drawn(*points).encode(x=x, color=alt.value("var(--chosen)"))
    told = tips(
        ("tokens", "tokens", ","), ("value", "value", figure), ("low", "from", figure), ("high", "to", figure)
    )
    layers = [
        own.mark_line(strokeWidth=2).encode(y=y),
        own.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q"),
        own.mark_point(size=70, filled=True, opacity=1).encode(y=y, tooltip=told),
    ]
    said = [f"{count(line.budget_tokens)} tokens {each.figure(line.value)}" for line in lines]
    picture = Picture(
        name="growth",
        spec=finish(*layers, height=220),
        label=f"{each.label} against the tokens that were trained on: {'; '.join(said)}.",
        caption=f"{each.label} ({each.unit}, {each.side}) after training on {comparison.draw} of so many tokens; "
        "whiskers are the intervals of the values. How they differ is said below.",
    )
    return Section(id="opening", title=f"{each.label} against tokens", parts=[picture])


def _rules(each: Evaluated, random: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[float]]:
    """The untuned model and the full pool as lines, where they do not press all else together; and the axis."""
    ends = [end for line in each.compared for end in _whisker(line, each)]
    ends += [point["value"] for point in random]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    wide = max(high - low, 1e-9)
    found = sorted(
        (line.value, "full pool" if line.arm == FULL else line.arm)
        for line in each.lines
        if not line.competes and line.value is not None and low - wide <= line.value <= high + wide
    )
    # The words above the upper line, below the lower one: they may be close.
    rules: list[dict[str, Any]] = [
        {"value": value, "text": text, "baseline": "bottom" if number == len(found) else "top"}
        for number, (value, text) in enumerate(found, start=1)
    ]
    values = [low, high, *(value for value, _ in found)]
    room = 0.08 * (max(values) - min(values) or 1.0)
    return rules, reach(min(values), max(values), room=room, digits=6)


def _whisker(line: Line, each: Evaluated) -> list[float]:
    random = each.of(each.baseline.arm, line.budget_tokens)
    if random is None or random.value is None or line.low is None or line.high is None:
        return []
    return [random.value + line.low, random.value + line.high]


def seconds(comparison: ComparisonFacts) -> Picture | None:
    """Time of scoring, of the reference and of one training, as bars; None where nothing was timed."""
    lines = comparison.arms_at(comparison.budget)
    values = [
        {"method": snippet(line.arm), "stage": stage, "order": order, "seconds": spent}
        for line in lines
        for order, (stage, spent) in enumerate(
            zip(STAGES, (line.score_s, line.reference_s, line.training_s), strict=True)
        )
        if spent
    ]
    if not any(value["stage"] != "training" for value in values):
        return None
    names = [snippet(line.arm) for line in lines]
    scale = alt.Scale(domain=[*STAGES], range=[*STAGES.values()])
    bars = drawn(*values).mark_bar(cornerRadius=1)
    chart = bars.encode(
        y=alt.Y("method:N", sort=names, title=None, axis=alt.Axis(labelLimit=130)),
        x=alt.X("seconds:Q", title="seconds", stack="zero"),
        color=alt.Color("stage:N", scale=scale, legend=None),
        order="order:Q",
        tooltip=tips("method", "stage", ("seconds", "seconds", ",.1f")),
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
