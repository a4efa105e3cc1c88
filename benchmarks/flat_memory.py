"""Does scoring hold its memory flat? Resident memory of ``learnable score``, by the share of the rows that are measured.

Scores made-up short rows with a tiny model that is built on the spot, and looks at the resident memory of the process
after every batch. What rows take before the first of them is measured (conversations, tokens) is no growth.

    OMP_NUM_THREADS=1 python benchmarks/flat_memory.py
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from learnable.commands.score import score
from learnable.runs.progress import say
from learnable.testing import tiny_model

WORDS = (
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
)
SETTLED = 0.2
"""Share of the rows after which memory may no longer grow."""


def write_rows(path: Path, *, n: int, seed: int) -> None:
    """Write n short conversations, no two of them the same."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as out:
        for number in range(n):
            asked, answered = (" ".join(rng.choice(WORDS, size=rng.integers(2, 12))) for _ in range(2))
            out.write(json.dumps({"instruction": f"{asked} {number}?", "output": answered}) + "\n")


def watch(samples: list[tuple[int, int]]) -> None:
    """Note rows measured so far, and resident bytes, whenever a model is done with a batch."""
    from learnable.models import language_model

    process = psutil.Process()

    class Watched(language_model.LanguageModel):
        def measure(self, *given: Any, **named: Any) -> Iterator[tuple[int, Any]]:
            for number, values in super().measure(*given, **named):
                samples.append((samples[-1][0] + len(values), process.memory_info().rss))
                yield number, values

    samples.append((0, process.memory_info().rss))
    language_model.LanguageModel = Watched  # type: ignore[misc]


def main() -> None:
    """Score the rows and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    samples: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        os.environ["LEARNABLE_CACHE"] = str(here / "cache")
        model = tiny_model(here / "model")
        write_rows(here / "rows.jsonl", n=given.rows, seed=given.seed)
        watch(samples)
        from learnable.settings import Loading

        score(
            [str(here / "rows.jsonl")],
            model=str(model),
            loading=Loading(dtype=given.dtype, device="cpu"),
            store=str(here / "store"),
            output=str(here / "scores"),
        )
    say(f"{len(samples):,} looks")
    _print(given, np.array(samples[1:]))


def _print(given: argparse.Namespace, samples: np.ndarray) -> None:
    measured, resident = samples[:, 0], samples[:, 1] / 2**20  # both (batches,)
    total = measured[-1]
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {total:,} rows, {given.dtype}\n")
    print("| rows measured | resident MiB | highest so far |\n|---:|---:|---:|")
    print(f"| first batch | {resident[0]:.0f} | {resident[0]:.0f} |")
    for tenth in range(1, 11):
        last = int(np.searchsorted(measured, total * tenth / 10))
        print(f"| {tenth * 10} % | {resident[last]:.0f} | {resident[: last + 1].max():.0f} |")
    settled = measured <= total * SETTLED
    growth = resident[~settled].max() - resident[settled].max()
    print(f"\nGrowth of the highest from {SETTLED:.0%} to 100 %: {max(growth, 0):.0f} MiB")


if __name__ == "__main__":
    main()
