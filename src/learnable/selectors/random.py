"""A random draw: what every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class Random:
    """k examples drawn without replacement, each with the same chance; the scores only tell which are defined."""

    needs_vectors: ClassVar[bool] = False

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None = None,
        groups: NDArray[np.int64] | None = None,
        rng: np.random.Generator,
    ) -> Picks:
        """Return the picks in the order drawn; their gain is 0."""
        drawn = rng.permutation(np.flatnonzero(~np.isnan(scores)))[:k]
        return Picks(index=drawn.astype(np.int64), gain=np.zeros(len(drawn), dtype=np.float32))
