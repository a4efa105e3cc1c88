"""A pool on disk, and what makes two pools the same."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import xxhash

from learnable.data.pairs import pairs_of
from learnable.errors import DataError
from learnable.pools import Pool, SourceFile, slices
from learnable.runs.files import FrameWriter, write_json, writing_frames
from learnable.runs.identity import fingerprint
from learnable.types import Example, Pair

POOL_FILE, EXAMPLES_FILE, LEDGER_FILE = "pool.json", "examples.parquet", "rows.parquet"
HELD_OUT = "held out for evaluation"
"""Reason in the ledger of a row that was set aside."""

_MISSING_LENGTH = -1


def is_pool(folder: Path) -> bool:
    """Return whether ``save_pool`` wrote this folder."""
    return (folder / POOL_FILE).is_file()


def save_pool(pool: Pool, folder: Path) -> None:
    """Write a pool as ``examples.parquet``, ``rows.parquet`` and ``pool.json``, the last one last."""
    with writing_pool(folder) as (examples, rows):
        for file, table in ((examples, pool.conversations), (rows, pool.ledger)):
            for part in slices(table):
                file.add(part)
    write_pool_files(pool.files, folder)


@contextmanager
def writing_pool(folder: Path) -> Iterator[tuple[FrameWriter, FrameWriter]]:
    """Give what writes the conversations and the ledger of a pool; ``write_pool_files`` has to follow."""
    with (
        writing_frames(folder / EXAMPLES_FILE) as examples,
        writing_frames(folder / LEDGER_FILE) as rows,
    ):
        yield examples, rows


def write_pool_files(files: Sequence[SourceFile], folder: Path) -> None:
    """Write where the rows of a pool came from, which makes its folder one of a pool."""
    write_json(folder / POOL_FILE, {"files": [asdict(file) for file in files]})


def load_pool(folder: Path) -> Pool:
    """Open what ``save_pool`` wrote, its rows still on disk; a ``DataError`` where something is missing or broken."""
    try:
        content = json.loads((folder / POOL_FILE).read_text(encoding="utf-8"))
        files = tuple(SourceFile(**file) for file in content["files"])
        examples, rows = (pl.scan_parquet(folder / name) for name in (EXAMPLES_FILE, LEDGER_FILE))
        for table in (examples, rows):
            table.collect_schema()
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read the pool in {folder}: {error}", hint="load the data again") from error
    return Pool(conversations=examples, ledger=rows, files=files)


def prompt_key(example: Example | Pair, *, draw: str | int) -> str:
    """Return a hash of what stands before the last answer, the same for all answers to one prompt.

    The keys of another ``draw`` are in another order.
    """
    prompt = example.prompt if isinstance(example, Pair) else example.messages[:-1]
    return fingerprint([draw, [message.content for message in prompt]])


def readable(examples: pl.DataFrame) -> pl.DataFrame:
    """Return ``Pool.examples`` for people to read: the text of an answer has its reasoning and calls in it."""
    kind = examples.schema["messages"]
    assert isinstance(kind, pl.List)
    assert isinstance(kind.inner, pl.Struct)
    names = [each.name for each in kind.inner.fields]
    if {*names} == {"role", "content"}:
        return examples
    field = {name: pl.element().struct.field(name) for name in names}
    content = field["content"]
    if "reasoning" in field:
        thought = pl.format("<think>\n{}\n</think>\n\n{}", field["reasoning"], content)
        content = pl.when(field["reasoning"] != "").then(thought).otherwise(content)
    if "tool_calls" in field:
        calling = pl.format("{}\n\ncalls {}", content, field["tool_calls"])
        content = pl.when(field["tool_calls"] != "").then(calling).otherwise(content)
    if "trained" in field:
        content = pl.when(field["trained"]).then(content).otherwise(pl.format("(context only) {}", content))
    turns = pl.struct(field["role"].alias("role"), content.str.strip_chars("\n").alias("content"))
    return examples.with_columns(pl.col("messages").list.eval(turns))


def hold_out(pool: Pool, *, share: float, most: int | None = None) -> tuple[Pool, list[Example] | list[Pair]]:
    """Set a share of each source aside, drawn by a hash of the prompts; all answers to one prompt go together.

    The share, from 0 to 1, is of the distinct prompts of every source, rounded, and at most ``most``. Returned are the pool without the rows
    set aside, which it marks as held out, and their examples or pairs, in the order of the pool.
    """
    keys = [prompt_key(example, draw="held out") for example in each_of(pool)]
    prompts = pl.Series("prompt", keys, dtype=pl.String)
    known = pool.examples.with_columns(prompts)
    place = pl.col("prompt").rank("dense").over("source") - 1
    wanted = (share * pl.col("prompt").n_unique().over("source")).round().clip(upper_bound=most)
    drawn = known.filter(place < wanted)["prompt"]
    # Also where another source asks the same.
    aside = known.filter(pl.col("prompt").is_in(drawn.unique().to_list())).drop("prompt")
    examples = pool.examples.join(aside.select("id"), on="id", how="anti", maintain_order="left")
    first = pl.col("id").is_in(aside["id"].implode()) & pl.col("reason").is_null()
    rows = pool.ledger.with_columns(pl.when(first).then(pl.lit(HELD_OUT)).otherwise("reason").alias("reason"))
    rest = replace(pool, conversations=examples.lazy(), ledger=rows)
    return rest, each_of(replace(pool, conversations=aside.lazy()))


def each_of(pool: Pool) -> list[Example] | list[Pair]:
    """Return what a pool holds, conversations or pairs."""
    return list(pairs_of(pool)) if pool.holds_pairs else list(pool.iter_examples())


def pool_identity(pool: Pool) -> str:
    """Return a hash of the examples and their order, the rows' outcomes and the files' content; never of a path."""
    # A duplicate's reason names the file of the first one; a file's name is no content.
    duplicate = pl.col("id").is_not_null() & pl.col("reason").is_not_null()
    reasons = pool.ledger.select(pl.when(duplicate).then(pl.lit("duplicate")).otherwise("reason"))
    columns = [pool.conversations.select(name) for name in ("id", "source")]
    digests = []
    for column in (*columns, pool.ledger.select("id"), reasons):
        # Its lengths, then its text end to end, so that no two columns share a form.
        digest = xxhash.xxh3_128()
        for part in slices(column):
            lengths = part.to_series().str.len_bytes().cast(pl.Int64).fill_null(_MISSING_LENGTH).to_numpy()
            digest.update(lengths.astype("<i8").tobytes())
        for part in slices(column):
            digest.update("".join(part.to_series().drop_nulls().to_list()).encode())
        digests.append(digest.hexdigest())
    return fingerprint([digests, [[file.digest, file.format] for file in pool.files]])
