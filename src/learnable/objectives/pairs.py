"""What losses of pairs share: a beta, and margins of gains over a reference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from learnable.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """An objective of two answers to each prompt, beside a reference.

    Args:
        beta: How dear it is to leave the reference, above 0.
    """

    beta: float = 0.1

    needs: ClassVar[tuple[str, ...]] = ("reference_nll",)
    answers: ClassVar[int] = 2
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UsageError(f"beta must be above 0, got {self.beta}", hint="0.1 is common")


def margins(nll: "torch.Tensor", reference_nll: "torch.Tensor", *, beta: float) -> "torch.Tensor":
    """Return by how much each pair's first answer gained more than its second since the reference, times beta, (n,)."""
    gain = reference_nll - nll  # (n, 2): log probability above the reference
    return beta * (gain[:, 0] - gain[:, 1])
