"""Files, folders and hub datasets in; one pool of distinct conversations out, with every row accounted for."""

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from learnable.data.bad_rows import BadRows
from learnable.data.formats import FORMATS
from learnable.data.names import parse_columns
from learnable.data.parser import Parser
from learnable.data.pool import is_pool, load_pool
from learnable.data.records import place, too_large
from learnable.data.sources import MEMORY, Source, locate, names_of
from learnable.data.values import UnknownKeysError, UnusableRowError, shown_keys
from learnable.errors import DataError, UsageError, did_you_mean
from learnable.runs.identity import BEYOND, NOTHING_BEYOND, beyond_of, example_id
from learnable.settings import Reading
from learnable.types import Conversation, Pool, SourceFile


def read(
    paths: Sequence[str | Source],
    *,
    format: str | None = None,
    on_error: str = "1%",
    source_column: str | None = None,
    columns: str | Mapping[str, str | Sequence[str]] | None = None,
    max_row_mb: float = 8.0,
) -> Pool:
    """Return the distinct conversations in the given files, and what became of every row.

    How many rows are left out because they cannot be used, and why, is said on standard error.

    Args:
        paths: Files (.jsonl, .json, .parquet, .csv, .tsv ...), folders and patterns of them, folders written by
            ``datasets`` or by ``save_pool``, hub ids (``owner/name``, ``owner/name:split`` or
            ``owner/name:config:split``), ``starter``, ``starter-task`` or ``starter-task-test``; or a ``Source`` of rows
            that are in memory.
        format: Name of the format of all rows; None detects it row by row.
        on_error: See ``Reading``.
        source_column: Column that names the source of a row; None takes the name of the file.
        columns: Which column is which part: ``{"prompt": "query_nl", "response": "shell_command"}``, or the same as
            text, ``prompt=query_nl,response=shell_command``; other columns are found by their names.
        max_row_mb: See ``Reading``.

    Raises:
        DataError: If a source cannot be read or has no usable row, or too many rows cannot be used.
        UsageError: If a format or option is not known.
    """
    paths = [paths] if isinstance(paths, str) else paths
    reading = Reading(format=format, on_error=on_error, source_column=source_column, max_row_mb=max_row_mb)
    if not paths:
        raise UsageError("no data given", hint="name a file, a folder, a hub id, or 'starter'")
    if format is not None and format not in FORMATS:
        raise UsageError(f"no format called {format!r}", hint=did_you_mean(format, FORMATS))
    if len(paths) == 1 and isinstance(paths[0], str) and is_pool(Path(paths[0])):
        if format is not None or source_column is not None or columns is not None:
            raise UsageError(
                f"{paths[0]} was loaded before: format, columns and source_column have no effect on it",
                hint="give the files themselves to load them again",
            )
        return load_pool(Path(paths[0]))
    named, grown, files = parse_columns(columns), _Columns(), list[SourceFile]()
    absent, keys = {name for names in named.values() for name in names}, set[str]()
    inputs = [(given, locate(given)) for given in paths]
    names = names_of(source for _, sources in inputs for source in sources)
    for given, sources in inputs:
        bad = BadRows(name=str(given) if len(sources) > 1 else names[len(files)], most=reading.most_bad)
        for source in sources:
            # The starter sets bring the topics of their conversations.
            brought = "source" if source.kind == "starter" else None
            parser = Parser(
                format=format,
                columns=named,
                source_column=source_column or brought,
                source=source.source,
            )
            files.append(
                _read_one(grown, source, names[len(files)], parser, bad, max_bytes=int(max_row_mb * 1e6))
            )
            keys |= parser.keys
        bad.settle()
    if absent - keys:
        raise DataError(
            f"no row has a column {shown_keys(sorted(absent - keys))}",
            hint=did_you_mean(min(absent - keys), keys),
        )
    return Pool(examples=grown.examples(), rows=grown.rows(), files=tuple(files))


def digests(paths: Sequence[str]) -> list[str]:
    """Return a hash of the content of each source, without reading its rows.

    Raises:
        DataError: If a source is not there.
    """
    return [source.digest() for given in paths for source in locate(given)]


def _read_one(
    columns: "_Columns", source: Source, name: str, parser: Parser, bad: BadRows, *, max_bytes: int
) -> SourceFile:
    """Add the rows of one source to the columns."""
    position = columns.begin(name)
    if source.kind not in ("hub", "starter", "datasets", MEMORY) and Path(source.path).stat().st_size == 0:
        raise DataError(f"{name} is empty", hint=f"the file is {source.path}")
    digest = source.digest()
    row, usable = -1, 0
    for row, record in enumerate(source.records(max_bytes=max_bytes)):
        bad.total += 1
        try:
            conversation, named = parser.parse(record)
            _check_size(conversation, max_bytes)
        except ValueError as error:
            columns.add_unusable(position, row, record.line, reason=str(error))
            where = place(name, row=row, line=record.line)
            is_header_new = source.kind == "csv" and not parser.formats
            bad.add(where, str(error), record, hint=_hint(error, is_header_new=is_header_new))
        else:
            columns.add(position, row, record.line, conversation=conversation, source=named)
            usable += 1
    if row < 0:
        raise DataError(f"{name} has no rows", hint=f"the file is {source.path}")
    if not usable:
        raise bad.none_of(name, row + 1)
    return SourceFile(
        path=source.path,
        kind=source.kind,
        format=parser.formats.most_common(1)[0][0],
        source=source.source,
        digest=digest,
        understood=str(parser.understanding),
    )


