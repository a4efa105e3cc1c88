"""Rows that `learnable diversify` made, or anybody else: conversations, and what they were made of."""

from pathlib import Path

import polars as pl

from learnable.data.reading import read
from learnable.errors import DataError
from learnable.fingerprint import example_id
from learnable.types import Example, Message

MADE = "generated.parquet"


def read_made(given: str) -> list[Example]:
    """Return the distinct rows of a file, or of a folder that `learnable diversify` wrote.

    Columns beside ``messages`` and ``source`` go into ``meta``, such as ``parent``, the id of the row that one was made
    of. Files of another form have no ``meta``.

    Raises:
        DataError: If it cannot be read.
    """
    path = Path(given)
    if path.is_dir() and (path / MADE).is_file():
        path /= MADE
    if path.suffix not in (".parquet", ".jsonl") or not path.is_file():
        return list(read([given]).iter_examples())
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if "parent" not in frame.columns or "messages" not in frame.columns:
        return list(read([str(path)]).iter_examples())
    made: dict[str, Example] = {}
    for row in frame.iter_rows(named=True):
        messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["messages"])
        meta = {
            name: value
            for name, value in row.items()
            if name not in ("id", "messages", "source") and value is not None
        }
        identity = example_id(messages)
        made.setdefault(
            identity,
            Example(id=identity, messages=messages, source=str(row.get("source", path.stem)), meta=meta),
        )
    return list(made.values())
