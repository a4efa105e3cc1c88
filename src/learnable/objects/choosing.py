"""What a selection takes over from its scorers, and its figures."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl

from learnable.selectors import Thresholds, count_asked
from learnable.types import Budget


class Rules(NamedTuple):
    """What a scorer and its paper make of a choice: whether the lowest scores are chosen, thresholds, and a note on these."""

    lowest: bool
    thresholds: Thresholds
    note: str | None


def ruled(scorers: Mapping[str, Any], by: str, *, lowest: bool, thresholds: Thresholds) -> Rules:
    """Return what to choose by a score, as its scorer and its paper have it.

    Args:
        scorers: See ``scoring.rules_of``.
        by: The score.
        lowest: Whether the other end than the scorer's own is asked for.
        thresholds: As given; a highest score that is given goes before the paper's.
    """
    lowest = lowest != (by in scorers["lowest first"])
    limit = scorers.get("max score", {}).get(by)
    if limit is None or thresholds.max_score is not None:
        return Rules(lowest, thresholds, None)
    note = f"{by} above {limit:g} is left out, as in its paper; --max-score inf keeps it"
    return Rules(lowest, replace(thresholds, max_score=limit), note)


def selection_facts(scores: pl.LazyFrame, kept: pl.DataFrame, budget: Budget, by: str) -> dict[str, Any]:
    """Return figures of a selection to show: what was asked for, what there is of it, and what is lacking and why."""
    known = {"id", "tokens", by}
    frame = scores.select(name for name in scores.collect_schema() if name in known).collect()
    chosen = frame.join(kept.select("id"), on="id", how="semi")
    tokens = int(chosen["tokens"].sum()) if "tokens" in frame.columns else None
    asked = count_asked(budget, frame.height)
    reached = tokens if budget.tokens is not None else chosen.height
    few = reached is not None and reached < asked * (0.95 if budget.tokens is not None else 1)
    unit = "tokens" if budget.tokens is not None else "examples"
    return {
        "budget": str(budget),
        "by": by,
        "pool": frame.height,
        "kept": chosen.height,
        "kept_tokens": tokens,
        "pool_tokens": int(frame["tokens"].sum()) if tokens is not None else None,
        "mean_kept": _mean(chosen[by]),
        "mean_pool": _mean(frame[by]),
        "shortfall": f"only {reached:,} of {asked:,} {unit} qualify or fit. Loosen where or the thresholds, or lower the budget."
        if few
        else None,
    }


def _mean(scores: pl.Series) -> float | None:
    mean = scores.cast(pl.Float64).fill_nan(None).mean()
    return float(mean) if isinstance(mean, float) else None
