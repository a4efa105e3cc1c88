"""The chosen rows out again, byte for byte as they came in; and the ledger of the others."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from io import BytesIO
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from learnable.data.csv_files import csv_records
from learnable.data.json_files import json_document, json_lines
from learnable.data.sources import base_name, digest_of, names_of, read_records, suffix_of
from learnable.data.tables import BATCH_ROWS, open_arrow, open_datasets_folder
from learnable.data.text_files import inner_suffix, writing_bytes
from learnable.errors import DataError
from learnable.names import component
from learnable.runs.files import replacing
from learnable.types import Pool, SourceFile

LEDGER = ("file", "line", "row", "id", "reason")
LEDGER_ROWS = 1 << 17
"""Lines of the ledger that are made at a time."""


def write_rows(pool: Pool, ids: Collection[str], folder: Path) -> list[Path]:
    """Write the chosen rows verbatim, one output for each input with such rows, and return the outputs.

    An output has the name, the kind and the columns of its input, and the rows in the order of the input; a hub
    dataset and the starter set become ``.jsonl``. Of duplicates only the first row is written.

    Args:
        pool: What the rows were read from.
        ids: Ids of the examples to write, in any order.
        folder: Where the outputs go; made if it is not there.

    Raises:
        DataError: If an id is not in the pool, an input is missing or has changed, or the folder cannot be written.
    """
    wanted = pl.DataFrame({"id": list(ids)}, schema={"id": pl.String}).unique()
    chosen = pool.rows.join(wanted, on="id", how="semi").filter(pl.col("reason").is_null())
    if chosen.height != wanted.height:  # one row of each example has no reason
        raise _unknown(pool, wanted)
    rows_of = {file: set(rows) for file, rows in chosen.group_by("file").agg("row").iter_rows()}
    targets = _targets(pool.files, folder)
    for file in sorted(rows_of):
        check_unchanged(pool.files[file])
        _check_replaceable(targets[file], pool.files)
    for file, rows in sorted(rows_of.items()):
        with replacing(targets[file]) as part:
            _WRITERS[pool.files[file].kind](pool.files[file].path, rows, part)
    return [targets[file] for file in sorted(rows_of)]


def write_dropped(pool: Pool, selection_dropped: pl.DataFrame | None, path: Path) -> int:
    """Write one JSON line for every row that was not kept, in the order of the rows, and return their number.

    A line has ``file``, ``line`` (null where files have no lines), ``row`` (1-based), ``id`` (null for a row that
    could not be read) and ``reason``.

    Args:
        pool: The rows, with unusable ones and duplicates.
        selection_dropped: Columns ``id`` and ``reason`` of the examples that were not selected; None if none were.
        path: The file to write.

    Raises:
        DataError: If an id is not in the pool, or the file cannot be written.
    """
    why = (
        None if selection_dropped is None else _reasons_of(pool, selection_dropped.select("id", why="reason"))
    )
    names = pl.Series(names_of(pool.files), dtype=pl.String)
    written = 0
    with replacing(path) as part, part.open("wb") as out:
        for start in range(0, pool.rows.height, LEDGER_ROWS):
            rows = pool.rows.slice(start, LEDGER_ROWS)
            if why is not None:
                rows = rows.with_columns(pl.col("reason").fill_null(why.slice(start, LEDGER_ROWS)))
            rows = rows.drop_nulls("reason")
            lines = BytesIO()
            rows.select(
                "line", pl.col("row") + 1, "id", "reason", file=pl.lit(names.gather(rows["file"]))
            ).select(LEDGER).write_ndjson(lines)
            out.write(lines.getbuffer())
            written += rows.height
    return written


def _reasons_of(pool: Pool, unchosen: pl.DataFrame) -> pl.Series:
    """Return for each row of the pool why its example was not chosen, null where it was."""
    why = pool.rows.select("id").join(unchosen, on="id", how="left", maintain_order="left")["why"]
    if len(why) != pool.rows.height:  # an id is given twice
        return _reasons_of(pool, unchosen.unique("id", keep="first"))
    if (pool.rows["reason"].is_null() & why.is_not_null()).sum() != unchosen.height:
        raise _unknown(pool, unchosen)  # one row of each example has no reason of its own
    return why


def _unknown(pool: Pool, wanted: pl.DataFrame) -> DataError:
    unknown = wanted.join(pool.rows.filter(pl.col("reason").is_null()), on="id", how="anti")
    return DataError(
        f"{unknown.height:,} ids are not in the pool, such as {unknown['id'][0]!r}",
        hint="choose from the data that was scored",
    )


def check_unchanged(file: SourceFile) -> None:
    """Raise a ``DataError`` when an input is no longer what it was when it was read."""
    hint = "load the data again, then repeat the steps after it"
    if file.kind not in ("hub", "starter") and not Path(file.path).exists():
        raise DataError(f"{file.path} has changed since it was read: it is no longer there", hint=hint)
    if digest_of(file.kind, file.path) != file.digest:
        raise DataError(f"{file.path} has changed since it was read", hint=hint)


def _check_replaceable(target: Path, files: tuple[SourceFile, ...]) -> None:
    hint = "choose another folder with -o"
    if any(Path(file.path).exists() and target.exists() and target.samefile(file.path) for file in files):
        raise DataError(f"the output {target} would replace its input", hint=hint)
    if target.is_dir() and not (target / "state.json").is_file():
        raise DataError(f"the output {target} would replace a folder that is no dataset", hint=hint)


def _targets(files: tuple[SourceFile, ...], folder: Path) -> list[Path]:
    """Return an output path for each input; names that clash, by case alone too, get a number."""
    targets: list[Path] = []
    taken: set[str] = set()
    for file in files:
        name = base_name(file.kind, file.path)
        suffix = ".jsonl" if file.kind in ("hub", "starter") else suffix_of(name) or ""
        stem = name if file.kind in ("hub", "starter", "datasets") else name.removesuffix(suffix)
        suffix = "" if file.kind == "datasets" else suffix
        candidate, number = f"{stem}{suffix}", 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{stem}-{number}{suffix}"
        taken.add(candidate.lower())
        targets.append(folder / component(candidate, f"the rows of {file.path}"))
    return targets


def _write_jsonl(path: str, rows: set[int], part: Path) -> None:
    with writing_bytes(part, path) as out:
        for row, (_, raw) in enumerate(json_lines(path)):
            if row in rows and raw is not None:
                out.write(raw if raw.endswith(b"\n") else raw + b"\n")


def _write_csv(path: str, rows: set[int], part: Path) -> None:
    records = csv_records(path)
    header = next(records).raw
    newline = b"\r\n" if header.endswith(b"\r\n") else b"\n"
    with writing_bytes(part, path) as out:
        out.write(header)
        for row, record in enumerate(records):
            if row in rows:
                out.write(record.raw if record.raw.endswith(b"\n") else record.raw + newline)


def _write_json(path: str, rows: set[int], part: Path) -> None:
    """Write an array, an object where the rows have names, or lines where the name of the file says lines."""
    values, keys = json_document(path)
    chosen = [value for row, value in enumerate(values) if row in rows]
    if inner_suffix(path) != ".json":
        text = "\n".join(_json(value) for value in chosen)
    elif keys is not None:
        named = {key: values[row] for row, key in enumerate(keys) if row in rows}
        text = _json(named, indent=2)
    else:
        text = _json(chosen, indent=2)
    with writing_bytes(part, path) as out:
        out.write(text.encode() + b"\n")


def _json(value: object, *, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A field that is not read holds half a surrogate pair: only its escape can stand in a file.
        return json.dumps(value, indent=indent)
    return text


def _write_parquet(path: str, rows: set[int], part: Path) -> None:
    with pq.ParquetFile(path) as file, pq.ParquetWriter(part, file.schema_arrow) as writer:
        for batch in _chosen(file.iter_batches(batch_size=BATCH_ROWS), rows):
            writer.write_batch(batch)


def _write_arrow(path: str, rows: set[int], part: Path) -> None:
    with open_arrow(path) as file:
        new = pa.ipc.new_stream if file.is_stream else pa.ipc.new_file
        with new(str(part), file.schema) as writer:
            for batch in _chosen(file.batches, rows):
                writer.write_batch(batch)


def _chosen(batches: Iterable[pa.RecordBatch], rows: set[int]) -> Iterator[pa.RecordBatch]:
    """Yield the chosen rows of each batch that has some."""
    start = 0
    for batch in batches:
        indices = [row - start for row in range(start, start + batch.num_rows) if row in rows]
        if indices:
            yield batch.take(pa.array(indices))
        start += batch.num_rows


def _write_datasets_folder(path: str, rows: set[int], part: Path) -> None:
    open_datasets_folder(path).select(sorted(rows)).save_to_disk(str(part))


def _write_as_jsonl(kind: str) -> Callable[[str, set[int], Path], None]:
    def write(path: str, rows: set[int], part: Path) -> None:
        with part.open("w", encoding="utf-8") as out:
            for row, record in enumerate(read_records(kind, path)):
                if row in rows:
                    out.write(json.dumps(record.value, ensure_ascii=False, default=_as_text) + "\n")

    return write


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        raise DataError(
            "a column holds bytes, which a .jsonl file cannot", hint="save the columns of text as parquet"
        )
    return str(value)


_WRITERS: dict[str, Callable[[str, set[int], Path], None]] = {
    "jsonl": _write_jsonl,
    "json": _write_json,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
    "csv": _write_csv,
    "datasets": _write_datasets_folder,
    "hub": _write_as_jsonl("hub"),
    "starter": _write_as_jsonl("starter"),
}
