"""The scores in the middle."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class Middle:
    """The k examples whose rank is nearest to a quantile; the median by default.

    Equally near ranks: the lower score first. Equal scores have the order given.

    Args:
        centre: The quantile, from 0 (the lowest score) to 1 (the highest).

    Source: the middle band by perplexity that data pruning is compared with, as in Marion et al. (2309.04564). Theirs
    is cut at fixed percentiles; this one is as wide as the budget.
    """

    needs_vectors: ClassVar[bool] = False
    centre: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.centre <= 1:
            raise UsageError(f"the centre of middle must be from 0 to 1, got {self.centre}")

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None = None,
        groups: NDArray[np.int64] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Picks:
        """Return the picks; their gain is minus the distance to the quantile, 1 being all of the ranks."""
        defined = np.flatnonzero(~np.isnan(scores))
        ascending = defined[np.argsort(scores[defined], kind="stable")]
        last = max(len(ascending) - 1, 1)
        distance = np.abs(np.arange(len(ascending)) - self.centre * (len(ascending) - 1)) / last
        nearest = np.argsort(distance, kind="stable")[:k]
        return Picks(
            index=ascending[nearest].astype(np.int64), gain=(0 - distance[nearest]).astype(np.float32)
        )
