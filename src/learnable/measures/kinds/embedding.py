"""A vector of an example, a mean of the model's last hidden states; and how near it is to the rows of a target."""

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
