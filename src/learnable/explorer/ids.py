"""Ids of examples in a file: a download of the explorer, or a list that somebody wrote."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from learnable.errors import DataError

COLUMN = "id"
KINDS = (".parquet", ".csv", ".json", ".jsonl", ".txt")
_HINT = f"give a download of `learnable explore`, any table with a column {COLUMN!r}, or a .txt with one id per line"


def read_ids(path: str | Path) -> list[str]:
    """Return the distinct ids in a table with a column ``id``, or in a .txt with one id per line, in their order.

    Raises:
        DataError: If the file cannot be read, has no column ``id``, or an id is missing or no text.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint=_HINT)
    if path.suffix not in KINDS:
        raise DataError(
            f"{path}: ids are not read from {path.suffix or 'a file without an ending'}",
            hint=f"known kinds: {', '.join(KINDS)}",
        )
    try:
        ids = _values(path)
    except pl.exceptions.ColumnNotFoundError as error:
        raise DataError(f"{path} has no column {COLUMN!r}", hint=_HINT) from error
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read {path}: {said}", hint=_HINT) from error
    for number, value in enumerate(ids, start=1):
        if not isinstance(value, str) or not value.strip():
            seen = "no id" if value is None or value == "" else f"{value!r} for an id"
            raise DataError(
                f"{path}: row {number:,} has {seen}", hint="an id is a text of 32 letters and digits"
            )
    return list(dict.fromkeys(value.strip() for value in ids))


def _values(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path, columns=[COLUMN])[COLUMN].to_list()
    if path.suffix == ".csv":  # as text: digits alone would become a number, and lose zeros at the front
        return pl.read_csv(path, columns=[COLUMN], infer_schema=False)[COLUMN].to_list()
    text = path.read_text(encoding="utf-8-sig" if path.suffix == ".txt" else "utf-8")
    if path.suffix == ".txt":
        return text.split()
    lines = [line for line in text.split("\n") if line.strip()]
    rows = json.loads(text) if path.suffix == ".json" else list(map(json.loads, lines))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of rows with names")
    return [row.get(COLUMN) for row in rows]
