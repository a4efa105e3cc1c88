"""The pictures of a selection, as Vega-Lite specifications."""

from typing import Any

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.pages.page import Picture
from learnable.pages.pictures import a_sample, drawn, finish, groups, label, tips
from learnable.pages.selection_facts import SelectionFacts
from learnable.pages.words import NOTHING, decimal, snippet

CHOSEN, REST = "chosen", "not chosen"
POOL, SELECTION = "pool", "selection"
SHOWN_SOURCES = 10
TREND_BINS = 10
BARS = 40
SHOWN_POINTS = 4_000
SHOWN_CHOSEN = 2_000
_NUMBERS = {
    "score_used": ("score", ".3f"),
    "learnability": ("S", ".3f"),
    "loss_before": ("before", ".3f"),
    "loss_after": ("after", ".3f"),
    "response_tokens": ("response", ","),
    "tokens": ("tokens", ","),
}
"""What a dot tells: the name of each column on the page, and its format."""


def plane(facts: SelectionFacts) -> Picture | None:
    """Loss before against loss after, with the lines where S is 0 and where the selection starts."""
    if not facts.has("loss_before", "loss_after"):
        return None
    losses = facts.scored.drop_nulls(["loss_before", "loss_after"])
    if losses.is_empty():
        return None
    # All the chosen and all but extreme losses are inside.
    highest = losses.select("is_kept", loss=pl.max_horizontal("loss_before", "loss_after"))
    values, chosen = (frame["loss"].to_numpy() for frame in (highest, highest.filter("is_kept")))
    common = float(np.quantile(values, 0.99)) * 1.5
    top = min(float(values.max()), max(common, float(chosen.max(initial=0.0))))
    top = float(f"{max(top, 0.01) * 1.03:.3g}")
    outside = int((values > top).sum())
    inside = f"isValid(datum.before) && isValid(datum.after) && max(datum.before, datum.after) <= {top}"
    scale = alt.Scale(domain=[0, top], nice=False)
    x = alt.X("before:Q", scale=scale, title="loss before, nats per token")
    y = alt.Y("after:Q", scale=scale, title="loss after, nats per token")
    rays = [(0.0, "learnability 0: nothing gained")]
    cutoff = facts.cutoff
    if facts.by == "learnability" and cutoff is not None and 0.03 < cutoff < 1:
        rays.append((cutoff, f"learnability {decimal(cutoff, 2)}: least of the chosen"))
    lines, labels = [], []
    for learnability, words in rays:
        end, near = ({"x": part * top, "y": part * top * (1 - learnability)} for part in (1, 0.97))
        dash = [1, 0] if learnability else [5, 4]
        line = drawn({"x": 0, "y": 0}, end).encode(x="x:Q", y="y:Q")
        lines.append(line.mark_line(color="var(--text)", strokeWidth=1.2, strokeDash=dash, opacity=0.8))
        place = drawn(near | {"text": words}).encode(x="x:Q", y="y:Q")
        labels.append(label(place, align="right", baseline="bottom", dx=-6, dy=-4))
    below = losses.filter(pl.col("loss_after") < pl.col("loss_before")).height
    return Picture(
        name="plane",
        spec=finish(_dots(facts, inside).encode(x=x, y=y), *lines, *labels, height=430),
        label=f"Scatter plot of loss before against loss after for {losses.height:,} examples; "
        f"{below:,} lie below the diagonal, where the reference does better than the base model.",
        remark=_how_many(facts, losses.height)
        + (f" {outside:,} with higher losses lie outside the picture." if outside else ""),
        caption="Each dot is an example: its loss under the base model and after the reference was trained. Below the "
        "dashed line the loss went down; the further below for its loss, the higher the learnability.",
    )


