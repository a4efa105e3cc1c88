"""How near a new token has come to what it means: the concept distance, layer by layer."""

from collections.abc import Mapping
from typing import Any, Literal

import altair as alt
import polars as pl

from learnable.pages.html import cell, heading, keys, markup, remark, row, table, text
from learnable.pages.lesson_facts import LessonFacts
from learnable.pages.page import Panels, Part, Picture, Section
from learnable.pages.pictures import drawn, finish, tips
from learnable.pages.words import NOTHING, count, decimal, enumeration, plural

SHADES = 6
"""Colours of the style sheet for arms that are neither the baseline, nor DELIA, nor untuned."""
DASHES = {"": (1, 0), "dashed": (6, 3), "dotted": (2, 3)}
PAPER_LAYERS = (1, 2)
"""Those of DELIA's figure."""
ALIKE = 0.01
"""Of the baseline's distance: a mean difference below this is not said to be one, whatever the seeds say."""
REACH = 0.25
"""Of the baseline's distance: how far the picture of the ratios goes."""
TICKS = 12

Style = tuple[str, str]
"""Colour and dash of an arm's lines."""
Places = Mapping[tuple[str, int], Mapping[str, Any]]
"""By arm and layer: ``mean``, ``low`` and ``high`` of the ``seeds``."""


def concepts_section(lesson: LessonFacts) -> Section:
    """Say how near each new token has come to its words; without parts where no distance is known."""
    frame, parts = lesson.concepts, list[Part]()
    if frame is not None and not (frame := frame.filter(pl.col("distance").is_finite())).is_empty():
        about = (
            "The distance between the hidden states of the new token and those of words in its place, in the same prompts: the "
            "nearer, the more the model treats the token as what it means. Bands are the range of the seeds, not intervals. Beside "
            f"{lesson.baseline}: over its distance with the same seed, so that rows that begin at random do not blur it."
        )
        styles = styles_of(lesson)
        parts = [text(about), keys((colour, dash, arm) for arm, (colour, dash) in styles.items())]
        pairs = frame.select("token", "words").unique(maintain_order=True).rows()
        for number, (token, words) in enumerate(pairs):
            here = frame.filter((pl.col("token") == token) & (pl.col("words") == words))
            parts += _concept(f"concept-{number}", lesson, here, styles)
        note = (
            "DELIA's authors show layers 1 and 2, and do not say at which position or how pooled; only the order of the ways to "
            "train can be compared with theirs, not the numbers."
        )
        parts.append(remark(note))
    title = "How near a new token has come to its meaning"
    return Section(id="concepts", nav="concepts", title=title, parts=parts)


