"""Intervals for a mean over evaluation items and training seeds, and the words that follow from them.

A value has three sources of chance: the item (another test set would have other items), the seed (another training
would give another model), and what is left. All three are in the interval: it is about items and trainings like
these, not about the ones that happened to be drawn.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learnable.errors import UsageError

Verdict = Literal["better", "worse", "no difference seen"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values.

    ``low`` and ``high`` are NaN with fewer than two items. ``items`` and ``seeds`` count those with at least one
    graded value; with ``seeds`` = 1 the noise of training is not in the interval. ``ungraded`` counts the values
    (items x seeds) that are NaN.
    """

    mean: float
    low: float
    high: float
    items: int
    seeds: int
    ungraded: int

    @property
    def value_columns(self) -> dict[str, object]:
        """The mean as columns of a table."""
        return {
            "value": self.mean,
            "value_low": self.low,
            "value_high": self.high,
            "items": self.items,
            "seeds": self.seeds,
            "ungraded": self.ungraded,
        }


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """A mean difference to a baseline with its interval, and what it says.

    ``p`` is two-sided, times the number of comparisons, at most 1; NaN with fewer than two items. ``verdict`` is
    "better" or "worse" exactly where the interval excludes 0, which is where ``p`` is at most 1 - confidence.
    ``items`` and ``seeds`` count those with at least one pair, ``ungraded`` the values of the method alone.
    """

    p: float
    verdict: Verdict

    @property
    def difference_columns(self) -> dict[str, object]:
        """The difference as columns of a table."""
        return {
            "difference": self.mean,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "verdict": self.verdict,
        }


def difference(
    values: ArrayLike,
    baseline: ArrayLike,
    *,
    higher_is_better: bool,
    confidence: float = 0.95,
    comparisons: int = 1,
    draws: int = 100_000,
    seed: int = 0,
) -> Difference:
    """Compare a method with a baseline on the same items, paired by item and by seed.

    A pair with a NaN on either side is left out; the mean is over the pairs that are left. One model without seeds
    of its own, such as the untuned one, is paired with every seed of the other side.

    The interval is ``mean +- h`` from the two-way random model (item + seed + residual). With S seeds, n items and
    mean squares M, the variance of the mean is estimated by (M_item + M_seed - M_residual) / (n S). Three seeds
    tell little about the noise between seeds, and h has to say so: each draw divides the sums of squares by
    chi-square numbers of their degrees of freedom instead of the degrees themselves, and multiplies the root of the
    resulting variance by a normal number; h is the quantile of its size (a generalized pivotal quantity).

    Why not the two-way ("pigeonhole") bootstrap: it counts the residual three times (where that dominates, its
    intervals are a third wider than these), and a mean over 2 of 3 seeds takes six values, of which percentiles make
    little. Why not Student's t with Satterthwaite's degrees of freedom: they are estimated too, and too high just
    when the noise between seeds is underestimated. Simulated coverage at S = 3, nominal 95 %: Satterthwaite 93 to
    97 %, this 95 to 99 % (`benchmarks/coverage.py`). Where items or seeds dominate it is close to Student's t over them; where both matter alike
    (98 %) or neither does (99 %) it is cautious. With one seed it is Student's t over items, and the noise of
    training is not in it. Two seeds are too few for any method.

    Args:
        values: (S, n), or (1, n) for a model without seeds; NaN = could not be graded.
        baseline: (S, n) or (1, n), same seeds and items in the same order.
        higher_is_better: False for losses.
        confidence: Of all comparisons together: that none of the intervals misses.
        comparisons: How many methods are compared with this baseline (Bonferroni: each interval is at level
            1 - (1 - confidence) / comparisons).
        draws: Of four numbers each; the smallest ``p`` is 1 / (draws + 1).
        seed: Of the draws.

    Raises:
        UsageError: If the shapes do not match, values are infinite, or the draws are too few for the level.

    Source: crossed designs: Owen, The pigeonhole bootstrap (2007); generalized confidence intervals: Weerahandi
        (1993), Hannig, Iyer and Patterson (2006). Ours: their use for this sum of mean squares, and the floor at the
        residual.
    """
    given, base = _matrix(values), _matrix(baseline)
    if given.shape[1] != base.shape[1] or (len(given) != len(base) and 1 not in (len(given), len(base))):
        raise UsageError(
            f"values {given.shape} and baseline {base.shape} (seeds, items) cannot be paired",
            hint="the same items and as many seeds, or one model without seeds",
        )
    pairs = given - base  # (S, n)
    mean, half, p = _mean(
        pairs, level=(1 - confidence) / comparisons, comparisons=comparisons, draws=draws, seed=seed
    )
    verdict: Verdict = "no difference seen"
    if abs(mean) > half:
        verdict = "better" if (mean > 0) == higher_is_better else "worse"
    items, seeds = _counts(pairs)
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=p,
        verdict=verdict,
        items=items,
        seeds=seeds,
        ungraded=int(np.isnan(given).sum()),
    )