def _dots(facts: SelectionFacts, inside: str) -> Any:
    """Dots for the shared points that a condition lets through; the chosen ones are larger and stronger."""
    chosen = alt.datum.group == CHOSEN
    marks = alt.Chart(alt.NamedData("points")).transform_filter(inside)
    return marks.mark_circle(stroke="var(--page)", strokeWidth=0.4).encode(
        color=groups(CHOSEN, REST, strong=CHOSEN),
        opacity=alt.condition(chosen, alt.value(0.9), alt.value(0.55)),
        size=alt.condition(chosen, alt.value(46), alt.value(22)),
        tooltip=_tooltip(facts),
    )


def spread(facts: SelectionFacts) -> Picture | None:
    """Histogram of the score used: chosen against the rest, and the line where the selection ends."""
    edges, counts, tails = histogram(facts)
    if not len(edges):
        return None
    ends = list(zip(edges.tolist(), edges.tolist()[1:], strict=False))
    values = [
        {"low": low, "high": high, "group": group, "order": order, "examples": numbers[order]}
        for (low, high), numbers in zip(ends, counts, strict=True)
        for order, group in enumerate((CHOSEN, REST))
        if numbers[order]
    ]
    figures = ("low", "from", ".3f"), ("high", "to", ".3f"), ("group", "which"), ("examples", "examples", ",")
    bars = drawn(*values).mark_bar(binSpacing=1)
    layers: list[Any] = [
        bars.encode(
            x=alt.X("low:Q", bin="binned", title=facts.by, scale=alt.Scale(nice=False)),
            x2="high:Q",
            y=alt.Y("examples:Q", title="examples", stack="zero"),
            color=groups(CHOSEN, REST, strong=CHOSEN),
            order="order:Q",
            tooltip=tips(*figures),
        )
    ]
    if facts.cutoff is not None:
        edge = min(max(facts.cutoff, float(edges[0])), float(edges[-1]))
        right = edge < (edges[0] + edges[-1]) / 2
        word = "lowest" if facts.higher_is_better else "highest"
        base = drawn({"x": edge, "text": f"{word} chosen: {decimal(facts.cutoff)}"}).encode(x="x:Q")
        layers.append(base.mark_rule(color="var(--text)", strokeWidth=1.2, strokeDash=[5, 4]))
        side = {"align": "left" if right else "right", "dx": 6 if right else -6}
        layers.append(label(base.encode(y=alt.value(2)), baseline="top", **side))
    kept, rest = (sum(column) for column in zip(*counts, strict=True))
    beyond = [f"{n:,} {word}" for n, word in zip(tails, ("below", "above"), strict=True) if n]
    return Picture(
        name="spread",
        spec=finish(*layers, height=240),
        label=f"Histogram of {facts.by} for {kept + rest:,} examples, {kept:,} of them chosen.",
        remark=f"All scored examples ({kept + rest:,}) are counted."
        + (f" {' and '.join(beyond)} the picture are in its outermost bars." if beyond else ""),
        caption=f"Examples per value of {facts.by}.",
    )


def histogram(facts: SelectionFacts) -> tuple[NDArray[np.float64], list[tuple[int, int]], tuple[int, int]]:
    """Count chosen and other examples over the score; far tails go to the edge bars, so that the middle is seen.

    Returns:
        Edges of the bars, (chosen, others) for each bar, and how many lie below and above all of them.
    """
    scored = facts.scored.select("score_used", "is_kept")
    values = scored["score_used"].drop_nulls().to_numpy()
    if values.size == 0:
        return np.empty(0), [], (0, 0)
    edges = _edges(*score_range(values), cutoff=facts.cutoff)
    is_kept = scored["is_kept"].to_numpy()
    inside = np.clip(values, edges[0], edges[-1])
    counts = [np.histogram(inside[group], bins=edges)[0].tolist() for group in (is_kept, ~is_kept)]
    tails = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return edges, list(zip(*counts, strict=True)), tails


