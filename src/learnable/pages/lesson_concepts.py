"""How near a new token has come to what it means: the concept distance, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import altair as alt
import polars as pl

from learnable.pages.lesson_facts import LessonContest
from learnable.pages.page import (
    Panels,
    Part,
    Picture,
    Section,
    cell,
    heading,
    keys,
    markup,
    remark,
    row,
    table,
    text,
)
from learnable.pages.pictures import finish
from learnable.pages.words import count, decimal, enumeration, plural

Style = tuple[str, tuple[int, int]]
"""Colour and dash of an arm's lines: CSS variables, so that light, dark and print just follow."""
SHADES = 6
"""Colours of the style sheet for arms that are neither the baseline, nor DELIA, nor untuned."""
DASHES = ((1, 0), (6, 3), (2, 3))
PAPER_LAYERS = (1, 2)
"""Those of DELIA's figure."""
ALIKE = 0.01
"""Of the baseline's distance: a mean difference below this is not said to be one, whatever the seeds say."""
REACH = 0.25
"""Of the baseline's distance: how far the picture of the ratios goes."""
TICKS = 12


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Mean over the seeds, and their range; None where it is undefined."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int

    @property
    def range(self) -> str:
        """The range of the seeds; nothing where they do not differ in what is written."""
        low, high = _figure(self.low), _figure(self.high)
        return f"{low} to {high}" if low != high else ""

    @property
    def written(self) -> str:
        """The mean."""
        return _figure(self.mean)


def concepts_section(lesson: LessonContest) -> Section:
    """Say how near each new token has come to its words; without parts where no distance is known."""
    section = Section(
        id="concepts", nav="concepts", title="How near a new token has come to its meaning", parts=[]
    )
    frame = lesson.facts.concepts
    frame = frame.filter(pl.col("distance").is_finite()) if frame is not None else pl.DataFrame()
    if frame.is_empty():
        return section
    baseline = lesson.baseline
    about = (
        "The distance between the hidden states of the new token and those of words in its place, in the same prompts: the "
        "nearer, the more the model treats the token as what it means. Bands are the range of the seeds, not intervals. Beside "
        f"{baseline}: over its distance with the same seed, so that rows that begin at random do not blur it."
    )
    styles = styles_of(lesson)
    dashes = {DASHES[0]: "", DASHES[1]: "dashed", DASHES[2]: "dotted"}
    lines = [(colour, dashes[dash], arm) for arm, (colour, dash) in styles.items()]
    parts: list[Part] = [text(about), keys(lines)]
    pairs = frame.select("token", "words").unique(maintain_order=True).rows()
    for number, (token, words) in enumerate(pairs):
        here = frame.filter((pl.col("token") == token) & (pl.col("words") == words))
        parts += _concept(f"concept-{number}", lesson, here, styles)
    note = (
        "DELIA's authors show layers 1 and 2, and do not say at which position or how pooled; only the order of the ways to "
        "train can be compared with theirs, not the numbers."
    )
    return replace(section, parts=[*parts, remark(note)])


