"""Do a model's own answers get more out of demonstrations? A toy with a known answer, then shell commands, at equal training tokens.

The toy: two answers, demonstrations 0.8 and 0.2, a start of 0.5 and 0.5, gradient descent on the expected loss. The end of each
loss stands beside what the algebra says. Then ``learnable run irft`` on 200 rows of tldr_nl2cmd (a tool and what is to be
done; the answer is a command of some ten tokens), 60 others held out: a start by plain fine-tuning, plain fine-tuning that
goes on, SPIN, and IRFT in three stages, all on as many tokens, three seeds; ``--losses sigmoid linear`` does it for both. Last the
explicit reward, ``learnable run rft`` on the first 100 of these rows, 30 steps of 8 answers; ``--no-rft`` leaves it out. A run
that is stopped goes on where it was.

    python benchmarks/demonstrations.py --data DIRECTORY

DIRECTORY holds ``train/tldr_nl2cmd.parquet``.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import polars as pl
import torch

from learnable.commands.imitate import Imitating, Loss, StageTuning
from learnable.commands.reinforce import Rewarding
from learnable.objectives import PREFERENCES, LinearMargin, Objective
from learnable.recipes import Run, irft, rft
from learnable.recipes.irft import StartTuning
from learnable.runs.identity import fingerprint
from learnable.settings import Loading, Tuning

DEMONSTRATIONS, HELDOUT, NEW_TOKENS, STAGES = 200, 60, 32, 3
REWARDED, STEPS, ANSWER_TOKENS = 100, 30, 24
DATA = (0.8, 0.2)
TOY = (
    ("linear", 1.0, True, 0.8),
    ("linear", 1.0, False, 1.0),
    ("sigmoid", 1.0, False, 0.8),
    ("sigmoid", 0.5, False, 0.8**2 / (0.8**2 + 0.2**2)),
)
"""Loss, beta, whether own answers are fresh at each step or those of the start, and the share of the first answer at the end."""
LOSSES: Sequence[Loss] = ("sigmoid", "linear")


def toy_end(loss: str, *, beta: float, fresh: bool, steps: int = 4_000, rate: float = 2.0) -> float:
    """Return the probability of the first of two answers after descent on the expected loss."""
    objective: Objective = LinearMargin(beta=beta) if loss == "linear" else PREFERENCES[loss](beta=beta)
    data, start = torch.tensor(DATA, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    pairs = [(one, two) for one in range(2) for two in range(2)]
    logits = start.clone().requires_grad_()
    for _ in range(steps):
        before = logits.detach() if fresh else start
        own, reference = before.softmax(0), -before.log_softmax(0)
        nll = -logits.log_softmax(0)
        losses = [
            objective(nll[list(pair)][None], {"reference_nll": reference[list(pair)][None]}) for pair in pairs
        ]
        expected = torch.stack(
            [data[one] * own[two] * each for (one, two), each in zip(pairs, losses, strict=True)]
        )
        (slope,) = torch.autograd.grad(expected.sum(), logits)
        logits = (logits - rate * slope).detach().requires_grad_()
    return float(logits.detach().softmax(0)[0])


def toy_table() -> list[str]:
    """Return the ends of the toy beside those that the algebra gives, as Markdown."""
    lines = [
        "| loss | beta | own answers | end | by the algebra |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for loss, beta, fresh, known in TOY:
        end = toy_end(loss, beta=beta, fresh=fresh)
        drawn = "fresh at each step" if fresh else "of the start"
        lines.append(f"| {loss} | {beta:g} | {drawn} | {end:.4f} | {known:.4f} |")
    return lines


def prepare(table: Path, path: Path, *, rows: int) -> Path:
    """Write commands and what they do as prompts and completions, in an order that depends on the rows alone."""
    found = dict[str, str]()
    for row in pl.read_parquet(table).iter_rows(named=True):
        prompt = f"Write the shell command, with {row['tool']}: {row['instruction']}"
        if len(prompt) + len(row["output"]) <= 200:
            found.setdefault(prompt, row["output"])
    ordered = sorted(found.items(), key=lambda each: fingerprint(["demonstrations", *each]))[:rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({"prompt": one, "completion": two}) + "\n" for one, two in ordered),
        encoding="utf-8",
    )
    return path


def shown(folder: Path) -> list[str]:
    """Return the table of one run, as Markdown: values with their differences, tokens, and distances."""
    table, cost = (pl.read_parquet(folder / f"{name}.parquet") for name in ("table", "cost"))
    distance = pl.read_parquet(folder / "distance.parquet").group_by("arm").agg(pl.col("kl_nats").mean())
    kl, costs = dict(distance.iter_rows()), {row["arm"]: row for row in cost.to_dicts()}
    evaluations = table["evaluation"].unique(maintain_order=True).to_list()
    lines = [
        f"| arm | {' | '.join(evaluations)} | KL, nats per token | trained tokens | generated tokens | s |",
        f"| --- |{' ---: |' * (len(evaluations) + 4)}",
    ]
    for arm, own in costs.items():
        cells = [
            _cell(table.filter(evaluation=evaluation, arm=arm).row(0, named=True))
            for evaluation in evaluations
        ]
        took = f"{own['tokens']:,.0f} | {own['generated_tokens']:,.0f} | {own['seconds']:,.0f}"
        lines.append(f"| {arm} | {' | '.join(cells)} | {kl[arm]:.3f} | {took} |")
    stages = pl.read_parquet(folder / "stages.parquet")
    means = stages.group_by("arm", "stage", maintain_order=True).agg(
        pl.col("pairs", "cut_off", "equal").mean()
    )
    for row in means.iter_rows(named=True):
        dropped = f"{row['cut_off']:.0f} cut off, {row['equal']:.0f} equal"
        lines.append(
            f"\n{row['arm']}, stage {row['stage']}: {row['pairs']:.0f} pairs, {dropped}, means over seeds."
        )
    return lines


def _cell(line: dict[str, float]) -> str:
    """Write a value, and its difference to the baseline with the interval."""
    value = f"{line['value']:.3f}"
    if line["difference"] is None or not math.isfinite(line["low"]):
        return value
    return f"{value} ({line['difference']:+.3f}: {line['low']:+.3f} to {line['high']:+.3f})"


def imitated(rows: Path, loss: Loss, options: argparse.Namespace) -> Path:
    """Run the recipe with one loss, and return the folder of its tables."""
    outcomes = irft(
        [str(rows)],
        model=options.model,
        imitating=Imitating(stages=STAGES, loss=loss, new_tokens=NEW_TOKENS, seeds=options.seeds),
        holdout=HELDOUT / (DEMONSTRATIONS + HELDOUT),
        sft=StartTuning(),
        tuning=StageTuning(),
        loading=Loading(),
        run=Run(output=str(options.output)),
    )
    return outcomes["imitation"].folder


def rewarded(rows: Path, options: argparse.Namespace) -> list[str]:
    """Run the recipe with a reward model, and return its table, as Markdown."""
    outcomes = rft(
        [str(rows)],
        model=options.model,
        rewarding=Rewarding(steps=3 if options.quick else STEPS, new_tokens=ANSWER_TOKENS),
        holdout=0.3,
        reward=Tuning(epochs=2.0),
        loading=Loading(),
        run=Run(output=str(options.output)),
    )
    lines = [
        "| pairs | held-out demonstrations above own answers | mean reward before | after | KL, nats per token |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in pl.read_parquet(outcomes["policy"].folder / "rounds.parquet").iter_rows(named=True):
        told = "none" if row["accuracy"] is None else f"{row['accuracy']:.3f} of {row['judged']}"
        figures = f"{row['reward_before']:.3f} | {row['reward_after']:.3f} | {row['kl_nats']:.3f}"
        lines.append(f"| {row['pairs']} | {told} | {figures} |")
    return lines


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["sigmoid"])
    parser.add_argument("--rft", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, to try the script")
    parser.add_argument("--output", type=Path, default=Path("runs/demonstrations"))
    options = parser.parse_args()
    started = time.monotonic()
    print(f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}\n")
    print("\n".join(toy_table()), flush=True)
    count = (DEMONSTRATIONS + HELDOUT) // (10 if options.quick else 1)
    rows = prepare(
        options.data / "train" / "tldr_nl2cmd.parquet", options.output / f"rows-{count}.jsonl", rows=count
    )
    for loss in options.losses:
        folder = imitated(rows, loss, options)
        print(f"\n{loss}, {count} rows, {options.seeds} seeds, model {options.model}\n")
        print("\n".join(shown(folder)), flush=True)
    if options.rft:
        count = REWARDED // (5 if options.quick else 1)
        table = options.data / "train" / "tldr_nl2cmd.parquet"
        few = prepare(table, options.output / f"rows-{count}.jsonl", rows=count)
        print(f"\nrft, {count} rows, model {options.model}\n")
        print("\n".join(rewarded(few, options)), flush=True)
    print(f"\n{time.monotonic() - started:,.0f} s in this run")


if __name__ == "__main__":
    main()
