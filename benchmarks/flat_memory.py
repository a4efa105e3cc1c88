"""Is the memory of ``learnable load`` and ``learnable score`` the same at any number of rows? Peak of each, by rows.

Loads and scores made-up short rows with a tiny model that is built on the spot; each command runs in a process of its own,
whose highest resident memory is printed, and at the end how much more the most rows take than the fewest. With
``--made-up`` neither the chat template nor the network is asked: rows are read, and tokens and losses are drawn, so that
what is left (windows, batches, the store, formulas, files) can be measured at rows whose passes take days.

    OMP_NUM_THREADS=1 python benchmarks/flat_memory.py --rows 1000000 10000000 --made-up
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from learnable.commands.load import load
from learnable.objects.given import RowRendering
from learnable.runs.price import peak_memory_bytes
from learnable.runs.progress import say
from learnable.settings import Loading
from learnable.types import Example, Rendered

WORDS = pl.Series(
    [
        "red",
        "blue",
        "one",
        "two",
        "cat",
        "dog",
        "bird",
        "fish",
        "tree",
        "house",
        "road",
        "river",
        "song",
        "book",
    ]
)
AT_ONCE = 100_000
TOKENS = (20, 62)
"""Least and most tokens of a made-up row; as many as rendered ones have, 41 on average."""


def write_rows(path: Path, *, n: int, seed: int) -> None:
    """Write n short conversations, no two of them the same."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as out:
        for first in range(0, n, AT_ONCE):
            numbers = pl.Series("number", np.arange(first, min(first + AT_ONCE, n)))
            asked, answered = (_texts(rng, len(numbers)) for _ in range(2))
            frame = pl.DataFrame({"asked": asked, "number": numbers, "output": answered})
            rows = frame.select(pl.format("{} {}?", "asked", "number").alias("instruction"), "output")
            out.write(rows.write_ndjson().encode())


def _texts(rng: np.random.Generator, n: int) -> pl.Series:
    """Return n texts of 2 to 11 words."""
    counts = rng.integers(2, 12, n)
    words = WORDS.gather(rng.integers(0, len(WORDS), int(counts.sum())))
    frame = pl.DataFrame({"text": np.repeat(np.arange(n), counts), "word": words})
    return frame.group_by("text", maintain_order=True).agg(pl.col("word").str.join(" "))["word"]


def make_up() -> None:
    """Draw tokens and losses instead of asking the chat template and the network."""
    from learnable.models import language_model

    rng = np.random.default_rng(0)

    def rendered(own: RowRendering, examples: Sequence[Example]) -> list[Rendered]:
        lengths = rng.integers(*TOKENS, len(examples))
        seen = [
            Rendered(
                id=example.id,
                ids=rng.integers(0, 500, length, dtype=np.int32),
                mask=np.arange(length) > 10,
                truncated=False,
            )
            for example, length in zip(examples, lengths, strict=True)
        ]
        own.left_out.add(seen)
        return seen

    class Drawn(language_model.LanguageModel):
        def measure(
            self, _launch: Any, batches: Sequence[Sequence[Rendered]]
        ) -> Iterator[tuple[int, Sequence[Any]]]:
            for number, batch in enumerate(batches):
                yield number, [rng.gamma(4, 0.5, int(row.mask.sum())).astype(np.float32) for row in batch]

    RowRendering.__call__ = rendered  # type: ignore[assignment, method-assign]
    language_model.LanguageModel = Drawn  # type: ignore[misc]


def step(folder: Path, name: str, *, made_up: bool) -> None:
    """Run a command, and print its seconds, its processor seconds and its highest memory."""
    os.environ["LEARNABLE_CACHE"] = str(folder / "cache")
    started, processor = time.monotonic(), time.process_time()
    if name == "model":
        # In a process of its own: the highest memory of a process begins with that of the one that started it.
        from learnable.testing import tiny_model

        tiny_model(folder / "model")
    elif name == "load":
        load([str(folder / "rows.jsonl")], output=str(folder / "pool"))
    else:
        if made_up:
            make_up()
        from learnable.commands.score import score

        score(
            [str(folder / "pool")],
            model=str(folder / "model"),
            loading=Loading(dtype="float32", device="cpu"),
            store=str(folder / "store"),
            output=str(folder / "scores"),
        )
    print(json.dumps([time.monotonic() - started, time.process_time() - processor, peak_memory_bytes()]))


def main() -> None:
    """Load and score so many rows, and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--steps", nargs="+", choices=["load", "score"], default=["load", "score"])
    parser.add_argument("--made-up", action="store_true", help="draw tokens and losses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder when not given")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(given.folder, given.step, made_up=given.made_up)
        return
    passes = "tokens and losses drawn" if given.made_up else "rendered and measured, float32"
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {passes}\n", flush=True)
    print(
        "| rows | command | seconds | processor seconds | peak MiB |\n|---:|---|---:|---:|---:|", flush=True
    )
    peaks: dict[str, list[float]] = {}
    for rows in sorted(given.rows):
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name)
            _alone(folder, "model", made_up=False)
            write_rows(folder / "rows.jsonl", n=rows, seed=given.seed)
            for command in ("load", "score")[: 1 + ("score" in given.steps)]:
                seconds, processor, peak = _alone(folder, command, made_up=given.made_up)
                say(f"{rows:,} rows, {command}: {seconds:.0f} s")
                if command in given.steps:
                    peaks.setdefault(command, []).append(peak)
                    numbers = f"{seconds:.0f} | {processor:.0f} | {peak / 2**20:.0f}"
                    print(f"| {rows:,} | {command} | {numbers} |", flush=True)
    for command, found in peaks.items():
        print(f"\n{command}: the most rows take {found[-1] / found[0] - 1:+.1%} of the fewest")


def _alone(folder: Path, command: str, *, made_up: bool) -> tuple[float, float, float]:
    words = ["--folder", str(folder), "--step", command, *(["--made-up"] if made_up else [])]
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    seconds, processor, peak = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(processor), float(peak)


if __name__ == "__main__":
    main()
