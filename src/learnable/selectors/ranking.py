"""Methods that walk a ranking of the scores: from the top, from the middle, at random, past what resembles another."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from learnable.errors import UsageError
from learnable.selectors.vectors import Floats, check_similarity, distinct, required
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k highest scores, highest first; equal scores in the order given.

    Source: LoBaSS (2310.13008): keep the top k by learnability.
    """

    needs_vectors: ClassVar[bool] = False

    def __call__(self, scores: Floats, *, k: int, **unused: Any) -> Picks:
        """Return the picks; their gain is the score."""
        candidates = np.flatnonzero(~np.isnan(scores))
        if 0 < k < len(candidates):
            # Sorting only what reaches the k-th score, ties included: a tenth of the time where few are picked.
            last = np.partition(scores[candidates], -k)[-k]
            candidates = candidates[scores[candidates] >= last]
        order = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
        return Picks(index=order.astype(np.int64), gain=scores[order].astype(np.float32))


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

    def __call__(self, scores: Floats, *, k: int, **unused: Any) -> Picks:
        """Return the picks; their gain is minus the distance to the quantile, 1 being all of the ranks."""
        defined = np.flatnonzero(~np.isnan(scores))
        ascending = defined[np.argsort(scores[defined], kind="stable")]
        last = len(ascending) - 1
        distance = np.abs(np.arange(len(ascending)) - self.centre * last) / max(last, 1)
        nearest = np.argsort(distance, kind="stable")[:k]
        gain = (0 - distance[nearest]).astype(np.float32)
        return Picks(index=ascending[nearest].astype(np.int64), gain=gain)


@dataclass(frozen=True, kw_only=True)
class Random:
    """k examples drawn without replacement, each with the same chance; the scores only tell which are defined."""

    needs_vectors: ClassVar[bool] = False

    def __call__(self, scores: Floats, *, k: int, rng: np.random.Generator, **unused: Any) -> Picks:
        """Return the picks in the order drawn; their gain is 0."""
        drawn = rng.permutation(np.flatnonzero(~np.isnan(scores)))[:k]
        return Picks(index=drawn.astype(np.int64), gain=np.zeros(len(drawn), dtype=np.float32))


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

    def __call__(self, scores: Floats, *, k: int, vectors: Floats | None, **unused: Any) -> Picks:
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


@dataclass(frozen=True, kw_only=True)
class GumbelTopK:
    """A draw of k without replacement, each next one with probability proportional to ``exp(score / temperature)``.

    Args:
        temperature: In the unit of the score; 0 keeps the highest scores.

    Source: PDS (2410.07064) and DSIR (2302.03169) choose so; Kool et al. (1903.06059) show that the k highest of
    ``score / temperature`` plus Gumbel noise are such a draw.
    """

    needs_vectors: ClassVar[bool] = False
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(
                f"gumbel_top_k: the temperature must be at least 0, got {self.temperature}",
                hint="0 keeps the highest scores",
            )

    def __call__(self, scores: Floats, *, k: int, rng: np.random.Generator, **unused: Any) -> Picks:
        """Return the picks; their gain is the score with its noise, in the unit of the score."""
        noise = rng.gumbel(size=len(scores))
        return TopK()((scores + self.temperature * noise).astype(np.float32), k=k)
