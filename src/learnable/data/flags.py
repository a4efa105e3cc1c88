"""Columns of the rows beside the conversation: selections that somebody else has made, and names such as a subtask."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from learnable.data.sources import read_records
from learnable.data.writing import check_unchanged
from learnable.types import Pool

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


def text_column(pool: Pool, name: str) -> list[str | None]:
    """Return a column of the rows as text, a value for each example, (n,); None where a row has none."""
    found: dict[str, str] = {}
    for example, record in rows_again(pool):
        if record.get(name) not in (None, ""):
            found.setdefault(example, str(record[name]))
    return [found.get(example) for example in pool.examples["id"]]


def rows_again(pool: Pool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the example's id and the row for each row that is one, read again; a ``DataError`` if a file has changed."""
    for number, file in enumerate(pool.files):
        check_unchanged(file)
        here = pool.rows.filter((pl.col("file") == number) & pl.col("id").is_not_null())
        ids = dict(here.select("row", "id").iter_rows())
        for row, record in enumerate(read_records(file.kind, file.path)):
            if row in ids:
                yield ids[row], record.value or {}
