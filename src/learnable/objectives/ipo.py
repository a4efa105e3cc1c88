"""Identity preference optimization."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from learnable.objectives.pairs import PairObjective, margins

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class IPO(PairObjective):
    """How far the gain of the chosen answer over the rejected one, in nats per token, is from a fixed distance.

    ``margin = (reference_nll - nll) / response_tokens of chosen - the same of rejected``
    ``loss = mean of (margin - 1 / (2 beta))^2``: a pair that is far enough apart is not driven further.

    Args:
        beta: Half the inverse of the distance, above 0.

    Source: Azar et al. 2023 (2310.12036), equation 17, with means over tokens as in TRL.
    """

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the mean loss of the pairs of a batch; chosen answers come first."""
        tokens = columns["response_tokens"]
        margin = margins(nll / tokens, columns["reference_nll"] / tokens, beta=1.0)
        return (margin - 1 / (2 * self.beta)).square().mean()
