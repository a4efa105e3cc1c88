"""The raw difference: how much loss fine-tuning takes from an example, not relative to where it stood."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far fine-tuning lowers the loss: ``L_base - L_ref`` in nats per token.

    Ranks nearly like the highest base loss, which is what the normalization of learnability repairs; shown beside it
    for comparison.

    Source: LoBaSS (2310.13008) before normalization, "RHO-LM" in DavIR. Whether the papers sum or average over
    tokens is not known; this is the mean.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_after")
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from the columns ``loss_before`` and ``loss_after`` in nats per token."""
        difference = (frame["loss_before"].cast(pl.Float64) - frame["loss_after"].cast(pl.Float64)).to_numpy()
        return np.where(np.isfinite(difference), difference, np.nan).astype(np.float32)
