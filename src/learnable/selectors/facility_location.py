"""The examples that stand for all others."""

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.packages import needed
from learnable.selectors.vectors import required, unit
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class FacilityLocation:
    """Each pick adds most to how well the picks stand for all examples; the scores only tell which are defined.

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

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None,
        groups: NDArray[np.int64] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Picks:
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


def _served(
    units: NDArray[np.float32], neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Return whom each row can stand for.

    Row j can stand for ``served[starts[j]:starts[j + 1]]``, with these similarities, all above 0.
    """
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
