"""A number that was measured for some rows, told for the others by their vectors: ridge regression, tried before it is used."""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

FOLDS = 5
"""Parts of the known rows; each is told by the others, to see how well that goes."""
LEAST_AGREEMENT = 0.1
"""Rank correlation under which vectors say nothing of the number."""
FEWEST = 20
"""Known rows under which it cannot be tried."""
CUT = 3.0
"""Standard deviations beyond which a value is cut before the fit."""
_PENALTIES = tuple(10.0**power for power in range(-4, 4))
"""What is tried, for each known row: inputs have the standard deviation 1."""


class Extrapolated(NamedTuple):
    """``values`` (n,): those that were known, and what is told of the others; NaN where nothing can be told.

    ``agreement``: rank correlation of known values with what the other folds tell of them, NaN where it was not tried.
    """

    values: NDArray[np.float64]
    agreement: float


def extrapolated(values: NDArray[np.float64], vectors: NDArray[np.float32], *, seed: int) -> Extrapolated:
    """Tell the values that are not known from vectors.

    Nothing is told where the rank correlation on rows that the fit has not seen is under ``LEAST_AGREEMENT``.

    Args:
        values: (n,), NaN where not known.
        vectors: (n, d), NaN where there is none.
        seed: Of the folds.

    Source: PDS (2410.07064) fits a small model with a linear head to the scores of a sample, standardized and cut at three.
        What differs: the vectors are fixed, and known rows keep their own values.
    """
    there = np.isfinite(vectors).all(axis=1)
    known = np.flatnonzero(there & np.isfinite(values))
    if len(known) < FEWEST:
        return Extrapolated(values, float("nan"))
    folds = np.random.default_rng(seed).permutation(len(known)) % FOLDS
    told = np.empty(len(known))
    for fold in range(FOLDS):
        inside, outside = known[folds != fold], known[folds == fold]
        told[folds == fold] = _told(vectors[inside], values[inside], vectors[outside])
    agreement = _rank_correlation(told, values[known])
    if not agreement >= LEAST_AGREEMENT:
        return Extrapolated(values, agreement)
    found, unknown = values.copy(), np.flatnonzero(there & np.isnan(values))
    found[unknown] = _told(vectors[known], values[known], vectors[unknown])
    return Extrapolated(found, agreement)


def _told(
    vectors: NDArray[np.float32], values: NDArray[np.float64], others: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return what m rows with values tell of others by ridge regression, its penalty by leaving one row out, (k,)."""
    centre, width = values.mean(), values.std() or 1.0
    aims = np.clip((values - centre) / width, -CUT, CUT)
    offset, scale = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1.0
    inputs = (vectors - offset) / scale
    squares, axes = np.linalg.eigh(inputs.T @ inputs)
    turned = inputs @ axes  # (m, d), its columns orthogonal
    mean = aims.mean()
    shared = turned.T @ (aims - mean)

    def left_out(penalty: float) -> float:
        share = turned / (squares + penalty)
        leverage = (share * turned).sum(axis=1) + 1 / len(aims)
        return float(np.square((aims - mean - share @ shared) / np.maximum(1 - leverage, 1e-6)).mean())

    penalties = [penalty * len(aims) for penalty in _PENALTIES]
    weights = axes @ (shared / (squares + min(penalties, key=left_out)))
    return np.asarray(centre + width * (mean + ((others - offset) / scale) @ weights))


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    both = pl.DataFrame({"one": one, "other": other})
    found = both.select(pl.corr("one", "other", method="spearman")).item()
    return float("nan") if found is None else float(found)
