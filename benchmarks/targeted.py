"""Which rows help a task? From ten rows of it, 5 % of a mixed pool, chosen in many ways, against a random draw.

Draws a pool of 1,200 short rows (dolly 600, t0 300, gpteacher 200, tldr 60, gsm8k 40) and for each of four tasks ten target
rows and sixty test rows that are in neither: shell commands (tldr), sums in words (gsm8k), code (the codegen part of gpteacher),
and multiple choice (ARC), of which the pool has no source. Every method gets 5 % of the pool's tokens, three epochs, three
seeds. Prints for each target the loss on its test rows and on general ones (dolly), against random, with intervals for all
methods together, what each chose, and what choosing cost. A run that is stopped goes on where it was.

    python benchmarks/targeted.py --data DIRECTORY

DIRECTORY holds ``train/`` and ``eval/`` with dolly_15k, t0_p3_sample, gpteacher_10k, tldr_nl2cmd, gsm8k_train and
commonsense_mcq as parquet tables.
"""

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import polars as pl

from learnable.commands.compare import compare
from learnable.runs.identity import fingerprint
from learnable.settings import Aim, Reading, Tuning

POOL = {"dolly": 600, "t0": 300, "gpteacher": 200, "tldr": 60, "gsm8k": 40}
TARGETS = ("tldr", "gsm8k", "codegen", "arc")
OWN = {"tldr": "tldr", "gsm8k": "gsm8k", "codegen": "gpteacher", "arc": ""}
"""The source of the pool that is of a target's kind."""
TARGET_ROWS, TEST_ROWS, MOST_CHARACTERS = 10, 60, 450
METHODS = (
    "target_learnability",
    "target_drop",
    "relevance/round_robin",
    "less@store=sketch,dimensions=8192",
    "pds",
    "dsir",
    "longest",
    "k_center",
)
AIM = Aim(steps=10, batch=8, visit=5, proxy=300)
"""The cheap form of ``pds``: a short training, and 300 rows that are valued; the others are told by their vectors."""
Row = dict[str, str]


def rows_of(path: Path, *, seed: int) -> list[Row]:
    """Return the short rows of a table in an order that depends on the seed alone."""
    found = []
    for row in pl.read_parquet(path).iter_rows(named=True):
        prompt = row.get("instruction") or row.get("question") or ""
        if row.get("input"):
            prompt = f"{prompt}\n\n{row['input']}"
        answer = row.get("output") or row.get("answer") or ""
        if len(answer.split()) >= 2 and len(prompt) + len(answer) <= MOST_CHARACTERS:
            kind = row.get("subset") or row.get("task") or ""
            found.append({"instruction": prompt, "output": answer, "kind": kind})
    return sorted(found, key=lambda row: fingerprint([seed, row["instruction"], row["output"]]))