def _edges(low: float, high: float, *, cutoff: float | None) -> NDArray[np.float64]:
    """Edges of equal bars over the range, one of them at the cutoff, so that no bar mixes what it parts."""
    if high <= low:
        return np.linspace(low - 0.5, low + 0.5, 22)
    if cutoff is None or not low < cutoff < high:
        return np.linspace(low, high, BARS + 1)
    width = (high - low) / BARS
    return cutoff + width * np.arange(-np.ceil((cutoff - low) / width), np.ceil((high - cutoff) / width) + 1)


def score_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """The range worth drawing: everything, unless a tail reaches further than the middle 98% are wide."""
    first, last = np.quantile(values, [0.01, 0.99])
    width = last - first
    return float(max(values.min(), first - width)), float(min(values.max(), last + width))


def length(facts: SelectionFacts) -> Picture | None:
    """Score against response length on a logarithmic axis, with the median along it."""
    if not facts.has("score", "response_tokens"):
        return None
    both = facts.scored.filter(pl.col("response_tokens") >= 1).select("response_tokens", "score_used")
    if both.is_empty():
        return None
    low, high = score_range(both["score_used"].to_numpy())
    inside = f"isValid(datum.score) && datum.response >= 1 && datum.score >= {low - 1e-3} && datum.score <= {high + 1e-3}"
    first, last = both["response_tokens"].to_numpy().min(), both["response_tokens"].to_numpy().max()
    scale = alt.Scale(type="log", domain=[0.9 * first, 1.1 * last], nice=False)
    ticks = _log_ticks(int(first), int(last))
    axis = alt.Axis(format=",d", values=ticks, tickCount=len(ticks))
    x = alt.X("response:Q", scale=scale, title="response tokens", axis=axis)
    scale = alt.Scale(domain=[low, high] if high > low else [low - 0.5, low + 0.5], zero=False)
    y = alt.Y("score:Q", scale=scale, title=facts.by)
    bins = both.sort("response_tokens").with_row_index("bin")
    bins = bins.with_columns(pl.col("bin") * TREND_BINS // both.height)
    medians = bins.group_by("bin", maintain_order=True).median()
    trend = medians.select(response="response_tokens", score="score_used").to_dicts()
    line = drawn(*trend).mark_line(color="var(--text)", strokeWidth=2, clip=True)
    outside = both.filter((pl.col("score_used") < low) | (pl.col("score_used") > high)).height
    return Picture(
        name="length",
        spec=finish(
            _dots(facts, inside).encode(x=x, y=y), line.encode(x="response:Q", y="score:Q"), height=360
        ),
        label=f"Scatter plot of {facts.by} against response tokens for {both.height:,} examples.",
        remark=_how_many(facts, both.height)
        + " The line is the median score, from short to long answers."
        + (f" {outside:,} with extreme scores lie outside the picture." if outside else ""),
        caption=f"The score ({facts.by}) against the length of the answer. A slope means that choosing by the score "
        "is partly choosing by length.",
    )


def _log_ticks(first: int, last: int) -> list[int]:
    """1, 2, 5, 10, 20 ... inside the range; only 1, 10, 100 ... over more than three decades."""
    heads = (1,) if last > 1_000 * first else (1, 2, 5)
    steps = [head * 10**power for power in range(len(str(last))) for head in heads]
    return [step for step in steps if first <= step <= last] or [first]


def mix(facts: SelectionFacts, parts: pl.DataFrame, *, name: str, title: str, caption: str) -> Picture | None:
    """Share of the pool beside share of the selection, one pair of bars per group."""
    pool, kept = facts.frame.height, facts.chosen.height
    if parts.height < 2 or not kept:
        return None
    shown = parts.head(SHOWN_SOURCES).select("name", "examples", "kept")
    pairs = [(snippet(label), examples, chosen) for label, examples, chosen in shown.iter_rows()]
    values = [
        {"name": label, "group": group, "share": part / whole, "examples": part}
        for label, examples, chosen in pairs
        for group, part, whole in ((POOL, examples, pool), (SELECTION, chosen, kept))
    ]
    order, axis = [label for label, *_ in pairs], alt.Axis(labelLimit=120)
    chart = (
        drawn(*values)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            y=alt.Y("name:N", sort=order, title=None, axis=axis),
            yOffset=alt.YOffset("group:N", sort=[POOL, SELECTION]),
            x=alt.X("share:Q", title="share of all", axis=alt.Axis(format="%")),
            color=groups(POOL, SELECTION, strong=SELECTION),
            tooltip=tips(
                ("name", title), ("group", "what"), ("share", "share", ".1%"), ("examples", "examples", ",")
            ),
        )
    )
    all_in_table = f"The {SHOWN_SOURCES} largest are drawn; the table has all {parts.height:,}."
    return Picture(
        name=name,
        spec=finish(chart, height=34 * len(pairs) + 10),
        label=f"Bar chart: share of the pool and of the selection per {title}; the table below has the same figures.",
        remark=all_in_table if parts.height > SHOWN_SOURCES else "",
        caption=caption,
    )


