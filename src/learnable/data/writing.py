"""The chosen rows out again, byte for byte as they came in; and the ledger of the others."""

import json
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path

import polars as pl
import pyarrow as pa

from learnable.data.csv_files import csv_records
from learnable.data.json_files import json_document, json_lines
from learnable.data.records import place
from learnable.data.sources import base_name, digest_of, names_of, read_records, suffix_of
from learnable.data.tables import open_datasets_folder, open_table
from learnable.data.text_files import inner_suffix, writing_bytes
from learnable.errors import DataError
from learnable.names import component
from learnable.pools import Pool, SourceFile, in_memory, slices
from learnable.runs.files import replacing

LEDGER = ("file", "line", "row", "id", "reason")
_LIKE = r"^near-duplicate of (\S{8}) \(cosine "
LEDGER_ROWS = 1 << 17
"""Lines of the ledger that are made at a time."""


def write_rows(pool: Pool, ids: Collection[str], folder: Path) -> list[Path]:
    """Write the chosen rows verbatim, one output for each input with such rows, and return the outputs.

    An output has the name, the kind and the columns of its input, and the rows in the order of the input; a hub
    dataset and the starter set become ``.jsonl``. Of duplicates only the first row is written.

    Raises:
        DataError: If an id is not in the pool, an input is missing or has changed, or the folder cannot be written.
    """
    wanted = pl.DataFrame({"id": list(ids)}, schema={"id": pl.String}).unique()
    usable = pool.ledger.filter(pl.col("reason").is_null())
    chosen = in_memory(usable.join(wanted.lazy(), on="id", how="semi"), engine="streaming")
    if chosen.height != wanted.height:  # one row of each example has no reason
        raise _unknown(pool, wanted)
    rows_of = {file: set(rows) for file, rows in chosen.group_by("file").agg("row").iter_rows()}
    targets = _targets(pool.files, folder)
    for file in sorted(rows_of):
        check_unchanged(pool.files[file])
        hint, target = "choose another folder with -o", targets[file]
        others = [Path(other.path) for other in pool.files if target.exists()]
        if any(other.exists() and target.samefile(other) for other in others):
            raise DataError(f"the output {target} would replace its input", hint=hint)
        if target.is_dir() and not (target / "state.json").is_file():
            raise DataError(f"the output {target} would replace a folder that is no dataset", hint=hint)
    for file, rows in sorted(rows_of.items()):
        with replacing(targets[file]) as part:
            _write(pool.files[file], rows, part)
    return [targets[file] for file in sorted(rows_of)]


def write_dropped(pool: Pool, selection_dropped: pl.DataFrame | None, path: Path) -> int:
    """Write one JSON line for every row that was not kept, in the order of the rows, and return their number.

    A line has ``file``, ``line`` (null where files have no lines), ``row`` (1-based), ``id`` (null for a row that
    could not be read) and ``reason``. ``selection_dropped`` has ``id`` and ``reason`` of the examples not selected.

    Raises:
        DataError: If an id is not in the pool, or the file cannot be written.
    """
    unchosen = pl.DataFrame(schema={"id": pl.String, "why": pl.String})
    if selection_dropped is not None:
        unchosen = _with_places(pool, selection_dropped)
    if not unchosen["id"].is_sorted():
        unchosen = unchosen.sort("id", maintain_order=True)
    names = pl.Series(names_of(pool.files), dtype=pl.String)
    written = found = 0
    with replacing(path) as part, part.open("wb") as out:
        for rows in slices(pool.ledger, LEDGER_ROWS):
            why = _reasons_of(rows["id"], unchosen)
            # One row of each example has no reason of its own.
            found += int((rows["reason"].is_null() & why.is_not_null()).sum())
            rows = rows.with_columns(pl.col("reason").fill_null(why)).drop_nulls("reason")
            told = rows.with_columns(pl.col("row") + 1, file=pl.lit(names.gather(rows["file"])))
            out.write(told.select(LEDGER).write_ndjson().encode())
            written += rows.height
        if found != unchosen["id"].ne_missing(unchosen["id"].shift()).sum():
            raise _unknown(pool, unchosen)
    return written


def _with_places(pool: Pool, dropped: pl.DataFrame) -> pl.DataFrame:
    """Return ``id`` and ``why``; the example that a near-duplicate is like is named by its place too."""
    unchosen = dropped.select("id", why="reason", like=pl.col("reason").str.extract(_LIKE))
    near = unchosen["like"].drop_nulls().unique()
    if near.is_empty():
        return unchosen.select("id", "why")
    meant = pl.col("reason").is_null() & pl.col("id").str.head(8).is_in(near.implode())
    first = in_memory(pool.ledger.filter(meant), engine="streaming")
    files = names_of(pool.files)
    places = {
        str(row["id"])[:8]: place(files[row["file"]], row=row["row"], line=row["line"])
        for row in first.iter_rows(named=True)
    }
    there = pl.col("like").replace_strict(places, default=None, return_dtype=pl.String)
    named = pl.format("near-duplicate of {}, {}", there, pl.col("why").str.strip_prefix("near-duplicate of "))
    return unchosen.select("id", why=pl.coalesce(named, "why"))