def _check_size(conversation: Conversation, max_bytes: int) -> None:
    """Refuse a row that is larger than allowed, by its characters: not every kind of file tells before it is read."""
    if sum(len(message.content) + len(message.reasoning) for message in conversation.messages) > max_bytes:
        _, _, reason, hint = too_large(None, max_bytes)
        raise UnusableRowError(reason or "", hint=hint)


def _hint(error: ValueError, *, is_header_new: bool) -> str | None:
    """Return what helps with a row that is no usable conversation, beside leaving it out."""
    hint = error.hint if isinstance(error, UnusableRowError) else None
    if is_header_new and isinstance(error, UnknownKeysError):
        return f"the first line names the columns: if it is a row, put prompt,completion above it; {hint}"
    return hint


def _stored(value: Any) -> Any:
    """Return calls as JSON text, and anything else as it is."""
    if not isinstance(value, tuple):
        return value
    return json.dumps([asdict(call) for call in value], ensure_ascii=False) if value else ""


class _Columns:
    """Grows the columns of a pool row by row; flat lists, because a million nested objects take gigabytes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._files, self._rows, self._lines = array("q"), array("q"), array("q")
        self._ids: list[str | None] = []
        self._reasons: list[str | None] = []
        self._first: dict[str, int] = {}
        self._sources: list[str] = []
        self._offsets = array("q", [0])
        self._roles: list[str] = []
        self._contents: list[str] = []
        # Only what turns have: most pools have none of it.
        self._beyond: dict[str, list[Any]] = {}
        self._tools: list[str] = []

    def begin(self, name: str) -> int:
        """Begin with the rows of another file, and return its position."""
        self.names.append(name)
        return len(self.names) - 1

    def add(self, file: int, row: int, line: int | None, *, conversation: Conversation, source: str) -> None:
        """Add a row that is a conversation, as an example or as the duplicate of one."""
        identity = example_id(conversation.messages, tools=conversation.tools)
        position = self._first.setdefault(identity, len(self._ids))
        if position < len(self._ids):
            line_there = self._lines[position] or None
            there = place(self.names[self._files[position]], row=self._rows[position], line=line_there)
            self._add_row(file, row, line, identity=identity, reason=f"duplicate of {there}")
            return
        self._add_row(file, row, line, identity=identity, reason=None)
        self._sources.append(source)
        self._add_beyond(conversation)
        self._roles += [message.role for message in conversation.messages]
        self._contents += [message.content for message in conversation.messages]
        self._offsets.append(len(self._roles))

    def _add_beyond(self, conversation: Conversation) -> None:
        """Add what stands beside role and content; a column begins with the first conversation that has it."""
        turns = [beyond_of(message) for message in conversation.messages]
        if self._beyond or any(turn != NOTHING_BEYOND for turn in turns):
            for name, empty, *values in zip(BEYOND, NOTHING_BEYOND, *turns, strict=True):
                if name in self._beyond or any(value != empty for value in values):
                    column = self._beyond.setdefault(name, [_stored(empty)] * len(self._roles))
                    column += map(_stored, values)
        if conversation.tools and not self._tools:
            self._tools = [""] * (len(self._sources) - 1)
        if conversation.tools or self._tools:
            self._tools.append(conversation.tools)

    def add_unusable(self, file: int, row: int, line: int | None, *, reason: str) -> None:
        """Add a row that is no conversation."""
        storable = reason.encode("utf-8", "backslashreplace").decode()
        self._add_row(file, row, line, identity=None, reason=storable)

    def _add_row(
        self, file: int, row: int, line: int | None, *, identity: str | None, reason: str | None
    ) -> None:
        self._files.append(file)
        self._rows.append(row)
        self._lines.append(line or 0)
        self._ids.append(identity)
        self._reasons.append(reason)

    def examples(self) -> pl.DataFrame:
        """Return the distinct conversations in the order first seen."""
        columns = {"role": self._roles, "content": self._contents, **self._beyond}
        arrays = [
            pa.array(values, pa.bool_() if name == "trained" else pa.large_string())
            for name, values in columns.items()
        ]
        turns = pa.StructArray.from_arrays(arrays, names=list(columns))
        offsets = pa.array(np.frombuffer(self._offsets, dtype=np.int64))
        messages = pl.Series("messages", pa.LargeListArray.from_arrays(offsets, turns))
        identities = pl.Series("id", list(self._first), dtype=pl.String)
        tools = [pl.Series("tools", self._tools, dtype=pl.String)] if self._tools else []
        return pl.DataFrame(
            [identities, pl.Series("source", self._sources, dtype=pl.String), messages, *tools]
        )

    def rows(self) -> pl.DataFrame:
        """Return what became of every row."""
        numbers = {
            name: np.frombuffer(values, dtype=np.int64)
            for name, values in (("file", self._files), ("row", self._rows), ("line", self._lines))
        }
        texts = {"id": self._ids, "reason": self._reasons}
        schema = {"file": pl.Int64, "row": pl.Int64, "line": pl.Int64, "id": pl.String, "reason": pl.String}
        frame = pl.DataFrame({**numbers, **texts}, schema=schema)
        return frame.with_columns(pl.when(pl.col("line") > 0).then("line").alias("line"))
