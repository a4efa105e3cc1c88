"""What an objective is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


class Objective(Protocol):
    """What a training lowers: the twin of a scorer, with a gradient; hyperparameters are its fields.

    A batch has n examples of m ``answers`` each: one for most methods, chosen and rejected for preferences. The training
    takes ``d loss / d nll`` of each answer, and so computes a batch of any size in pieces that fit the memory.

    ``needs`` names the columns that are read beside ``response_tokens``, which is always there. ``linear`` says that
    the gradient does not depend on the nll; else a batch of several pieces takes a pass without gradients first.
    """

    needs: ClassVar[tuple[str, ...]]
    answers: ClassVar[int]
    linear: ClassVar[bool]

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the loss of a batch, a scalar, of the summed nll in nats and the columns by name, (n, m) each."""


@runtime_checkable
class EndingObjective(Objective, Protocol):
    """An objective that tells when a training has come far enough; the steps that were planned after it are left out."""

    def ends(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> bool:
        """Return whether the training ends with the step of a batch, given its nll before the step."""
