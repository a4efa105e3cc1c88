"""Vectors of an example, and how near they are to those of a target.

One is a mean of the model's last hidden states; the other the gradient at a checkpoint: its cosines, or a sketch of it.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from learnable.measures.kind import MeasureKind
from learnable.types import Awaited, Rendered


def embedding(network: Any, rendered: Sequence[Rendered], layout: Any) -> Awaited:
    """Begin to compute the vector of each example, float32 (d,)."""
    from learnable.models.losses import batch_embeddings

    return batch_embeddings(network, rendered, layout)


EMBEDDING = MeasureKind(
    name="embedding",
    stored={"embedding": pl.List(pl.Float32)},
    launch=embedding,
    columns={"similarities": "similarity"},
)
GRADIENT_COSINES = MeasureKind(
    name="gradient_cosines",
    stored={"gradient_cosines": pl.List(pl.Float32)},
    columns={"gradient_cosines": "gradient"},
)
GRADIENT_SKETCH = MeasureKind(name="gradient_sketch", stored={"gradient_sketch": pl.List(pl.Float32)})
