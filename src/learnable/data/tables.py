"""Tables of Arrow: Parquet and Arrow files, folders of ``datasets``, and data sets of the hub."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from learnable.data.records import Record, too_large
from learnable.data.values import shown_keys
from learnable.errors import DataError
from learnable.hub import unreachable
from learnable.packages import needed

BATCH_ROWS = 8192
BATCH_BYTES = 1 << 26
"""Bytes of a batch that are turned into rows at a time."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[^/]+)?")
_FILE_MAGIC = b"ARROW1"


class HubSet(NamedTuple):
    """What a hub id names: ``owner/name``, ``owner/name:split`` or ``owner/name:config:split``."""

    name: str
    config: str | None
    split: str

    @classmethod
    def of(cls, given: str) -> "HubSet":
        """Read an id; a colon in the brackets of a slice, as in ``test[:10%]``, separates nothing."""
        name, *rest = re.split(r":(?![^\[]*\])", given)
        if len(rest) > 2:
            raise DataError(f"cannot read the hub id {given}", hint="write owner/name:config:split")
        return cls(name, rest[0] if len(rest) == 2 else None, rest[-1] if rest else "train")


def check_columns(schema: pa.Schema, path: str) -> None:
    """Refuse a table in which a name stands twice.

    Raises:
        DataError: If columns, or fields of a column, have the same name.
    """
    left: list[tuple[str, list[pa.Field]]] = [("columns", list(schema))]
    while left:
        what, fields = left.pop()
        counts = Counter(field.name for field in fields)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise DataError(
                f"{path}: {what} occur twice: {shown_keys(twice)}", hint="give every column its own name"
            )
        for field in fields:
            inner = [field.type.field(at) for at in range(field.type.num_fields)]
            left.append((f"fields of {field.name}", inner))


def read_parquet(path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a Parquet file."""
    with pq.ParquetFile(path) as file:
        check_columns(file.schema_arrow, path)
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from _records(batch, max_bytes)


class ArrowFile(NamedTuple):
    """An open Arrow file: its schema, its batches of at most ``BATCH_ROWS``, and whether they came as a stream."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    is_stream: bool


@contextmanager
def open_arrow(path: str) -> Iterator[ArrowFile]:
    """Open a file in either of the two forms of Arrow: a stream, as ``datasets`` writes it, or a file (Feather)."""
    with pa.memory_map(path) as mapped:
        is_stream = mapped.read(len(_FILE_MAGIC)) != _FILE_MAGIC
        mapped.seek(0)
        if is_stream:
            with pa.ipc.open_stream(mapped) as stream:
                yield ArrowFile(stream.schema, _sliced(stream), is_stream)
        else:
            with pa.ipc.open_file(mapped) as file:
                batches = (file.get_batch(at) for at in range(file.num_record_batches))
                yield ArrowFile(file.schema, _sliced(batches), is_stream)


def _sliced(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def read_arrow(path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of an Arrow file."""
    with open_arrow(path) as file:
        check_columns(file.schema, path)
        for batch in file.batches:
            yield from _records(batch, max_bytes)


def _records(table: pa.Table | pa.RecordBatch, max_bytes: int) -> Iterator[Record]:
    # What a row holds beside its text, such as a picture, does not count: its text is measured when it is read.
    if table.nbytes > max(BATCH_BYTES, max_bytes):
        if table.num_rows > 1:
            yield from _halves(table, max_bytes)
        else:
            yield too_large(None, max_bytes)
        return
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        if table.num_rows == 1:
            yield Record(None, None, f"not valid UTF-8: {error}")
        else:
            yield from _halves(table, max_bytes)
    else:
        for row in rows:
            yield Record(None, row)


def _halves(table: pa.Table | pa.RecordBatch, max_bytes: int) -> Iterator[Record]:
    middle = table.num_rows // 2
    yield from _records(table.slice(0, middle), max_bytes)
    yield from _records(table.slice(middle), max_bytes)


def open_datasets_folder(path: str) -> Any:
    """Return the dataset that ``save_to_disk`` wrote.

    Raises:
        UsageError: If the library is not installed.
        DataError: If it cannot be loaded, for whatever reason the library gives.
    """
    datasets = needed("datasets", by=f"the folder {path}, which save_to_disk wrote,", extra="datasets")
    try:
        return datasets.load_from_disk(path)
    except Exception as error:
        raise DataError(f"cannot read the dataset in {path}: {error}", hint="save it again") from error


def open_hub(path: str) -> Any:
    """Return the split of a dataset on the hub; see ``HubSet`` for what ``path`` may be.

    Raises:
        UsageError: If the library is not installed.
        DataError: If it cannot be loaded, for whatever reason the library gives.
    """
    if why := unreachable():
        raise DataError(f"there is no file {path}, and it cannot be had as a hub dataset: {why}")
    datasets = needed("datasets", by=f"there is no file {path}, and a dataset of the hub", extra="datasets")
    name, config, split = HubSet.of(path)
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:
        raise DataError(
            f"there is no file {path}, and the hub dataset cannot be loaded: {error}",
            hint="check the path or the id; a split is named as owner/name:split, one of a config as "
            "owner/name:config:split",
        ) from error


def _dataset_records(dataset: Any, max_bytes: int) -> Iterator[Record]:
    for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from _records(table, max_bytes)


def read_datasets_folder(path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a folder that ``save_to_disk`` wrote."""
    return _dataset_records(open_datasets_folder(path), max_bytes)


def read_hub(path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a data set on the hub."""
    return _dataset_records(open_hub(path), max_bytes)
