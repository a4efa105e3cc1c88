"""The base loss, its perplexity, how far either falls or lies from the middle of the pool, and the length."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float32).max)


def numbers(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column, (n,); NaN where nothing stands."""
    return frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _perplexity(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """Return ``exp(loss)``, (n,); NaN where the loss is not finite, the largest float32 where it would overflow."""
    values = numbers(frame, name)
    finite = np.isfinite(values)
    return np.where(finite, np.exp(np.minimum(np.where(finite, values, 0.0), np.log(LARGEST))), np.nan)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """``L_base``: mean negative log-likelihood of the response under the untouched model, in nats per token.

    Source: the usual baseline "highest loss"; keep the lowest with ``--lowest``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before",)
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,), the column ``loss_before``; NaN where it is not finite."""
        loss = numbers(frame, "loss_before").astype(np.float32)
        return np.where(np.isfinite(loss), loss, np.float32(np.nan))


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """``exp(L_base)``: perplexity of the response under the untouched model; it ranks like ``loss``.

    Source: the usual baseline "highest perplexity"; keep the lowest with ``--lowest``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before",)
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` in nats per token; NaN where it is not finite."""
        return _perplexity(frame, "loss_before").astype(np.float32)


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


@dataclass(frozen=True, kw_only=True)
class PerplexityDrop:
    """``LP = (P_0 - P_1) / P_0`` with perplexities before and after; the lowest are kept.

    The opposite rule to learnability: what falls least is the hardest, and hard examples are wanted.

    Source: Mekala et al. (2402.10430), the variant ``LP(1)`` over ``P_0``; there inside each of 1,000 clusters, here
    ``per_cluster="equal"`` of a selection. The other variant divides by the drop of three epochs, ``P_0 - P_3``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_after")
    higher_is_better: ClassVar[bool] = False
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from losses in nats per token; NaN where either is not finite."""
        before, after = _perplexity(frame, "loss_before"), _perplexity(frame, "loss_after")
        return np.maximum((before - after) / before, -LARGEST).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Length:
    """Number of response tokens; needs no model pass.

    Source: "Long is more for alignment" (2402.04833) keeps the 1,000 longest answers; keep the shortest with
    ``--lowest``.
    """

    needs: ClassVar[tuple[str, ...]] = ("response_tokens",)
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,); NaN where there is no response token."""
        tokens = numbers(frame, "response_tokens")
        return np.where(tokens > 0, tokens, np.nan).astype(np.float32)
