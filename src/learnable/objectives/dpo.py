"""Direct preference optimization."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from learnable.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class DPO:
    """How surely the model prefers the chosen answer of a pair to the rejected one, compared with a reference.

    ``margin = beta ((reference_nll - nll) of chosen - (reference_nll - nll) of rejected)``
    ``loss = mean of -log sigmoid(margin)``; it is ln 2 where model and reference are the same.

    Args:
        beta: How dear it is to leave the reference, above 0.

    Source: Rafailov et al. 2023 (2305.18290), equation 7.
    """

    beta: float = 0.1

    needs: ClassVar[tuple[str, ...]] = ("reference_nll",)
    answers: ClassVar[int] = 2
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_beta(self.beta)

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the mean loss of the pairs of a batch in nats; chosen answers come first."""
        margin = margins(nll, columns["reference_nll"], beta=self.beta)
        return (
            (-margin).logaddexp(margin.new_zeros(())).mean()
        )  # log(1 + exp(-margin)) is -log sigmoid(margin)


def check_beta(beta: float) -> None:
    """Refuse a beta that is not above 0."""
    if not beta > 0:
        raise UsageError(f"beta must be above 0, got {beta}", hint="0.1 is common")


def margins(nll: "torch.Tensor", reference_nll: "torch.Tensor", *, beta: float) -> "torch.Tensor":
    """Return by how much each pair's first answer gained more than its second since the reference, times beta, (n,)."""
    gain = reference_nll - nll  # (n, 2): log probability above the reference
    return beta * (gain[:, 0] - gain[:, 1])
