"""How long, at which rank, and on how few rows must a model train on a task to find rows of its kind in a pool?

``target_learnability`` and ``target_drop`` compare losses before and after a short training on the rows of the task. Here
that training varies: epochs on ten rows, the rank of LoRA, the number of rows. The pool is 300 short rows, a third of them of
two tasks (shell commands, sums in words). Told is how far the loss of 40 other rows of the task falls, which says when it
overfits, and how well each score tells rows of the task's kind from the others (area under the curve, 0.5 is chance), and
how many of the best 5 % are of its kind.

    python benchmarks/aiming.py --data DIRECTORY

DIRECTORY holds ``train/`` and ``eval/``. A run that is stopped goes on where it was.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from targeted import OWN, Row, prepare

from learnable.experiments.leakage import roc
from learnable.models.language_model import LanguageModel
from learnable.runs.identity import example_id, fingerprint
from learnable.settings import Aim, Tuning
from learnable.training import fine_tune
from learnable.types import Example, Message, ModelRef, Rendered

TASKS = ("tldr", "gsm8k")
OTHERS, TEST_ROWS, LONGEST, BEST = 200, 40, 512, 0.05
USUAL = Aim()


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training on rows of the task."""

    epochs: float = USUAL.epochs
    rank: int = USUAL.rank
    rows: int = 10


TRAININGS = (
    *(Training(epochs=epochs) for epochs in (1, 2, 4, 8, 16)),
    Training(rank=4),
    Training(rank=64),
    Training(rows=3),
    Training(rows=30),
)
"""Fixed before the run."""


def read(path: Path) -> list[Row]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rendered(model: LanguageModel, rows: Sequence[Row]) -> list[Rendered]:
    """Return rows as the model sees them, in their order."""
    examples = []
    for row in rows:
        turns = (
            Message(role="user", content=row["instruction"]),
            Message(role="assistant", content=row["output"]),
        )
        examples.append(Example(id=example_id(turns), messages=turns, source=row.get("source", "")))
    return model.renderer.render(examples, max_length=LONGEST)


def losses(model: LanguageModel, rows: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return nats per response token, (n,)."""
    counts = np.array([int(row.mask[1:].sum()) for row in rows], dtype=np.float64)
    return np.divide(model.nll(rows), counts, dtype=np.float64)


def table(task: str, model: LanguageModel, data: Path, output: Path) -> list[str]:
    """Return what came of one task, as Markdown."""
    pool = read(data / "pool.jsonl")
    others = [row for row in pool if row["source"] not in OWN.values() or row["source"] == "gpteacher"][
        :OTHERS
    ]
    pool = [*others, *(row for row in pool if row["source"] in TASKS)]
    held = [*read(data / f"{task}-target.jsonl"), *read(data / f"{task}-test.jsonl")]
    target, test = held[:-TEST_ROWS], held[-TEST_ROWS:]
    of_kind = np.array([row["source"] == task for row in pool])
    seen, asked = rendered(model, pool), rendered(model, test)
    before, asked_before = losses(model, seen), losses(model, asked)
    lines = [
        f"**{task}**: {len(pool)} rows, {of_kind.mean():.0%} of its kind; the loss of {len(test)} other rows of it is "
        f"{asked_before.mean():.3f}.\n",
        "| rows | epochs | rank | loss of other rows | target_learnability, AUC | of its kind in the best 5 %, % | target_drop, AUC | "
        "of its kind in the best 5 %, % |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for how in TRAININGS:
        folder = output / "trainings" / fingerprint([task, how])[:16]
        tuning = Tuning(epochs=how.epochs, rank=how.rank)
        fine_tune(
            model.ref, rendered(model, target[: how.rows]), folder, tuning=tuning, label=f"{task}, {how}"
        )
        with model.adapter(folder):
            after, asked_after = losses(model, seen), losses(model, asked)
        cells = [f"{how.rows}", f"{how.epochs:g}", f"{how.rank}", f"{asked_after.mean():.3f}"]
        for score in (1 - after / before, before - after):
            best = np.argsort(-score, kind="stable")[: round(BEST * len(score))]
            cells += [f"{roc(score, of_kind).area:.2f}", f"{of_kind[best].mean():.0%}".rstrip("%")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run what is missing and print the tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and eval/")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--output", type=Path, default=Path("runs/aiming"))
    options = parser.parse_args()
    started = time.monotonic()
    data = prepare(options.data, options.output / "data", seed=0)
    model = LanguageModel(ModelRef(name=options.model))
    print(f"{date.today()}, {platform.machine()}, model {options.model}\n")
    for task in TASKS:
        print("\n".join(table(task, model, data, options.output)), "\n", flush=True)
    print(f"{time.monotonic() - started:,.0f} s in this run")


if __name__ == "__main__":
    main()
