"""One file per method: a formula over measured columns. To add one, write it and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.scorers.difference import Difference
from learnable.scorers.learnability import Learnability
from learnable.scorers.length_matched import LengthMatched
from learnable.scorers.loss import Loss
from learnable.types import Scorer

SCORERS: Mapping[str, Callable[..., Scorer]] = {
    "learnability": Learnability,
    "difference": Difference,
    "length_matched": LengthMatched,
    "loss": Loss,
}

__all__ = ["SCORERS", "Difference", "Learnability", "LengthMatched", "Loss"]
