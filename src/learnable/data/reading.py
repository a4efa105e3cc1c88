"""Files, folders and hub datasets in; one pool of distinct conversations out, with every row accounted for."""

import difflib
import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from learnable.data.formats import FORMATS
from learnable.data.names import parse_columns
from learnable.data.parser import Parser
from learnable.data.pool import is_pool, load_pool
from learnable.data.records import SUFFIXES, Record, base_name, digest_of, place, read_records, suffix_of
from learnable.data.starter_task import STARTERS
from learnable.data.values import UnusableRowError, shown_keys
from learnable.errors import DataError, UsageError, did_you_mean
from learnable.fingerprint import BEYOND, NOTHING_BEYOND, beyond_of, example_id
from learnable.types import Conversation, Pool, SourceFile

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[^/]+)?")
_SKIP_HINT = (
    "--on-error skip (in a recipe: reading.on_error=skip; in Python: on_error='skip') drops such rows and lists them "
    "in dropped.jsonl"
)


def read(
    paths: Sequence[str],
    *,
    format: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    source_column: str | None = None,
    columns: str | Mapping[str, str | Sequence[str]] | None = None,
) -> Pool:
    """Return the distinct conversations in the given files, and what became of every row.

    Args:
        paths: Files (.jsonl, .json, .parquet, .csv, .tsv ...), folders written by ``datasets`` or by ``save_pool``,
            hub ids (``owner/name`` or ``owner/name:split``), or ``starter``, ``starter-task``, ``starter-task-test``.
        format: Name of the format of all rows; None detects it row by row.
        on_error: What to do about a row that is no usable conversation: stop, or keep it out with its reason.
        source_column: Column that names the source of a row; None takes the name of the file.
        columns: Which column is which part: ``{"prompt": "query_nl", "response": "shell_command"}``, or the same as
            text, ``prompt=query_nl,response=shell_command``; other columns are found by their names.

    Raises:
        DataError: If a source cannot be read or has no usable row, or, unless skipped, at the first unusable row.
        UsageError: If a format or option is not known.
    """
    paths = [paths] if isinstance(paths, str) else paths
    _check_options(paths, format=format, on_error=on_error)
    if len(paths) == 1 and is_pool(Path(paths[0])):
        if format is not None or source_column is not None or columns is not None:
            raise UsageError(
                f"{paths[0]} was loaded before: format, columns and source_column have no effect on it",
                hint="give the files themselves to load them again",
            )
        return load_pool(Path(paths[0]))
    named, grown, files = parse_columns(columns), _Columns(), []
    absent = {name for names in named.values() for name in names}
    for position, given in enumerate(paths):
        kind, path = _located(given)
        # The starter sets bring the topics of their conversations.
        column = "source" if kind == "starter" and source_column is None else source_column
        parser = Parser(format=format, columns=named, source_column=column, source=_source_name(kind, path))
        files.append(_read_one(grown, position, parser=parser, kind=kind, path=path, skip=on_error == "skip"))
        absent -= parser.keys
    if absent:
        raise DataError(
            f"no row has a column {shown_keys(sorted(absent))}", hint=did_you_mean(min(absent), parser.keys)
        )
    return Pool(examples=grown.examples(), rows=grown.rows(), files=tuple(files))


def digests(paths: Sequence[str]) -> list[str]:
    """Return a hash of the content of each source, without reading its rows.

    Raises:
        DataError: If a source is not there.
    """
    return [digest_of(*_located(given)) for given in paths]


def _check_options(paths: Sequence[str], *, format: str | None, on_error: str) -> None:
    if not paths:
        raise UsageError("no data given", hint="name a file, a folder, a hub id, or 'starter'")
    if format is not None and format not in FORMATS:
        raise UsageError(f"no format called {format!r}", hint=did_you_mean(format, FORMATS))
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error is raise or skip, got {on_error!r}")


