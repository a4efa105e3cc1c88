"""The highest scores, without those that resemble one another."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.selectors.vectors import check_similarity, distinct, required
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class DiverseTopK:
    """Walks down the ranking and skips what is too similar to something kept, until k are kept.

    When the ranking ends before that, the skipped ones fill up, highest first: k are picked wherever k are defined.
    To drop near-duplicates for good, use ``max_similarity`` of ``choose``. Equal scores are walked in the order given.

    Args:
        max_similarity: Largest cosine similarity to one kept before.

    Source: DEITA (2312.15685), its representation filter with the threshold 0.9. It does not fill up.
    """

    needs_vectors: ClassVar[bool] = True
    max_similarity: float = 0.9

    def __post_init__(self) -> None:
        check_similarity(self.max_similarity)

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None,
        groups: NDArray[np.int64] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Picks:
        """Return the picks; their gain is the score."""
        vectors = required(vectors, "diverse_top_k")
        defined = np.flatnonzero(~np.isnan(scores))
        ranking = defined[np.argsort(-scores[defined], kind="stable")]
        kept = ranking[:0]
        if k > 0:
            places, _, _ = distinct(vectors[ranking], max_similarity=self.max_similarity, most=k)
            skipped = np.delete(np.arange(len(ranking)), places)
            kept = ranking[np.concatenate([places, skipped])[:k]]
        return Picks(index=kept.astype(np.int64), gain=scores[kept].astype(np.float32))
