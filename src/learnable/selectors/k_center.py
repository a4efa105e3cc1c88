"""The examples that lie farthest apart."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.selectors.vectors import required, unit
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class KCenter:
    """Each pick is the example farthest from all picked before it; the scores only tell which are defined.

    Distances are Euclidean between vectors of length 1. The first pick is the example nearest to the mean of all;
    equal distances are settled by the order given. No example is then farther from its nearest pick than twice what
    the best choice of k could do.

    Source: Gonzalez (1985), Clustering to minimize the maximum intercluster distance; MoDS (2311.15653) chooses its
    seed set so. They begin anywhere; this one begins at the mean, so that nothing is drawn.
    """

    needs_vectors: ClassVar[bool] = True

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None,
        groups: NDArray[np.int64] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Picks:
        """Return the picks; their gain is the distance to those before, for the first to the example farthest off."""
        vectors = required(vectors, "k_center")
        defined = np.flatnonzero(~np.isnan(scores))
        units = unit(vectors[defined])  # (n, d)
        k = min(k, len(units))
        index, gain = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.float32)
        if k == 0:
            return Picks(index=index, gain=gain)
        # Squared lengths: 1, or 0 for a row of zeros.
        squares: NDArray[np.float32] = np.asarray(np.any(units != 0, axis=1), dtype=np.float32)
        # n times the squared distance to the mean, less what is the same for all.
        total = units.sum(axis=0, dtype=np.float64).astype(np.float32)
        pick = int(np.argmin(len(units) * squares - 2 * (units @ total)))
        nearest: NDArray[np.float32] = np.full(len(units), np.inf, dtype=np.float32)  # squared, to the picks
        for place in range(k):
            index[place], gain[place] = pick, nearest[pick]
            np.minimum(nearest, squares + squares[pick] - 2 * (units @ units[pick]), out=nearest)
            nearest[pick] = -np.inf
            pick = int(np.argmax(nearest))
            if place == 0:
                gain[0] = nearest[pick]
        return Picks(index=defined[index].astype(np.int64), gain=np.sqrt(np.maximum(gain, 0)))
