"""Learnability pointed at a task: how much of its loss an example loses when the model learns the target."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.scorers.learnability import Difference, Learnability


@dataclass(frozen=True, kw_only=True)
class TargetLearnability:
    """The share of its loss that an example loses when the model is fine-tuned on the target: ``1 - L_target / L_base``.

    Above 0: what teaches the target also teaches this example. The reference is trained on the target's rows, a few
    epochs of them; no gradient of the pool is taken.

    Args:
        floor: As for ``Learnability``.

    Source: ours. LoBaSS's form (2310.13008) with the reference trained on the target instead of the pool; with the raw
    fall it is CoLoR-Filter's (2406.10670), which trains its second model on the target too, at pre-training scale.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_target")
    higher_is_better: ClassVar[bool] = True
    floor: float = 1e-6

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` and ``loss_target`` in nats per token."""
        return Learnability(floor=self.floor)(_as_reference(frame))


@dataclass(frozen=True, kw_only=True)
class TargetDrop:
    """How far the loss of an example falls when the model is fine-tuned on the target: ``L_base - L_target``.

    In nats per token, not relative to where it stood.

    Source: CoLoR-Filter (2406.10670), at fine-tuning scale: its prior is the base model, its conditional one the model
    fine-tuned on the target. What differs: mean over response tokens.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_target")
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` and ``loss_target`` in nats per token."""
        return Difference()(_as_reference(frame))


def _as_reference(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("loss_before", loss_after="loss_target")
