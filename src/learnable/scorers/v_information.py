"""Usable information: how much of an answer a model can tell from its question, in bits."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.scorers.learnability import rank_among_lengths
from learnable.scorers.loss import numbers


def _bits(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a loss per token in bits, (n,); NaN where it is not finite."""
    nats = numbers(frame, name)
    return np.asarray(np.where(np.isfinite(nats), nats, np.nan) / np.log(2))


def _tokens(frame: pl.DataFrame) -> NDArray[np.float64]:
    tokens = numbers(frame, "response_tokens")
    return np.where(tokens > 0, tokens, np.nan)


@dataclass(frozen=True, kw_only=True)
class PVI:
    """Pointwise V-information of an answer in bits: ``-log2 p_null(y) + log2 p(y | x)``.

    ``p`` is the model fine-tuned on the pool, ``p_null`` the model fine-tuned on its answers alone, from the same start
    with the same settings. Above 0: the question helps this model to its answer. Below 0: it misleads it, as where
    the two do not belong together.

    Args:
        per_token: Bits per response token; a sum grows with the answer.

    Source: Ethayarajh et al. (2110.08420), for class labels there; ours is over the tokens of an answer. Both models
    must not have seen the row: train them with ``--folds``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_null", "loss_after", "response_tokens")
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True
    per_token: bool = False

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_null`` and ``loss_after`` in nats per token, and ``response_tokens``."""
        bits, tokens = _bits(frame, "loss_null") - _bits(frame, "loss_after"), _tokens(frame)
        return (bits * (tokens / tokens if self.per_token else tokens)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class PVIZero:
    """The same with the untrained model on both sides, in bits: no training, and not V-information as the paper has it.

    The losses are those of ``ifd``, whose ratio is this difference per token, taken relative.

    Source: ours; no member of the family was fitted, so it is not what the paper defines.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_alone", "loss_before", "response_tokens")
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_alone`` and ``loss_before`` in nats per token, and ``response_tokens``."""
        bits = _bits(frame, "loss_alone") - _bits(frame, "loss_before")
        return (bits * _tokens(frame)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Hardness:
    """Bits per response token that are left after fine-tuning on the rest of the pool.

    Source: the conditional entropy of V-information (2110.08420), per token.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_after",)
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_after`` in nats per token."""
        return _bits(frame, "loss_after").astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class HardNotWrong:
    """Rank of the hardness among answers of about the same length, in (0, 1]; where the PVI is negative, minus the rank.

    Hard rows have little usable information; so do wrong ones, which the sign of the PVI tells apart. They come last,
    the hardest of them at the very end.

    Args:
        bins: Of length, of equal size.

    Source: ours, after OptiDEL (2408.07107): it keeps hard samples, then diverse ones, of images. Its margin and
    thresholds are not known. Diverse is the selector's part: ``spread_top``.
    """

    needs: ClassVar[tuple[str, ...]] = PVI.needs
    higher_is_better: ClassVar[bool] = True
    bins: int = 10

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UsageError(f"hard_not_wrong needs at least 1 bin, got {self.bins}")

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_null`` and ``loss_after`` in nats per token, and ``response_tokens``."""
        information = PVI()(frame)
        defined = np.where(np.isnan(information), np.nan, Hardness()(frame))
        rank = rank_among_lengths(defined, frame["response_tokens"], bins=self.bins)
        return np.where(information < 0, -rank, rank)
