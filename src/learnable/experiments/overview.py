"""The table of a comparison: each method's value, its difference to a random draw, and what both cost."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.experiments.payback import payback
from learnable.experiments.statistics import difference, interval

RANDOM, UNTUNED, FULL = "random", "untuned", "full"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An evaluation as it was asked for, with the unit of its values."""

    label: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class SelectionCost:
    """What a method costs once, before any training on its selection: as if it were the only one.

    Args:
        score_tokens: Tokens of forward passes.
        score_s: The same in seconds; NaN where nothing was timed.
        reference_tokens: Tokens that the reference trains on.
        reference_s: The same in seconds.
    """

    score_tokens: int = 0
    score_s: float = 0.0
    reference_tokens: int = 0
    reference_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.score_s + self.reference_s


def overview(
    results: pl.DataFrame,
    arms: pl.DataFrame,
    *,
    evaluations: list[Measured],
    costs: Mapping[str, SelectionCost],
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return one line per evaluation, method and budget.

    The difference is to the random draw of the same budget, paired by item and seed; that of the full pool and of the
    untuned model to the random draw of the largest budget. Intervals hold for all methods and budgets of an evaluation
    together (Bonferroni); the untuned model and the full pool have other budgets and are not counted.

    Args:
        results: ``method``, ``budget_tokens`` (null for the full pool and the untuned model), ``seed``,
            ``evaluation``, ``id``, ``value`` (NaN = not graded).
        arms: ``method``, ``budget_tokens``, ``seed``, ``examples``, ``tokens``, ``response_tokens``, ``steps``,
            ``seconds`` of training.
        evaluations: In the order of the table.
        costs: By method.
        confidence: Of the intervals.

    Returns:
        ``evaluation``, ``unit``, ``higher_is_better``, ``method``, ``budget_tokens``; means over the seeds of
        ``examples``, ``tokens``, ``response_tokens``, ``steps``, ``training_s``; the ``value`` with its interval
        (``value_low``, ``value_high``), ``items``, ``seeds``, ``ungraded``; the ``difference`` with ``low``, ``high``,
        ``p`` and ``verdict`` (null for random itself); the columns of ``SelectionCost``; and ``payback`` in words.
    """
    seconds = arms.filter(pl.col("tokens") > 0)
    per_token = float(seconds["seconds"].sum()) / max(float(seconds["tokens"].sum()), 1.0)
    lines = []
    for evaluation in evaluations:
        values = _matrices(results.filter(pl.col("evaluation") == evaluation.label))
        lines += _lines(evaluation, values, arms, costs, confidence, per_token)
    return pl.DataFrame(lines, infer_schema_length=None)


def _matrices(results: pl.DataFrame) -> dict[tuple[str, int | None], NDArray[np.float64]]:
    """Return values (S, n) by method and budget, the items in one order everywhere."""
    items = results.select("id").unique().sort("id")
    matrices = {}
    for (method, budget), part in results.group_by("method", "budget_tokens", maintain_order=True):
        matrices[str(method), budget] = by_seed(part, items)
    return matrices


def by_seed(results: pl.DataFrame, items: pl.DataFrame) -> NDArray[np.float64]:
    """Return the values of one way to train, (S, n): a row for each seed, NaN where an item has none.

    Args:
        results: ``seed``, ``id`` and ``value`` of S seeds.
        items: ``id`` of n items, in their order.
    """
    seeds = [
        items.join(one, on="id", how="left", maintain_order="left")["value"]
        .fill_null(float("nan"))
        .to_numpy()
        for one in results.sort("seed").partition_by("seed", maintain_order=True)
    ]
    return np.stack(seeds).astype(np.float64)


def _lines(
    evaluation: Measured,
    values: dict[tuple[str, int | None], NDArray[np.float64]],
    arms: pl.DataFrame,
    costs: Mapping[str, SelectionCost],
    confidence: float,
    seconds_per_token: float,
) -> list[dict[str, object]]:
    budgets = sorted({budget for method, budget in values if method == RANDOM and budget is not None})
    compared = sum(method != RANDOM for method, budget in values if budget is not None)
    curve = _random_curve(values, arms, budgets)
    lines = []
    for (method, budget), matrix in values.items():
        alone = interval(matrix, confidence=confidence)
        line: dict[str, object] = {
            "evaluation": evaluation.label,
            "unit": evaluation.unit,
            "higher_is_better": evaluation.higher_is_better,
            "method": method,
            "budget_tokens": budget,
            **_means(arms, method, budget),
            **alone.value_columns,
        }
        beside = budget if budget is not None else budgets[-1]
        if method != RANDOM:
            against = difference(
                matrix,
                values[RANDOM, beside],
                higher_is_better=evaluation.higher_is_better,
                confidence=confidence,
                comparisons=max(compared, 1),
            )
            line |= against.difference_columns
        cost = costs.get(method, SelectionCost())
        line |= asdict(cost)
        if budget is not None and method != RANDOM:
            line["payback"] = _payback_words(
                alone.mean,
                curve,
                tokens=float(line["tokens"]),  # type: ignore[arg-type]
                seconds_per_token=seconds_per_token,
                selection_s=cost.seconds,
                higher_is_better=evaluation.higher_is_better,
            )
        lines.append(line)
    return lines


def _payback_words(
    value: float,
    curve: list[tuple[float, float]],
    *,
    tokens: float,
    seconds_per_token: float,
    selection_s: float,
    higher_is_better: bool,
) -> str:
    if not curve:
        return "not known: no random draw could be graded"
    if math.isnan(selection_s):
        return "not known: what the selection needs was measured before, and not timed"
    return payback(
        value,
        curve,
        tokens=tokens,
        seconds_per_token=seconds_per_token,
        selection_s=selection_s,
        higher_is_better=higher_is_better,
    ).words


def _means(arms: pl.DataFrame, method: str, budget: int | None) -> dict[str, float]:
    here = arms.filter(
        (pl.col("method") == method) & pl.col("budget_tokens").eq_missing(pl.lit(budget, pl.Int64))
    )
    names = ("examples", "tokens", "response_tokens", "steps")
    means = here.select(
        *(pl.col(name).cast(pl.Float64).mean() for name in names), training_s=pl.col("seconds").mean()
    )
    return means.row(0, named=True)


def _random_curve(
    values: dict[tuple[str, int | None], NDArray[np.float64]], arms: pl.DataFrame, budgets: list[int]
) -> list[tuple[float, float]]:
    points: dict[float, list[float]] = {}
    for method, budget in [*((RANDOM, budget) for budget in budgets), (UNTUNED, None), (FULL, None)]:
        if (method, budget) in values and np.isfinite(values[method, budget]).any():
            tokens = _means(arms, method, budget)["tokens"]
            points.setdefault(tokens, []).append(float(np.nanmean(values[method, budget])))
    # A random draw of all tokens trains on what the full pool is.
    return [(tokens, float(np.mean(reached))) for tokens, reached in points.items()]
