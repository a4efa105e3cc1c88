"""What a measure is: what a model pass says of one example, stored once by the example's id."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from learnable.types import Launch, Rendered

Role = Literal["base", "reference", "alone", "null", "target", "similarity", "gradient", "costate", "words"]
"""Which model measures what.

The base model or the reference measures the whole example; the base model measures the answer alone, and so does
``null``, the model fine-tuned on answers alone. ``target`` is the base model fine-tuned on the rows of a target. The others
compare with these rows: ``similarity`` by hidden states, ``gradient`` by gradients at the checkpoints of a warm-up,
``costate`` by a short training run backwards, ``words`` by n-grams and without a model.
"""
AIMED: frozenset[Role] = frozenset({"target", "similarity", "gradient", "costate", "words"})
"""What is measured against a target."""
PASSES: Mapping[Role, str] = {
    "base": "base",
    "alone": "answer-alone",
    "reference": "reference",
    "null": "null-reference",
    "target": "after-target",
    "similarity": "embedding",
    "gradient": "gradient-per-epoch",
    "costate": "costate",
}
"""Names of the passes that roles cost; the others cost none."""
Row = tuple[Any, ...]
"""What is stored of one example under one kind, without its id."""


def as_found(_: Rendered, found: Any, __: Collection[int]) -> Any:
    """Return what the pass found for an example, as it is."""
    return found


@dataclass(frozen=True, kw_only=True)
class MeasureKind:
    """A kind of measure: its pass, what the store keeps of it, and its columns in a table of scores.

    Args:
        name: Part of the measure's identity, and of its folder in the store.
        stored: Columns of the store beside ``id``, with their types.
        launch: Begins a batch, and gives what waits for one value per example; None for what no batch of examples is
            made for, such as answers. Kinds with one launch share its pass.
        value: What is stored of the value that the pass found for an example, given the tokens that end a turn; None
            where nothing is.
        columns: Columns of a table of scores, and what each is measured under.
        column: Makes such a column of what is stored, null where nothing is, one value for each row of a frame with
            ``response_tokens``; the same when not given.
    """

    name: str
    stored: Mapping[str, Any]
    launch: Launch | None = None
    value: Callable[[Rendered, Any, Collection[int]], Any] = as_found
    columns: Mapping[str, Role] = field(default_factory=dict)
    column: Callable[[pl.Series, pl.DataFrame], pl.Series] = lambda stored, _: stored

    @property
    def is_number(self) -> bool:
        """Whether the store keeps one number of an example."""
        return [kind.is_numeric() for kind in self.stored.values()] == [True]

    def frame(self, rows: Sequence[Row]) -> pl.DataFrame:
        """Return rows of an id and what is stored beside it, as the store keeps them."""
        ids, *columns = zip(*rows, strict=True) if rows else [()] * (1 + len(self.stored))
        # Of arrays of one length polars makes its Array type, whatever is asked for: parts of one measure would differ.
        kept = [
            pl.Series(name, values, dtype=kind).cast(kind)
            for (name, kind), values in zip(self.stored.items(), columns, strict=True)
        ]
        return pl.DataFrame([pl.Series("id", ids, dtype=pl.String), *kept])
