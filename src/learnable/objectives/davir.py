"""DPO on gains relative to the reference."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from learnable.objectives.dpo import DPO
from learnable.objectives.pairs import PairObjective

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

LEAST_NATS = 1.0
"""Reference nll below which ``DavIR`` divides by this: an answer of one sure token would outweigh all others."""


@dataclass(frozen=True, kw_only=True)
class DavIR(PairObjective):
    """DPO where a gain counts as a share of the reference nll: a long answer, which has more nats to gain, counts no more.

    ``margin = beta ((reference_nll - nll) / reference_nll of chosen - the same of rejected)``
    ``loss = mean of -log sigmoid(margin)``; it does not change where all nll are doubled.

    Args:
        beta: How dear it is to leave the reference, above 0; it goes with the size of the nll, see ``scaled_to``.

    Source: DavIR (2310.13008 v2), its loss for preferences; its beta is not known. Ours: the reference nll is at least
        ``LEAST_NATS``.
    """

    beta: float = 10.0

    def __call__(self, nll: "torch.Tensor", columns: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
        """Return the mean loss of the pairs of a batch in nats; chosen answers come first."""
        reference_nll = columns["reference_nll"]
        scale = reference_nll.clamp(min=LEAST_NATS)
        return DPO(beta=self.beta)(nll / scale, {"reference_nll": reference_nll / scale})

    def scaled_to(self, reference_nll: "NDArray[Any]") -> Self:
        """Return it with the beta that gives an answer of median nll the gradient of DPO at its usual beta.

        Args:
            reference_nll: Of all answers, in nats (n,).
        """
        return replace(self, beta=DPO().beta * float(np.median(reference_nll)))
