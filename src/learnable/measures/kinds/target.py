"""What is measured of an example against the rows of a target, and belongs to this pool and this target alone."""

import polars as pl

from learnable.measures.kind import MeasureKind

IMPORTANCE = MeasureKind(
    name="log_importance", stored={"log_importance": pl.Float64}, columns={"log_importance": "words"}
)
WORTH = MeasureKind(name="worth", stored={"worth": pl.Float32}, columns={"worth": "costate"})
