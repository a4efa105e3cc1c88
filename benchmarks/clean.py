"""Which rows are wrong? Precision of ``learnable run clean`` on planted faults, beside loss alone and plain heuristics.

Two pools of an Alpaca-style table. ``corruption`` is that of ``corruption.py``: 1,000 clean rows and 200 with answers shuffled,
cut in half, or of random words. ``subtle`` has 360 clean rows and 240 others, as many of each: numbers one too high, swapped
names, remains of a template, text in another language, and near-duplicates of clean rows (a word in eight replaced). Losses are
measured as ``learnable run clean`` does it, by the steps of ``learnable run vinfo``: a folder of ``vinfo.py`` is gone on with.

Printed is the precision at k: of the clean rows and the k planted rows of a kind, the share of planted ones among the k
most suspect. The checks do not see the kinds. A run that is stopped goes on where it was.

    python benchmarks/clean.py --data DIRECTORY --pools corruption subtle --output runs/clean
"""

import argparse
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from conditions import foreign_texts
from corruption import KINDS, SUBTLE, corrupt, corrupted_rows
from numpy.typing import NDArray
from vinfo import measured

from learnable.checks import CHECKS, Checked, suspects_of
from learnable.data import load_pool, read
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome

COPY = "near-duplicate"
SUBTLE_CLEAN, SUBTLE_EACH = 360, 48
REPLACED = 8
"""Of so many words of a near-duplicate one is another word of the pool."""
NEIGHBOURS = 10
FALSE = "clean rows called suspect, %"


def subtle_rows(data: Path, *, seed: int) -> list[dict[str, str]]:
    """Return clean rows, rows of each subtle kind, and near-duplicates of clean rows, in random order."""
    pool = read([str(data / "train" / "alpaca_46k.parquet")], on_error="skip")
    # In another order than that of the pool of corruption.py, so that few rows are in both.
    examples = sorted(pool.iter_examples(), key=lambda example: fingerprint(["subtle", seed, example.id]))
    examples = [each for each in examples if len(each.messages[-1].content.split()) >= 16]
    planted = SUBTLE_EACH * len(SUBTLE)
    pairs = [
        (each.messages[-2].content, each.messages[-1].content) for each in examples[: SUBTLE_CLEAN + planted]
    ]
    rows = corrupt(pairs, clean=SUBTLE_CLEAN, seed=seed, kinds=SUBTLE, foreign=foreign_texts(data))
    rng = np.random.default_rng(seed)
    words = sorted({word for _, answer in pairs for word in answer.split()})
    clean = [row for row in rows if row["kind"] == KINDS[0]]
    copies = [
        row | {"output": _reworded(row["output"], words, rng), "kind": COPY} for row in clean[:SUBTLE_EACH]
    ]
    # Behind their originals, as what was copied is.
    return rows + copies