def points(facts: SelectionFacts) -> dict[str, list[Any]]:
    """The dots of the scatter plots, column by column: a fixed sample that prefers the chosen.

    Returns:
        Lists of equal length, at most `SHOWN_POINTS`; the chosen come last, so that they are drawn on top.
    """
    frame = _sample(facts.scored)
    columns: dict[str, list[Any]] = {
        name: (frame[column] if form == "," else frame[column].round_sig_figs(4)).to_list()
        for column, (name, form) in _numbers(facts).items()
    }
    columns["group"] = [CHOSEN if kept else REST for kept in frame["is_kept"]]
    columns["source"] = [snippet(name) for name in frame["source"]]
    if facts.examples is None:
        return columns | {"id": frame["id"].to_list()}
    texts = facts.examples.select(pl.col("id").cast(pl.String), "messages")
    found = frame.select("id").join(texts, on="id", how="left", maintain_order="left")["messages"].to_list()
    answers = {"question": False, "answer": True}
    return columns | {
        name: [_start(each, answer=answer) for each in found] for name, answer in answers.items()
    }


def _sample(frame: pl.DataFrame) -> pl.DataFrame:
    kept = a_sample(frame.filter("is_kept"), SHOWN_CHOSEN)
    return pl.concat([a_sample(frame.filter(~pl.col("is_kept")), SHOWN_POINTS - kept.height), kept])


def _start(messages: list[dict[str, str]] | None, *, answer: bool) -> str:
    said = [
        m["content"] or ""
        for m in messages or ()
        if (m["role"] == "assistant") == answer and m["role"] != "system"
    ]
    return snippet(said[0]) if said else NOTHING


def _numbers(facts: SelectionFacts) -> dict[str, tuple[str, str]]:
    """Return what is known of a dot; a score that was used is not said twice."""
    has = {name: name == "score_used" or facts.has(name) for name in _NUMBERS}
    has["learnability"] &= facts.by != "learnability"
    return {name: known for name, known in _NUMBERS.items() if has[name]}


def _tooltip(facts: SelectionFacts) -> list[Any]:
    """What a dot tells when the pointer is on it."""
    titles = {"score_used": facts.by, "learnability": "S"}
    numbers = [
        (name, titles.get(column, column.replace("_", " ")), form)
        for column, (name, form) in _numbers(facts).items()
        if column != "score_used" or facts.has("score")
    ]
    texts = ["id"] if facts.examples is None else ["question", "answer"]
    return tips(("group", "which"), "source", *numbers, *texts)


def _how_many(facts: SelectionFacts, number: int) -> str:
    """Say how many of the scored examples are drawn."""
    shown = min(number, _sample(facts.scored).height)
    if shown == number:
        return f"All scored examples ({number:,}) are drawn."
    kept = facts.chosen.height
    chosen = f"all {kept:,}" if kept <= SHOWN_CHOSEN else f"{SHOWN_CHOSEN:,} of the {kept:,}"
    return f"{shown:,} of {number:,} scored examples are drawn, {chosen} chosen ones among them; the others are a fixed random sample."