def prepare(data: Path, folder: Path, *, seed: int, times: int = 1) -> Path:
    """Write the pool, ``times`` as large, the general test rows, and each target with its test rows; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "dolly": "train/dolly_15k",
        "t0": "train/t0_p3_sample",
        "gpteacher": "train/gpteacher_10k",
        "tldr": "train/tldr_nl2cmd",
        "gsm8k": "train/gsm8k_train",
        "arc": "eval/commonsense_mcq",
    }
    rows = {name: rows_of(data / f"{table}.parquet", seed=seed) for name, table in tables.items()}
    rows["arc"] = [row for row in rows["arc"] if row["kind"].startswith("ARC")]
    held = TARGET_ROWS + TEST_ROWS
    aside = {name: rows[name][:held] for name in ("tldr", "gsm8k", "arc")}
    aside["codegen"] = [row for row in rows["gpteacher"] if row["kind"] == "codegen"][:held]
    taken = {row["instruction"] for held_rows in aside.values() for row in held_rows}
    pool: list[Row] = []
    for source, share in POOL.items():
        left = [row for row in rows[source] if row["instruction"] not in taken]
        kept = TEST_ROWS if source == "dolly" else 0
        count = min(share * times, len(left) - kept)
        pool += [row | {"source": source} for row in left[:count]]
        if kept:
            _write(left[count : count + kept], folder / "general.jsonl")
    _write(pool, folder / "pool.jsonl")
    for name, held_rows in aside.items():
        _write(held_rows[:TARGET_ROWS], folder / f"{name}-target.jsonl")
        _write(held_rows[TARGET_ROWS:], folder / f"{name}-test.jsonl")
    return folder


def _write(rows: list[Row], path: Path) -> None:
    kept = [{key: value for key, value in row.items() if key != "kind"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def shown(folder: Path, target: str) -> list[str]:
    """Return what came of one target, as Markdown."""
    table = pl.read_parquet(folder / "table.parquet")
    chosen = pl.read_parquet(folder / "selections.parquet").filter(pl.col("budget_tokens").is_not_null())
    sources = pl.read_parquet(folder / "scores.parquet").select("id", "source", "response_tokens")
    chosen = chosen.join(sources, on="id")
    own, general = (table.filter(pl.col("evaluation").str.contains(name)) for name in (target, "general"))
    lines = [
        f"**{target}**, nats per response token; {own['items'][0]} test rows, {general['items'][0]} general ones.\n",
        "| method | rows | of its kind, % | response tokens | loss | against random | verdict | general, against random | choosing |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in own.sort("value").iter_rows(named=True):
        mine = chosen.filter(pl.col("method") == row["method"])
        other = general.row(by_predicate=pl.col("method") == row["method"], named=True)
        share = (
            100 * float((mine["source"] == OWN[target]).to_numpy().mean()) if mine.height else float("nan")
        )
        seconds = row["score_s"] + row["reference_s"]
        cells = [
            row["method"],
            f"{row['examples']:.0f}",
            "" if not mine.height or not OWN[target] else f"{share:.0f}",
            f"{mine['response_tokens'].sum() / max(mine['seed'].n_unique(), 1):,.0f}" if mine.height else "",
            f"{row['value']:.3f}",
            _interval(row),
            row["verdict"] or "",
            _interval(other),
            f"{seconds:,.0f} s" if seconds else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interval(row: dict[str, float | None]) -> str:
    if row["difference"] is None:
        return ""
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and eval/")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--by", nargs="+", default=list(METHODS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--budget", default="5%")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--draw", type=int, default=0, help="seeds the draw of the rows")
    parser.add_argument("--times", type=int, default=1, help="how many times as large the pool is, at most")
    parser.add_argument("--output", type=Path, default=Path("runs/targeted"))
    options = parser.parse_args()
    started = time.monotonic()
    rows = prepare(options.data, options.output / "data", seed=options.draw, times=options.times)
    for target in options.targets:
        outcome = compare(
            [str(rows / "pool.jsonl")],
            model=options.model,
            target=str(rows / f"{target}-target.jsonl"),
            by=options.by,
            aim=AIM,
            budget=[options.budget],
            seeds=options.seeds,
            evaluate=[f"heldout:{rows / f'{target}-test.jsonl'}", f"heldout:{rows / 'general.jsonl'}"],
            tuning=Tuning(epochs=options.epochs),
            reading=Reading(source_column="source"),
            store=str(options.output / "store"),
            output=str(options.output / "comparison-{fingerprint}"),
        )
        print(
            f"{date.today()}, {platform.processor() or platform.machine()}, model {options.model}, "
            f"{outcome.facts['pool']:,} rows, {outcome.facts['pool_tokens']:,} tokens, budget {options.budget}, "
            f"{outcome.facts['in both']} test rows overlap with the pool\n"
        )
        print("\n".join(shown(outcome.folder, target)), "\n", flush=True)
    print(f"{time.monotonic() - started:,.0f} s in this run")


if __name__ == "__main__":
    main()
