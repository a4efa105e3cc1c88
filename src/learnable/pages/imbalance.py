"""Whether the place of a row in a training shows in its loss afterwards: a picture and a sentence for each epoch looked at."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from learnable.experiments import Imbalance, arrays_of, binned, slopes_of
from learnable.pages import html
from learnable.pages.page import Panels, Part, Picture, Section, write_page
from learnable.pages.pictures import drawn, finish, reach, tips
from learnable.pages.words import count, decimal, plural, probability

HEIGHT = 220


def render_imbalance(
    frame: pl.DataFrame, *, model: str, settings: Mapping[str, Any], confidence: float
) -> str:
    """Write the page of `learnable order`; ``frame`` is as of ``slopes_of``."""
    slopes = slopes_of(frame, confidence=confidence)
    first = slopes["first"]
    section = imbalance_section(frame, confidence=confidence)
    how = html.settings_table("Settings of every training", settings, label="Training")
    return write_page(
        [section, Section(id="how", nav="how", title="How they were trained", parts=how)],
        kicker="order",
        headline=headline(first),
        lead=html.markup(
            "<strong>{model}</strong> was trained on {rows} in {orders} orders.",
            model=model,
            rows=plural(first.examples, "row"),
            orders=count(first.orders),
        ),
        tiles=[
            ("slope, first epoch", decimal(first.slope, 4), "nats per token from its beginning to its end"),
            ("rows", count(first.examples), "with a loss in every order"),
            ("orders", count(first.orders), ""),
        ],
        command=("To train in another order", "learnable train pool --order-seed 1 -o other"),
    )


def headline(first: Imbalance) -> str:
    """Say in one line what was seen of the first epoch."""
    if is_seen(first):
        way = "lower" if first.slope < 0 else "higher"
        return f"Rows met later in the first epoch end with a {way} loss"
    return "No imbalance of the first epoch was seen"


def is_seen(found: Imbalance) -> bool:
    """Whether an interval excludes 0."""
    return found.low > 0 or found.high < 0


def imbalance_section(frame: pl.DataFrame, *, confidence: float) -> Section:
    """Return the section about the place in the first epoch, and in the last where there are several."""
    slopes, panels = slopes_of(frame, confidence=confidence), []
    parts: list[Part] = [
        html.text(
            "Does the place of a row in the order show in its loss after training? Each row is compared with itself in the "
            "other orders, so that its difficulty cancels."
        )
    ]
    said = []
    for which, found in slopes.items():
        name = f"{which} epoch" if len(slopes) > 1 else "epoch"
        low, high = decimal(found.low, 4), decimal(found.high, 4)
        seen = "" if is_seen(found) else " The interval holds 0: no imbalance was seen."
        said.append(
            f"From the beginning to the end of the {name} the loss changes by {decimal(found.slope, 4)} nats per token "
            f"({low} to {high}; p {probability(found.p)} when orders are exchanged within rows).{seen}"
        )
        panels.append(_picture(frame, which, name, confidence))
    first = slopes["first"]
    parts += [html.bullets(said), Panels(pictures=panels, kind="panels plots")]
    last = (
        "With one epoch the first is the last: what was met last, and what met which learning rate, show in the same slope."
        if len(slopes) == 1
        else "What was met last shows in the last epoch. The schedule of the learning rate shows in both: --schedule constant "
        "takes it out."
    )
    parts.append(
        html.remark(
            f"{plural(first.examples, 'row')} in {count(first.orders)} orders. Across rows a slope as sure would take "
            f"{decimal(first.pairing, 1)} times as many. The intervals allow for what rows of one batch share. {last}"
        )
    )
    return Section(id="order", nav="order", title="Does the order show?", parts=parts)


def _picture(frame: pl.DataFrame, which: str, name: str, confidence: float) -> Picture:
    bins = binned(*arrays_of(frame, which), confidence=confidence)
    look = {"shade": "var(--chosen)", "fill": "var(--chosen)", "shape": "circle"}
    dots = [{**row, **look} for row in bins.to_dicts()]
    ends = [end for row in dots for end in (row["low"], row["high"]) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    scale = alt.Scale(domain=reach(low, high, room=0.05 * (high - low or 1.0)), nice=False)
    x = alt.X("place:Q", scale=alt.Scale(domain=[0, 1]), title=f"place in the {name}")
    y = alt.Y("loss:Q", scale=scale, title="loss less its mean elsewhere, nats per token")
    base = drawn(*dots)
    figure = ".4f"
    tooltip = tips(
        ("place", "place", ".2f"), ("loss", "loss", figure), ("low", "from", figure), ("high", "to", figure)
    )
    level = drawn({"loss": 0.0}).mark_rule(color="var(--text)").encode(y=y)
    lines = base.mark_rule(strokeWidth=2, color="var(--chosen)").encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    points = base.mark_point(size=70, filled=True, opacity=1, color="var(--chosen)")
    return Picture(
        name=f"order-{which}",
        spec=finish(level, lines, points.encode(x=x, y=y, tooltip=tooltip), height=HEIGHT),
        label=f"Dots with whiskers: the loss of rows after training by their place in the {name}, in ten bins.",
        caption=html.markup(
            "<strong>{name}</strong>: each dot is the mean over the rows met there, less the same rows' mean in the other orders.",
            name=name.capitalize(),
        ),
    )
