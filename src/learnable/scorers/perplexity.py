"""Perplexity, and how far it is from the middle of the pool."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float32).max)


def perplexity(loss: pl.Series) -> NDArray[np.float64]:
    """Return ``exp(loss)``, (n,); NaN where the loss is not finite, the largest float32 where it would overflow."""
    values = loss.to_numpy().astype(np.float64)
    finite = np.isfinite(values)
    return np.where(finite, np.exp(np.minimum(np.where(finite, values, 0.0), np.log(LARGEST))), np.nan)


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """``exp(L_base)``: perplexity of the response under the untouched model; it ranks like ``loss``.

    Source: the usual baseline "highest perplexity"; keep the lowest with ``--lowest``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before",)
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` in nats per token; NaN where it is not finite."""
        return perplexity(frame["loss_before"]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class PerplexityMiddle:
    """Distance of an example's perplexity from the middle of the pool, in ranks: 0 in the middle, 0.5 at either end.

    Source: the baseline "middle perplexity" (PPL-mid) of several comparisons; none states a formula. Ours is
    ``|(rank - 1/2) / n - 1/2|`` with average ranks over the examples that have a loss.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before",)
    higher_is_better: ClassVar[bool] = False

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) in [0, 0.5]; NaN where the loss is not finite."""
        loss = pl.col("loss_before")
        defined = frame.select(pl.when(loss.is_finite()).then(loss).alias("loss_before"))
        place = (loss.rank("average") - 0.5) / loss.count()
        distance = defined.select(distance=(place - 0.5).abs().fill_null(float("nan")))
        return distance["distance"].to_numpy().astype(np.float32)
