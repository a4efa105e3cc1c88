"""One file per method: a formula over the nll of a batch and stored columns. To add one, write it and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.objectives.dpo import DPO
from learnable.objectives.nll import NLL
from learnable.objectives.objective import Objective

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "nll": NLL,
    "dpo": DPO,
}

__all__ = ["DPO", "NLL", "OBJECTIVES", "Objective"]
