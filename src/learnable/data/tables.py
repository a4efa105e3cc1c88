"""Tables of Arrow: Parquet and Arrow files, folders of ``datasets``, and data sets of the hub."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from learnable.data.records import Record, too_large
from learnable.data.values import refuse_repeated
from learnable.errors import DataError
from learnable.hub import unreachable
from learnable.packages import needed

BATCH_ROWS = 8192
BATCH_BYTES = 1 << 26
"""Bytes of a batch that are turned into rows at a time."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[^/]+)?")
_FILE_MAGIC = b"ARROW1"


def hub_set(given: str) -> tuple[str, str | None, str]:
    """Return name, config and split of ``owner/name``, ``owner/name:split`` or ``owner/name:config:split``.

    A colon in the brackets of a slice, as in ``test[:10%]``, separates nothing.
    """
    name, *rest = re.split(r":(?![^\[]*\])", given)
    if len(rest) > 2:
        raise DataError(f"cannot read the hub id {given}", hint="write owner/name:config:split")
    return name, rest[0] if len(rest) == 2 else None, rest[-1] if rest else "train"


def _check_columns(schema: pa.Schema, path: str) -> None:
    """Refuse a table in which columns, or fields of a column, have the same name (``DataError``)."""
    left: list[tuple[str, list[pa.Field]]] = [("columns", list(schema))]
    while left:
        what, fields = left.pop()
        refuse_repeated([field.name for field in fields], f"{path}: {what}")
        for field in fields:
            inner = [field.type.field(at) for at in range(field.type.num_fields)]
            left.append((f"fields of {field.name}", inner))


@contextmanager
def open_table(kind: str, path: str) -> Iterator[tuple[Iterator[pa.RecordBatch], Callable[..., Any]]]:
    """Open a table, and give its batches of at most ``BATCH_ROWS`` rows and what opens a file of its kind for writing.

    An ``arrow`` file is a stream, as ``datasets`` writes it, or a file (Feather).
    """
    with ExitStack() as stack:
        if kind == "parquet":
            file, new = stack.enter_context(pq.ParquetFile(path)), pq.ParquetWriter
            schema, batches = file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS)
        else:
            mapped = stack.enter_context(pa.memory_map(path))
            is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            mapped.seek(0)
            opened = stack.enter_context((pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped))
            whole = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
            starts = ((batch, start) for batch in whole for start in range(0, batch.num_rows, BATCH_ROWS))
            batches = (batch.slice(start, BATCH_ROWS) for batch, start in starts)
            schema, new = opened.schema, pa.ipc.new_file if is_file else pa.ipc.new_stream
        _check_columns(schema, path)
        yield batches, partial(new, schema=schema)


def read_table(kind: str, path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a Parquet or Arrow file, of a folder that ``save_to_disk`` wrote, or of a hub data set."""
    if kind in ("parquet", "arrow"):
        with open_table(kind, path) as (batches, _):
            for batch in batches:
                yield from _records(batch, max_bytes)
    else:
        dataset = open_hub(path) if kind == "hub" else open_datasets_folder(path)
        for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
            yield from _records(table, max_bytes)


def _records(table: pa.Table | pa.RecordBatch, max_bytes: int) -> Iterator[Record]:
    # What a row holds beside its text, such as a picture, does not count: its text is measured when it is read.
    wrong, rows = too_large(None, max_bytes), None
    if table.nbytes <= max(BATCH_BYTES, max_bytes):
        try:
            rows = table.to_pylist()
        except UnicodeDecodeError as error:
            wrong = Record(None, None, f"not valid UTF-8: {error}")
    if rows is not None:
        yield from (Record(None, row) for row in rows)
    elif table.num_rows == 1:
        yield wrong
    else:
        middle = table.num_rows // 2
        yield from _records(table.slice(0, middle), max_bytes)
        yield from _records(table.slice(middle), max_bytes)


def open_datasets_folder(path: str) -> Any:
    """Return the dataset that ``save_to_disk`` wrote; a ``DataError`` where it cannot be loaded."""
    datasets = needed("datasets", by=f"the folder {path}, which save_to_disk wrote,", extra="datasets")
    try:
        return datasets.load_from_disk(path)
    except Exception as error:
        raise DataError(f"cannot read the dataset in {path}: {error}", hint="save it again") from error


def open_hub(path: str) -> Any:
    """Return the split of a dataset on the hub that an id names, see ``hub_set``; a ``DataError`` where it cannot be loaded."""
    if why := unreachable():
        raise DataError(f"there is no file {path}, and it cannot be had as a hub dataset: {why}")
    datasets = needed("datasets", by=f"there is no file {path}, and a dataset of the hub", extra="datasets")
    name, config, split = hub_set(path)
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:
        raise DataError(
            f"there is no file {path}, and the hub dataset cannot be loaded: {error}",
            hint="check the path or the id; a split is named as owner/name:split, one of a config as "
            "owner/name:config:split",
        ) from error
