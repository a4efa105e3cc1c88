"""Learnability: the share of its loss that fine-tuning takes from an example."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Learnability:
    """The share of its loss that fine-tuning takes from an example: ``1 - L_ref / L_base``.

    1: the reference knows the answer by heart; 0: fine-tuning changed nothing; below 0: it made the example worse.
    The token count cancels, so sums and means per token give the same score.

    Args:
        power: Power of ``L_base`` that the fall is divided by: 1 is the paper's form, 0 the raw difference, and what
            lies between is a softer normalization (ours).
        floor: Base loss in nats per token at or under which the score is undefined (NaN): there is nothing to learn,
            and the ratio is noise.

    Source: LoBaSS (2310.13008 v1), DavIR (v2), final normalized form. The papers state no guard for a base loss
    of 0; ours is ``floor``.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_after")
    higher_is_better: ClassVar[bool] = True
    power: float = 1.0
    floor: float = 1e-6

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from the columns ``loss_before`` and ``loss_after`` in nats per token."""
        before = frame["loss_before"].to_numpy().astype(np.float64)
        after = frame["loss_after"].to_numpy().astype(np.float64)
        usable = (before > self.floor) & np.isfinite(before) & np.isfinite(after)
        score = np.full(before.shape, np.nan)
        score[usable] = (before[usable] - after[usable]) / before[usable] ** self.power
        return score.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class SoftLearnability(Learnability):
    """``(L_base - L_ref) / sqrt(L_base)``: half way between learnability and the raw difference.

    Source: ours, a variant to compare with; see ``power`` of ``Learnability``.
    """

    power: float = 0.5
