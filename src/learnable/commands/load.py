"""``learnable load``: rows in."""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.commands.options import Flat, Output
from learnable.errors import UsageError
from learnable.pools import Pool, height, in_memory
from learnable.runs.files import write_json_lines
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.settings import Reading, told
from learnable.types import Message, Pair
from learnable.visible import visible

HELDOUT = "heldout.jsonl"
FILES_SAID = 10
CHARACTERS = 80
"""Of each text of the example that is shown."""
TURNS_SHOWN = 4


def load(
    data: list[str],
    *,
    reading: Annotated[Reading, Flat] = Reading(),
    holdout: float = 0.0,
    dry_run: bool = False,
    output: Output = "pool",
) -> Outcome:
    """Read rows of any common fine-tuning format into a pool of distinct conversations, or of preference pairs.

    Args:
        data: Files (.jsonl, .json, .csv, .parquet ...), folders and patterns of them, hub ids, `starter`, `starter-task` or
            `starter-task-test`.
        holdout: Share of each source, such as 0.1, to set aside in heldout.jsonl for evaluation; never chosen.
        dry_run: Read the rows, and write nothing that stays.
    """
    if len(data) == 1 and rows.is_pool(Path(data[0])):
        raise UsageError(
            f"{data[0]} was loaded before",
            hint="train and score take it as it is; a recipe loads rows itself: give it the files, with the same options",
        )
    if not 0 <= holdout < 1:
        raise UsageError(
            f"holdout must be at least 0 and below 1, got {holdout}", hint="0.1 sets a tenth aside"
        )
    where = {f"data {i}": _absolute(given) for i, given in enumerate(data)}
    content = {f"content {i}": digest for i, digest in enumerate(rows.digests(data))}
    content |= {
        f"evaluation {i}": digest for i, digest in enumerate(rows.evaluation_digests(reading.avoid or ()))
    }
    told_of = told(reading) | ({"avoid": [*map(_absolute, reading.avoid)]} if reading.avoid else {})
    step = Step(
        verb="load",
        parameters={**where, **told_of, "holdout": holdout},
        inputs=content,
        work=lambda folder: _read(data, reading, holdout, folder),
    )
    if not dry_run:
        return run(step, output)
    if not step.is_done(step.folder(output)):
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        output = str(Path(scratch) / Path(output).name)
    outcome = run(step, output)
    unit = "pairs" if "pairs" in outcome.facts else "examples"
    would = [f"no pass: {outcome.facts[unit]:,} {unit} of {outcome.facts['rows']:,} rows"]
    return replace(outcome, facts={**outcome.facts, "would run": would, "price": []}, price=Price())


def _read(data: list[str], reading: Reading, holdout: float, folder: Path) -> Finished:
    pool = rows.read(data, into=folder, **asdict(reading))
    for line in _understood(pool):
        say(line)
    distinct, aside = len(pool), list[Pair]()
    if holdout:
        pool, held = rows.hold_out(pool, share=holdout)
        write_json_lines(folder / HELDOUT, map(rows.as_row, held))
        aside = [each for each in held if isinstance(each, Pair)]
        rows.save_pool(pool, folder)
        pool = rows.load_pool(folder)
    counts: dict[str, Any] = {"examples": len(pool)}
    if pool.holds_pairs:
        pairs = list(rows.pairs_of(pool))
        counts = rows.about_pairs(pairs)
        for doubt in rows.doubts(pairs, test=aside):
            say(f"warning: {doubt}")
    read, bad = height(pool.ledger), height(pool.ledger.filter(pl.col("id").is_null()))
    avoided = height(rows.in_evaluation(pool.ledger))
    facts = {
        "rows": read,
        **counts,
        "duplicates": read - distinct - avoided - bad,
        "held out": distinct - len(pool),
        "bad rows": bad,
        **({"in the evaluation": avoided, "evaluation": list(reading.avoid)} if reading.avoid else {}),
        "sources": height(pool.conversations.select("source").unique()),
        "on_error": reading.on_error,
    }
    if bad or avoided:
        say(f"{folder / 'rows.parquet'} lists the rows left out, and so will dropped.jsonl of a selection")
    return Finished(facts=facts, identity=rows.pool_identity(pool))


def _absolute(given: str) -> str:
    """Return where a file or folder is; a pattern, hub id or starter set as it was given, and a link by its own name."""
    path = Path(given).expanduser()
    if not path.exists():
        return given
    return str(path.parent.resolve() / path.name if path.is_file() else path.resolve())


def _understood(pool: Pool) -> Iterator[str]:
    """Yield lines for people: for files that were taken for the same, what their columns became, and a conversation."""
    alike: dict[str, list[int]] = {}
    for position, file in enumerate(pool.files):
        if file.understood:
            alike.setdefault(file.understood, []).append(position)
    for said, positions in list(alike.items())[:FILES_SAID]:
        first = pool.files[positions[0]]
        more = f" and {len(positions) - 1:,} more" if len(positions) > 1 else ""
        yield f"{rows.base_name(first.kind, first.path)}{more}: {said}"
        own = _first(pool.ledger, pl.col("file").is_in(positions) & pl.col("reason").is_null())
        frame = _first(pool.conversations, pl.col("id").is_in(own["id"].implode()))
        yield f"  example: {' | '.join(_first_turns(replace(pool, conversations=frame.lazy())))}"
    if len(alike) > FILES_SAID:
        yield f"{len(alike) - FILES_SAID:,} more kinds of files: pool.json of the pool says what they were taken for"


def _first(frame: pl.LazyFrame, condition: pl.Expr) -> pl.DataFrame:
    """Return the first line of a table of a pool that meets a condition, as a table; an empty one where none does."""
    return in_memory(frame.filter(condition).head(1), engine="streaming")


def _first_turns(pool: Pool) -> Iterator[str]:
    """Yield what the first example, or pair, of a pool says, turn by turn."""
    if pool.holds_pairs:
        pair = next(rows.pairs_of(pool))
        turns, answers = pair.prompt, {"chosen": pair.chosen, "rejected": pair.rejected}
    else:
        turns, answers = next(pool.iter_examples()).messages, {}
    yield from map(_turn, turns[:TURNS_SHOWN])
    if rest := len(turns[TURNS_SHOWN:]):
        yield f"({rest} more turns)"
    for side, answer in answers.items():
        yield _turn(answer).replace("assistant", side, 1)


def _turn(message: Message) -> str:
    calls = [f"{call.name}({_shortened(call.arguments)})" for call in message.tool_calls]
    thought = [f"({_shortened(message.reasoning)})"] if message.reasoning else []
    said = [_shortened(message.content)] if message.content else []
    role = message.role if message.trained else f"{message.role}, context only"
    return f"{role}: {' '.join([*thought, *said, *calls])}"


def _shortened(text: str) -> str:
    """Return the beginning of a text, with control characters as what they are called."""
    head = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"
    return visible(head).replace("\n", "\\n").replace("\t", "\\t")
