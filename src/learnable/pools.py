"""All rows that were read, in memory or on disk, of which a window is in memory at a time."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import polars as pl

from learnable.errors import DataError, first_line
from learnable.types import Example, Message, ToolCall

WINDOW_ROWS = 1 << 16
"""Rows of a pool that are in memory at a time; batches are made within such a window, so other numbers give other bits."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file rows were read from: where it is, what it is, the hash of its bytes, and what its columns were taken for."""

    path: str
    kind: str
    format: str
    source: str
    digest: str
    understood: str = ""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All rows that were read; what lies on disk is read where it is asked for, and ``windows`` hold a part of it.

    ``conversations``: one line per distinct conversation, columns ``id``, ``source`` and ``messages`` (list of structs
    ``role``, ``content``), in the order first seen. Where any turn has more, the structs have it too: ``reasoning``,
    ``tool_calls`` (JSON text), ``tool_call_id``, ``name``, ``trained``; where any conversation has tools, there is a
    column ``tools``. Of preference pairs the last two messages are the answers, and there is a column ``strength``.
    ``ledger``: one line per row read, columns ``file`` (position in ``files``), ``row`` (0-based), ``line``
    (1-based line of a text file, null elsewhere), ``id`` (null for a row that could not be read) and ``reason``
    (null for a row that became an example; else why it did not, duplicates included).
    """

    conversations: pl.LazyFrame
    ledger: pl.LazyFrame
    files: tuple[SourceFile, ...]

    def __len__(self) -> int:
        return height(self.conversations)

    @cached_property
    def examples(self) -> pl.DataFrame:
        """All conversations, in memory from now on."""
        return in_memory(self.conversations)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The whole ledger, in memory from now on."""
        return in_memory(self.ledger)

    @property
    def holds_pairs(self) -> bool:
        """Whether it holds preference pairs instead of conversations with one answer."""
        return "strength" in self.conversations.collect_schema()

    def check_kind(self, *, pairs: bool) -> None:
        """Raise a ``DataError`` where pairs are needed and it holds none, or the other way round."""
        if self.holds_pairs != pairs:
            kinds = ("conversations with one answer", "preference pairs")
            alone = "`learnable train --loss sigmoid` takes pairs; --columns response=chosen loads the chosen answers alone"
            hint = "name both answers: --columns prompt=...,response=...,rejected=..." if pairs else alone
            raise DataError(f"these rows are {kinds[not pairs]}, not {kinds[pairs]}", hint=hint)

    def windows(self, rows: int | None = None) -> "Iterator[Pool]":
        """Yield pools of so many conversations, ``WINDOW_ROWS`` when not given, one after the other; each is in memory as long as it is held."""
        for part in slices(self.conversations, rows):
            yield replace(self, conversations=part.lazy())

    def iter_examples(self) -> Iterator[Example]:
        """Yield the distinct examples in the order first seen; a ``DataError`` where they are pairs."""
        self.check_kind(pairs=False)
        for part in slices(self.conversations):
            for row in part.iter_rows(named=True):
                messages = tuple([message_of(turn) for turn in row["messages"]])
                yield Example(
                    id=row["id"], messages=messages, source=row["source"], tools=row.get("tools", "")
                )


def message_of(turn: Mapping[str, Any]) -> Message:
    """Return a turn of ``Pool.examples`` as a message."""
    if "tool_calls" not in turn:
        return Message(**turn)
    calls = json.loads(turn["tool_calls"] or "[]")
    return Message(**{**turn, "tool_calls": tuple(ToolCall(**call) for call in calls)})


def in_memory(frame: pl.LazyFrame, *, engine: Literal["auto", "streaming"] = "auto") -> pl.DataFrame:
    """Return a table of a pool that may lie on disk; a ``DataError`` where the file is damaged or gone.

    The engine ``streaming`` holds what comes out, and of what goes in a little at a time.
    """
    try:
        return frame.collect(engine=engine)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read the pool: {first_line(error)}", hint="load the data again") from error


def height(frame: pl.LazyFrame) -> int:
    """Return the number of lines of a table that may lie on disk."""
    return int(in_memory(frame.select(pl.len())).item())


def slices(frame: pl.LazyFrame, rows: int | None = None) -> Iterator[pl.DataFrame]:
    """Yield a table that may lie on disk, so many lines at a time, ``WINDOW_ROWS`` when not given; an empty one once."""
    rows = rows or WINDOW_ROWS
    for start in range(0, max(height(frame), 1), rows):
        yield in_memory(frame.slice(start, rows))
