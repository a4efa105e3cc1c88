"""The figures of the page: groups, correlations, what was left out, costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.data import HELD_OUT
from learnable.pages.facts import Step, View
from learnable.pages.wording import count

LENGTH_BINS = 5
SHOWN_INSTANCES = 20
SHOWN_REASONS = 20


@dataclass(frozen=True, kw_only=True)
class Group:
    """A part of the pool and what the selection took from it; None where a figure is undefined."""

    name: str
    examples: int
    tokens: int | None
    kept: int
    kept_share: float
    lift: float | None
    mean_score: float | None


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman correlations of one score, each with the number of examples behind it."""

    name: str
    length: tuple[float | None, int]
    loss: tuple[float | None, int]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why rows or examples were left out, and how many."""

    stage: str
    reason: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One row or example that was left out: where it stands, and why."""

    place: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a histogram, from ``low`` to ``high``."""

    low: float
    high: float
    kept: int
    rest: int


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Bars over the scores; the first and last one also hold what lies ``below`` and ``above`` the picture."""

    bars: tuple[Bar, ...]
    below: int
    above: int


def spearman(frame: pl.DataFrame, one: str, other: str) -> tuple[float | None, int]:
    """Spearman rank correlation (ties get their mean rank) and the number of rows that have both values."""
    if one not in frame.columns or other not in frame.columns:
        return None, 0
    both = frame.select(one=pl.col(one).cast(pl.Float64), other=pl.col(other).cast(pl.Float64)).drop_nulls()
    if both.height < 3:
        return None, both.height
    rho = float(both.select(pl.corr("one", "other", method="spearman")).item())
    return (None if math.isnan(rho) else rho), both.height


def median(values: pl.Series) -> float | None:
    """The median of the values that are there; None when there are none."""
    there = values.drop_nulls().to_numpy()
    return float(np.median(there)) if there.size else None


def correlations(view: View) -> list[Correlation]:
    """One line per scorer that has values, the score used first."""
    names = [
        name for name in dict.fromkeys([view.facts.by, *view.facts.scorers]) if name in view.frame.columns
    ]
    return [
        Correlation(
            name=name,
            length=spearman(view.frame, name, "response_tokens"),
            loss=spearman(view.frame, name, "loss_before"),
        )
        for name in names
    ]


def by_source(view: View) -> list[Group]:
    """Pool against selection per source, largest source first."""
    groups = _groups(view, pl.col("source"))
    return sorted(groups, key=lambda group: (-group.examples, group.name))


def by_length(view: View) -> list[Group]:
    """Pool against selection per response length, in bins that hold about equally many examples."""
    lengths = view.frame["response_tokens"].drop_nulls().cast(pl.Int64).to_numpy()
    if lengths.size == 0:
        return []
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1], method="lower"))
    tops = np.unique(np.append(edges, lengths.max()))
    bottoms = np.append(lengths.min(), tops[:-1] + 1)
    names = [
        f"{low:,}" if low == high else f"{low:,}\N{EN DASH}{high:,}"
        for low, high in zip(bottoms, tops, strict=True)
    ]
    position = pl.Series(np.searchsorted(tops, lengths))
    binned = view.frame.filter(pl.col("response_tokens").is_not_null()).with_columns(bin=position)
    groups = {group.name: group for group in _groups(view, pl.col("bin").cast(pl.String), binned)}
    return [
        Group(**{**groups[str(index)].__dict__, "name": name})
        for index, name in enumerate(names)
        if str(index) in groups
    ]


def _groups(view: View, key: pl.Expr, frame: pl.DataFrame | None = None) -> list[Group]:
    frame = view.frame if frame is None else frame
    tokens = pl.col("tokens").sum() if view.has("tokens") else pl.lit(None, pl.Int64)
    table = frame.group_by(name=key, maintain_order=True).agg(
        examples=pl.len(), tokens=tokens, kept=pl.col("is_kept").sum(), mean_score=pl.col("score_used").mean()
    )
    pool, kept = view.frame.height, view.kept.height
    return [
        Group(
            name=row["name"],
            examples=row["examples"],
            tokens=row["tokens"],
            kept=row["kept"],
            kept_share=row["kept"] / row["examples"],
            lift=(row["kept"] / kept) / (row["examples"] / pool) if kept else None,
            mean_score=row["mean_score"],
        )
        for row in table.iter_rows(named=True)
    ]


