"""Learning percentage: the share of its perplexity that fine-tuning takes from an example."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.scorers.perplexity import LARGEST, perplexity


@dataclass(frozen=True, kw_only=True)
class PerplexityDrop:
    """``LP = (P_0 - P_1) / P_0`` with perplexities before and after; the lowest are kept.

    The opposite rule to learnability: what falls least is the hardest, and hard examples are wanted.

    Source: Mekala et al. (2402.10430), the variant ``LP(1)`` over ``P_0``; there inside each of 1,000 clusters, here
    ``per_cluster="equal"`` of a selection. The other variant divides by the drop of three epochs, ``P_0 - P_3``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_after")
    higher_is_better: ClassVar[bool] = False

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from losses in nats per token; NaN where either is not finite."""
        before, after = perplexity(frame["loss_before"]), perplexity(frame["loss_after"])
        return np.maximum((before - after) / before, -LARGEST).astype(np.float32)
