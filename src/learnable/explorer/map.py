"""A map on which similar examples lie close together, with the neighbours of each."""

import contextlib
import sys
import warnings
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.explorer.sheet import NEAR, Sheet, X, Y, library
from learnable.runs.progress import say

FEW = 200
"""Up to so many vectors a plane through them (PCA) says as much as UMAP, and needs no compiling."""
NEIGHBOURS = 15
Laid = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]
"""Coordinates (m, 2); positions of the neighbours (m, k), the nearest first; their distances (m, k)."""


def with_map(sheet: Sheet, vectors: NDArray[np.float32], *, of: str) -> Sheet:
    """Return the sheet with a map of its n examples by their vectors (n, d), whose name says what the vectors are ``of``.

    A vector that is not finite, or is all zeros, has no place on the map.

    Raises:
        UsageError: If fewer than three examples have a vector.
    """
    placed = np.flatnonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    if len(placed) < 3:
        raise UsageError(
            f"a map needs vectors of at least 3 examples, and {len(placed)} have one",
            hint="look without it: --map loss",
        )
    plane, near, distance = (_plane if len(placed) <= FEW else _umap)(vectors[placed])
    rows = sheet.frame["row"].to_numpy()[placed]
    lists = pl.DataFrame({"ids": rows[near], "distances": distance}).with_columns(pl.all().arr.to_list())
    columns = pl.DataFrame(
        {"row": rows, X: plane[:, 0], Y: plane[:, 1], NEAR: lists.to_struct()},
        schema_overrides={X: pl.Float32, Y: pl.Float32},
    )
    frame = sheet.frame.join(columns, on="row", how="left", maintain_order="left")
    return replace(sheet, frame=frame, map=f"Map ({of} vectors)")


def _plane(vectors: NDArray[np.float32]) -> Laid:
    """Return the two main directions of unit vectors, and the nearest neighbours by cosine distance."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = units - units.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(units), 2), dtype=np.float32)
    found = centred @ directions[:2].T
    plane[:, : found.shape[1]] = found  # vectors of one dimension have one direction only
    far = 1 - units @ units.T
    near = np.argsort(far, axis=1, kind="stable")[:, :NEIGHBOURS]
    return plane, near, np.take_along_axis(far, near, axis=1)


def _umap(vectors: NDArray[np.float32]) -> Laid:
    """Return UMAP coordinates and the nearest neighbours, from the cache where they are known."""
    say(f"laying out a map of {len(vectors):,} examples; embedding-atlas keeps it for the next time")
    frame = pl.DataFrame({"vector": vectors}).with_columns(pl.col("vector").arr.to_list())
    names = {"inputs": "vector", "modality": "vector", "x": X, "y": Y, "neighbors": NEAR}
    settings = {"n_neighbors": NEIGHBOURS, "random_state": 0}
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        # That a seed costs the use of several cores is known: the same run gives the same map.
        warnings.filterwarnings("ignore", message="n_jobs value", category=UserWarning)
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=ImportWarning)
        laid = library("projection").compute_projection(frame, umap_args=settings, **names)
    near, far = (
        laid[NEAR].struct.field(name).list.to_array(NEIGHBOURS).to_numpy() for name in ("ids", "distances")
    )
    return laid.select(X, Y).to_numpy(), near, far
