"""One of the processes that train together, as ``devices`` starts it."""

import warnings
from pathlib import Path

from learnable.training.devices import work


def main(call: str) -> None:
    """Do what was left in a file."""
    # PEFT 0.21 asks transformers 5.23 for a property under its old name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    work(Path(call))
