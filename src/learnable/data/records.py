"""The kinds of files rows live in: one iterator of records for each, and a digest that tells whether one changed."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from learnable.data.formats import FORMATS
from learnable.data.starter import starter_version
from learnable.data.starter_task import STARTERS
from learnable.data.values import kind_of, shown_keys
from learnable.errors import DataError
from learnable.fingerprint import file_digest, fingerprint
from learnable.hub import unreachable

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
}
BATCH_ROWS = 8192

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_FIELD_CHARACTERS = 1 << 30


class Record(NamedTuple):
    """One row as it was read: its line in a text file, and its value or the reason why it has none."""

    line: int | None
    value: Mapping[str, Any] | None
    reason: str | None = None


class CsvRecord(NamedTuple):
    """One record of a CSV file: the line it starts on, its bytes, and its fields or the reason why it has none."""

    line: int
    raw: bytes
    fields: list[str] | None
    reason: str | None


def suffix_of(name: str) -> str | None:
    """Return the known suffix of a file name, such as ``.jsonl.gz``; None if there is none."""
    fitting = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[-max(map(len, fitting)) :] if fitting else None


def base_name(kind: str, path: str) -> str:
    """Return what a source is called in messages and in output files."""
    if kind != "hub":
        return Path(path).name
    return re.sub(r"[^\w.-]+", "-", path.rpartition("/")[2]).strip("-")


def place(name: str, *, row: int, line: int | None) -> str:
    """Return where a row is, for people: ``my.jsonl:17``, or ``my.parquet row 5`` (``row`` is 0-based)."""
    return f"{name} row {row + 1}" if line is None else f"{name}:{line}"


def read_records(kind: str, path: str) -> Iterator[Record]:
    """Yield the rows of a source in order; rows that cannot be parsed come with a reason.

    Raises:
        DataError: If the source as a whole cannot be read.
    """
    with _readable(path):
        yield from KINDS[kind](path)


def digest_of(kind: str, path: str) -> str:
    """Return a hash of the content of a source.

    Raises:
        DataError: If the source cannot be read.
    """
    with _readable(path):
        if kind == "starter":
            return fingerprint([starter_version(), list(STARTERS[path]())])
        if kind == "hub":
            return str(open_hub(path)._fingerprint)
        if kind == "datasets":
            return fingerprint(
                [[file.name, file_digest(file)] for file in sorted(Path(path).glob("*.arrow"))]
            )
        return file_digest(Path(path))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"cannot read {path}: {reason}", hint="check that the file is complete and is what its name says"
        ) from error


def json_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the 1-based number and the bytes of every line that is not blank, without a byte order mark."""
    with _open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            raw = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if raw.strip():
                yield number, raw


def _open_bytes(path: str) -> IO[bytes] | gzip.GzipFile:
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rb")
    return Path(path).open("rb")


def _read_jsonl(path: str) -> Iterator[Record]:
    for number, raw in json_lines(path):
        try:
            value = json.loads(raw.decode())
        except UnicodeDecodeError as error:
            reason = (
                f"not valid UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line"
            )
            yield Record(number, None, reason)
        except json.JSONDecodeError as error:
            yield Record(number, None, f"not valid JSON: {error.msg} at character {error.pos + 1}")
        except (ValueError, RecursionError) as error:
            yield Record(number, None, f"not valid JSON: {error}")
        else:
            yield _object(value, number)


def _object(value: object, line: int | None) -> Record:
    if isinstance(value, Mapping):
        return Record(line, value)
    return Record(line, None, f"a row must be an object with named fields, got {kind_of(value)}")


def json_rows(path: str) -> list[Any]:
    """Return the rows of a JSON file: an array, or an object with one list in it, or a single row.

    Raises:
        DataError: If the file is none of these.
    """
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON: {error}", hint="a file with one object per line is called .jsonl"
        ) from error
    if isinstance(content, list):
        return content
    if isinstance(content, Mapping):
        if any(known.matches(content) for known in FORMATS.values()):
            return [content]
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
    seen = (
        f"an object with the keys {shown_keys(content)}" if isinstance(content, Mapping) else kind_of(content)
    )
    raise DataError(
        f"{path} holds {seen}, not rows", hint="write an array of objects, or one object per line in .jsonl"
    )


def _read_json(path: str) -> Iterator[Record]:
    for value in json_rows(path):
        yield _object(value, None)


