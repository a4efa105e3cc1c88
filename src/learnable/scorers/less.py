"""LESS: how far a training step on an example goes where the target's gradients point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.scorers.target import largest


@dataclass(frozen=True, kw_only=True)
class LESS:
    """Largest agreement of an example's gradient with those of a part of the target, in [-1, 1].

    At each epoch of a warm-up: the cosine of Adam's step for the example with the gradient of each row of the target,
    as a mean over the rows of a subtask. Epochs count by their mean learning rate; the best subtask is the score.

    Args:
        adam: ``code`` is the step as LESS's code computes it, ``exact`` as Adam does (see ``training.AdamAdjusted``).
        checkpoints: So many epochs of the warm-up, those of the highest learning rate; all when not given.
        store: ``cosines`` are kept for this target, and are exact. ``sketch`` keeps the gradients themselves as short
            vectors: another target then costs no pass over the pool, and scores have noise.
        dimensions: Of a sketch: the noise of a cosine is about ``1 / sqrt(dimensions)``.
        seed: Of a sketch.

    Source: LESS (2402.04333) and its code (princeton-nlp/LESS 8abf962). What differs: no projection where the target is
    known; a CountSketch where it is not; subtasks of any sizes; see METHODS.md.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient_cosines",)
    higher_is_better: ClassVar[bool] = True
    adam: Literal["code", "exact"] = "code"
    checkpoints: int | None = None
    store: Literal["cosines", "sketch"] = "cosines"
    dimensions: int = 4_096
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("checkpoints", "dimensions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"less needs {name} of at least 1, got {value}")

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``gradient_cosines``, a list of one mean over the epochs for each subtask."""
        return largest(frame["gradient_cosines"])

    def weights(self, learning_rates: Sequence[float]) -> dict[int, float]:
        """Return the weight of each epoch that counts, by its position; they add up to 1."""
        order = sorted(range(len(learning_rates)), key=lambda place: (-learning_rates[place], place))
        counted = sorted(order[: self.checkpoints])
        total = sum(learning_rates[place] for place in counted)
        return {place: learning_rates[place] / total for place in counted}
