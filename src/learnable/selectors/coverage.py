"""Methods that cover the space of vectors; the scores only tell which examples are defined."""

import heapq
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.packages import needed
from learnable.selectors.ranking import TopK
from learnable.selectors.vectors import Floats, Rows, required, unit
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class KCenter:
    """Each pick is the example farthest from all picked before it.

    Distances are Euclidean between vectors of length 1. The first pick is the example nearest to the mean of all;
    equal distances are settled by the order given. No example is then farther from its nearest pick than twice what
    the best choice of k could do.

    Source: Gonzalez (1985), Clustering to minimize the maximum intercluster distance; MoDS (2311.15653) chooses its
    seed set so. They begin anywhere; this one begins at the mean, so that nothing is drawn.
    """

    needs_vectors: ClassVar[bool] = True

    def __call__(self, scores: Floats, *, k: int, vectors: Floats | None, **unused: Any) -> Picks:
        """Return the picks; their gain is the distance to those before, for the first to the example farthest off."""
        defined = np.flatnonzero(~np.isnan(scores))
        units = unit(required(vectors, "k_center")[defined])  # (n, d)
        k = min(k, len(units))
        index, gain = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.float32)
        if k == 0:
            return Picks(index=index, gain=gain)
        # Squared lengths: 1, or 0 for a row of zeros.
        squares: Floats = np.asarray(np.any(units != 0, axis=1), dtype=np.float32)
        # n times the squared distance to the mean, less what is the same for all.
        total = units.sum(axis=0, dtype=np.float64).astype(np.float32)
        pick = int(np.argmin(len(units) * squares - 2 * (units @ total)))
        nearest: Floats = np.full(len(units), np.inf, dtype=np.float32)  # squared, to the picks
        for place in range(k):
            index[place], gain[place] = pick, nearest[pick]
            np.minimum(nearest, squares + squares[pick] - 2 * (units @ units[pick]), out=nearest)
            nearest[pick] = -np.inf
            pick = int(np.argmax(nearest))
            if place == 0:
                gain[0] = nearest[pick]
        return Picks(index=defined[index].astype(np.int64), gain=np.sqrt(np.maximum(gain, 0)))


@dataclass(frozen=True, kw_only=True)
class FacilityLocation:
    """Each pick adds most to how well the picks stand for all examples.

    What grows is the sum over all examples i of the largest ``max(0, cos(i, j))`` over the picks j. An example is
    stood for only by its nearest neighbours; with at least as many neighbours as examples, by any. Equal gains are
    settled by the order given.

    Args:
        neighbours: How many of its nearest neighbours, itself among them, can stand for an example.

    Source: Nemhauser et al. (1978): the greedy choice reaches 1 - 1/e of the best; Minoux (1978): the lazy evaluation,
    same picks; Wei et al. (2015, Submodularity in data subset selection) choose training data so. What differs: only
    the neighbours count, and negative similarities count as none.
    """

    needs_vectors: ClassVar[bool] = True
    neighbours: int = 50

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UsageError(f"facility_location needs at least 1 neighbour, got {self.neighbours}")

    def __call__(self, scores: Floats, *, k: int, vectors: Floats | None, **unused: Any) -> Picks:
        """Return the picks; their gain is what they add to the sum."""
        vectors = required(vectors, "facility_location")
        defined = np.flatnonzero(~np.isnan(scores))
        k = min(k, len(defined))
        index, gain = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.float32)
        if k == 0:
            return Picks(index=index, gain=gain)
        starts, served, similarity = _served(unit(vectors[defined]), self.neighbours)
        best = np.zeros(len(defined), dtype=np.float32)  # how well each example is stood for so far

        def added(row: int) -> float:
            edges = slice(starts[row], starts[row + 1])
            return float(np.maximum(similarity[edges] - best[served[edges]], 0).sum(dtype=np.float64))

        # What a pick adds only shrinks as others are picked: an old number is a bound, and few are computed again.
        heap = [(-added(row), row, 0) for row in range(len(defined))]
        heapq.heapify(heap)
        for place in range(k):
            while heap[0][2] != place:
                _, row, _ = heap[0]
                heapq.heapreplace(heap, (-added(row), row, place))
            loss, row, _ = heapq.heappop(heap)
            index[place], gain[place] = row, -loss
            edges = slice(starts[row], starts[row + 1])
            best[served[edges]] = np.maximum(best[served[edges]], similarity[edges])
        return Picks(index=defined[index].astype(np.int64), gain=gain)


def _served(units: Floats, neighbours: int) -> tuple[Rows, NDArray[np.int32], Floats]:
    """Return whom row j can stand for: ``served[starts[j]:starts[j + 1]]``, by these similarities, all above 0."""
    faiss = needed("faiss", by="facility_location", extra="neighbours")

    n, d = units.shape
    table = faiss.IndexFlatIP(d)
    table.add(units)
    similarity, neighbour = table.search(units, min(neighbours, n))  # both (n, neighbours)
    rows = np.repeat(np.arange(n, dtype=np.int32), similarity.shape[1])
    counted = similarity.ravel() > 0
    by, rows, similarity = neighbour.ravel()[counted], rows[counted], similarity.ravel()[counted]
    order = np.argsort(by, kind="stable")
    starts = np.searchsorted(by[order], np.arange(n + 1)).astype(np.int64)
    return starts, rows[order], similarity[order]


@dataclass(frozen=True, kw_only=True)
class SpreadTop:
    """Takes the best ``multiple`` times k, and of these the k that stand for most of them.

    Args:
        multiple: How many times k; 1 keeps the best k.

    Source: OptiDEL (2408.07107) keeps hard samples, then diverse ones; the facility location is ours.
    """

    needs_vectors: ClassVar[bool] = True
    by_count: ClassVar[bool] = True
    multiple: float = 3.0

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise UsageError(f"spread_top: multiple must be at least 1, got {self.multiple}")

    def __call__(self, scores: Floats, *, k: int, vectors: Floats | None, **unused: Any) -> Picks:
        """Return the picks; their gain is what they add to how well the best are stood for."""
        vectors = required(vectors, "spread_top")
        best = np.sort(TopK()(scores, k=round(self.multiple * k)).index)
        picks = FacilityLocation()(scores[best], k=k, vectors=vectors[best])
        return Picks(index=best[picks.index], gain=picks.gain)
