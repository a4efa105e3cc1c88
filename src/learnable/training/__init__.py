"""Fine-tuning with TRL and PEFT, and the reference models that learnability compares with."""

from learnable.training.batches import LengthGroupedBatches
from learnable.training.devices import join
from learnable.training.gradients import GradientSum, gradient_sums
from learnable.training.reference import (
    Part,
    References,
    assign_folds,
    given_reference,
    no_assignment,
    read_reference,
    train_reference,
)
from learnable.training.sft import Trained, fine_tune, lora, save_whole

__all__ = [
    "GradientSum",
    "LengthGroupedBatches",
    "Part",
    "References",
    "Trained",
    "assign_folds",
    "fine_tune",
    "given_reference",
    "gradient_sums",
    "join",
    "lora",
    "no_assignment",
    "read_reference",
    "save_whole",
    "train_reference",
]
