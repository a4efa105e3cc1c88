"""Fine-tuning by any objective with PEFT, and the reference models that learnability compares with."""

from learnable.training.adapters import lora, save_whole
from learnable.training.copies import Base, copies_of
from learnable.training.devices import join
from learnable.training.epochs import KeptEpoch, kept_epochs
from learnable.training.fine_tuning import MIXTURE, Trained, fine_tune
from learnable.training.merging import Merged, merge_copies
from learnable.training.mixtures import Mixed
from learnable.training.reference import (
    Part,
    References,
    assign_folds,
    given_reference,
    read_reference,
    train_reference,
)
from learnable.training.samplers import AdaptiveSampler, LengthGroupedBatches, Sampler
from learnable.training.summed_gradients import gradient_sums

__all__ = [
    "MIXTURE",
    "AdaptiveSampler",
    "Base",
    "KeptEpoch",
    "LengthGroupedBatches",
    "Merged",
    "Mixed",
    "Part",
    "References",
    "Sampler",
    "Trained",
    "assign_folds",
    "copies_of",
    "fine_tune",
    "given_reference",
    "gradient_sums",
    "join",
    "kept_epochs",
    "lora",
    "merge_copies",
    "read_reference",
    "save_whole",
    "train_reference",
]
