"""What do the cheap parts cost when a pool is large? Seconds and memory of store, scorers and selections, by rows.

Makes up a pool (files, loaded rows, scores, measurements in many parts, and a table of losses from elsewhere), then runs
each step in a process of its own and prints one table: seconds of the step, processor seconds of all its threads (which
tell more on a busy machine), and the highest resident memory of its process. The conversations are short and alike, about 250 bytes each in their file; nothing that is timed reads them, but
for the file itself, from which the chosen rows are copied. No model.

    OMP_NUM_THREADS=1 python benchmarks/scale.py
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from learnable.commands.select import Selecting, select
from learnable.runs.identity import file_digest
from learnable.runs.price import peak_memory_bytes
from learnable.runs.progress import say
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.scorers import SCORERS
from learnable.spec import build
from learnable.types import Measure

CHUNK, SOURCES = 500_000, 20
NLL = Measure(kind="nll", model="made up", parameters={"max_length": 2_048})
ANSWER = "Water boils at a lower temperature where the air is thin, which is why it takes longer to cook in the mountains."
SELECTIONS: Mapping[str, dict[str, Any]] = {
    "1 %": {"budget": "1%"},
    "1 %, equal share of each source": {"budget": "1%", "per_source": "equal"},
    "2 %, equal share of each source (second budget)": {"budget": "2%", "per_source": "equal"},
    "1 %, proportional": {"budget": "1%", "per_source": "proportional"},
    "3 tokens a row, equal share": {"budget": "{tokens}tokens", "per_source": "equal"},
    "1 %, equal share, with a condition": {
        "budget": "1%",
        "per_source": "equal",
        "where": "loss_before > 0.5 AND tokens < 400",
    },
    "1 % at random": {"budget": "1%", "selector": "random"},
    "1 % in the middle": {"budget": "1%", "selector": "middle"},
}


def hexadecimal(rng: np.random.Generator, n: int) -> pl.Series:
    """Return n ids of 32 digits, as examples have."""
    digits = pa.py_buffer(rng.bytes(16 * n).hex().encode())
    offsets = pa.py_buffer(np.arange(0, 32 * n + 1, 32, dtype=np.int64))
    return pl.Series("id", pa.Array.from_buffers(pa.large_string(), n, [None, offsets, digits]))


def chunk(first: int, n: int, *, seed: int) -> pl.DataFrame:
    """Return n rows of a pool from number ``first`` on: identity, losses that tie now and then, and a conversation."""
    rng = np.random.default_rng([seed, first])
    before = rng.gamma(4, 0.5, n).astype(np.float32)
    after = (before * rng.uniform(0.5, 1.05, n)).astype(np.float32)
    undefined: NDArray[np.bool_] = rng.random(n) < 0.001
    before[undefined] = after[undefined] = np.nan
    response = rng.integers(1, 400, n)
    return pl.DataFrame(
        {
            "id": hexadecimal(rng, n),
            "source": pl.Series([f"source-{i:02d}" for i in range(SOURCES)]).gather(
                np.minimum(rng.geometric(0.2, n) - 1, SOURCES - 1)
            ),
            "tokens": response + rng.integers(10, 200, n),
            "response_tokens": response,
            "truncated": np.zeros(n, dtype=np.bool_),
            "undefined": pl.Series(["the prompt fills the length limit", None]).gather(
                np.where(undefined, 0, 1)
            ),
            "loss_before": before,
            "loss_after": after,
            "learnability": np.round((before - after) / before, 5),
            "row": np.arange(first, first + n),
        }
    ).with_columns(question=pl.format("How long does it take to cook dish number {} up there?", "row"))


class Growing:
    """A parquet file that is written chunk by chunk."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._writer: pq.ParquetWriter | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows."""
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._stack.enter_context(
                pq.ParquetWriter(self._path, table.schema, compression="zstd")
            )
        self._writer.write_table(table)


def generate(folder: Path, *, n: int, parts: int, seed: int) -> None:
    """Write everything that is measured on, never more than a chunk of it in memory."""

    def scored(_: Path) -> Finished:
        _write(folder, n=n, parts=parts, seed=seed)
        return Finished(facts={"lowest first": [], "max score": {}})

    def loaded(pool: Path) -> Finished:
        links = {"pool": pool}
        step = Step(verb="score", parameters={"n": n, "seed": seed}, links=links, work=scored)
        run(step, folder / "scores")
        return Finished(facts={"on_error": "raise"})

    run(Step(verb="load", parameters={"n": n, "seed": seed}, work=loaded), folder / "pool")


