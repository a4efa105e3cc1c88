"""Ids of examples in a file: a download of the explorer, or a list that somebody wrote."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from learnable.errors import DataError

COLUMN = "id"
_HINT = f"give a download of `learnable explore`, any table with a column {COLUMN!r}, or a .txt with one id per line"


def read_ids(path: str | Path) -> list[str]:
    """Return the distinct ids that a file names, in its order.

    Args:
        path: A table with a column ``id`` (.parquet, .csv, .json, .jsonl), or a .txt with one id per line.

    Raises:
        DataError: If the file cannot be read, has no column ``id``, or an id is missing or no text.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint=_HINT)
    if path.suffix not in _READERS:
        raise DataError(
            f"{path}: ids are not read from {path.suffix or 'a file without an ending'}",
            hint=f"known kinds: {', '.join(_READERS)}",
        )
    try:
        ids = _READERS[path.suffix](path)
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


def _parquet(path: Path) -> list[Any]:
    return pl.read_parquet(path, columns=[COLUMN])[COLUMN].to_list()


def _csv(path: Path) -> list[Any]:
    # As text: digits alone would become a number, and lose zeros at the front.
    return pl.read_csv(path, columns=[COLUMN], infer_schema=False)[COLUMN].to_list()


def _json(path: Path) -> list[Any]:
    return _of_rows(json.loads(path.read_text(encoding="utf-8")))


def _jsonl(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as lines:
        return _of_rows([json.loads(line) for line in lines if line.strip()])


def _of_rows(rows: Any) -> list[Any]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of rows with names")
    return [row.get(COLUMN) for row in rows]


def _lines(path: Path) -> list[Any]:
    return path.read_text(encoding="utf-8-sig").split()


_READERS: Mapping[str, Callable[[Path], list[Any]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".txt": _lines,
}
