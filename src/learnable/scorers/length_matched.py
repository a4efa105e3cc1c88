"""Learnability with the influence of the response length taken out."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.scorers.learnability import Learnability


@dataclass(frozen=True, kw_only=True)
class LengthMatched:
    """Rank of the learnability among examples of about the same response length, in (0, 1].

    The examples are cut into bins of equal size by response length (equal lengths never part); the score is the
    average rank within the bin over the bin's size. A selection by it has the pool's distribution of lengths.

    Args:
        bins: How many bins.
        floor: Passed on to ``Learnability``.

    Source: ours. Learnability favours short factual answers (METHODS.md); this is the variant to compare with.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_after", "response_tokens")
    higher_is_better: ClassVar[bool] = True
    bins: int = 10
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UsageError(f"length_matched needs at least 1 bin, got {self.bins}")

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,); NaN where the learnability or the length is undefined."""
        score = pl.Series("score", Learnability(floor=self.floor)(frame))
        measured = pl.DataFrame(
            {"score": score, "length": frame["response_tokens"].cast(pl.Float64)}
        ).fill_nan(None)
        defined = pl.all_horizontal(pl.all().is_not_null())
        scored = measured.with_columns(pl.when(defined).then(pl.all()))
        # Whole numbers: in floating point, 29 / 100 * 100 falls into bin 28.
        position = pl.col("length").rank("max").cast(pl.Int64) - 1
        binned = scored.with_columns(bin=position * self.bins // pl.col("length").count())
        rank = pl.col("score").rank("average").over("bin") / pl.col("score").count().over("bin")
        return binned.select(rank=rank.fill_null(float("nan")))["rank"].to_numpy().astype(np.float32)
