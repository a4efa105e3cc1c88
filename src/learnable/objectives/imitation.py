"""Rewards learned from demonstrations: each demonstration against an answer of the model itself.

The reward is implicit, as in DPO: how much likelier an answer is than under the model as the stage began, times beta. Its
margin h is that of the demonstration above that of the model's own answer. With the logistic loss of h this is ``DPO``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from learnable.errors import UsageError
from learnable.objectives.pairs import PairObjective, margins

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class HingeMargin(PairObjective):
    """Each demonstration is to gain 1 more than the model's own answer, and then no more.

    ``loss = mean of max(0, 1 - h)``; it is 1 where model and reference are the same.

    Args:
        beta: How dear it is to leave the reference, above 0.

    Source: Li et al. 2024 (2405.17888); the hinge is in its authors' code, after SPIN (2401.01335).
    """

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the mean loss of the pairs of a batch; demonstrations come first."""
        return (1 - margins(nll, columns["reference_nll"], beta=self.beta)).clamp(min=0).mean()


@dataclass(frozen=True, kw_only=True)
class LinearMargin(PairObjective):
    """Each demonstration is to gain ever more than the model's own answer; the loss has no end, so the training gets one.

    ``loss = mean of -h``. Where the answers are the model's own of this very moment, their part of the gradient is 0 in
    expectation, and what is left is that of fine-tuning on the demonstrations.

    Args:
        beta: How dear it is to leave the reference, above 0.
        max_h: The training ends after the first batch whose mean h is above it.

    Source: Li et al. 2024 (2405.17888); its authors' code calls this loss none. The end is ours.
    """

    max_h: float = 5.0

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.max_h > 0:
            raise UsageError(
                f"max_h must be above 0, got {self.max_h}", hint="5 is common; inf is for no end"
            )

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the mean loss of the pairs of a batch; demonstrations come first."""
        return -margins(nll, columns["reference_nll"], beta=self.beta).mean()

    def ends(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> bool:
        """Return whether the mean h of a batch is above ``max_h``."""
        return bool(-self(nll, columns) > self.max_h)
