"""The highest scores."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k highest scores, highest first; equal scores in the order given.

    Source: LoBaSS (2310.13008): keep the top k by learnability.
    """

    needs_vectors: ClassVar[bool] = False

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None = None,
        groups: NDArray[np.int64] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Picks:
        """Return the picks; their gain is the score."""
        candidates = np.flatnonzero(~np.isnan(scores))
        if 0 < k < len(candidates):
            # Sorting only what reaches the k-th score, ties included: a tenth of the time where few are picked.
            last = np.partition(scores[candidates], -k)[-k]
            candidates = candidates[scores[candidates] >= last]
        order = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
        return Picks(index=order.astype(np.int64), gain=scores[order].astype(np.float32))
