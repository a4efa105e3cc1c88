"""One file per method: a formula over the nll of a batch and stored columns. To add one, write it and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.objectives.dpo import DPO
from learnable.objectives.imitation import HingeMargin, LinearMargin
from learnable.objectives.nll import NLL
from learnable.objectives.objective import EndingObjective, Objective

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "nll": NLL,
    "dpo": DPO,
    "hinge_margin": HingeMargin,
    "linear_margin": LinearMargin,
}

__all__ = ["DPO", "NLL", "OBJECTIVES", "EndingObjective", "HingeMargin", "LinearMargin", "Objective"]
