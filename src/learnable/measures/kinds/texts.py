"""What models write: greedy completions, verdicts over two of them, and draws; and what words alone tell."""

import polars as pl

from learnable.measures.kind import MeasureKind

COMPLETION = MeasureKind(name="completion", stored={"completion": pl.String})
VERDICT = MeasureKind(name="verdict", stored={"value": pl.Float64, "why": pl.String})
DRAW = MeasureKind(name="draw", stored={"text": pl.String, "finished": pl.Boolean})
IMPORTANCE = MeasureKind(
    name="log_importance", stored={"log_importance": pl.Float64}, columns={"log_importance": "words"}
)
