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
FOR_THIS_SEED = " for this seed"
"""Ends what a table says of one training: another seed would give another model."""
FEWEST_ITEMS = 5
"""Items with a value below which there is no interval, and no verdict."""
LEAST_GRADED = 0.5
"""Share of the items of the best graded seed below which a seed is left out."""
ROUNDING = 1e-6
"""Differences up to this share of the values come from the order of additions, and are none."""
_HALF_SAMPLE, _PRIOR_ITEMS = 0.5, 0.5
_DRAWN_ITEMS, _CHUNK = 20_000_000, 2_000_000
"""Values that are drawn for one interval, but for small levels; and at once."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values.

    ``low`` and ``high`` are NaN with fewer than ``FEWEST_ITEMS`` items, and where all values are equal but not 0: nothing
    then tells how they vary. ``items`` and ``seeds`` count those with at least one graded value, without seeds of which few
    items could be graded (``LEAST_GRADED``), which are left out of the mean too; with ``seeds`` = 1 the noise of
    training is not in the interval. ``ungraded`` counts the values (items x seeds) that are NaN.
    """

    mean: float
    low: float
    high: float
    items: int
    seeds: int
    ungraded: int


@dataclass(frozen=True, kw_only=True)
class MeanDifference(Interval):
    """A mean difference to a baseline with its interval, and what it says.

    ``p`` is two-sided, times the number of comparisons, at most 1; NaN where the bounds are. ``verdict`` is "better"
    or "worse" exactly where the interval excludes 0, which is where ``p`` is at most 1 - confidence.
    ``items`` and ``seeds`` count those with at least one pair, ``ungraded`` the values of the method alone.
    """

    p: float
    verdict: Verdict

    @property
    def words(self) -> str:
        """The verdict, and whether it is about one training only; else why there is none."""
        if math.isnan(self.mean):
            return "not graded"
        if math.isnan(self.low):
            return "too few items" if self.items < FEWEST_ITEMS else "all pairs differ alike"
        return self.verdict + (FOR_THIS_SEED if self.seeds == 1 else "")


def difference(
    values: ArrayLike,
    baseline: ArrayLike,
    *,
    higher_is_better: bool,
    confidence: float = 0.95,
    comparisons: int = 1,
    draws: int = 100_000,
    seed: int = 0,
) -> MeanDifference:
    """Compare a method with a baseline on the same items, paired by item and by seed.

    A pair with a NaN on either side is left out; the mean is over the pairs that are left. One model without seeds
    of its own, such as the untuned one, is paired with every seed of the other side.

    Differences that are rounding (``ROUNDING``) are 0. The interval is the envelope of two. The first is ``mean +- h``
    from the two-way random model (item + seed + residual), whose variance of the mean, with S seeds, n items and mean
    squares M, is (M_item + M_seed - M_residual) / (n S). Three seeds tell little about the noise between seeds, and h
    has to say so: each draw divides the sums of squares by chi-square numbers of their degrees of freedom, and
    multiplies the root of the variance by a normal number; h is the quantile of its size (a generalized pivotal
    quantity). The second is for skewed items, where the first misses on one side. Its part of the items is that of a
    bootstrap-t: means of half-samples of the items, as small samples seldom show their tail, each divided by its own
    standard error, which has half an item of prior weight at that of all items, so that equal values do not divide by 0.

    Coverage by simulation, and why no other method: METHODS.md, `benchmarks/coverage.py`. With one seed the interval is
    for that training. Two seeds are too few for any method.

    Args:
        values: (S, n), or (1, n) for a model without seeds; NaN = could not be graded.
        baseline: (S, n) or (1, n), same seeds and items in the same order.
        higher_is_better: False for losses.
        confidence: Of all comparisons together: that none of the intervals misses.
        comparisons: How many methods are compared with this baseline (Bonferroni: each interval is at level
            1 - (1 - confidence) / comparisons).
        draws: At most; the smallest ``p`` is 2 / (draws + 1).
        seed: Of the draws.

    Raises:
        UsageError: If the shapes do not match, values are infinite, or the draws are too few for the level.

    Source: crossed designs: Owen, The pigeonhole bootstrap (2007); generalized confidence intervals: Weerahandi
        (1993), Hannig, Iyer and Patterson (2006); bootstrap-t: Efron (1979), Hall (1988). Ours: the use of the second for
        this sum of mean squares with its floor at the residual, the half-samples with their prior, and the envelope.
    """
    given, base = _matrix(values), _matrix(baseline)
    if given.shape[1] != base.shape[1] or (len(given) != len(base) and 1 not in (len(given), len(base))):
        raise UsageError(
            f"values {given.shape} and baseline {base.shape} (seeds, items) cannot be paired",
            hint="the same items and as many seeds, or one model without seeds",
        )
    pairs = given - base  # (S, n)
    pairs = np.where(np.abs(pairs) <= ROUNDING * np.maximum(np.abs(given), np.abs(base)), 0.0, pairs)
    found, p = _interval(pairs, given, level=(1 - confidence) / comparisons, draws=draws, seed=seed)
    verdict: Verdict = "no difference seen"
    if found.low > 0 or found.high < 0:
        verdict = "better" if (found.mean > 0) == higher_is_better else "worse"
    return MeanDifference(**vars(found), p=float(np.minimum(1.0, comparisons * p)), verdict=verdict)


