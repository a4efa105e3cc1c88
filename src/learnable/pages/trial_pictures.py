"""The pictures of a trial, as Vega-Lite specifications."""

import altair as alt
import polars as pl

from learnable.pages.page import Picture
from learnable.pages.pictures import drawn, finish, tips
from learnable.pages.words import capital, enumeration, share, snippet

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
