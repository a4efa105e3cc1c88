"""One file per method: a formula over the nll of a batch and stored columns. To add one, write it and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.objectives.davir import LEAST_NATS, DavIR
from learnable.objectives.dpo import DPO
from learnable.objectives.imitation import HingeMargin, LinearMargin
from learnable.objectives.ipo import IPO
from learnable.objectives.nll import NLL
from learnable.objectives.objective import EndingObjective, Objective

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "nll": NLL,
    "dpo": DPO,
    "davir": DavIR,
    "ipo": IPO,
    "hinge_margin": HingeMargin,
    "linear_margin": LinearMargin,
}
PREFERENCES: Mapping[str, Callable[..., Objective]] = {
    "sigmoid": DPO,
    "davir": DavIR,
    "ipo": IPO,
    "hinge": HingeMargin,
}
"""Losses of preference pairs, by TRL's names where it has them."""

__all__ = [
    "DPO",
    "IPO",
    "LEAST_NATS",
    "NLL",
    "OBJECTIVES",
    "PREFERENCES",
    "DavIR",
    "EndingObjective",
    "HingeMargin",
    "LinearMargin",
    "Objective",
]
