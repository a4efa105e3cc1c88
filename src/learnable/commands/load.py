"""``learnable load``: rows in."""

import atexit
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from learnable import data as rows
from learnable.commands.options import Flat, Output
from learnable.commands.understood import understood
from learnable.errors import UsageError
from learnable.runs.files import write_json_lines
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.settings import Reading

HELDOUT = "heldout.jsonl"


def load(
    data: list[str],
    *,
    reading: Annotated[Reading, Flat] = Reading(),
    holdout: float = 0.0,
    dry_run: bool = False,
    output: Output = "pool",
) -> Outcome:
    """Read rows of any common fine-tuning format into a pool of distinct conversations.

    Args:
        data: Files (.jsonl, .json, .csv, .parquet ...), folders and patterns of them, hub ids, `starter`, `starter-task` or
            `starter-task-test`.
        reading: How to read rows.
        holdout: Share of each source, such as 0.1, to set aside in heldout.jsonl for evaluation; never chosen.
        dry_run: Read the rows, and write nothing that stays.
        output: Folder to write.
    """
    if len(data) == 1 and rows.is_pool(Path(data[0])):
        raise UsageError(f"{data[0]} was loaded before", hint="give it to train or score as it is")
    if not 0 <= holdout < 1:
        raise UsageError(
            f"holdout must be at least 0 and below 1, got {holdout}", hint="0.1 sets a tenth aside"
        )
    where = {f"data {i}": _absolute(given) for i, given in enumerate(data)}
    content = {f"content {i}": digest for i, digest in enumerate(rows.digests(data))}
    step = Step(
        verb="load",
        parameters={**where, **asdict(reading), "holdout": holdout},
        inputs=content,
        work=lambda folder: _read(data, reading, holdout, folder),
    )
    if not dry_run or step.is_done(step.folder(output)):
        outcome = run(step, output)
    else:
        outcome = run(step, _gone_at_exit() / Path(output).name)
    if not dry_run:
        return outcome
    would = [f"no pass: {outcome.facts['examples']:,} examples of {outcome.facts['rows']:,} rows"]
    return replace(outcome, facts={**outcome.facts, "would run": would, "price": []}, price=Price())


def _gone_at_exit() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _read(data: list[str], reading: Reading, holdout: float, folder: Path) -> Finished:
    """Read the rows into a pool, and set some aside."""
    pool = rows.read(data, **asdict(reading))
    for line in understood(pool):
        say(line)
    distinct = len(pool)
    if holdout:
        pool, aside = rows.hold_out(pool, share=holdout)
        write_json_lines(folder / HELDOUT, map(rows.as_row, aside))
    rows.save_pool(pool, folder)
    bad = pool.rows["id"].null_count()
    facts = {
        "rows": pool.rows.height,
        "examples": len(pool),
        "duplicates": pool.rows.height - distinct - bad,
        "held out": distinct - len(pool),
        "bad rows": bad,
        "sources": pool.examples["source"].n_unique(),
        "on_error": reading.on_error,
    }
    if bad:
        say(f"{folder / 'rows.parquet'} lists the rows left out, and so will dropped.jsonl of a selection")
    return Finished(facts=facts, identity=rows.pool_identity(pool))


def _absolute(given: str) -> str:
    """Return where a file or folder is; a pattern, hub id or starter set as it was given, and a link by its own name."""
    path = Path(given).expanduser()
    if not path.exists():
        return given
    return str(path.parent.resolve() / path.name if path.is_file() else path.resolve())
