"""Direct preference optimization."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from learnable.objectives.pairs import PairObjective, margins

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class DPO(PairObjective):
    """How surely the model prefers the chosen answer of a pair to the rejected one, compared with a reference.

    ``margin = beta ((reference_nll - nll) of chosen - (reference_nll - nll) of rejected)``
    ``loss = mean of -log sigmoid(margin)``; it is ln 2 where model and reference are the same.

    Args:
        beta: How dear it is to leave the reference, above 0.

    Source: Rafailov et al. 2023 (2305.18290), equation 7.
    """

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the mean loss of the pairs of a batch in nats; chosen answers come first."""
        margin = margins(nll, columns["reference_nll"], beta=self.beta)
        return (
            (-margin).logaddexp(margin.new_zeros(())).mean()
        )  # log(1 + exp(-margin)) is -log sigmoid(margin)
