"""How much likelier the words of an example are in the target than in the pool."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.scorers.loss import numbers


@dataclass(frozen=True, kw_only=True)
class DSIR:
    """Mean log-ratio of an example's n-grams, target over pool, in nats; no model is asked.

    Source: DSIR (2302.03169); what differs stands at ``measures.log_importance``. Its resampling is
    ``--selector gumbel_top_k``; with ``top_k`` the likeliest rows are kept.
    """

    needs: ClassVar[tuple[str, ...]] = ("log_importance",)
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,), the column ``log_importance``; NaN where it is not finite."""
        score = numbers(frame, "log_importance")
        return np.where(np.isfinite(score), score, np.nan).astype(np.float32)
