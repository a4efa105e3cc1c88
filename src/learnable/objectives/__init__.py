"""One file per method: a formula over the nll of a batch and stored columns. To add one, write it and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.objectives.davir import LEAST_NATS as LEAST_NATS
from learnable.objectives.davir import DavIR as DavIR
from learnable.objectives.dpo import DPO as DPO
from learnable.objectives.imitation import HingeMargin as HingeMargin
from learnable.objectives.imitation import LinearMargin as LinearMargin
from learnable.objectives.ipo import IPO as IPO
from learnable.objectives.nll import NLL as NLL
from learnable.objectives.objective import EndingObjective as EndingObjective
from learnable.objectives.objective import Objective as Objective

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