def _write(folder: Path, *, n: int, parts: int, seed: int) -> None:
    names = ("pool/examples", "pool/rows", "scores/scores", "losses")
    number = pl.col("row").cast(pl.Int64)
    answer = pl.lit(ANSWER).alias("content")
    asked = pl.struct(role=pl.lit("user"), content="question")
    turns = pl.concat_list(asked, pl.struct(pl.lit("assistant").alias("role"), answer))
    store, part_rows = Store(folder / "store"), max(n // parts, 1)
    with ExitStack() as stack:
        files = {name: Growing(folder / f"{name}.parquet", stack) for name in names}
        text = stack.enter_context((folder / "made.jsonl").open("wb"))
        for first in range(0, n, CHUNK):
            frame = chunk(first, min(CHUNK, n - first), seed=seed)
            files["pool/examples"].add(frame.select("id", "source", messages=turns))
            rows = {"file": pl.lit(0, pl.Int64), "row": number, "line": number + 1}
            files["pool/rows"].add(frame.select(**rows, id="id", reason=pl.lit(None, pl.String)))
            files["scores/scores"].add(frame.drop("row", "question"))
            table = frame.select(
                "id", "source", "tokens", "response_tokens", first="loss_before", last="loss_after"
            )
            files["losses"].add(table.with_columns(question=frame["question"], answer=pl.lit(ANSWER)))
            text.write(frame.select(messages=turns).write_ndjson().encode())
            sums = frame.select("id", nll=pl.col("loss_before").cast(pl.Float64) * pl.col("response_tokens"))
            for part in sums.iter_slices(part_rows):
                store.write(NLL, part)
    path = folder / "made.jsonl"
    made = {"path": str(path), "kind": "jsonl", "format": "messages", "source": "made"}
    content = {"files": [made | {"digest": file_digest(path)}]}
    (folder / "pool" / "pool.json").write_text(json.dumps(content), encoding="utf-8")


def stored(folder: Path, *, reading: bool) -> Callable[[], object]:
    """Return a look into the store for all rows, in another order than they were written."""
    ids = pl.read_parquet(folder / "scores" / "scores.parquet", columns=["id"])["id"]
    ids, store = ids.shuffle(seed=1), Store(folder / "store")
    if reading:
        return lambda: store.read(NLL, ids)
    return lambda: store.missing(NLL, ids)


def scoring(folder: Path, name: str) -> Callable[[], object]:
    """Return a call of a scorer on all rows."""
    scorer = build("scorer", name, SCORERS)
    frame = pl.read_parquet(folder / "scores" / "scores.parquet", columns=list(scorer.needs))
    return lambda: scorer(frame)


def selecting(folder: Path, source: str, given: dict[str, Any]) -> Callable[[], object]:
    """Return a selection, from a folder of scores or from a table of losses."""
    losses: dict[str, Any] = {"before": "first", "after": "last"} if source.endswith(".parquet") else {}
    losses |= {"budget": given["budget"], "output": str(folder / "selection")}
    choosing = Selecting(**{name: value for name, value in given.items() if name != "budget"})
    return lambda: select(str(folder / source), choosing=choosing, **losses)


def steps(folder: Path, n: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """Return by name what makes a step ready and gives back what is timed."""
    lists = {"token_losses_before", "token_losses_alone", "loss_alone"}
    names = [name for name in SCORERS if not lists & set(build("scorer", name, SCORERS).needs)]
    ready: dict[str, Callable[[], Callable[[], object]]] = {
        "store: what is missing": lambda: stored(folder, reading=False),
        "store: read": lambda: stored(folder, reading=True),
    }
    ready |= {f"score: {name}": lambda name=name: scoring(folder, name) for name in names}  # type: ignore[misc]
    for kind, source in (("scores", "scores"), ("table", "losses.parquet")):
        for label, given in SELECTIONS.items():
            filled = given | {"budget": given["budget"].format(tokens=3 * n)}
            if kind == "scores" or "equal" in label:
                ready[f"select from {kind}: {label}"] = (
                    lambda source=source, filled=filled: selecting(folder, source, filled)  # type: ignore[misc]
                )
    return ready


def alone(arguments: list[str]) -> tuple[float, float, float]:
    """Return seconds, processor seconds and highest memory in GiB of a step that has a process to itself."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, processor, peak = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(processor), float(peak) / 2**30


def main() -> None:
    """Make up the pool, run the steps, and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--parts", type=int, default=1_000, help="of the store")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="keep what is made up here, and take it from here next time"
    )
    parser.add_argument("--only", default="", help="steps whose name has this in it")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        _step(given)
        return
    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        common = ["--rows", str(given.rows), "--parts", str(given.parts), "--seed", str(given.seed)]
        common += ["--folder", str(folder), "--step"]
        results = {}
        if not (folder / "scores" / "step.json").is_file():
            results["(generate all this)"] = alone([*common, "generate"])
        for name in steps(folder, given.rows):
            if given.only in name:
                results[name] = alone([*common, name])
                say(f"{name}: {results[name][0]:.1f} s, {results[name][2]:.2f} GiB")
                shutil.rmtree(folder / "selection", ignore_errors=True)
        _print(given, results, (folder / "made.jsonl").stat().st_size)


def _step(given: argparse.Namespace) -> None:
    def making() -> None:
        generate(given.folder, n=given.rows, parts=given.parts, seed=given.seed)

    work = making if given.step == "generate" else steps(given.folder, given.rows)[given.step]()
    started, processor = time.monotonic(), time.process_time()
    work()
    print(json.dumps([time.monotonic() - started, time.process_time() - processor, peak_memory_bytes()]))


def _print(
    given: argparse.Namespace, results: Mapping[str, tuple[float, float, float]], size_bytes: int
) -> None:
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
    )
    print(
        f"polars {pl.__version__}; {given.parts:,} parts in the store, {size_bytes / 2**30:.1f} GiB of text\n"
    )
    print("| rows | step | seconds | processor seconds | peak GiB |\n|---:|---|---:|---:|---:|")
    for name, (seconds, processor, peak) in results.items():
        print(f"| {given.rows:,} | {name} | {seconds:.1f} | {processor:.1f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
