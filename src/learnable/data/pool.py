"""A pool on disk, and what makes two pools the same."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import xxhash

from learnable.data.pairs import pairs_of
from learnable.errors import DataError
from learnable.runs.files import replacing, write_frame
from learnable.runs.identity import fingerprint
from learnable.types import Example, Pair, Pool, SourceFile

POOL_FILE = "pool.json"
HELD_OUT = "held out for evaluation"
"""Reason in the ledger of a row that was set aside."""

_MISSING_LENGTH = -1


def is_pool(folder: Path) -> bool:
    """Return whether ``save_pool`` wrote this folder."""
    return (folder / POOL_FILE).is_file()


def save_pool(pool: Pool, folder: Path) -> None:
    """Write a pool as ``examples.parquet``, ``rows.parquet`` and ``pool.json``, the last one last."""
    for name, frame in (("examples", pool.examples), ("rows", pool.rows)):
        write_frame(frame, folder / f"{name}.parquet")
    with replacing(folder / POOL_FILE) as part:
        content = {"files": [asdict(file) for file in pool.files]}
        part.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def load_pool(folder: Path, *, conversations: bool = True) -> Pool:
    """Read what ``save_pool`` wrote; a ``DataError`` where something is missing or broken.

    Without ``conversations`` they stay on disk, and ``examples`` has no row: writing chosen rows needs none.
    """
    try:
        content = json.loads((folder / POOL_FILE).read_text(encoding="utf-8"))
        files = tuple(SourceFile(**file) for file in content["files"])
        examples = pl.read_parquet(folder / "examples.parquet", n_rows=None if conversations else 0)
        rows = pl.read_parquet(folder / "rows.parquet")
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read the pool in {folder}: {error}", hint="load the data again") from error
    return Pool(examples=examples, rows=rows, files=files)


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
    keys = [prompt_key(example, draw="held out") for example in _each(pool)]
    prompts = pl.Series("prompt", keys, dtype=pl.String)
    known = pool.examples.with_columns(prompts)
    place = pl.col("prompt").rank("dense").over("source") - 1
    wanted = (share * pl.col("prompt").n_unique().over("source")).round().clip(upper_bound=most)
    drawn = known.filter(place < wanted)["prompt"]
    # Also where another source asks the same.
    aside = known.filter(pl.col("prompt").is_in(drawn.unique().to_list())).drop("prompt")
    examples = pool.examples.join(aside.select("id"), on="id", how="anti", maintain_order="left")
    first = pl.col("id").is_in(aside["id"].to_list()) & pl.col("reason").is_null()
    rows = pool.rows.with_columns(pl.when(first).then(pl.lit(HELD_OUT)).otherwise("reason").alias("reason"))
    return Pool(examples=examples, rows=rows, files=pool.files), _each(replace(pool, examples=aside))


def _each(pool: Pool) -> list[Example] | list[Pair]:
    return list(pairs_of(pool)) if pool.holds_pairs else list(pool.iter_examples())


def pool_identity(pool: Pool) -> str:
    """Return a hash of the examples and their order, the rows' outcomes and the files' content; never of a path."""
    # A duplicate's reason names the file of the first one; a file's name is no content.
    duplicate = pl.col("id").is_not_null() & pl.col("reason").is_not_null()
    reasons = pool.rows.select(pl.when(duplicate).then(pl.lit("duplicate")).otherwise("reason")).to_series()
    columns = [pool.examples["id"], pool.examples["source"], pool.rows["id"], reasons]
    digests = []
    for column in columns:
        # Its lengths, then its text end to end, so that no two columns share a form.
        lengths = column.str.len_bytes().cast(pl.Int64).fill_null(_MISSING_LENGTH).to_numpy()
        digest = xxhash.xxh3_128(lengths.astype("<i8").tobytes())
        digest.update("".join(column.drop_nulls().to_list()).encode())
        digests.append(digest.hexdigest())
    return fingerprint([digests, [[file.digest, file.format] for file in pool.files]])
