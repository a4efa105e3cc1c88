"""The pictures of a leakage test: levels of the items, and the curve of the detector."""

import altair as alt
import numpy as np
import polars as pl

from learnable.experiments.leakage import Roc
from learnable.pages.page import Picture
from learnable.pages.pictures import drawn, finish, groups, tips

BINS = 24
HEIGHT = 220


def levels_picture(frame: pl.DataFrame, *, level: str) -> Picture:
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
    return Picture(
        name="levels",
        spec=finish(chart, height=HEIGHT),
        label=f"Numbers of items by their level; means: {means}.",
        caption=f"How many items have which level: the {level}.",
    )


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
