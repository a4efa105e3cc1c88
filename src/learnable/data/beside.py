"""What stands in the rows beside the conversation: marks of a selection, names, and what a row was made of."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from learnable.data.reading import read
from learnable.data.sources import read_records
from learnable.data.writing import check_unchanged
from learnable.pools import Pool
from learnable.types import Example

MADE = "generated.parquet"
"""Rows that `learnable diversify` made, in its folder."""
_FLAGS = {"true": True, "false": False, "": None}
"""How a CSV file writes them; any other text is no flag."""


def boolean_columns(pool: Pool) -> pl.DataFrame:
    """Return ``id`` and the columns of the rows that hold nothing but true, false and nothing, a line per example.

    An example is in a selection when one of its rows is; false is also where a row says nothing.
    """
    true: dict[str, set[str]] = {}
    other: set[str] = set()
    for example, record in rows_again(pool):
        for name, value in record.items():
            flag = _FLAGS.get(value.strip().lower(), value) if isinstance(value, str) else value
            if isinstance(flag, bool):
                true.setdefault(name, set()).update([example] if flag else [])
            elif flag is not None:
                other.add(name)
    names = [name for name in true if name not in other]
    return pool.examples.select("id", *(pl.col("id").is_in(list(true[name])).alias(name) for name in names))


def rows_again(pool: Pool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the example's id and the row for each row that is one, read again; a ``DataError`` if a file has changed."""
    for number, file in enumerate(pool.files):
        check_unchanged(file)
        here = pool.rows.filter((pl.col("file") == number) & pl.col("id").is_not_null())
        ids = dict(here.select("row", "id").iter_rows())
        for row, record in enumerate(read_records(file)):
            if row in ids:
                yield ids[row], record.value or {}


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
