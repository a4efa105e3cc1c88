"""``learnable load``: rows in."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import polars as pl

from learnable import data as rows
from learnable.errors import UsageError
from learnable.progress import say
from learnable.steps import Outcome, Step
from learnable.types import Reading
from learnable.verbs.options import Flat, Output


def load(
    data: list[str], *, reading: Annotated[Reading, Flat] = Reading(), output: Output = "pool"
) -> Outcome:
    """Read rows of any common fine-tuning format into a pool of distinct conversations.

    Args:
        data: Files (.jsonl, .json, .parquet, .csv), folders saved by `datasets`, hub ids, or `starter`.
        reading: How to read rows.
        output: Folder to write.
    """
    started = time.monotonic()
    if len(data) == 1 and rows.is_pool(Path(data[0])):
        raise UsageError(f"{data[0]} was loaded before", hint="give it to train or score as it is")
    where = {
        f"data {i}": str(Path(given).resolve()) if Path(given).exists() else given
        for i, given in enumerate(data)
    }
    content = {f"content {i}": digest for i, digest in enumerate(rows.digests(data))}
    step = Step(verb="load", parameters={**where, **asdict(reading)}, inputs=content)
    folder = step.folder(output)
    if done := step.begin(folder):
        return done
    pool = rows.read(
        data, format=reading.format, on_error=reading.on_error, source_column=reading.source_column
    )
    rows.save_pool(pool, folder)
    bad = pool.rows.filter(pl.col("id").is_null()).height
    facts = {
        "rows": pool.rows.height,
        "examples": len(pool),
        "duplicates": pool.rows.height - len(pool) - bad,
        "bad rows": bad,
        "sources": pool.examples["source"].n_unique(),
        "on_error": reading.on_error,
    }
    if bad:
        say(
            f"{bad:,} of {pool.rows.height:,} rows cannot be used; dropped.jsonl of the selection will say why"
        )
    return step.finish(folder, facts=facts, started=started, identity=rows.pool_identity(pool))
