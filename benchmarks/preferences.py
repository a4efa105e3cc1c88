"""How many preference pairs suffice, which ones, and does a model only learn length? First where the answer is known, then on judged pairs.

Planted: 200 short questions of Dolly; chosen is the answer, rejected that of another row; of the pairs to train on a fifth is flipped.
The curve over fractions must rise, and the gap of a model that did not see a pair must find the flipped ones (area under the
curve; choosing by small gaps takes them first, by large ones last). PandaLM: 200 short pairs with the votes of three people, 40 % of the prompts held
out, fractions of 20, 60 and 100 %, DPO, DavIR's form and IPO, three seeds; LLMBar's pairs, in which the longer answer is mostly the worse one, as a
transfer. Prints a table for each test set, in Markdown. A run that is stopped goes on where it was.

    python benchmarks/preferences.py --data DIRECTORY

DIRECTORY holds ``train/`` with dolly_15k, preference_pandalm_760 and preference_llmbar_419 as parquet tables.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from targeted import rows_of
from vinfo import auc, interval

from learnable.commands import load, prefer
from learnable.commands.prefer import Preferring
from learnable.experiments.preferences import (
    ACCURACY,
    CHOSEN,
    LENGTH_BIAS,
    MARGIN,
    RELATIVE_BIAS,
    SHORTER,
)
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome

PLANTED_PAIRS, PLANTED_TESTS, FLIPPED = 120, 80, 0.2
PANDALM_PAIRS, HELD_OUT, LLMBAR_PAIRS, MOST_CHARACTERS = 200, 0.4, 80, 320
"""Characters of a prompt with both answers; Dolly's rows are shorter by half."""
SHOWN = (ACCURACY, SHORTER, MARGIN, LENGTH_BIAS, RELATIVE_BIAS, CHOSEN)
Pair = dict[str, Any]


def planted(data: Path, *, pairs: int, seed: int) -> list[Pair]:
    """Return pairs of a question, its answer and that of another row, in an order that depends on the seed alone."""
    rows = [
        row
        for row in rows_of(data / "train" / "dolly_15k.parquet", seed=seed)
        if len(row["instruction"]) + len(row["output"]) <= MOST_CHARACTERS // 2
    ][: pairs + 1]
    return [
        {"prompt": row["instruction"], "chosen": row["output"], "rejected": other["output"]}
        for row, other in pairwise(rows)
    ]


def flipped(pairs: list[Pair]) -> tuple[list[Pair], set[str]]:
    """Return pairs of which the first fifth has its answers the wrong way round, and the questions of these."""
    count = round(FLIPPED * len(pairs))
    wrong = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs[:count]]
    return [*wrong, *pairs[count:]], {pair["prompt"] for pair in wrong}


def judged(path: Path, *, pairs: int, seed: int) -> list[Pair]:
    """Return short pairs of a table, drawn by their ids."""
    rows = sorted(pl.read_parquet(path).to_dicts(), key=lambda row: fingerprint([seed, row["id"]]))
    sides = ("prompt", "chosen", "rejected")
    short = [
        {side: row[side] for side in sides}
        for row in rows
        if sum(len(turn["content"]) for side in sides for turn in row[side]) <= 2 * MOST_CHARACTERS
    ]
    return short[:pairs]


