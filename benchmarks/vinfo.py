"""Usable information: does it tell answers that do not belong to their question, and does choosing by it help?

Takes the 1,200 rows of ``corruption.py`` (1,000 clean ones, 200 with answers shuffled, cut in half, or of random words), trains
the two references of ``learnable run vinfo`` in two folds, and prints for each score how well it tells each kind from the
clean rows (area under the curve, with intervals from 1,000 bootstraps), and the usable information of each kind in bits.
With ``--compare`` it also trains on 15 % of the tokens chosen by hard-not-wrong-then-spread, by the highest and the lowest
PVI, and at random, three seeds, judged on 160 clean rows that are not in it. A run that is stopped goes on where it was.

    python benchmarks/vinfo.py --data alpaca.parquet
"""

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from corruption import CLEAN, CORRUPTED, KINDS, corrupted_rows
from numpy.typing import NDArray

from learnable.commands.compare import compare
from learnable.data import read
from learnable.recipes import Run, vinfo
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome
from learnable.settings import Reading

SCORES = {"pvi": -1, "hard_not_wrong": -1, "hardness": 1, "pvi_zero": -1, "learnability": -1, "loss": 1}
"""Scores, and whether corrupted rows should be high (1) or low (-1)."""
BOOTSTRAPS, HELDOUT = 1_000, 160
METHODS = (
    "hard_not_wrong@folds=2/spread_top",
    "pvi@folds=2",
    "pvi@folds=2,lowest=true",
    "learnability@folds=2",
)


def clean_rows(path: Path) -> list[dict[str, str]]:
    """Return clean rows of the table that are not in the pool, to judge on."""
    examples = sorted(
        read([str(path)], on_error="skip").iter_examples(), key=lambda each: fingerprint([0, each.id])
    )
    examples = [each for each in examples if len(each.messages[-1].content.split()) >= 4]
    first = CLEAN + CORRUPTED
    return [
        {"instruction": each.messages[-2].content, "output": each.messages[-1].content}
        for each in examples[first : first + HELDOUT]
    ]


def auc(clean: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the probability that a row of the others is above a clean one, ties counting half."""
    both = np.concatenate([clean, other])
    _, where, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    above = ranks[len(clean) :].sum() - len(other) * (len(other) + 1) / 2
    return float(above / (len(clean) * len(other)))


def interval(clean: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Return the middle 95 % of the area over bootstraps of both kinds of rows."""
    rng = np.random.default_rng(0)
    found = [auc(rng.choice(clean, len(clean)), rng.choice(other, len(other))) for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def shown_areas(scores: pl.DataFrame) -> list[str]:
    """Return how well each score tells each kind of corruption, as Markdown."""
    lines = ["| score | " + " | ".join(KINDS[1:]) + " |", "| --- |" + " ---: |" * len(KINDS[1:])]
    for name, sign in SCORES.items():
        known = scores.select("source", (sign * pl.col(name).cast(pl.Float64)).alias(name)).filter(
            pl.col(name).is_finite()
        )
        parts = {kind: known.filter(pl.col("source") == kind)[name].to_numpy() for kind in KINDS}
        cells = []
        for kind in KINDS[1:]:
            low, high = interval(parts["clean"], parts[kind])
            cells.append(f"{auc(parts['clean'], parts[kind]):.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def shown_information(scores: pl.DataFrame) -> list[str]:
    """Return the usable information of each kind of rows, as Markdown."""
    lines = [
        "| rows | n | I_V, bits a row | bits a token left | PVI below 0, % |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in [*KINDS, "the pool"]:
        mine = scores if kind == "the pool" else scores.filter(pl.col("source") == kind)
        pvi = mine["pvi"].cast(pl.Float64).drop_nans().to_numpy()
        left = float(mine["hardness"].cast(pl.Float64).drop_nans().to_numpy().mean())
        half = 1.96 * pvi.std(ddof=1) / np.sqrt(len(pvi))
        lines.append(
            f"| {kind} | {len(pvi)} | {pvi.mean():.1f} ({pvi.mean() - half:.1f} to {pvi.mean() + half:.1f}) "
            f"| {left:.2f} | {100 * (pvi < 0).mean():.0f} |"
        )
    return lines


def shown_comparison(folder: Path) -> list[str]:
    """Return what came of the comparison, as Markdown."""
    table = pl.read_parquet(folder / "table.parquet").sort("value")
    lines = ["| method | rows | loss | against random | verdict |", "| --- | ---: | ---: | ---: | --- |"]
    for row in table.iter_rows(named=True):
        against = ""
        if row["difference"] is not None:
            against = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(
            f"| {row['method']} | {row['examples']:.0f} | {row['value']:.3f} | {against} | {row['verdict'] or ''} |"
        )
    return lines


def measured(rows: Sequence[Mapping[str, str]], path: Path, *, model: str) -> Mapping[str, Outcome]:
    """Write rows with their kinds, and return the steps that measured them; runs lie beside the file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return vinfo(
        [str(path)],
        model=model,
        scorers=tuple(SCORES),
        reading=Reading(source_column="kind"),
        run=Run(output=str(path.parent)),
    )


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a table with instruction, input and output")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=1_200, help="of the 1,200 that are made, for a trial")
    parser.add_argument("--compare", action="store_true", help="train on what is chosen, too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/vinfo"))
    options = parser.parse_args()
    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "corrupted.jsonl"
    outcomes = measured(corrupted_rows(options.data, seed=0)[: options.rows], path, model=options.model)
    scores = pl.read_parquet(outcomes["scores"].folder / "scores.parquet")
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, model {options.model}, {scores.height:,} rows, "
        f"{scores['tokens'].sum():,} tokens\n"
    )
    print("Area under the curve, clean rows against each kind; intervals from bootstraps:\n")
    print("\n".join(shown_areas(scores)), "\n\nUsable information, means with 95 % intervals:\n")
    print("\n".join(shown_information(scores)), flush=True)
    if options.compare:
        test = options.output / "clean.jsonl"
        lines = [json.dumps(row) + "\n" for row in clean_rows(options.data)]
        test.write_text("".join(lines), encoding="utf-8")
        outcome = compare(
            [str(path)],
            model=options.model,
            by=list(METHODS),
            budget=["15%"],
            seeds=options.seeds,
            evaluate=[f"heldout:{test}"],
            reading=Reading(source_column="kind"),
            store=str(options.output / "store"),
            output=str(options.output / "comparison-{fingerprint}"),
        )
        print("\nLoss on clean rows that are not in the pool:\n")
        print("\n".join(shown_comparison(outcome.folder)))
    print(f"\n{time.monotonic() - started:,.0f} s in this run")


if __name__ == "__main__":
    main()
