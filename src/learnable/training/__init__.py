"""Fine-tuning with TRL and PEFT, and the reference models that learnability compares with."""

from learnable.training.reference import (
    Part,
    References,
    assign_folds,
    given_reference,
    no_assignment,
    read_reference,
    train_reference,
)
from learnable.training.sft import LengthGroupedBatches, Trained, fine_tune

__all__ = [
    "LengthGroupedBatches",
    "Part",
    "References",
    "Trained",
    "assign_folds",
    "fine_tune",
    "given_reference",
    "no_assignment",
    "read_reference",
    "train_reference",
]