def styles_of(lesson: LessonFacts) -> dict[str, Style]:
    """Return colour and dash of each arm: the baseline in the colour of text, the arm in focus strong, untuned ones grey."""
    found, others, untuned, dashes = dict[str, Style](), 0, 0, list(DASHES)
    for arm in lesson.labels:
        if arm not in lesson.trained:
            found[arm] = "var(--rest)", dashes[untuned % len(dashes)]
            untuned += 1
        elif arm in (lesson.baseline, lesson.focus):
            found[arm] = "var(--text)" if arm == lesson.baseline else "var(--chosen)", ""
        else:
            found[arm] = f"var(--arm-{others % SHADES})", dashes[others // SHADES % len(dashes)]
            others += 1
    return found


def _spread(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return mean, least and most of the seeds, by arm and layer."""
    value = pl.col(column)
    figures = {"mean": value.mean(), "low": value.min(), "high": value.max(), "seeds": pl.len()}
    groups = frame.group_by("arm", "layer", maintain_order=True).agg(**figures)
    return groups.sort("layer", maintain_order=True)


def _places(spread: pl.DataFrame) -> Places:
    return {(row["arm"], row["layer"]): row for row in spread.iter_rows(named=True)}


def _concept(name: str, lesson: LessonFacts, here: pl.DataFrame, styles: Mapping[str, Style]) -> list[Part]:
    token, words = here["token"][0], here["words"][0]
    # Over the baseline with the same seed: arms of one seed share a random row.
    base = here.filter(pl.col("arm") == lesson.baseline).select("seed", "layer", base="distance")
    pairs = here.join(base, on=["seed", "layer"], maintain_order="left").filter(pl.col("base") > 0)
    distances = _spread(here, "distance")
    ratios = _spread(pairs.with_columns(ratio=pl.col("distance") / pl.col("base")), "ratio")
    known = _places(distances)
    last = max(here["layer"])
    layers = sorted({layer for layer in (0, *PAPER_LAYERS, last // 2, last) if layer <= last})
    rows = []
    for arm in lesson.ordered(here):
        cells: list[str] = [arm]
        for layer in layers:
            mean, low, high = (
                _figure(known.get((arm, layer), {}).get(each)) for each in ("mean", "low", "high")
            )
            cells.append(cell(mean, small=f"{low} to {high}" if low != high else ""))
        rows.append(row(cells, kind="baseline" if arm == lesson.baseline else ""))
    said = _said(lesson, known, _places(ratios))
    shown = table(
        f"Distance (L2) of {token} and “{words}”: mean of the seeds, and their range, over "
        f"{plural(max(here['prompts']), 'prompt')} of the test",
        ["arm", *(f"layer {layer}" if layer else "embeddings" for layer in layers)],
        rows,
        label=f"Distance of {token} and {words}",
        kind="dense",
    )
    # The distances, and the same over those of the baseline.
    kind: Literal["log", "linear"] = "log" if min(distances["low"]) > 0 else "linear"
    scale = alt.Scale(type=kind, nice=False, padding=6)
    y = alt.Y("mean:Q", title="L2 distance" + (", log" if kind == "log" else ""), scale=scale)
    pictures = [_lines(name, lesson, distances, styles, y, what="distance")]
    beside = ratios.with_columns(pl.col("mean", "low", "high") - 1)
    ends = [0.0, *beside["low"], *beside["high"]]
    low, high = max(min(ends), -REACH), min(max(ends), REACH)
    if low < high:
        title, form = f"distance beside {lesson.baseline}", "+.2~%"
        room = alt.Scale(domain=[low, high], nice=False, padding=6)
        y = alt.Y("mean:Q", title="nearer ↓  farther ↑", scale=room, axis=alt.Axis(format=form))
        cut = f"Lines beyond {REACH:.0%} are cut off." if min(ends) < -REACH or max(ends) > REACH else ""
        pictures.append(
            _lines(f"{name}-beside", lesson, beside, styles, y, what=title, remark=cut, form=form)
        )
    return [
        heading(f"{token} and “{words}”"),
        *([text(said)] if said else []),
        Panels(pictures=pictures, kind="panels plots"),
        shown,
    ]


def _said(lesson: LessonFacts, known: Places, ratios: Places) -> str:
    """Put the arm in focus beside the baseline at the layers of the paper."""
    focus, baseline = lesson.focus or "", lesson.baseline
    parts = []
    for layer in PAPER_LAYERS:
        if (focus, layer) in ratios:
            mine, other = (_figure(known[arm, layer]["mean"]) for arm in (focus, baseline))
            parts.append(
                f"at layer {layer} {focus} {mine}, {baseline} {other} ({_apart(ratios[focus, layer])})"
            )
    said = "; ".join(parts)
    return said[:1].upper() + said[1:] + ("." if said else "")


def _apart(ratio: Mapping[str, Any]) -> str:
    """Say where an arm is that is so many times as far as the baseline."""
    mean = ratio["mean"]
    if abs(mean - 1) < ALIKE:
        return f"alike within {ALIKE:.0%}"
    size = f"{abs(mean - 1):.0%} {'nearer' if mean < 1 else 'farther'}"
    if ratio["seeds"] < 2:
        return f"{size}, with the only seed"
    return f"{size}, {'in every seed' if ratio['high'] < 1 or ratio['low'] > 1 else 'but not in every seed'}"


def _lines(
    name: str,
    lesson: LessonFacts,
    spread: pl.DataFrame,
    styles: Mapping[str, Style],
    y: Any,
    *,
    what: str,
    remark: str = "",
    form: str = ".3~g",
) -> Picture:
    """Draw a line for each arm against the layer, with the range of its seeds."""
    arms, last = lesson.ordered(spread), max(spread["layer"])
    ticks = list(range(0, last + 1, -(-last // TICKS) or 1))
    axis = alt.Axis(values=ticks, tickCount=len(ticks), format="d", grid=False)
    x = alt.X("layer:Q", title="layer (0 = embeddings)", axis=axis, scale=alt.Scale(nice=False))
    rounded = {each: pl.col(each).round_sig_figs(5) for each in ("mean", "low", "high")}
    colours = pl.col("arm").replace_strict({arm: colour for arm, (colour, _) in styles.items()})
    values = spread.with_columns(colour=colours, **rounded).to_dicts()
    layers = []
    for arm in sorted(arms, key=(lesson.baseline, lesson.focus).count):  # what matters lies on top
        own = [value for value in values if value["arm"] == arm]
        chart, (colour, dash) = drawn(*own).encode(x=x), styles[arm]
        if any(value["seeds"] > 1 for value in own):
            area = chart.mark_area(color=colour, opacity=0.16, clip=True)
            layers.append(area.encode(y=alt.Y("low:Q"), y2="high:Q"))
        line = chart.mark_line(color=colour, strokeWidth=2, strokeDash=list(DASHES[dash]), clip=True)
        layers.append(line.encode(y=y))
    dots = drawn(*values).mark_point(size=22, filled=True, opacity=0.9, clip=True)
    numbers = ("mean", what, form), ("low", "least of the seeds", form), ("high", "most", form)
    tooltip = tips("arm", ("layer", "layer", "d"), *numbers)
    layers.append(dots.encode(x=x, y=y, color=alt.Color("colour:N", scale=None), tooltip=tooltip))
    return Picture(
        name=name,
        spec=finish(*layers, height=260),
        label=f"Lines: {what} against the layer, for {enumeration(arms)}; the table has distances.",
        remark=remark,
        caption=markup("<strong>{title}</strong>", title=what.capitalize()),
    )


def _figure(value: float | None) -> str:
    """Three digits that say something."""
    if value is None:
        return NOTHING
    return count(value) if abs(value) >= 1000 else decimal(value, 1 if abs(value) >= 100 else 2)
