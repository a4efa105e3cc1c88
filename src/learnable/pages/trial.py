"""The page of a trial: which arms differ from the one they stand beside, what they cost, and what to distrust."""

import altair as alt
import polars as pl

from learnable.pages import comparison_pictures as pictures
from learnable.pages import html
from learnable.pages.comparison import answer_section, differences_section, ranked_rows
from learnable.pages.contest_warnings import method_section
from learnable.pages.imbalance import imbalance_section
from learnable.pages.page import Part, Picture, Section, write_page
from learnable.pages.pictures import drawn, finish, tips
from learnable.pages.trial_facts import TRIAL_CHECKS, TrialFacts, headline
from learnable.pages.warnings import look, warnings_section
from learnable.pages.words import (
    NOTHING,
    capital,
    count,
    decimal,
    enumeration,
    plural,
    share,
    snippet,
)

FINE = 0.1
"""Figures below are written with more digits, as differences of losses are small."""

SHOWN_SOURCES = 10
"""On the first screen."""


def render_trial(trial: TrialFacts) -> str:
    """Write the report of one trial as a self-contained page."""
    looked = look(TRIAL_CHECKS, trial)
    opening, above = pictures.all_differences(trial.evaluated, to=trial.baseline)
    beside = {trial.baseline: " (the others are compared with it)"}
    about = [(arm, words + beside.get(arm, "")) for arm, words in trial.about.items()]
    sections = [
        Section(id="arms", nav="arms", title="The arms", parts=[html.terms(about, kind="ways")]),
        answer_section(trial),
        differences_section(
            trial, above, lambda each: ranked_rows(each, each.lines), title=f"Differences to {trial.baseline}"
        ),
        *([] if trial.order is None else [imbalance_section(trial.order, confidence=trial.confidence)]),
        _tables(trial),
        warnings_section(looked, nav="distrust"),
        method_section(
            trial, first=trial.alike, widened_for=f"arms beside {trial.baseline}", last=trial.notes
        ),
    ]
    evaluations = len(trial.evaluated)
    return write_page(
        sections,
        kicker=trial.title,
        headline=trial.headed(headline(trial)),
        lead=html.markup("{lead}{distrust}", lead=trial.lead, distrust=looked.link),
        tiles=[
            ("evaluations", count(evaluations), "each answers for itself" if evaluations > 1 else ""),
            ("arms", count(len(trial.about)), ""),
            *trial.tiles,
        ],
        onward=trial.onward,
        chart=opening if trial.mixtures is None else _mixtures(trial.mixtures),
        first=None if trial.mixtures is None else opening,
        command=("To repeat this page", trial.command),
    )


def _mixtures(mixtures: pl.DataFrame) -> Section:
    """The shares of the largest sources, before all else."""
    rows = [[snippet(source), *(share(each, 1) for each in own)] for source, *own in mixtures.iter_rows()]
    more = mixtures.height - SHOWN_SOURCES
    parts: list[Part] = [
        html.table("Means over steps and seeds", mixtures.columns, rows[:SHOWN_SOURCES], worded=(0,)),
        *([html.remark(f"{plural(more, 'more source')} under “Figures and cost”.")] if more > 0 else []),
    ]
    return Section(id="mixtures", title="Share of the tokens by source", parts=parts)


def _tables(trial: TrialFacts) -> Section:
    """The trial's own figures, and at the end what it took."""
    courses = enumerate(trial.courses.items())
    parts: list[Part] = [course(f"course-{number}", caption, frame) for number, (caption, frame) in courses]
    for caption, frame in trial.tables.items():
        names = [name.replace("_", " ") for name in frame.columns]
        rows = [list(row) for row in zip(*map(_figures, frame), strict=True)]
        worded = [place for place, kind in enumerate(frame.dtypes) if kind == pl.String]
        parts.append(html.table(caption, names, rows, worded=worded))
    return Section(id="figures", nav="figures", title="Figures and cost", parts=[*parts, *trial.took])


def _figures(column: pl.Series) -> list[str]:
    """Return the cells of a column; means that are all whole numbers, as of rows, are counts."""
    if column.dtype.is_float():
        known = column.filter(column.is_finite())
        if (known == known.round()).all():
            whole = column.set(~column.is_finite(), None)
            return [_figure(value if value is None else int(value)) for value in whole]
    return [_figure(value) for value in column]


def _figure(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return decimal(value, 3 if abs(value) >= FINE else 5)
    return NOTHING if value is None else count(value)


SHOWN_STEPS = 150


def course(name: str, caption: str, frame: pl.DataFrame) -> Picture:
    """Draw how the proportions of sources went over a training: a line for each.

    Args:
        name: Of the picture.
        caption: What it shows.
        frame: ``step``, ``source``, ``pi``; of one training.
    """
    every = max(1, (int(frame["step"].n_unique()) + SHOWN_STEPS - 1) // SHOWN_STEPS)
    shown = frame.filter((pl.col("step") % every == 0) | (pl.col("step") == pl.col("step").max()))
    names = {source: snippet(source) for source in frame["source"].unique(maintain_order=True)}
    points = [
        {"step": step, "source": names[source], "share": float(f"{pi:.4g}")}
        for step, source, pi in shown.select("step", "source", "pi").iter_rows()
    ]
    chart = drawn(*points).mark_line(strokeWidth=2)
    chart = chart.encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(grid=False)),
        y=alt.Y("share:Q", title="share of the tokens", axis=alt.Axis(format="%")),
        color=alt.Color("source:N", sort=list(names.values()), legend=alt.Legend(title=None)),
        tooltip=tips("source", ("step", "step", ","), ("share", "share", ".1%")),
    )
    ends = [
        f"{names[source]} from {share(first, 1)} to {share(last, 1)}"
        for source, first, last in frame.sort("step")
        .group_by("source", maintain_order=True)
        .agg(pl.col("pi").first().alias("first"), pl.col("pi").last().alias("last"))
        .iter_rows()
    ]
    return Picture(
        name=name,
        spec=finish(chart, height=260),
        label=f"{capital(caption)}, step by step: {enumeration(ends)}.",
        caption=f"{capital(caption)}, step by step, in the training of the first seed.",
    )
