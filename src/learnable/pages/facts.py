"""What a report is made from, and the one table that all its parts read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from learnable.data import HELD_OUT
from learnable.pages.tokens import TokenView

_NUMBERS = ("loss_before", "loss_after", "learnability", "difference")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of the cost table; every number is 0 where nothing was run.

    Args:
        name: What was done, such as ``train the reference``.
        tokens: Tokens that went through the model.
        passes: Passes over the pool.
        seconds: Wall-clock time.
        peak_memory_bytes: Highest memory in use.
    """

    name: str
    tokens: int
    passes: float
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a report says about one run.

    Only ``id`` is needed in ``scores``; a part of the page whose columns are missing is left out and says so.

    Args:
        title: Name of the recipe, such as ``lobass``.
        command: Command that repeats the run.
        model: Display name of the model.
        reference: Settings of the reference, shown as a table. ``kind`` (``trained``, ``given`` or ``columns``) and
            ``folds`` (0 = in-sample) change what is said; other keys are only shown.
        by: Score that the selection used.
        higher_is_better: Whether high values of that score are kept.
        budget: What was asked for, in words.
        examples: Columns ``id``, ``source``, ``messages``; None when there are no texts.
        rows: Every row read: ``file``, ``row``, ``line``, ``id``, ``reason``; None when not known.
        files: Base names, in the order of ``rows["file"]``.
        scores: ``id``, ``source``, ``tokens``, ``response_tokens``, ``truncated``, ``undefined``, ``loss_before``,
            ``loss_after`` (nats per token) and one column per scorer; NaN is undefined.
        scorers: Names of the scorer columns.
        kept: ``id``, ``rank`` (0 = first picked), ``gain``.
        dropped: ``id``, ``reason``.
        steps: Rows of the cost table.
        shortfall: Why the selection is smaller than the budget, in a sentence; None when it is not.
        left_out: What the chat template leaves out of the rows, in words; None where that is nothing.
        tokens: A few examples with the losses of their tokens.
        tokens_missing: What is missing of that and why, in a sentence; None when nothing is, or none were asked for.
    """

    title: str
    command: str
    model: str
    reference: Mapping[str, Any]
    by: str
    higher_is_better: bool
    budget: str
    examples: pl.DataFrame | None
    rows: pl.DataFrame | None
    files: Sequence[str]
    scores: pl.DataFrame
    scorers: Sequence[str]
    kept: pl.DataFrame
    dropped: pl.DataFrame
    steps: Sequence[Step]
    shortfall: str | None = None
    left_out: str | None = None
    tokens: Sequence[TokenView] = ()
    tokens_missing: str | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """The facts in the form that the parts of the page read.

    ``frame`` has one line per example of the pool: the columns of ``Facts.scores`` with null for whatever is not
    finite, and ``score_used`` (null = undefined), ``merit`` (the same, higher is better), ``is_kept``,
    ``rank`` and ``reason`` (why it was not kept). ``columns`` names what the caller gave.
    """

    facts: Facts
    frame: pl.DataFrame
    columns: frozenset[str]
    duplicates: pl.DataFrame
    held_out: pl.DataFrame
    unread: pl.DataFrame

    def has(self, *names: str) -> bool:
        """Tell whether all of these columns (or ``score``, ``rows``) were given."""
        return self.columns.issuperset(names)

    @cached_property
    def scored(self) -> pl.DataFrame:
        """The examples that the score is defined for."""
        defined = (
            pl.col("score_used") if self.has("score") else pl.when(pl.col("undefined").is_null()).then(1)
        )
        return self.frame.filter(defined.is_not_null())

    @cached_property
    def kept(self) -> pl.DataFrame:
        """The chosen examples, in the order picked."""
        return self.frame.filter("is_kept").sort("rank", maintain_order=True)

    @cached_property
    def undefined(self) -> pl.DataFrame:
        """The examples without a score; ``undefined`` always says why."""
        rest = self.frame.join(self.scored.select("id"), on="id", how="anti", maintain_order="left")
        return rest.with_columns(pl.col("undefined").fill_null(f"no value of {self.facts.by}"))

    @cached_property
    def cutoff(self) -> float | None:
        """The least good score among the chosen; None when nothing was chosen."""
        merit = self.kept["merit"].drop_nulls()
        if merit.is_empty():
            return None
        least = float(merit.to_numpy().min())
        return least if self.facts.higher_is_better else -least


def view_of(facts: Facts) -> View:
    """Join scores, picks and reasons into one table, with null for whatever is not finite."""
    names = dict.fromkeys([*_NUMBERS, *facts.scorers, facts.by])
    present = [name for name in names if name in facts.scores.columns]
    numbers = [pl.col(name).cast(pl.Float64) for name in present]
    frame = facts.scores.with_columns(pl.when(number.is_finite()).then(number) for number in numbers)
    columns = set(facts.scores.columns) - {"score", "rows"}
    if facts.by in present:
        columns.add("score")
    if facts.rows is not None:
        columns.add("rows")
    score = pl.col(facts.by) if facts.by in present else pl.lit(None, pl.Float64)
    defaults = {"source": pl.lit("unknown"), "undefined": pl.lit(None, pl.String)}
    missing = [default.alias(name) for name, default in defaults.items() if name not in columns]
    frame = frame.with_columns(*missing, score_used=score).with_columns(
        pl.col("source").cast(pl.String).fill_null("unknown"),
        pl.col("undefined").cast(pl.String),
        merit=pl.col("score_used") if facts.higher_is_better else -pl.col("score_used"),
    )
    ranks = facts.kept.select(
        pl.col("id").cast(pl.String), pl.col("rank").cast(pl.Int64), is_kept=pl.lit(value=True)
    )
    reasons = facts.dropped.select(pl.col("id", "reason").cast(pl.String)).unique(
        "id", keep="first", maintain_order=True
    )
    frame = frame.with_columns(pl.col("id").cast(pl.String)).drop("rank", "is_kept", "reason", strict=False)
    frame = frame.join(ranks, on="id", how="left", maintain_order="left")
    frame = frame.join(reasons, on="id", how="left", maintain_order="left")
    duplicates, held_out, unread = _rows_without_example(facts.rows)
    return View(
        facts=facts,
        frame=frame.with_columns(pl.col("is_kept").fill_null(value=False)),
        columns=frozenset(columns),
        duplicates=duplicates,
        held_out=held_out,
        unread=unread,
    )


def _rows_without_example(rows: pl.DataFrame | None) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Rows that repeat an example (they have its id), were held out, and could not be read (they have no id)."""
    if rows is None:
        schema = {"file": pl.Int64, "row": pl.Int64, "line": pl.Int64, "id": pl.String, "reason": pl.String}
        rows = pl.DataFrame(schema=schema)
    rows = rows.with_columns(pl.col("id", "reason").cast(pl.String))
    without = rows.filter(pl.col("reason").is_not_null())
    known, held = pl.col("id").is_not_null(), pl.col("reason") == HELD_OUT
    return without.filter(known & ~held), without.filter(known & held), without.filter(~known)
