"""Rows that are read become a pool, a window at a time: distinct conversations, and what became of every row."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl
import pyarrow as pa

from learnable.data.decontamination import EvaluationIndex
from learnable.data.pairs import identity_of
from learnable.data.records import place
from learnable.data.values import UnusableRowError
from learnable.pools import WINDOW_ROWS, Pool, SourceFile
from learnable.runs.files import FrameWriter
from learnable.runs.identity import BEYOND, NOTHING_BEYOND, beyond_of
from learnable.types import Conversation

ROWS = {"file": pl.Int64, "row": pl.Int64, "line": pl.Int64, "id": pl.String, "reason": pl.String}
"""Columns of ``Pool.ledger``."""

INDEX_KIB = 1 << 15
"""Memory that the index of conversations takes; what does not fit lies in a temporary file."""


def _stored(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return json.dumps([asdict(call) for call in value], ensure_ascii=False) if value else ""


_NOTHING: Mapping[str, Any] = dict(zip(BEYOND, map(_stored, NOTHING_BEYOND), strict=True))
"""What a turn stores that has nothing beside role and content."""


class PoolBuilder:
    """Grows a pool row by row; with files to write to, only a window of it is in memory.

    Columns are flat lists, because a million nested objects take gigabytes. ``names`` are those of the files up to now.
    """

    def __init__(
        self, evaluation: EvaluationIndex, files: tuple[FrameWriter, FrameWriter] | None = None
    ) -> None:
        self._evaluation, self._files = evaluation, files
        # Where each conversation was first seen: a temporary file, which is there as long as it is open.
        self._first = sqlite3.connect("")
        self._first.execute(f"PRAGMA cache_size = -{INDEX_KIB}")
        self._first.execute(
            "CREATE TABLE seen (id BLOB PRIMARY KEY, file INTEGER, row INTEGER, line INTEGER) WITHOUT ROWID"
        )
        self.names: list[str] = []
        self._rows: dict[str, list[Any]] = {name: [] for name in ROWS}
        # Beside role and content only what turns have: most pools have none of it.
        self._turns: dict[str, list[Any]] = {"role": [], "content": []}
        self._columns: dict[str, list[Any]] = {"id": [], "source": []}
        self._offsets = [0]
        self._pairs: bool | None = None

    def check_kind(self, conversation: Conversation) -> None:
        """Raise an ``UnusableRowError`` for a pair among conversations, and the other way round."""
        pair = conversation.rejected is not None
        if self._pairs is None:
            self._pairs = pair
        elif self._pairs != pair:
            told = ("a conversation with one answer", "a preference pair")
            raise UnusableRowError(
                f"this row is {told[pair]}, and the first one is {told[self._pairs]}",
                hint="load them apart, or read the chosen answers alone: --columns response=chosen",
            )

    def add(self, row: int, line: int | None, conversation: Conversation, source: str) -> None:
        """Add a row of the last file that is a conversation: an example, the duplicate of one, or one to avoid."""
        identity = identity_of(conversation)
        key, asked = bytes.fromhex(identity), "SELECT file, row, line FROM seen WHERE id = ?"
        if (first := self._first.execute(asked, (key,)).fetchone()) is not None:
            file, row_there, line_there = first
            there = place(self.names[file], row=row_there, line=line_there)
            self.add_row(row, line, identity, reason=f"duplicate of {there}")
            return
        if self._evaluation and (why := self._evaluation.why(conversation.turns)):
            self.add_row(row, line, identity, reason=why)
            return
        self._first.execute("INSERT INTO seen VALUES (?, ?, ?, ?)", (key, len(self.names) - 1, row, line))
        self.add_row(row, line, identity, reason=None)
        self._add_turns(conversation)
        before = len(self._columns["id"])
        self._columns["id"].append(identity)
        self._columns["source"].append(source)
        if conversation.tools or "tools" in self._columns:
            self._columns.setdefault("tools", [""] * before).append(conversation.tools)
        if self._pairs:
            self._columns.setdefault("strength", []).append(conversation.strength)
        if self._files is not None and before + 1 == WINDOW_ROWS:
            self._write_examples(self._files[0])

    def _add_turns(self, conversation: Conversation) -> None:
        messages, before = conversation.turns, self._offsets[-1]
        self._offsets.append(before + len(messages))
        self._turns["role"] += [message.role for message in messages]
        self._turns["content"] += [message.content for message in messages]
        beyond = [beyond_of(message) for message in messages]
        if len(self._turns) > 2 or any(turn != NOTHING_BEYOND for turn in beyond):
            for name, empty, *values in zip(BEYOND, NOTHING_BEYOND, *beyond, strict=True):
                # A column begins with the first conversation that has it.
                if name in self._turns or any(value != empty for value in values):
                    self._turns.setdefault(name, [_NOTHING[name]] * before).extend(map(_stored, values))

    def add_row(self, row: int, line: int | None, identity: str | None, *, reason: str | None) -> None:
        """Add a row of the last file to the ledger; one that is no conversation has no identity."""
        outcome = (len(self.names) - 1, row, line, identity, reason)
        for values, value in zip(self._rows.values(), outcome, strict=True):
            values.append(value)
        if self._files is not None and len(self._rows["row"]) == WINDOW_ROWS:
            self._files[1].add(self._ledger())

    def pool(self, files: Sequence[SourceFile]) -> Pool:
        """Return the distinct conversations in the order first seen, and what became of every row."""
        return Pool(conversations=self._examples().lazy(), ledger=self._ledger().lazy(), files=tuple(files))

    def finish(self) -> None:
        """Write what is not written yet."""
        assert self._files is not None
        self._write_examples(self._files[0])
        self._files[1].add(self._ledger())

    def close(self) -> None:
        """Let go of what was noted of conversations."""
        self._first.close()

    def _write_examples(self, file: FrameWriter) -> None:
        frame = self._examples()
        if file.schema not in (None, frame.schema):
            file.rewrite(lambda before: _widened(before, frame.schema))
        file.add(frame)

    def _examples(self) -> pl.DataFrame:
        """Return the conversations since the last time."""
        arrays = [
            pa.array(values, pa.bool_() if name == "trained" else pa.large_string())
            for name, values in self._turns.items()
        ]
        turns = pa.StructArray.from_arrays(arrays, names=list(self._turns))
        messages = pa.LargeListArray.from_arrays(pa.array(self._offsets, pa.int64()), turns)
        types: dict[str, Any] = {"strength": pl.Float64}
        columns = {
            name: pl.Series(values, dtype=types.get(name, pl.String))
            for name, values in self._columns.items()
        }
        first = {name: columns.pop(name) for name in ("id", "source")}
        frame = pl.DataFrame({**first, "messages": pl.Series(messages), **columns})
        self._turns, self._offsets = {name: [] for name in self._turns}, [0]
        self._columns = {name: [] for name in self._columns}
        return frame

    def _ledger(self) -> pl.DataFrame:
        """Return what became of the rows since the last time."""
        frame = pl.DataFrame(self._rows, schema=ROWS)
        self._rows = {name: [] for name in ROWS}
        return frame


def _widened(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return conversations with the columns, and the fields of their turns, that later ones have."""
    kind = schema["messages"]
    assert isinstance(kind, pl.List)
    assert isinstance(kind.inner, pl.Struct)
    own = frame.schema["messages"].inner.fields  # type: ignore[attr-defined]
    there = {field.name for field in own}
    fields = [
        pl.element().struct.field(field.name)
        if field.name in there
        else pl.lit(_NOTHING[field.name], dtype=field.dtype).alias(field.name)
        for field in kind.inner.fields
    ]
    lacking = [pl.lit("").alias(name) for name in schema if name not in frame.columns]
    return frame.with_columns(pl.col("messages").list.eval(pl.struct(fields)), *lacking).select(list(schema))