def csv_records(path: str) -> Iterator[CsvRecord]:
    """Yield the records of a CSV or TSV file, the header first; blank lines are left out."""
    # The module's limit of 128 KiB for a field is global and too small for documents.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_CHARACTERS))
    pending: list[bytes] = []

    def lines(file: IO[bytes]) -> Iterator[str]:
        for number, line in enumerate(file):
            pending.append(line)
            raw = line if number else line.removeprefix(_BYTE_ORDER_MARK)
            # Bytes that are no UTF-8 pass the parser as they are; the record that holds them is refused later.
            yield raw.decode("utf-8", "surrogateescape")

    with Path(path).open("rb") as file:
        delimiter = "\t" if path.lower().endswith(".tsv") else ","
        reader = csv.reader(lines(file), delimiter=delimiter, strict=True)
        while True:
            start = reader.line_num + 1
            pending.clear()
            fields, reason = None, None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                reason = f"not valid CSV: {error}"
            if fields is None or fields[1:] or any(field.strip() for field in fields):
                yield CsvRecord(start, b"".join(pending), fields, reason)


def csv_header(path: str, record: CsvRecord) -> list[str]:
    """Return the column names.

    Raises:
        DataError: If the first record cannot be a header.
    """
    if record.fields is None:
        raise DataError(f"{path}: the header is {record.reason}", hint="the first line names the columns")
    try:
        record.raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: the header is not valid UTF-8: {error}", hint="save the file as UTF-8"
        ) from error
    twice = sorted({name for name in record.fields if record.fields.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: columns occur twice: {shown_keys(twice)}", hint="give every column its own name"
        )
    return record.fields


def _read_csv(path: str) -> Iterator[Record]:
    records = csv_records(path)
    first = next(records, None)
    if first is None:
        return
    header = csv_header(path, first)
    for record in records:
        if record.fields is None:
            yield Record(record.line, None, record.reason)
        elif len(record.fields) != len(header):
            reason = f"{len(record.fields)} fields, but the header has {len(header)}"
            yield Record(record.line, None, reason)
        else:
            yield _decoded(record, header)


def _decoded(record: CsvRecord, header: list[str]) -> Record:
    try:
        record.raw.decode()
    except UnicodeDecodeError as error:
        return Record(record.line, None, f"not valid UTF-8: byte 0x{record.raw[error.start]:02x}")
    return Record(record.line, dict(zip(header, record.fields or [], strict=True)))


def _read_parquet(path: str) -> Iterator[Record]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from _table_records(batch)


def _table_records(table: pa.Table | pa.RecordBatch) -> Iterator[Record]:
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        if table.num_rows == 1:
            yield Record(None, None, f"not valid UTF-8: {error}")
            return
        for position in range(table.num_rows):
            yield from _table_records(table.slice(position, 1))
    else:
        for row in rows:
            yield Record(None, row)


def open_datasets_folder(path: str) -> Any:
    """Return the dataset that ``save_to_disk`` wrote.

    Raises:
        DataError: If it cannot be loaded, for whatever reason the library gives.
    """
    import datasets

    try:
        return datasets.load_from_disk(path)
    except Exception as error:
        raise DataError(f"cannot read the dataset in {path}: {error}", hint="save it again") from error


def open_hub(path: str) -> Any:
    """Return the split of a dataset on the hub; ``path`` is ``owner/name`` or ``owner/name:split``.

    Raises:
        DataError: If it cannot be loaded, for whatever reason the library gives.
    """
    import datasets

    if why := unreachable():
        raise DataError(f"there is no file {path}, and it cannot be had as a hub dataset: {why}")
    name, _, split = path.partition(":")
    try:
        return datasets.load_dataset(name, split=split or "train")
    except Exception as error:
        raise DataError(
            f"there is no file {path}, and the hub dataset cannot be loaded: {error}",
            hint="check the path or the id; a split is named as owner/name:split",
        ) from error


def _dataset_records(dataset: Any) -> Iterator[Record]:
    for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from _table_records(table)


def _read_datasets_folder(path: str) -> Iterator[Record]:
    return _dataset_records(open_datasets_folder(path))


def _read_hub(path: str) -> Iterator[Record]:
    return _dataset_records(open_hub(path))


def _read_starter(path: str) -> Iterator[Record]:
    return (Record(None, row) for row in STARTERS[path]())


KINDS: dict[str, Callable[[str], Iterator[Record]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
    "csv": _read_csv,
    "datasets": _read_datasets_folder,
    "hub": _read_hub,
    "starter": _read_starter,
}
