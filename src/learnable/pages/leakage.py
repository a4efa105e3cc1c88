"""The page of a leakage test: the verdict, how often it would err, a table by subject, and the items that stand out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from learnable.experiments.leakage import Roc, SetVerdict
from learnable.pages import html
from learnable.pages.page import Part, Picture, Section, write_page
from learnable.pages.pictures import drawn, finish, groups, tips
from learnable.pages.warnings import Found, look, warnings_section
from learnable.pages.words import NOTHING, count, decimal, plural, share

SHOWN = 200
"""Items of the table of items, those first that look most as if they were trained on."""
FEW_ITEMS = 100
QUESTION = 100
"""Characters of a question that are shown."""


@dataclass(frozen=True, kw_only=True)
class LeakageFacts:
    """All that the page says.

    Args:
        detecting: Settings of the detector.
        names: Of ``model``, ``reference``, ``benchmark`` and ``clean``, those that there are.
        items: A line for each item, as `learnable leakage` writes it.
        subjects: A line for each subject.
        verdict: For the set.
        curve: Where the truth is known.
        notes: What must be known of how it was measured.
        level: What the level of an item is.
        hit: When the detector says leaked.
        command: What repeats the test.
        onward: What there is now and what can be done next, each with a path or a command.
    """

    detecting: Mapping[str, Any]
    names: Mapping[str, str]
    items: pl.DataFrame
    subjects: pl.DataFrame
    verdict: SetVerdict
    curve: Roc | None
    notes: Sequence[str]
    level: str
    hit: str
    command: str
    onward: Sequence[tuple[str, str]] = ()

    @cached_property
    def counted(self) -> pl.DataFrame:
        """The items that count in the verdict."""
        return self.items.filter("counted")


def render_leakage(facts: LeakageFacts) -> str:
    """Write the page."""
    looked = look(CHECKS, facts)
    hits, low = facts.counted["hit"], facts.verdict.rate[1]
    rate = NOTHING if not isfinite(low) else f"{facts.verdict.rate[0]:.0%}"
    between = "" if not isfinite(low) else "{:.0%} to {:.0%}".format(*facts.verdict.rate[1:])
    return write_page(
        [
            _verdict(facts),
            _subjects(facts),
            _items(facts),
            warnings_section(looked, nav="distrust"),
            _method(facts),
        ],
        kicker="leakage",
        headline=headline(facts),
        lead=html.markup(
            "<strong>{model}</strong> was asked for the items of <strong>{benchmark}</strong>, held against {beside}.{link}",
            model=facts.names["model"],
            benchmark=facts.names["benchmark"],
            beside=facts.verdict.beside,
            link=looked.link,
        ),
        tiles=[
            ("share of leaked items", rate, between),
            (
                "called leaked",
                share(float(hits.sum()), len(hits)),
                f"{_percent(facts.verdict.expected)} without a leak",
            ),
            ("items", count(len(hits)), "in the verdict"),
        ],
        onward=facts.onward,
        chart=None if facts.counted.is_empty() else levels_section(facts.counted, level=facts.level),
        command=("To repeat this test", facts.command),
    )


def _compares(facts: LeakageFacts) -> bool:
    """Return whether the items are held against more than chance."""
    return bool({"reference", "clean"} & set(facts.names))


def headline(facts: LeakageFacts) -> str:
    """The answer in one line."""
    leaked = facts.verdict.leaked
    if leaked is None:
        return "Nothing to hold the items against: no verdict"
    if leaked and not _compares(facts):
        return "A leak, or only a natural order of the options: nothing was compared with"
    return "The model was trained on items of this benchmark" if leaked else "No leak was seen"


def _percent(value: float) -> str:
    return f"{value:.1%}" if isfinite(value) else "an unknown share"


def _verdict(facts: LeakageFacts) -> Section:
    words = [
        f"The level of an item is the {facts.level}. The detector calls an item leaked where {facts.hit}.",
        "Leaked means seen in a training, not cheating. No detection is no proof that nothing was seen: a training on "
        "answer letters alone, or with the options in another order each time, leaves no trace here.",
    ]
    rows = [
        (
            test.name,
            decimal(test.value, 4),
            f"{decimal(test.low, 4)} to {decimal(test.high, 4)}",
            f"{test.p:.2g}",
            test.counted,
        )
        for test in facts.verdict.tests
    ]
    head = ["test", "value", "interval", "p", "counted"]
    parts: list[Part] = [html.text(each) for each in words]
    parts.append(html.table(f"The set against {facts.verdict.beside}", head, rows, worded=(4,)))
    if facts.curve is not None:
        parts.append(curve_picture(facts.curve))
    return Section(id="verdict", nav="verdict", title="Was it trained on?", parts=parts)


def _subjects(facts: LeakageFacts) -> Section:
    frame = facts.subjects
    head = [name.replace("_", " ") for name in frame.columns]
    rows = [
        [
            each if isinstance(each, str) else count(each) if isinstance(each, int) else decimal(each)
            for each in row
        ]
        for row in frame.iter_rows()
    ]
    parts: list[Part] = [html.table("By subject", head, rows)] if rows else []
    return Section(id="subjects", nav="subjects", title="By subject", parts=parts)


def _items(facts: LeakageFacts) -> Section:
    level = "difference" if "difference" in facts.items.columns else "level"
    ordered = facts.counted.sort(level, descending=True, nulls_last=True)
    names = ["rank", "z", "gap", "top_p", "level", "reference_level", "difference"]
    names = [name for name in names if name in ordered.columns and ordered[name].is_finite().any()]
    rows = [
        [
            html.cell(row["question"][:QUESTION], row["subject"]),
            "yes" if row["hit"] else "no",
            *(decimal(row[name], 0 if name == "rank" else 2) for name in names),
        ]
        for row in ordered.head(SHOWN).iter_rows(named=True)
    ]
    head = ["item", "called leaked", *(name.replace("_", " ") for name in names)]
    parts: list[Part] = [
        html.table("Items, those first that stand out most", head, rows, kind="dense", worded=(1,))
    ]
    if ordered.height > SHOWN:
        parts.append(html.remark(f"{ordered.height - SHOWN:,} more are in items.parquet."))
    left = facts.items.filter(~pl.col("counted"))
    reasons = left.select(
        pl.when(pl.col("refused").is_not_null())
        .then("refused")
        .when("points_at_options")
        .then(pl.lit("its options point at each other"))
        .otherwise(pl.col("why").fill_null("").replace("", "its orders do not differ"))
        .alias("why")
    )["why"].value_counts(sort=True)
    said = [f"{plural(number, 'item')}: {why}" for why, number in reasons.iter_rows()]
    parts += [html.heading("Left out of the verdict"), html.bullets(said)] if said else []
    return Section(id="items", nav="items", title="Items", parts=parts if rows or said else [])


def _method(facts: LeakageFacts) -> Section:
    parts: list[Part] = [html.bullets(facts.notes)] if facts.notes else []
    settings = {**facts.names, **facts.detecting}
    settings = {name: value for name, value in settings.items() if value is not None}
    parts += html.settings_table("How it was looked for", settings, label="Detector")
    return Section(id="method", nav="method", title="Method", parts=parts)


def _uncorrected(facts: LeakageFacts) -> Found:
    """There is neither a reference nor clean items."""
    if _compares(facts):
        return ""
    return (
        "Nothing but chance was compared with, and authors put options into a natural order that any model finds likelier: "
        "the share of first ranks exceeds chance without a leak. Give --reference or --clean."
    )


def _few(facts: LeakageFacts) -> Found:
    """Fewer than `FEW_ITEMS` items count."""
    few = plural(facts.counted.height, "item")
    return f"Only {few} count: a small leak would not be seen." if facts.counted.height < FEW_ITEMS else ""


def _pointing(facts: LeakageFacts) -> Found:
    """Options such as "all of the above" were left out."""
    number = int(facts.items["points_at_options"].sum())
    if not number:
        return ""
    return f"{plural(number, 'item has', 'items have')} options that point at others, such as “all of the above”, and are left out."


def _forest(facts: LeakageFacts) -> Found:
    """The paper's forest was asked."""
    if facts.detecting["by"] != "isolation_forest":
        return ""
    return (
        f"The forest has no control of false alarms: on pure noise it calls {_percent(facts.verdict.expected)} of the items "
        "leaked. Believe the comparison, not the count."
    )