def _located(given: str) -> tuple[str, str]:
    """Return the kind of a source and its absolute path (or hub id)."""
    path = Path(given)
    if given in STARTERS:
        return "starter", given
    if path.is_dir():
        return "datasets", str(_datasets_folder(path))
    suffix = suffix_of(path.name)
    if path.exists():
        if suffix is None:
            raise DataError(f"{given}: unknown kind of file", hint=f"known kinds: {', '.join(SUFFIXES)}")
        return SUFFIXES[suffix], str(path.resolve())
    if suffix is None and _HUB_ID.fullmatch(given):
        return "hub", given
    raise DataError(f"there is no file {given}", hint=_near(path))


def _datasets_folder(folder: Path) -> Path:
    if is_pool(folder):
        raise DataError(
            f"{folder} was loaded before and cannot be combined with other data",
            hint="give it alone, or give the files it was loaded from",
        )
    if (folder / "state.json").is_file():
        return folder.resolve()
    splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
    if (folder / "dataset_dict.json").is_file() and splits:
        if len(splits) == 1:
            return (folder / splits[0]).resolve()
        raise DataError(
            f"{folder} has several splits: {', '.join(splits)}",
            hint=f"give one of them: {folder / splits[0]}",
        )
    inside = sorted(path.name for path in folder.iterdir() if suffix_of(path.name))[:5]
    raise DataError(
        f"{folder} is a folder, but none that datasets' save_to_disk or a previous load wrote",
        hint=f"give the files in it: {', '.join(inside)} ..." if inside else "there are no data files in it",
    )


def _near(path: Path) -> str:
    """Return a hint with the files whose names are close to that of a missing file."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    names = [entry.name for entry in path.parent.iterdir()]
    words = [*STARTERS, *names] if path.parent == Path() else names
    close = difflib.get_close_matches(path.name, words, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    data = sorted(name for name in names if suffix_of(name))[:5]
    folder = path.parent.resolve()
    return f"data files in {folder}: {', '.join(data)}" if data else f"there are no data files in {folder}"


def _source_name(kind: str, path: str) -> str:
    name = base_name(kind, path)
    return name.removesuffix(suffix_of(name) or "") if kind not in ("datasets", "hub") else name


def _read_one(
    columns: "_Columns", position: int, *, parser: Parser, kind: str, path: str, skip: bool
) -> SourceFile:
    """Add the rows of one source to the columns."""
    name = base_name(kind, path)
    columns.names.append(name)
    if kind not in ("hub", "starter", "datasets") and Path(path).stat().st_size == 0:
        raise DataError(f"{name} is empty", hint=f"the file is {path}")
    digest = digest_of(kind, path)
    total, first_problem = 0, None
    for row, record in enumerate(read_records(kind, path)):
        total += 1
        try:
            conversation, source = parser.parse(record)
        except ValueError as error:
            columns.add_unusable(position, row, record.line, reason=str(error))
            if first_problem is None:
                first_problem = _row_error(error, record, where=place(name, row=row, line=record.line))
            if not skip:
                raise first_problem from error
        else:
            columns.add(position, row, record.line, conversation=conversation, source=source)
    if first_problem is not None and not parser.formats:
        raise DataError(
            f"{name}: none of its {total:,} rows can be used: {first_problem.message}",
            hint=first_problem.hint,
        )
    if not total:
        raise DataError(f"{name} has no rows", hint=f"the file is {path}")
    most = parser.formats.most_common(1)[0][0]
    return SourceFile(
        path=path,
        kind=kind,
        format=most,
        source=_source_name(kind, path),
        digest=digest,
        understood=str(parser.understanding),
    )


def _row_error(error: ValueError, record: Record, *, where: str) -> DataError:
    """Return the error for a row that is no usable conversation: where it is, why, and the keys it has."""
    if isinstance(error, UnusableRowError) and error.hint:
        return DataError(f"{where}: {error}", hint=f"{error.hint}; or {_SKIP_HINT}")
    seen = f"; keys seen: {shown_keys(record.value)}" if record.value is not None else ""
    return DataError(f"{where}: {error}{seen}", hint=_SKIP_HINT)


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