def interval(values: ArrayLike, *, confidence: float = 0.95, draws: int = 100_000, seed: int = 0) -> Interval:
    """Return the mean of one method alone, with the interval of ``difference`` for a baseline of 0.

    Not for comparing two methods: items that are hard for both widen both intervals, and cancel in a difference. The
    arguments are those of ``difference``.

    Raises:
        UsageError: If values are infinite, or the draws are too few for the level.
    """
    given = _matrix(values)
    return _interval(given, given, level=1 - confidence, draws=draws, seed=seed)[0]


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not len(matrix):
        raise UsageError(f"values must be a table (seeds, items), got shape {matrix.shape}")
    if np.isinf(matrix).any():
        raise UsageError("values must be finite, or NaN where an item could not be graded")
    return matrix


def _interval(
    values: NDArray[np.float64], given: NDArray[np.float64], *, level: float, draws: int, seed: int
) -> tuple[Interval, float]:
    """Return the interval over the seeds that are graded well enough to count, and a two-sided p."""
    graded = (~np.isnan(values)).sum(axis=1)
    kept = values[(graded > 0) & (graded >= LEAST_GRADED * graded.max())]
    kept = kept[:, (~np.isnan(kept)).any(axis=0)]
    mean, low, high, p = _mean(kept, level=level, draws=draws, seed=seed)
    seeds, items = kept.shape
    ungraded = int(np.isnan(given).sum())
    return Interval(mean=mean, low=low, high=high, items=items, seeds=seeds, ungraded=ungraded), p


def _mean(
    values: NDArray[np.float64], *, level: float, draws: int, seed: int
) -> tuple[float, float, float, float]:
    """Return the mean of what is there, its interval and a two-sided p; NaN where undefined."""
    # The (draws + 1) makes a test by simulation exact: each bound is where p is just the level.
    if not 0 < level < 1 or _rank(level / 2, draws) < 1:
        raise UsageError(
            f"{draws:,} draws cannot give an interval at level {1 - level:.6g}",
            hint="a confidence between 0 and 1, at least one comparison, and more draws for many comparisons",
        )
    if not values.size:
        return math.nan, math.nan, math.nan, math.nan
    mean, spread = float(np.nanmean(values)), float(np.nanmax(values) - np.nanmin(values))
    if values.shape[1] < FEWEST_ITEMS:
        return mean, math.nan, math.nan, math.nan
    if spread <= ROUNDING * float(np.nanmax(np.abs(values))):
        return (mean, math.nan, math.nan, math.nan) if mean else (0.0, 0.0, 0.0, 1.0)
    rng = np.random.default_rng(seed)
    total = int(np.isfinite(values).sum())
    by_item, by_seed, residual = (
        square / rng.chisquare(degree, draws) / total if degree else np.zeros(draws)
        for square, degree in zip(*_squares(values), strict=True)
    )
    # What is left varies in any case, also where the estimates of the others happen to be negative.
    variance = np.maximum(by_item + by_seed - residual, residual)
    sizes = np.sort(np.abs(rng.standard_normal(draws)) * np.sqrt(variance))[::-1]
    half = float(sizes[_rank(level, draws) - 1])
    p = (1 + int((sizes >= abs(mean)).sum())) / (draws + 1)
    count = min(draws, max(round(_DRAWN_ITEMS / values.shape[1]), math.ceil(200 / level)))
    offs = np.sort(
        _skewed(values, draws=count, rng=rng)
        + rng.standard_normal(count) * np.sqrt(np.maximum(by_seed - residual, 0.0)[:count])
    )
    rank = _rank(level / 2, count)
    beyond = min(int((offs >= mean).sum()), int((offs <= mean).sum()))
    return (
        mean,
        mean - max(half, float(offs[count - rank])),
        mean + max(half, float(-offs[rank - 1])),
        min(1.0, max(p, 2 * (1 + beyond) / (count + 1))),
    )


def _rank(level: float, draws: int) -> int:
    """Return how many of so many draws lie beyond a bound at this level."""
    return math.floor(level * (draws + 1) * (1 + 1e-12))


def _skewed(values: NDArray[np.float64], *, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how far the mean lies off for the items that it is over, by studentized half-samples: float64 (draws,)."""
    there = ~np.isnan(values)
    items = values.shape[1]
    off = np.where(there, values - np.nanmean(values), 0.0).sum(axis=0) * items / there.sum()  # (n,)
    variance, size = float(off.var(ddof=1)), max(3, round(_HALF_SAMPLE * items))
    if variance == 0:
        return np.zeros(draws)
    prior = _PRIOR_ITEMS / items
    drawn = []
    for start in range(0, draws, at_once := max(1, _CHUNK // size)):
        sample = off[rng.integers(0, items, (min(at_once, draws - start), size))]
        spread = (sample.var(axis=1, ddof=1) + prior * variance) / (1 + prior)
        drawn.append(sample.mean(axis=1) / np.sqrt(spread / size))
    return np.concatenate(drawn) * math.sqrt(variance / items)


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