def write(path: Path, pairs: Iterable[Pair]) -> str:
    """Write pairs as JSON lines; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return str(path)


def shown(outcome: Outcome) -> list[str]:
    """Return a table for each test set, as Markdown."""
    table = pl.read_parquet(outcome.folder / "table.parquet")
    names = [name.partition(", ")[2] for name in table["evaluation"].unique(maintain_order=True)]
    lines = list[str]()
    for test in dict.fromkeys(names):
        of = f", {test}" if test else ""
        parts = {name: table.filter(evaluation=name + of) for name in SHOWN}
        items = max(parts[ACCURACY]["items"].to_list())
        lines += ["", f"{test or 'held out'} ({items} prompts):", ""]
        lines.append(
            f"| arm | pairs | {ACCURACY} | difference to {outcome.facts['baseline']} | seen | {' | '.join(SHOWN[1:])} |"
        )
        lines.append("| --- | ---: | ---: | ---: | --- |" + " ---: |" * (len(SHOWN) - 1))
        for row in parts[ACCURACY].sort("budget_tokens", nulls_last=False).iter_rows(named=True):
            low, high = (finite_or_none(row[end]) for end in ("low", "high"))
            difference = "" if row["difference"] is None else f"{row['difference']:+.3f}"
            difference += "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
            others = [_value(parts[name], row["method"], row["budget_tokens"]) for name in SHOWN[1:]]
            cells = [
                row["method"],
                f"{row['examples']:.0f}",
                f"{row['value']:.3f}",
                difference,
                row["verdict"] or "",
            ]
            lines.append(f"| {' | '.join([*cells, *others])} |")
    return [*lines, "", *outcome.facts["findings"]]


def finite_or_none(value: float | None) -> float | None:
    """Return a number, None for one that is not finite."""
    return value if value is not None and np.isfinite(value) else None


def _value(part: pl.DataFrame, arm: str, budget: int | None) -> str:
    found = part.filter(pl.col("budget_tokens").eq_missing(budget), method=arm)["value"].to_list()
    return f"{found[0]:.3f}" if found and np.isfinite(found[0]) else ""


def found_by_gap(outcome: Outcome, wrong: set[str]) -> str:
    """Say how well a low gap tells the flipped pairs from the others."""
    scores = pl.read_parquet(outcome.folder / "scores.parquet")
    examples = pl.read_parquet(Path(outcome.links["pool"]) / "examples.parquet")
    prompts = {row["id"]: row["messages"][0]["content"] for row in examples.iter_rows(named=True)}
    flags = np.array([prompts[one] in wrong for one in scores["id"]])
    gaps = -scores["gap"].to_numpy()
    low, high = interval(gaps[~flags], gaps[flags])
    area = auc(gaps[~flags], gaps[flags])
    return f"flipped pairs by their gap: area under the curve {area:.3f} ({low:.3f} to {high:.3f}), {flags.sum()} of {len(flags)}"


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a fifth of the pairs, to try the script")
    parser.add_argument("--output", type=Path, default=Path("runs/preferences"))
    options = parser.parse_args()
    started, part, out = time.monotonic(), 5 if options.quick else 1, options.output
    how: dict[str, Any] = {"model": options.model, "store": str(out / "store")}
    pairs = planted(options.data, pairs=(PLANTED_PAIRS + PLANTED_TESTS) // part, seed=0)
    train, tests = pairs[: PLANTED_PAIRS // part], pairs[PLANTED_PAIRS // part :]
    train, wrong = flipped(train)
    pool = load([write(out / "data" / "planted.jsonl", train)], output=str(out / "planted-pool"))
    known = prefer(
        [pool.path],
        preferring=Preferring(
            fractions=["0.2", "0.5", "1"], pairs_by=["small_gap", "large_gap"], seeds=options.seeds
        ),
        test=[write(out / "data" / "planted-test.jsonl", tests)],
        output=str(out / "planted"),
        **how,
    )
    source = options.data / "train"
    real = judged(source / "preference_pandalm_760.parquet", pairs=PANDALM_PAIRS // part, seed=0)
    other = judged(source / "preference_llmbar_419.parquet", pairs=LLMBAR_PAIRS // part, seed=0)
    pool = load(
        [write(out / "data" / "pandalm.jsonl", real)], holdout=HELD_OUT, output=str(out / "pandalm-pool")
    )
    asked = prefer(
        [pool.path],
        preferring=Preferring(loss=["sigmoid", "davir", "ipo"], seeds=options.seeds),
        test=[write(out / "data" / "llmbar.jsonl", other)],
        output=str(out / "pandalm"),
        **how,
    )
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    print(f"\n{date.today()}, {machine}, model {options.model}, {options.seeds} seeds\n")
    for title, outcome in (("Planted", known), ("PandaLM", asked)):
        facts = outcome.facts
        print(f"\n{title}: {facts['pairs']} pairs, {facts['pool_tokens']:,} tokens, {facts['losses']}")
        print("\n".join(shown(outcome)))
        if outcome is known:
            print(found_by_gap(known, wrong))
        print("\n".join(f"note: {note}" for note in facts["notes"]))
        print(f"{outcome.cost.tokens:,} tokens, {outcome.cost.seconds:,.0f} s in its last run")
    print(f"\n{time.monotonic() - started:,.0f} s in this run")


if __name__ == "__main__":
    main()