def histogram(view: View, *, bars: int = 40) -> Histogram:
    """Count chosen and other examples over the score; far tails go to the edge bars, so that the middle is seen."""
    scored = view.scored.select("score_used", "is_kept")
    values = scored["score_used"].drop_nulls().to_numpy()
    if values.size == 0:
        return Histogram(bars=(), below=0, above=0)
    edges = _edges(*score_range(values), bars=bars, cutoff=view.cutoff)
    is_kept = scored["is_kept"].to_numpy()
    inside = np.clip(values, edges[0], edges[-1])
    kept, _ = np.histogram(inside[is_kept], bins=edges)
    rest, _ = np.histogram(inside[~is_kept], bins=edges)
    return Histogram(
        bars=tuple(
            Bar(low=float(a), high=float(b), kept=int(k), rest=int(r))
            for a, b, k, r in zip(edges[:-1], edges[1:], kept, rest, strict=True)
        ),
        below=int((values < edges[0]).sum()),
        above=int((values > edges[-1]).sum()),
    )


def _edges(low: float, high: float, *, bars: int, cutoff: float | None) -> NDArray[np.float64]:
    """Edges of equal bars over the range, one of them at the cutoff, so that no bar mixes what it parts."""
    if high <= low:
        return np.linspace(low - 0.5, low + 0.5, 22)
    if cutoff is None or not low < cutoff < high:
        return np.linspace(low, high, bars + 1)
    width = (high - low) / bars
    return cutoff + width * np.arange(-np.ceil((cutoff - low) / width), np.ceil((high - cutoff) / width) + 1)


def score_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """The range worth drawing: everything, unless a tail reaches further than the middle 98% are wide."""
    first, last = np.quantile(values, [0.01, 0.99])
    width = last - first
    return float(max(values.min(), first - width)), float(min(values.max(), last + width))


def reasons(view: View) -> list[Reason]:
    """What was left out and why: rows while reading, then examples while selecting; rare reasons are put together."""
    found: list[Reason] = []
    if view.unread.height:
        found += _counted("reading", view.unread)
    if view.duplicates.height:
        found.append(
            Reason(stage="reading", reason="repeats an earlier example", number=view.duplicates.height)
        )
    if view.held_out.height:
        found.append(Reason(stage="reading", reason=HELD_OUT, number=view.held_out.height))
    return found + _counted("selecting", view.facts.dropped)


def _counted(stage: str, frame: pl.DataFrame) -> list[Reason]:
    table = frame.select(pl.col("reason").cast(pl.String).fill_null("no reason given"))
    counts = (
        table.group_by("reason", maintain_order=True).agg(number=pl.len()).sort("number", descending=True)
    )
    found = [Reason(stage=stage, **row) for row in counts.head(SHOWN_REASONS).iter_rows(named=True)]
    rest = counts.slice(SHOWN_REASONS)
    if rest.height:
        found.append(
            Reason(
                stage=stage, reason=f"{count(rest.height)} other reasons", number=int(rest["number"].sum())
            )
        )
    return found


def unread_instances(view: View) -> list[Instance]:
    """The first rows that could not be read."""
    rows = view.unread.head(SHOWN_INSTANCES).select("file", "row", "line", "reason")
    return [Instance(place=_place(view, *place), reason=reason) for *place, reason in rows.iter_rows()]


def undefined_instances(view: View) -> list[Instance]:
    """The first examples without a score, by file and line where the rows are known."""
    missing = view.undefined.head(SHOWN_INSTANCES).select("id", "undefined")
    places: dict[str, str] = {}
    if view.facts.rows is not None:
        rows = view.facts.rows.select(pl.col("id").cast(pl.String), "file", "row", "line")
        rows = rows.join(missing, on="id", how="semi").unique("id", keep="first", maintain_order=True)
        places = {name: _place(view, *place) for name, *place in rows.iter_rows()}
    return [Instance(place=places.get(name, name), reason=reason) for name, reason in missing.iter_rows()]


def _place(view: View, file: int | None, row: int | None, line: int | None) -> str:
    known = file is not None and 0 <= file < len(view.facts.files)
    name = view.facts.files[file] if known and file is not None else f"file {file}"
    if line is not None:
        return f"{name}:{line}"
    return f"{name}, row {row + 1}" if row is not None else name


def total(steps: Sequence[Step]) -> Step:
    """All steps together; the peak is the highest one."""
    return Step(
        name="together",
        tokens=sum(step.tokens for step in steps),
        passes=sum(step.passes for step in steps),
        seconds=sum(step.seconds for step in steps),
        peak_memory_bytes=max((step.peak_memory_bytes for step in steps), default=0),
    )
