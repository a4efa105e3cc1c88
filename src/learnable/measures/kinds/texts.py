"""What models write: greedy completions, verdicts over two of them, draws; and what a server counts in a given text."""

import polars as pl

from learnable.measures.kind import MeasureKind

COMPLETION = MeasureKind(name="completion", stored={"completion": pl.String})
VERDICT = MeasureKind(name="verdict", stored={"value": pl.Float64, "why": pl.String})
DRAW = MeasureKind(name="draw", stored={"text": pl.String, "finished": pl.Boolean})
TEXT_TOKENS = MeasureKind(name="text_tokens", stored={"text_tokens": pl.Int64})
