"""A row as it was read, whatever kind of file it comes from, and where it stands."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One row as it was read: its line in a text file, and its value, or the reason why it has none and what to do."""

    line: int | None
    value: Mapping[str, Any] | None
    reason: str | None = None
    hint: str | None = None


def place(name: str, *, row: int, line: int | None) -> str:
    """Return where a row is, for people: ``my.jsonl:17``, or ``my.parquet row 5`` (``row`` is 0-based)."""
    return f"{name} row {row + 1}" if line is None else f"{name}:{line}"


def too_large(line: int | None, max_bytes: int) -> Record:
    """Return the record of a row that is not read because it is larger than the limit."""
    reason = f"the row is larger than {max_bytes / 1e6:g} MB"
    return Record(line, None, reason, hint="--max-row-mb reads larger rows")
