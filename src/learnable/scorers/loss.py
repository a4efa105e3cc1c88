"""The base loss itself."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Loss:
    """``L_base``: mean negative log-likelihood of the response under the untouched model, in nats per token.

    Source: the usual baseline "highest loss"; keep the lowest with ``--lowest``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before",)
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,), the column ``loss_before``; NaN where it is not finite."""
        loss = frame["loss_before"].to_numpy().astype(np.float32)
        return np.where(np.isfinite(loss), loss, np.float32(np.nan))
