"""The gradient of an example at a checkpoint: its cosine with those of each part of a target, or a sketch of it."""

import polars as pl

from learnable.measures.kind import MeasureKind

GRADIENT_COSINES = MeasureKind(
    name="gradient_cosines",
    stored={"gradient_cosines": pl.List(pl.Float32)},
    columns={"gradient_cosines": "gradient"},
)
GRADIENT_SKETCH = MeasureKind(name="gradient_sketch", stored={"gradient_sketch": pl.List(pl.Float32)})
