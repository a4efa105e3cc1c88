"""How diverse texts are, in figures and as a map: arrays and texts in, no model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learnable.data.overlap import WORD
from learnable.errors import UsageError


def diversity(
    texts: Sequence[str], vectors: NDArray[np.float32], *, of: int | None = None
) -> dict[str, float]:
    """Return the figures of a set of texts, NaN where it is too small: how many ``texts``, ``mean_distance`` of two.

    ``distinct_1`` and ``distinct_2`` can only be compared between sets of one size.

    Args:
        texts: n texts.
        vectors: Their embeddings, (n, d); NaN for a text without a word.
        of: Measure on so many of them, drawn at random; all when there are no more, or not given.
    """
    if len(texts) != len(vectors):
        raise UsageError(f"{len(texts):,} texts have {len(vectors):,} vectors")
    drawn = np.arange(len(texts))
    if of is not None and of < len(texts):
        drawn = np.sort(np.random.default_rng(0).permutation(len(texts))[:of])
    some = [texts[int(place)] for place in drawn]
    return {
        "texts": len(some),
        "mean_distance": mean_distance(vectors[drawn]),
        "distinct_1": distinct(some, n=1),
        "distinct_2": distinct(some, n=2),
    }


def mean_distance(vectors: NDArray[np.float32]) -> float:
    """Return the mean of 1 - cosine over all pairs of different rows, in [0, 2].

    Rows of (n, d) that are NaN or zero have no direction and are left out; NaN when fewer than two are left. The pairs
    are not formed: the squared length of the sum of m unit vectors is m and twice the sum of their cosines.
    """
    rows, _ = _directions(vectors)
    m = len(rows)
    if m < 2:
        return float("nan")
    total = rows.sum(axis=0)
    return float(1 - (total @ total - m) / (m * (m - 1)))


def distinct(texts: Sequence[str], *, n: int) -> float:
    """Return how many different word n-grams the texts have over how many they have in all, in (0, 1]; NaN for none.

    Lower case, without punctuation; no n-gram reaches from one text into the next.

    Source: distinct-1 and distinct-2, Li et al. 2016 (1510.03055).
    """
    seen, count = set[tuple[str, ...]](), 0
    for text in texts:
        words = WORD.findall(text.lower())
        grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        seen.update(grams)
        count += len(grams)
    return len(seen) / count if count else float("nan")


def plane(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the two coordinates in which the rows differ most, (n, 2): principal components of their directions.

    The component of each axis that is largest in size points up, so that a map is the same on every machine. Rows
    of (n, d) without a direction (NaN or zero) have none here; an axis along which nothing differs is 0.
    """
    units, there = _directions(vectors)
    coordinates = np.full((len(there), 2), np.nan)
    if not len(units):
        return coordinates
    centred = units - units.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    found = np.zeros((len(units), 2))
    found[:, : len(axes)] = centred @ (axes * np.where(largest < 0, -1.0, 1.0)[:, None]).T
    coordinates[there] = found
    return coordinates


def _directions(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the rows that have a direction, at unit length (m, d), and which ones they are (n,)."""
    rows = vectors.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    there: NDArray[np.bool_] = lengths > 0
    return rows[there] / lengths[there, None], there