def _reworded(text: str, words: Sequence[str], rng: np.random.Generator) -> str:
    """Return a text in which a few words are others, one of ``REPLACED`` and at least one."""
    parts = text.split(" ")
    for place in rng.choice(len(parts), size=max(1, len(parts) // REPLACED), replace=False):
        parts[place] = str(rng.choice(words))
    return " ".join(parts)


def suspicions(checked: Checked, *, needs_model: bool) -> NDArray[np.float64]:
    """Return the suspicion of each row, (n,); 0 where nothing was found."""
    checks = {
        name: check
        for name, check in CHECKS.items()
        if not check.needs_evaluation and (needs_model or not check.needs)
    }
    found = np.zeros(len(checked.rows))
    for suspect in suspects_of(checked, checks):
        found[suspect.row] = suspect.suspicion
    return found


def heuristics(frame: pl.DataFrame, vectors: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Return what libraries that clean data by vectors look at: unusual lengths, far from all others, near to one.

    Source: ours, after the issue types of Datalab (cleanlab): outlier and near-duplicate by the distances to the nearest neighbours.
    """
    lengths = np.log1p(frame["response_tokens"].cast(pl.Float64).to_numpy())
    middle = np.median(lengths)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    nearest = -np.sort(-cosines, axis=1)
    return {
        "length outlier": np.abs(lengths - middle),
        "far from its neighbours": 1 - nearest[:, :NEIGHBOURS].mean(axis=1).astype(np.float64),
        "near to another row": nearest[:, 0].astype(np.float64),
    }


def precision(scores: NDArray[np.float64], kinds: NDArray[np.str_], kind: str) -> float:
    """Return the share of a kind among the k highest of it and the clean rows, k being its number; ties count as shares."""
    chosen = np.isin(kinds, [KINDS[0], kind]) & np.isfinite(scores)
    values, planted = scores[chosen], kinds[chosen] == kind
    k = int((kinds == kind).sum())
    limit = np.sort(values)[-k]
    above, at = values > limit, values == limit
    left = (k - above.sum()) / at.sum()
    return float((planted[above].sum() + left * planted[at].sum()) / k)


def scores_of(outcomes: Mapping[str, Outcome]) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.str_]]:
    """Return each way to rank the rows of a pool, (n,), the most suspect highest, and the kinds of the rows, (n,)."""
    pool, scored = load_pool(outcomes["pool"].folder), outcomes["scores"].folder
    frame = pl.read_parquet(scored / "scores.parquet")
    frame = pool.examples.select("id", kind="source").join(frame, on="id", maintain_order="left")
    unseen = frame.with_columns(source=pl.lit("pool"))
    examples = [replace(each, source="pool") for each in pool.iter_examples()]
    checked = Checked(examples=examples, measured=unseen)
    vectors = pl.read_parquet(scored / "vectors.parquet")
    vectors = frame.select("id").join(vectors, on="id", maintain_order="left")
    found = {
        "run clean": suspicions(checked, needs_model=True),
        "run clean, texts alone": suspicions(checked, needs_model=False),
        "pvi alone": -frame["pvi"].cast(pl.Float64).to_numpy(),
        "loss alone": frame["loss_before"].cast(pl.Float64).to_numpy(),
        "loss after training": frame["loss_after"].cast(pl.Float64).to_numpy(),
    }
    return found | heuristics(frame, np.stack(vectors["vector"].to_list())), frame["kind"].to_numpy().astype(
        np.str_
    )


def main() -> None:
    """Run the benchmark and print a table for each pool in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/alpaca_46k.parquet")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--pools", nargs="+", default=["corruption", "subtle"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/clean"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.pools:
        started = time.monotonic()
        if name == "corruption":
            rows = corrupted_rows(options.data / "train" / "alpaca_46k.parquet", seed=options.seed)
        else:
            rows = subtle_rows(options.data, seed=options.seed)
        outcomes = measured(rows, options.output / f"{name}.jsonl", model=options.model)
        found, kinds = scores_of(outcomes)
        planted = [str(kind) for kind in dict.fromkeys(kinds.tolist()) if kind != KINDS[0]]
        steps = [outcomes[step].cost.seconds for step in ("reference", "null", "scores")]
        print(
            f"{date.today()}, {platform.processor() or platform.machine()}, model {options.model}, pool {name}: {len(kinds):,} rows, "
            f"{(kinds == KINDS[0]).sum():,} of them clean, {sum(steps):,.0f} s of measuring, {time.monotonic() - started:,.0f} s in this run\n"
        )
        counts = {kind: int((kinds == kind).sum()) for kind in planted}
        print(
            "| ranked by | "
            + " | ".join(f"{kind} (k = {counts[kind]})" for kind in planted)
            + f" | {FALSE} |"
        )
        print("| --- |" + " ---: |" * (len(planted) + 1))
        for way, scores in found.items():
            cells = [f"{precision(scores, kinds, kind):.2f}" for kind in planted]
            false = f"{100 * (scores[kinds == KINDS[0]] > 0).mean():.0f}" if way.startswith("run") else ""
            print(f"| {way} | " + " | ".join([*cells, false]) + " |")
        print(flush=True)


if __name__ == "__main__":
    main()
