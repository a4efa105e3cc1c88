"""Files, folders and hub datasets in; one pool of distinct conversations out, with every row accounted for."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from learnable.data.building import PoolBuilder
from learnable.data.decontamination import (
    AVOIDED_DOUBT,
    IN_EVALUATION,
    MUCH_AVOIDED,
    EvaluationIndex,
    evaluation_rows,
    in_evaluation,
    ways_found,
)
from learnable.data.formats import FORMATS
from learnable.data.names import parse_columns
from learnable.data.parser import CONVERSATION, Parser
from learnable.data.pool import is_pool, load_pool, write_pool_files, writing_pool
from learnable.data.records import Record, place, too_large
from learnable.data.sources import MEMORY, Source, digest_of, locate, names_of, read_records
from learnable.data.values import UnknownKeysError, UnusableRowError, shown_keys
from learnable.errors import DataError, UsageError, did_you_mean
from learnable.pools import Pool, SourceFile, height
from learnable.runs.progress import WARNING, say
from learnable.settings import Reading

FIRST_ROWS = 10_000
"""When none of so many first rows can be used, the rest is not read."""
KINDS_SAID, PLACES_SAID = 5, 3

_ALLOW = "--on-error skip leaves all such rows out, --on-error {percent:d}% up to that share"
_VALUE = re.compile(r"0x[0-9a-f]+|\d+")


def read(
    paths: Sequence[str | Source],
    *,
    avoid: Sequence[str | Source] | None = None,
    into: Path | None = None,
    **settings: Any,
) -> Pool:
    """Return the distinct conversations, or preference pairs, in the given files, and what became of every row.

    How many rows are left out because they cannot be used, and why, is said on standard error. The settings are fields
    of ``Reading``; what is to ``avoid`` may be rows in memory, too. ``paths`` are files (.jsonl, .json, .parquet, .csv, .tsv ...), folders and patterns of them, folders
    written by ``datasets`` or by ``save_pool``, hub ids (``owner/name``, ``owner/name:split`` or
    ``owner/name:config:split``), ``starter``, ``starter-task`` or ``starter-task-test``; or a ``Source`` of rows that
    are in memory. What is read goes ``into`` a folder, window by window, as ``save_pool`` writes it; else into memory.

    Raises:
        DataError: If a source cannot be read or has no usable row, or too many rows cannot be used.
        UsageError: If a format or option is not known.
    """
    paths = [paths] if isinstance(paths, str) else paths
    reading = Reading(**settings)
    format, source_column = reading.format, reading.source_column
    if not paths:
        raise UsageError("no data given", hint="name a file, a folder, a hub id, or 'starter'")
    if format is not None and format not in FORMATS:
        raise UsageError(f"no format called {format!r}", hint=did_you_mean(format, FORMATS))
    if len(paths) == 1 and isinstance(paths[0], str) and is_pool(Path(paths[0])):
        if format is not None or source_column is not None or reading.columns is not None or avoid:
            raise UsageError(
                f"{paths[0]} was loaded before: format, columns, source_column and avoid have no effect on it",
                hint="give the files themselves to load them again",
            )
        return load_pool(Path(paths[0]))
    named = parse_columns(reading.columns)
    evaluation = EvaluationIndex(evaluation_rows(avoid or (), columns=named))
    if into is None:
        with closing(PoolBuilder(evaluation)) as builder:
            pool = builder.pool(_read_all(builder, paths, reading, named))
    else:
        with writing_pool(into) as written, closing(PoolBuilder(evaluation, written)) as builder:
            files = _read_all(builder, paths, reading, named)
            builder.finish()
        write_pool_files(files, into)
        pool = load_pool(into)
    if evaluation:
        _say_avoided(pool, evaluation)
    return pool


def of_another(path: str, reading: Reading, *, own: str | None = None) -> Reading:
    """Return how to read a file that was given beside others: with its own columns, or those of them that its first row has."""
    if own is not None:
        return Reading(columns=own)
    named = parse_columns(reading.columns)
    if not named or is_pool(Path(path)):
        return Reading()
    rows = (record.value for source in locate(path) for record in read_records(source))
    keys = {*(next(rows, None) or {})}
    found = {part: names for part, names in named.items() if not keys.isdisjoint(names)}
    # Half of a conversation is no other file, but a wrong name.
    found |= {
        part: names for part, names in named.items() if part in CONVERSATION and found.keys() & CONVERSATION
    }
    return Reading(columns=found or None)


def _read_all(
    builder: PoolBuilder,
    paths: Sequence[str | Source],
    reading: Reading,
    named: Mapping[str, Sequence[str]],
) -> list[SourceFile]:
    """Add all rows to a pool, and return where they came from."""
    absent, keys, files = {name for names in named.values() for name in names}, set[str](), list[SourceFile]()
    inputs = [(given, locate(given)) for given in paths]
    names = names_of(source for _, sources in inputs for source in sources)
    for given, sources in inputs:
        bad = _BadRows(name=str(given) if len(sources) > 1 else names[len(files)], most=reading.most_bad)
        for source in sources:
            # The starter sets bring the topics of their conversations.
            brought = "source" if source.kind == "starter" else None
            column = reading.source_column or brought
            parser = Parser(
                format=reading.format,
                columns=named,
                source_column=column,
                source=source.source,
                several=len(names) > 1,
            )
            name = names[len(files)]
            files.append(
                _read_one(builder, source, name, parser, bad, max_bytes=int(reading.max_row_mb * 1e6))
            )
            keys |= parser.keys
        bad.settle()
    if absent - keys:
        raise DataError(
            f"no row has a column {shown_keys(sorted(absent - keys))}",
            hint=did_you_mean(min(absent - keys), keys),
        )
    return files


def _say_avoided(pool: Pool, evaluation: EvaluationIndex) -> None:
    """Say how many rows stand in the evaluation files; a ``DataError`` where no row is left."""
    avoided, whole = in_evaluation(pool.ledger).collect(), height(pool.ledger)
    found = avoided.height
    about = f"{found:,} of {whole:,} rows stand in the evaluation files ({len(evaluation):,} {'row' if len(evaluation) == 1 else 'rows'})"
    if not len(pool):
        raise DataError(
            f"{about}, and no other is left", hint="give other rows, or another file with --avoid"
        )
    say(f"{about}{f' and are left out: {ways_found(avoided)}' if found else ''}")
    names = names_of(pool.files)
    for row in avoided.head(PLACES_SAID).iter_rows(named=True):
        say(
            f"  {place(names[row['file']], row=row['row'], line=row['line'])}: {row['reason'].removeprefix(IN_EVALUATION)}"
        )
    if found > PLACES_SAID:
        say(f"  and {found - PLACES_SAID:,} more")
    if found > MUCH_AVOIDED * whole:
        say(f"warning: {found / whole:.0%} of the rows {AVOIDED_DOUBT}")


def digests(paths: Sequence[str]) -> list[str]:
    """Return a hash of the content of each source, without reading its rows."""
    return [digest_of(source) for given in paths for source in locate(given)]


def _read_one(
    builder: PoolBuilder, source: Source, name: str, parser: Parser, bad: "_BadRows", *, max_bytes: int
) -> SourceFile:
    builder.names.append(name)
    if source.kind not in ("hub", "starter", "datasets", MEMORY) and Path(source.path).stat().st_size == 0:
        raise DataError(f"{name} is empty", hint=f"the file is {source.path}")
    digest = digest_of(source)
    large = too_large(None, max_bytes)
    row, usable = -1, 0
    for row, record in enumerate(read_records(source, max_bytes=max_bytes)):
        bad.total += 1
        try:
            conversation, named = parser.parse(record)
            # By its characters: not every kind of file tells before it is read.
            if sum(len(turn.content) + len(turn.reasoning) for turn in conversation.turns) > max_bytes:
                raise UnusableRowError(large.reason or "", hint=large.hint)
            builder.check_kind(conversation)
        except ValueError as error:
            reason, hint = str(error), getattr(error, "hint", None)
            if source.kind == "csv" and not parser.formats and isinstance(error, UnknownKeysError):
                hint = f"{hint}; the first line names the columns: if it is a row, put prompt,completion above it"
            storable = reason.encode("utf-8", "backslashreplace").decode()
            builder.add_row(row, record.line, None, reason=storable)
            bad.add(place(name, row=row, line=record.line), reason, record, hint=hint)
        else:
            builder.add(row, record.line, conversation, named)
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
        understood=parser.understood(),
    )


@dataclass(kw_only=True)
class _BadRows:
    """What is wrong with the rows of one input: a file, or the files of a folder or a pattern.

    ``most`` is the share of its rows that may be bad, from 0 to 1.
    """

    name: str
    most: float
    total: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)
    """Of the first row of each kind: where it is and what is wrong with it, a hint, and the keys seen."""

    def add(self, where: str, reason: str, record: Record, *, hint: str | None) -> None:
        """Count a row; a ``DataError`` where none may be bad, or no row was any good for long."""
        # What differs from row to row, such as a number of a turn or the value seen, makes no kind of its own.
        kind = _VALUE.sub("#", reason.partition(": ")[0])
        self._counts[kind] += 1
        if kind not in self._first:
            keys = shown_keys(record.value) if record.value is not None else ""
            seen = f"; keys seen: {keys}" if keys and keys not in reason else ""
            self._first[kind] = (f"{where}: {reason}", hint, seen)
        if self.most == 0:
            raise self._error(self._first[kind][0])
        if self._counts.total() == self.total == FIRST_ROWS and self.most < 1:
            raise self._error(
                f"{self.name}: none of the first {FIRST_ROWS:,} rows can be used: {self._said()}"
            )

    def none_of(self, name: str, rows: int) -> DataError:
        """Return the error for a file that has not a single usable row."""
        return self._error(f"{name}: none of its {rows:,} rows can be used: {self._said()}", allow=None)

    def settle(self) -> None:
        """Say how many rows are left out, once all are read; a ``DataError`` where they are more than may be."""
        if not (count := self._counts.total()):
            return
        share = f"{self.name}: {count:,} of {self.total:,} rows cannot be used"
        if count > self.most * self.total:
            allow = _ALLOW.format(percent=max(5, ceil(100 * count / self.total)))
            raise self._error(f"{share}, more than {100 * self.most:g}%: {self._said()}", allow=allow)
        say(f"{WARNING}{share} and are left out: {self._said()}")

    def _said(self) -> str:
        said = [
            self._first[kind][0] + (f" ({count:,} rows of this kind)" if count > 1 else "")
            for kind, count in self._counts.most_common(KINDS_SAID)
        ]
        rest = sum(count for _, count in self._counts.most_common()[KINDS_SAID:])
        return "; ".join([*said, *([f"{rest:,} rows of other kinds"] if rest else [])])

    def _error(self, message: str, *, allow: str | None = _ALLOW.format(percent=5)) -> DataError:
        _, hint, seen = self._first[self._counts.most_common(1)[0][0]]
        hints = "; or ".join(filter(None, [hint, allow]))
        return DataError(message + seen, hint=hints or "look at that row, and repair the file")