CHECKS: dict[str, Callable[[LeakageFacts], Found]] = {
    "nothing to compare with": _uncorrected,
    "few items": _few,
    "options that point at others": _pointing,
    "a detector without control of false alarms": _forest,
}


BINS = 24
HEIGHT = 220


def levels_section(frame: pl.DataFrame, *, level: str) -> Section:
    """Draw how the levels of the items lie, and beside them those of the reference."""
    kinds = {"model": frame["level"].to_numpy()}
    if "reference_level" in frame.columns:
        kinds["reference"] = frame["reference_level"].to_numpy()
    values = {name: each[np.isfinite(each)] for name, each in kinds.items()}
    whole = np.concatenate(list(values.values()))
    edges = np.linspace(whole.min(), max(whole.max(), whole.min() + 1e-6), BINS + 1)
    points = [
        {"group": name, "level": float(f"{(low + high) / 2:.4g}"), "items": int(number)}
        for name, each in values.items()
        for low, high, number in zip(edges, edges[1:], np.histogram(each, edges)[0], strict=False)
    ]
    chart = drawn(*points).mark_line(interpolate="step", strokeWidth=2)
    chart = chart.encode(
        x=alt.X("level:Q", title=level, axis=alt.Axis(grid=False)),
        y=alt.Y("items:Q", title="items"),
        color=groups(*values, strong="model"),
        tooltip=tips("group", ("level", "level", ".2f"), ("items", "items", ",")),
    )
    means = ", ".join(f"{name} {each.mean():.2f}" for name, each in values.items())
    picture = Picture(
        name="levels",
        spec=finish(chart, height=HEIGHT),
        label=f"Numbers of items by their level; means: {means}.",
        caption=f"How many items have which level: the {level}.",
    )
    return Section(id="levels", title="Do the items stand out?", parts=[picture])


def curve_picture(curve: Roc) -> Picture:
    """Draw the share of leaked items that is found against the share of others that is called leaked."""
    ends = zip(curve.false_alarms.tolist(), curve.found.tolist(), strict=True)
    points = [
        {"place": place, "alarms": float(f"{one:.4g}"), "found": float(f"{other:.4g}")}
        for place, (one, other) in enumerate(ends)
    ]
    scale = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format="%")
    line = drawn(*points).mark_line(interpolate="step-after", strokeWidth=2, color="var(--chosen)")
    line = line.encode(
        x=alt.X("alarms:Q", scale=scale, axis=axis, title="others that are called leaked"),
        y=alt.Y("found:Q", scale=scale, axis=axis, title="leaked items that are found"),
        order="place:Q",
        tooltip=tips(("alarms", "false alarms", ".1%"), ("found", "found", ".1%")),
    )
    area = f"{curve.area:.3f} ({curve.low:.3f} to {curve.high:.3f})"
    return Picture(
        name="curve",
        spec=finish(line, height=HEIGHT),
        label=f"The curve of the detector; the area under it is {area}.",
        caption=f"Every threshold a point. The area under the curve is {area}; 0.5 is chance.",
    )
