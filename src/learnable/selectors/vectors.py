"""Vectors of examples: checked, of length 1, the distinct ones among them, and clusters of them."""

import numpy as np
from numpy.typing import NDArray

from learnable.errors import SelectionError, UsageError
from learnable.packages import needed

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
ROWS, KEPT = 256, 16_384
"""Rows compared at a time, and with how many: a tile of 16 MiB, whatever the pool."""


def required(vectors: Floats | None, what: str) -> Floats:
    """Return the vectors, or say that ``what`` needs them."""
    if vectors is None:
        raise SelectionError(
            f"{what} needs a vector for every example",
            hint="measure them: learnable score ... --vectors model, or choose without",
        )
    return vectors


def check_similarity(limit: float) -> None:
    """Refuse a ``max_similarity`` outside 0 to 1."""
    if not 0 <= limit <= 1:
        raise UsageError(
            f"max_similarity must be from 0 to 1, got {limit}", hint="0.9 is a usual cosine similarity"
        )


def vendi(vectors: Floats) -> float:
    """Return the Vendi score of vectors (n, d): how many without anything in common would be spread as far, from 1 to n.

    Source: Friedman and Dieng (2210.02410), with cosine similarity.
    """
    directions = unit(vectors).astype(np.float64)
    products = (
        directions @ directions.T if len(directions) < directions.shape[1] else directions.T @ directions
    )
    shares = np.linalg.eigvalsh(products) / len(directions)
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def unit(vectors: Floats) -> Floats:
    """Return a copy with rows of length 1; a row of zeros stays as it is: it resembles nothing, not even itself."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))[:, None]
    scaled = np.zeros(vectors.shape, dtype=np.float32)
    np.divide(vectors, lengths, out=scaled, where=lengths > 0, casting="same_kind")
    return scaled


def distinct(vectors: Floats, *, max_similarity: float, most: int | None = None) -> tuple[Rows, Rows, Floats]:
    """Walk down the rows (n, d) and keep each that is not too similar to one kept before it, until ``most`` are kept.

    Memory is that of the vectors and of one tile; the time grows with n times the number kept.

    Returns:
        The positions kept, int64 (m,); for each row the kept one it is most similar to, int64 (n,), -1 where there is
        none before it; and that cosine similarity, float32 (n,).
    """
    units, n = unit(vectors), len(vectors)
    twin, cosine = np.full(n, -1, dtype=np.int64), np.full(n, -np.inf, dtype=np.float32)
    kept, m = np.empty(n, dtype=np.int64), 0
    for start in range(0, n, ROWS):
        rows = units[start : start + ROWS].copy()
        here = slice(start, start + len(rows))
        for first in range(0, m, KEPT):
            similar = rows @ units[first : min(first + KEPT, m)].T
            _note(twin[here], cosine[here], similar.max(axis=1), kept[first + similar.argmax(axis=1)])
        among = rows @ rows.T
        for offset, row in enumerate(rows):
            if cosine[start + offset] > max_similarity:
                continue
            # The kept ones move to the front, over rows that were passed: no second copy of the vectors.
            kept[m], units[m], m = start + offset, row, m + 1
            if m == most:
                return kept[:m], twin, cosine
            later = slice(start + offset + 1, start + len(rows))
            _note(twin[later], cosine[later], among[offset, offset + 1 :], start + offset)
    return kept[:m], twin, cosine


def _note(twin: Rows, cosine: Floats, similar: Floats, to: Rows | int) -> None:
    """Write down, in place, which rows are more similar to these than to those seen before."""
    closer = similar > cosine
    np.copyto(twin, to, where=closer)
    np.copyto(cosine, similar, where=closer)


def clusters_of(vectors: Floats, *, clusters: int, seed: int) -> Rows:
    """Return the cluster of each row by spherical k-means, int64 (n,): twenty rounds, on at most 256 rows a cluster.

    There is at most one cluster for two rows.

    Source: k-means as in faiss, begun by k-means++ (Arthur and Vassilvitskii, 2007). S2L (2403.07384) takes 100 clusters
    and 20 rounds, Mekala et al. (2402.10430) 1,000 clusters; these here go by the direction alone.
    """
    faiss = needed("faiss", by="--clusters", extra="neighbours")

    units = unit(vectors)
    means = faiss.Kmeans(
        units.shape[1],
        max(1, min(clusters, len(units) // 2)),
        niter=20,
        spherical=True,
        # Where faiss begins by default, at rows drawn evenly, three clouds far apart often stay two clusters.
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        seed=seed % 2**31,
        # faiss asks for 39 rows per cluster on standard error; a small pool is none of its business.
        min_points_per_centroid=1,
    )
    means.train(units)
    _, nearest = means.assign(units)
    return np.asarray(nearest, dtype=np.int64)