def _reasons_of(ids: pl.Series, unchosen: pl.DataFrame) -> pl.Series:
    """Return why examples were not chosen, (n,), null where they were; ``unchosen`` is sorted, and the first of an id counts.

    A search for each id: a join would build a table of all that were not chosen for every few rows.
    """
    if unchosen.is_empty():
        return pl.repeat(None, len(ids), dtype=pl.String, eager=True)
    places = unchosen["id"].search_sorted(ids.fill_null("")).clip(upper_bound=unchosen.height - 1)
    nearest = unchosen[places]
    return nearest["why"].set(nearest["id"].ne_missing(ids), None)


def _unknown(pool: Pool, wanted: pl.DataFrame) -> DataError:
    usable = pool.ledger.filter(pl.col("reason").is_null())
    unknown = in_memory(wanted.lazy().join(usable, on="id", how="anti", maintain_order="left"))
    return DataError(
        f"{unknown.height:,} ids are not in the pool, such as {unknown['id'][0]!r}",
        hint="choose from the data that was scored",
    )


def check_unchanged(file: SourceFile) -> None:
    """Raise a ``DataError`` when an input is no longer what it was when it was read."""
    hint = "load the data again, then repeat the steps after it"
    if file.kind not in ("hub", "starter") and not Path(file.path).exists():
        raise DataError(f"{file.path} has changed since it was read: it is no longer there", hint=hint)
    if digest_of(file) != file.digest:
        raise DataError(f"{file.path} has changed since it was read", hint=hint)


def _targets(files: tuple[SourceFile, ...], folder: Path) -> list[Path]:
    """Return an output path for each input; names that clash, by case alone too, get a number."""
    targets: list[Path] = []
    taken: set[str] = set()
    for file in files:
        name, is_file = base_name(file.kind, file.path), file.kind not in ("hub", "starter", "datasets")
        suffix = (suffix_of(name) or "") if is_file else "" if file.kind == "datasets" else ".jsonl"
        stem = name.removesuffix(suffix) if is_file else name
        numbered = (f"{stem}{f'-{number}' * (number > 1)}{suffix}" for number in count(1))
        candidate = next(candidate for candidate in numbered if candidate.lower() not in taken)
        taken.add(candidate.lower())
        targets.append(folder / component(candidate, f"the rows of {file.path}"))
    return targets


def _write(file: SourceFile, rows: set[int], part: Path) -> None:
    """Write the chosen rows of a source as what it is, and of one that is no file as lines of JSON."""
    kind, path = file.kind, file.path
    if kind == "datasets":
        open_datasets_folder(path).select(sorted(rows)).save_to_disk(str(part))
    elif kind in ("parquet", "arrow"):
        with open_table(kind, path) as (batches, new), new(str(part)) as writer:
            start = 0
            for batch in batches:
                indices = [row - start for row in range(start, start + batch.num_rows) if row in rows]
                if indices:
                    writer.write_batch(batch.take(pa.array(indices)))
                start += batch.num_rows
    else:
        with writing_bytes(part, path if kind in _RAW else ".jsonl") as out:
            out.writelines(_RAW[kind](path, rows) if kind in _RAW else _as_jsonl(file, rows))


def _jsonl(path: str, rows: set[int]) -> Iterator[bytes]:
    for row, (_, raw) in enumerate(json_lines(path)):
        if row in rows and raw is not None:
            yield raw if raw.endswith(b"\n") else raw + b"\n"


def _csv(path: str, rows: set[int]) -> Iterator[bytes]:
    records = csv_records(path)
    yield (header := next(records).raw)
    newline = b"\r\n" if header.endswith(b"\r\n") else b"\n"
    for row, record in enumerate(records):
        if row in rows:
            yield record.raw if record.raw.endswith(b"\n") else record.raw + newline


def _json(path: str, rows: set[int]) -> Iterator[bytes]:
    """Yield an array, an object where the rows have names, or lines where the name of the file says lines."""
    values, keys = json_document(path)
    chosen = [value for row, value in enumerate(values) if row in rows]
    if inner_suffix(path) != ".json":
        text = "\n".join(_text(value) for value in chosen)
    elif keys is not None:
        text = _text({key: values[row] for row, key in enumerate(keys) if row in rows}, indent=2)
    else:
        text = _text(chosen, indent=2)
    yield text.encode() + b"\n"


def _text(value: object, *, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A field that is not read holds half a surrogate pair: only its escape can stand in a file.
        return json.dumps(value, indent=indent)
    return text


_RAW: dict[str, Callable[[str, set[int]], Iterator[bytes]]] = {"jsonl": _jsonl, "json": _json, "csv": _csv}


def _as_jsonl(file: SourceFile, rows: set[int]) -> Iterator[bytes]:
    def as_text(value: object) -> str:
        if isinstance(value, bytes):
            raise DataError(
                "a column holds bytes, which a .jsonl file cannot", hint="save the columns of text as parquet"
            )
        return str(value)

    for row, record in enumerate(read_records(file)):
        if row in rows:
            yield json.dumps(record.value, ensure_ascii=False, default=as_text).encode() + b"\n"
