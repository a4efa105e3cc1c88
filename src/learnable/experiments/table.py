"""The table of an experiment: each arm's value, its difference to the baseline, and what both cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.experiments.arms import UNTUNED
from learnable.experiments.payback import payback
from learnable.experiments.statistics import difference, interval

FULL = "full"
COUNTS = ("examples", "task_examples", "tokens", "response_tokens", "steps")
_DIFFERENCE = dict.fromkeys(("difference", "low", "high", "p"), pl.Float64) | {"verdict": pl.String}
_MAY_BE_NULL = {**_DIFFERENCE, "payback": pl.String, "budget_tokens": pl.Int64}
Cell = tuple[str, int | None]
"""An arm at a budget."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An evaluation as it was asked for, with the unit of its values."""

    label: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class SelectionCost:
    """What an arm costs once, before any training, as if it were the only one; seconds are NaN where nothing was timed."""

    score_tokens: int = 0
    score_s: float = 0.0
    reference_tokens: int = 0
    reference_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.score_s + self.reference_s


def arm_table(
    results: pl.DataFrame,
    arms: pl.DataFrame,
    *,
    evaluations: Sequence[Measured],
    baseline: str,
    costs: Mapping[str, SelectionCost] | None = None,
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return one line per evaluation, arm and budget, but for arms that an evaluation has no results of.

    The difference is to the baseline at the same budget, paired by item and seed; that of an arm at another budget
    (the full pool, the untuned model) to the largest budget of the baseline. Intervals hold for all trained arms at
    the baseline's budgets together, in each evaluation (Bonferroni); others are not counted.

    Args:
        results: ``arm``, ``budget_tokens`` (null or absent where there is none), ``seed``, ``evaluation``, ``id``,
            ``value`` (NaN = not graded).
        arms: ``arm``, ``budget_tokens``, ``seed``, ``examples``, ``tokens``, ``response_tokens``, ``steps``,
            ``seconds`` of training; ``task_examples`` if known. They give the order of the lines.
        evaluations: In the order of the table.
        baseline: The arm that the others are compared with.
        costs: By arm; the table tells what arms cost and when they pay if this is given.
        confidence: Of the intervals.

    Returns:
        ``evaluation``, ``unit``, ``higher_is_better``, ``arm``, ``budget_tokens``; means over the seeds of the counts
        and of ``training_s``; the ``value`` with its interval (``value_low``, ``value_high``), ``items``, ``seeds``,
        ``ungraded``; the ``difference`` with ``low``, ``high``, ``p`` and ``verdict`` (null for the baseline itself);
        with costs, the columns of ``SelectionCost`` and ``payback`` in words.
    """
    keys = ["arm", "budget_tokens"]
    results, arms = (
        frame if keys[1] in frame.columns else frame.with_columns(pl.lit(None, pl.Int64).alias(keys[1]))
        for frame in (results, arms)
    )
    counts = [name for name in COUNTS if name in arms.columns]
    means = arms.group_by(keys, maintain_order=True).agg(
        *(pl.col(name).cast(pl.Float64).mean() for name in counts),
        training_s=pl.col("seconds").cast(pl.Float64).mean(),
    )
    cells: dict[Cell, dict[str, Any]] = {(row["arm"], row["budget_tokens"]): row for row in means.to_dicts()}
    # The largest budget of the baseline last: what arms at another budget are compared with.
    budgets = sorted((budget for arm, budget in cells if arm == baseline), key=lambda budget: budget or 0)
    trained = arms.filter(pl.col("tokens") > 0)
    per_token = float(trained["seconds"].sum()) / max(float(trained["tokens"].sum()), 1.0)
    lines = []
    for evaluation in evaluations:
        graded = results.filter(pl.col("evaluation") == evaluation.label)
        items = graded.select("id").unique().sort("id")
        parts = graded.partition_by(keys, as_dict=True)
        values = {cell: _by_seed(parts[cell], items) for cell in cells if cell in parts}
        compared = _compared(values, evaluation, baseline=baseline, budgets=budgets, confidence=confidence)
        # From the untuned model to the full pool; a random draw of all tokens trains on what the full pool is.
        curve: dict[float, list[float]] = {}
        for cell in (*((baseline, budget) for budget in budgets), (UNTUNED, None), (FULL, None)):
            if cell in values and np.isfinite(values[cell]).any():
                curve.setdefault(cells[cell]["tokens"], []).append(float(np.nanmean(values[cell])))
        for cell in values:
            means_of = cells[cell]
            line = asdict(evaluation) | means_of | compared[cell]
            if costs is not None:
                cost = costs.get(cell[0], SelectionCost())
                pays = cell[1] is not None and cell[0] != baseline
                words = _payback_words(line, curve, cost, seconds_per_token=per_token) if pays else None
                line |= asdict(cost) | {"payback": words}
            lines.append(line)
    frame = pl.DataFrame(lines, infer_schema_length=None).rename({"label": "evaluation"})
    return frame.cast({name: kind for name, kind in _MAY_BE_NULL.items() if name in frame.columns})


def _by_seed(results: pl.DataFrame, items: pl.DataFrame) -> NDArray[np.float64]:
    """Return the values of one cell, (S, n): a row for each seed, NaN where an item has none."""
    seeds = [
        items.join(one, on="id", how="left", maintain_order="left")["value"].fill_null(math.nan).to_numpy()
        for one in results.sort("seed").partition_by("seed", maintain_order=True)
    ]
    return np.stack(seeds).astype(np.float64)


def _compared(
    values: Mapping[Cell, NDArray[np.float64]],
    evaluation: Measured,
    *,
    baseline: str,
    budgets: Sequence[int | None],
    confidence: float,
) -> dict[Cell, dict[str, Any]]:
    """Return for each cell the columns of its value, and of its difference to the baseline."""
    counted = sum(
        arm != baseline and arm.partition("@")[0] != UNTUNED and budget in budgets for arm, budget in values
    )
    found = {}
    for (arm, budget), matrix in values.items():
        own = interval(matrix, confidence=confidence)
        columns: dict[str, Any] = {"value": own.mean, "value_low": own.low, "value_high": own.high}
        columns |= {"items": own.items, "seeds": own.seeds, "ungraded": own.ungraded}
        columns |= dict.fromkeys(_DIFFERENCE)
        if arm != baseline:
            against = difference(
                matrix,
                values[baseline, budget if budget in budgets else budgets[-1]],
                higher_is_better=evaluation.higher_is_better,
                confidence=confidence,
                comparisons=max(counted, 1),
            )
            columns |= {"difference": against.mean, "low": against.low, "high": against.high}
            columns |= {"p": against.p, "verdict": against.words}
        found[arm, budget] = columns
    return found


def _payback_words(
    line: Mapping[str, Any],
    curve: Mapping[float, Sequence[float]],
    cost: SelectionCost,
    *,
    seconds_per_token: float,
) -> str:
    """Say when an arm pays, against what random draws reached with so many tokens."""
    if not curve:
        return "not known: no random draw could be graded"
    if math.isnan(cost.seconds):
        return "not known: what the selection needs was measured before, and not timed"
    return payback(
        line["value"],
        [(tokens, float(np.mean(reached))) for tokens, reached in curve.items()],
        tokens=line["tokens"],
        seconds_per_token=seconds_per_token,
        selection_s=cost.seconds,
        higher_is_better=line["higher_is_better"],
    )
