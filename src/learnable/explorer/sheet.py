"""One row per example with all there is to see of it, and what the charts of the first screen are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from learnable.measures import COLUMNS
from learnable.packages import needed

MADE = ("row", "chosen", "rank", "reason", "chosen_by", "question", "answer", "conversation")
"""Columns that are put together here."""

X, Y, NEAR = "map_x", "map_y", "__neighbors"
"""Of the map: places, and the nearest examples with their distances."""
_LAST = ("truncated", "undefined", "reason", "conversation", "id", "row")


def library(module: str) -> Any:
    """Return a module of embedding-atlas, of the extra ``explore``."""
    return needed(f"embedding_atlas.{module}", by="learnable explore", extra="explore")


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table to look through.

    Args:
        title: What it is, in a line.
        about: The same in a few sentences, Markdown.
        frame: One row per example, in the order in which the columns are shown. ``row`` counts from 1; what is
            undefined is null; ``chosen`` and ``truncated`` are yes or no; ``rank`` counts from 1.
        by: The score that was chosen by; None when nothing was chosen.
        scores: Columns with a score, that one first.
        lowest: Those of them of which the lowest are the best.
        text: Column to search; None when there is no text.
        map: Name of the map on which similar examples lie close together, by the columns of places and neighbours.
    """

    title: str
    about: str
    frame: pl.DataFrame
    by: str | None
    scores: Sequence[str]
    lowest: Sequence[str]
    text: str | None
    map: str | None = None

    def has(self, *columns: str) -> bool:
        """Return whether all these columns are there, with something in them."""
        return all(
            name in self.frame.columns and self.frame[name].null_count() < self.frame.height
            for name in columns
        )


def sheet_of(
    scores: pl.DataFrame,
    *,
    title: str,
    about: str,
    by: str | None = None,
    lowest: Sequence[str] = (),
    examples: pl.DataFrame | None = None,
    kept: pl.DataFrame | None = None,
    dropped: pl.DataFrame | None = None,
    selections: pl.DataFrame | None = None,
) -> Sheet:
    """Put together what is known of each example, one row of ``scores`` each; see ``Sheet`` for what is not said here.

    ``examples`` (``id``, ``messages``) are None where only losses are known. ``kept`` has ``id`` and ``rank``, from 0, and
    ``dropped`` ``id`` and ``reason``; ``selections`` has ``id`` and ``method`` of what the methods of a comparison chose.
    """
    frame = scores.rename({name: f"{name}_given" for name in MADE if name in scores.columns})
    frame = frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)).with_row_index("row", offset=1)
    # The page has no charts for unsigned numbers, and reads 64-bit ones as something that is no number.
    frame = frame.with_columns(pl.col(pl.UInt32, pl.Int64).cast(pl.Int32, strict=False))
    if "truncated" in frame.columns:
        frame = frame.with_columns(_yes_or_no(pl.col("truncated")).alias("truncated"))
    if kept is not None and dropped is not None:
        ranks = kept.select("id", rank=pl.col("rank").cast(pl.Int32) + 1)
        for more in (ranks, dropped.select("id", "reason").unique("id", keep="first")):
            frame = frame.join(more, on="id", how="left", maintain_order="left")
        frame = frame.with_columns(chosen=_yes_or_no(pl.col("rank").is_not_null()))
    if selections is not None:
        methods = selections.group_by("id").agg(chosen_by=pl.col("method").unique().sort())
        frame = frame.join(methods, on="id", how="left", maintain_order="left")
        frame = frame.with_columns(pl.col("chosen_by").fill_null(pl.lit([], dtype=pl.List(pl.String))))
    if examples is not None:
        frame = frame.join(_texts(examples), on="id", how="left", maintain_order="left")
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    named = [name for name in numbers if name not in (*COLUMNS, "row", "rank")]
    ordered = sorted(named, key=lambda name: name != by)
    texts = [name for name, kind in frame.schema.items() if kind == pl.String and name not in _LAST]
    longest = max(texts, key=lambda name: frame[name].str.len_chars().sum(), default=None)
    return Sheet(
        title=title,
        about=about,
        frame=_in_order(frame, ordered),
        by=by,
        scores=ordered,
        lowest=lowest,
        text=longest if examples is None else "conversation",
    )


def _yes_or_no(condition: pl.Expr) -> pl.Expr:
    return pl.when(condition).then(pl.lit("yes")).when(~condition).then(pl.lit("no"))


def _texts(examples: pl.DataFrame) -> pl.DataFrame:
    """Return the first question, the last answer and the whole conversation of each example."""
    role, content = (pl.element().struct.field(name).fill_null("") for name in ("role", "content"))
    messages = pl.col("messages")
    return examples.select(
        "id",
        question=messages.list.eval(content.filter(role == "user")).list.first(),
        answer=messages.list.eval(content.filter(role == "assistant")).list.last(),
        conversation=messages.list.eval(pl.format("{}:\n{}", role, content)).list.join("\n\n"),
    )


def _in_order(frame: pl.DataFrame, scores: Sequence[str]) -> pl.DataFrame:
    """Return the columns as one reads them: whether it was chosen, its score, its text, then all other figures."""
    first = ("chosen", "rank", "chosen_by", *scores[:1], "source", "question", "answer")
    wanted = dict.fromkeys([*first, "loss_before", "loss_after", *scores[1:], *COLUMNS])
    ahead = [name for name in wanted if name in frame.columns]
    behind = [name for name in _LAST if name in frame.columns]
    others = [name for name in frame.columns if name not in (*ahead, *behind)]
    return frame.select(*ahead, *others, *behind)