def styles_of(lesson: LessonContest) -> dict[str, Style]:
    """Return colour and dash of each arm: the baseline in the colour of text, the arm in focus strong, untuned ones grey."""
    found, others, untuned = dict[str, Style](), 0, 0
    for arm in lesson.ways:
        if arm not in lesson.trained:
            found[arm] = "var(--rest)", DASHES[untuned % len(DASHES)]
            untuned += 1
        elif arm in (lesson.baseline, lesson.focus):
            found[arm] = "var(--text)" if arm == lesson.baseline else "var(--chosen)", DASHES[0]
        else:
            found[arm] = f"var(--arm-{others % SHADES})", DASHES[others // SHADES % len(DASHES)]
            others += 1
    return found


def _spread(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return mean, least and most of the seeds, by arm and layer."""
    value = pl.col(column)
    return (
        frame.group_by("arm", "layer", maintain_order=True)
        .agg(mean=value.mean(), low=value.min(), high=value.max(), seeds=pl.len())
        .sort("layer", maintain_order=True)
    )


def _ratios(lesson: LessonContest, here: pl.DataFrame) -> pl.DataFrame:
    """Return distances over those of the baseline with the same seed: arms of one seed share a random row."""
    base = here.filter(pl.col("arm") == lesson.baseline).select("seed", "layer", base="distance")
    pairs = here.join(base, on=["seed", "layer"], maintain_order="left")
    return pairs.filter(pl.col("base") > 0).with_columns(ratio=pl.col("distance") / pl.col("base"))


def _by_place(spread: pl.DataFrame) -> dict[tuple[str, int], Distance]:
    return {
        (row["arm"], row["layer"]): Distance(**{name: row[name] for name in ("mean", "low", "high", "seeds")})
        for row in spread.iter_rows(named=True)
    }


def _concept(name: str, lesson: LessonContest, here: pl.DataFrame, styles: Mapping[str, Style]) -> list[Part]:
    token, words = here["token"][0], here["words"][0]
    known = _by_place(_spread(here, "distance"))
    last = max(layer for _, layer in known)
    layers = sorted({layer for layer in (0, *PAPER_LAYERS, last // 2, last) if layer <= last})
    nothing = Distance(mean=None, low=None, high=None, seeds=0)
    rows = []
    for arm in lesson.ordered(here):
        distances = [known.get((arm, layer), nothing) for layer in layers]
        cells = [cell(distance.written, small=distance.range) for distance in distances]
        rows.append(row([arm, *cells], kind="baseline" if arm == lesson.baseline else ""))
    said = _said(lesson, known, _by_place(_spread(_ratios(lesson, here), "ratio")))
    distances_table = table(
        label=f"Distance of {token} and {words}",
        caption=f"Distance (L2) of {token} and “{words}”: mean of the seeds, and their range, over "
        f"{plural(max(here['prompts']), 'prompt')} of the test",
        kind="dense",
        head=["arm", *(f"layer {layer}" if layer else "embeddings" for layer in layers)],
        rows=rows,
    )
    return [
        heading(f"{token} and “{words}”"),
        *([text(said)] if said else []),
        Panels(pictures=_pictures(name, lesson, here, styles), kind="panels plots"),
        distances_table,
    ]


def _said(
    lesson: LessonContest, known: dict[tuple[str, int], Distance], ratios: dict[tuple[str, int], Distance]
) -> str:
    """Put the arm in focus beside the baseline at the layers of the paper."""
    focus, baseline = lesson.focus or "", lesson.baseline
    parts = [
        f"at layer {layer} {focus} {known[focus, layer].written}, {baseline} {known[baseline, layer].written} "
        f"({_apart(ratios[focus, layer])})"
        for layer in PAPER_LAYERS
        if (focus, layer) in ratios
    ]
    said = "; ".join(parts)
    return said[:1].upper() + said[1:] + ("." if said else "")


def _apart(ratio: Distance) -> str:
    """Say where an arm is that is so many times as far as the baseline."""
    mean, low, high = ratio.mean or 1.0, ratio.low or 1.0, ratio.high or 1.0
    if abs(mean - 1) < ALIKE:
        return f"alike within {ALIKE:.0%}"
    size = f"{abs(mean - 1):.0%} {'nearer' if mean < 1 else 'farther'}"
    if ratio.seeds < 2:
        return f"{size}, with the only seed"
    return f"{size}, {'in every seed' if high < 1 or low > 1 else 'but not in every seed'}"


def _pictures(
    name: str, lesson: LessonContest, here: pl.DataFrame, styles: Mapping[str, Style]
) -> list[Picture]:
    """Draw the distances, and the same over those of the baseline."""
    spread = _spread(here, "distance")
    kind: Literal["log", "linear"] = "log" if min(spread["low"]) > 0 else "linear"
    scale = alt.Scale(type=kind, nice=False, padding=6)
    y = alt.Y("mean:Q", title="L2 distance" + (", log" if kind == "log" else ""), scale=scale)
    drawn = [_lines(name, lesson, spread, styles, y, what="distance")]
    ratios = _spread(_ratios(lesson, here), "ratio").with_columns(pl.col("mean", "low", "high") - 1)
    ends = [end for column in ("low", "high") for end in ratios[column]]
    low, high = max(min(ends, default=0.0), -REACH), min(max(ends, default=0.0), REACH)
    if low < high:
        title = f"distance beside {lesson.baseline}"
        room = alt.Scale(domain=[low, high], nice=False, padding=6)
        y = alt.Y("mean:Q", title="nearer ↓  farther ↑", scale=room, axis=alt.Axis(format="+.2~%"))
        cut = f"Lines beyond {REACH:.0%} are cut off." if min(ends) < -REACH or max(ends) > REACH else ""
        drawn.append(
            _lines(f"{name}-beside", lesson, ratios, styles, y, what=title, remark=cut, format="+.2~%")
        )
    return drawn


def _lines(
    name: str,
    lesson: LessonContest,
    spread: pl.DataFrame,
    styles: Mapping[str, Style],
    y: Any,
    *,
    what: str,
    remark: str = "",
    format: str = ".3~g",
) -> Picture:
    """Draw a line for each arm against the layer, with the range of its seeds."""
    arms, last = lesson.ordered(spread), max(spread["layer"])
    ticks = list(range(0, last + 1, -(-last // TICKS) or 1))
    axis = alt.Axis(values=ticks, tickCount=len(ticks), format="d", grid=False)
    x = alt.X("layer:Q", title="layer (0 = embeddings)", axis=axis, scale=alt.Scale(nice=False))
    values = [_point(row, styles[row["arm"]][0]) for row in spread.iter_rows(named=True)]
    layers = []
    for arm in sorted(arms, key=(lesson.baseline, lesson.focus).count):  # what matters lies on top
        own = [value for value in values if value["arm"] == arm]
        chart, (colour, dash) = alt.Chart(alt.InlineData(values=own)).encode(x=x), styles[arm]
        if any(value["seeds"] > 1 for value in own):
            area = chart.mark_area(color=colour, opacity=0.16, clip=True)
            layers.append(area.encode(y=alt.Y("low:Q"), y2="high:Q"))
        line = chart.mark_line(color=colour, strokeWidth=2, strokeDash=list(dash), clip=True)
        layers.append(line.encode(y=y))
    dots = alt.Chart(alt.InlineData(values=values)).mark_point(size=22, filled=True, opacity=0.9, clip=True)
    layers.append(
        dots.encode(x=x, y=y, color=alt.Color("colour:N", scale=None), tooltip=_tooltip(what, format))
    )
    return Picture(
        name=name,
        spec=finish(alt.layer(*layers), height=260),
        label=f"Lines: {what} against the layer, for {enumeration(arms)}; the table has distances.",
        remark=remark,
        caption=markup("<strong>{title}</strong>", title=what.capitalize()),
    )


def _point(row: dict[str, Any], colour: str) -> dict[str, Any]:
    numbers = {name: float(f"{row[name]:.5g}") for name in ("mean", "low", "high")}
    return {
        "arm": row["arm"],
        "layer": row["layer"],
        "seeds": row["seeds"],
        "colour": colour,
        **numbers,
    }


def _tooltip(what: str, format: str) -> Sequence[Any]:
    return [
        alt.Tooltip("arm:N"),
        alt.Tooltip("layer:Q"),
        alt.Tooltip("mean:Q", title=what, format=format),
        alt.Tooltip("low:Q", title="least of the seeds", format=format),
        alt.Tooltip("high:Q", title="most", format=format),
    ]


def _figure(value: float | None) -> str:
    """Three digits that say something."""
    if value is None:
        return decimal(None)
    return count(value) if abs(value) >= 1000 else decimal(value, 1 if abs(value) >= 100 else 2)