def interval(values: ArrayLike, *, confidence: float = 0.95, draws: int = 100_000, seed: int = 0) -> Interval:
    """Return the mean of one method alone, with the interval of ``difference`` for a baseline of 0.

    Not for comparing two methods: items that are hard for both widen both intervals, and cancel in a difference.

    Args:
        values: (S, n); NaN = could not be graded.
        confidence: Of the interval.
        draws: Of four numbers each.
        seed: Of the draws.

    Raises:
        UsageError: If values are infinite, or the draws are too few for the level.
    """
    given = _matrix(values)
    mean, half, _ = _mean(given, level=1 - confidence, comparisons=1, draws=draws, seed=seed)
    items, seeds = _counts(given)
    return Interval(
        mean=mean,
        low=mean - half,
        high=mean + half,
        items=items,
        seeds=seeds,
        ungraded=int(np.isnan(given).sum()),
    )


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not len(matrix):
        raise UsageError(f"values must be a table (seeds, items), got shape {matrix.shape}")
    if np.isinf(matrix).any():
        raise UsageError("values must be finite, or NaN where an item could not be graded")
    return matrix


def _counts(values: NDArray[np.float64]) -> tuple[int, int]:
    """Return how many items and how many seeds have at least one value."""
    there = ~np.isnan(values)
    return int(there.any(axis=0).sum()), int(there.any(axis=1).sum())


def _mean(
    values: NDArray[np.float64], *, level: float, comparisons: int, draws: int, seed: int
) -> tuple[float, float, float]:
    """Return the mean of what is there, half the width of its interval, and the corrected p; NaN where undefined."""
    # The (draws + 1) makes a test by simulation exact; half the width is the size of which p is just the level.
    rank = math.floor(level * (draws + 1) * (1 + 1e-12))
    if not 0 < level < 1 or rank < 1:
        raise UsageError(
            f"{draws:,} draws cannot give an interval at level {1 - level:.6g}",
            hint="a confidence between 0 and 1, at least one comparison, and more draws for many comparisons",
        )
    there = ~np.isnan(values)
    values = values[np.ix_(there.any(axis=1), there.any(axis=0))]
    if values.shape[1] < 2:
        mean = float(np.nanmean(values)) if values.size else math.nan
        return mean, math.nan, math.nan
    mean = float(np.nanmean(values))
    sizes = np.sort(_sizes(values, draws=draws, seed=seed))[::-1]
    p = comparisons * (1 + int((sizes >= abs(mean)).sum())) / (draws + 1)
    return mean, float(sizes[rank - 1]), min(1.0, p)


def _sizes(values: NDArray[np.float64], *, draws: int, seed: int) -> NDArray[np.float64]:
    """Draw how far the mean may be from the truth: float64 (draws,), each at least 0."""
    rng = np.random.default_rng(seed)
    squares, degrees = _squares(values)
    drawn = [
        square / rng.chisquare(degree, draws) if degree else np.zeros(draws)
        for square, degree in zip(squares, degrees, strict=True)
    ]
    by_item, by_seed, residual = drawn
    # What is left varies in any case, also where the estimates of the others happen to be negative.
    variance = np.maximum(by_item + by_seed - residual, residual) / np.isfinite(values).sum()
    sizes: NDArray[np.float64] = np.abs(rng.standard_normal(draws)) * np.sqrt(variance)
    return sizes


def _squares(values: NDArray[np.float64]) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Return sums of squares and degrees of freedom of items, seeds and residual.

    Without holes these are the textbook ones. With holes, items and seeds are the sums of their cluster-robust
    variances, and the residual that of the additive fit to what is there.
    """
    there = ~np.isnan(values)  # (S, n)
    seeds, items = values.shape
    total = int(there.sum())
    centred = np.where(there, values - np.nanmean(values), 0.0)
    by_item = float((centred.sum(axis=0) ** 2).sum()) * items / total
    by_seed = float((centred.sum(axis=1) ** 2).sum()) * seeds / total
    # Least squares for the seeds once the items are taken out: a system of S equations.
    weights = there / there.sum(axis=0)  # (S, n)
    system = np.diag(there.sum(axis=1)) - weights @ there.T  # (S, S)
    right = (centred - weights * centred.sum(axis=0)).sum(axis=1)  # (S,)
    effects, _, rank, _ = np.linalg.lstsq(system, right, rcond=1e-10)
    left = np.where(there, centred - effects[:, None], 0.0)
    left = np.where(there, left - left.sum(axis=0) / there.sum(axis=0), 0.0)
    return (by_item, by_seed, float((left**2).sum())), (items - 1, seeds - 1, total - items - int(rank))
