"""Differences to the random draw per source of the evaluation items: where an effect comes from, without verdicts."""

from dataclasses import dataclass

import polars as pl

from learnable.experiments import RANDOM
from learnable.pages.comparison.facts import Comparison, Evaluated
from learnable.pages.verdicts import finite

SHOWN_SOURCES = 8


@dataclass(frozen=True, kw_only=True)
class BySource:
    """Mean differences of one evaluation: ``sources`` with their number of items, one row per method."""

    evaluated: Evaluated
    sources: tuple[tuple[str, int], ...]
    hidden: int
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def by_source(comparison: Comparison) -> list[BySource]:
    """Return a table for each evaluation whose items come from more than one source, at the largest budget."""
    tables = [_table(comparison, each) for each in comparison.evaluated]
    return [table for table in tables if table is not None]


def _table(comparison: Comparison, each: Evaluated) -> BySource | None:
    results = comparison.facts.results.filter(
        (pl.col("evaluation") == each.label) & (pl.col("budget_tokens") == comparison.budget)
    ).with_columns(pl.col("source").cast(pl.String).fill_null("unknown"))
    pairs = _pairs(results)
    sizes = pairs.group_by("source").agg(items=pl.col("id").n_unique())
    sizes = sizes.sort("items", "source", descending=[True, False])
    if sizes.height < 2:
        return None
    shown = list(sizes.head(SHOWN_SOURCES).iter_rows())
    means = pairs.group_by("method", "source").agg(mean=(pl.col("value") - pl.col("base")).mean())
    found = {(method, source): finite(mean) for method, source, mean in means.iter_rows()}
    rows = tuple(
        (method, tuple(found.get((method, source)) for source, _ in shown))
        for method in comparison.methods
        if method != RANDOM
    )
    return BySource(evaluated=each, sources=tuple(shown), hidden=max(0, sizes.height - len(shown)), rows=rows)


def _pairs(results: pl.DataFrame) -> pl.DataFrame:
    """Each graded value beside that of the random draw with the same seed."""
    values = results.with_columns(pl.col("value").cast(pl.Float64)).filter(pl.col("value").is_finite())
    base = values.filter(pl.col("method") == RANDOM).select("seed", "id", base="value")
    return values.filter(pl.col("method") != RANDOM).join(base, on=["seed", "id"])
