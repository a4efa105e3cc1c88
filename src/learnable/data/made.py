"""Rows that `learnable diversify` made, or anybody else: conversations, and what they were made of."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from learnable.data.flags import rows_again
from learnable.data.reading import read
from learnable.types import Example

MADE = "generated.parquet"


def read_made(given: str) -> list[Example]:
    """Return the distinct rows of a file, or of a folder that `learnable diversify` wrote.

    Where rows have ``messages`` and ``parent``, the id of the row that one was made of, what stands beside ``messages``
    and ``source`` goes into ``meta``; rows of another form have no ``meta``.
    """
    path = Path(given)
    if path.is_dir() and (path / MADE).is_file():
        path /= MADE
        given = str(path)
    pool = read([given])
    if not path.is_file():
        return list(pool.iter_examples())
    rows: dict[str, Mapping[str, Any]] = {}
    for identity, row in rows_again(pool):
        rows.setdefault(identity, row)
    return [_made(example, rows[example.id]) for example in pool.iter_examples()]


def _made(example: Example, row: Mapping[str, Any]) -> Example:
    if "messages" not in row or "parent" not in row:
        return example
    apart = ("id", "messages", "tools", "source")
    beside = {key: value for key, value in row.items() if key not in apart and value is not None}
    return replace(example, source=str(row.get("source") or example.source), meta=beside)
