"""What does fine-tuning lose where rows may not be pooled, and does SLoRA lose less than federated LoRA?

Short dolly rows of four categories (40 of each, at most 350 characters) are divided among 6 clients, by category: nearly evenly
(Dirichlet alpha 10), and unevenly (0.1). By the recipe ``slora``, 4 rounds of one epoch: federated LoRA of rank 4; SLoRA, one sparse round and
three of LoRA, with the residual kept and, at 0.1, dropped; at 0.1 also sparse rounds alone, and all linear weights. Sparse
rounds move as many weights as LoRA sends. One training on all rows stands beside, as often as all rounds together. Losses are of
25 other rows of each category. Up to three sets (partition, first adapters, order), as many as the time allows.

    python benchmarks/federated.py --data DIRECTORY

DIRECTORY holds ``train/`` with dolly_15k as a parquet table. A run that is stopped goes on with the round it was in, and one that ran
out of time goes on when it is given more.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import polars as pl

from learnable.commands.experiment import tried
from learnable.commands.federate import federate
from learnable.commands.federated_arms import ClientTuning, Federating
from learnable.runs.records import Outcome
from learnable.settings import Tuning
from learnable.testing import tiny_model

CATEGORIES = ("brainstorming", "classification", "general_qa", "open_qa")
ROWS, TESTED, CLIENTS, ROUNDS, SEEDS, LONGEST = 40, 25, 6, (1, 3), 3, 192
"""Rows are of each category."""
SHORT = 350
"""Characters of an instruction, its input and its answer together."""
MEGA = 1e6
ARMS = {
    10.0: ("lora", "slora"),
    0.1: ("lora", "slora", "slora@residual=drop", "sparse", "full"),
}
"""By alpha."""


def short_rows(path: Path, *, trained: int, tested: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return so many short rows of each category to train on, and others to test on."""
    columns = ("instruction", "input", "output", "category")
    text = pl.sum_horizontal(pl.col(columns[:3]).fill_null("").str.len_chars())
    rows = pl.read_parquet(path).filter(pl.col("category").is_in(CATEGORIES), text <= SHORT)
    chosen = rows.select(columns).unique("instruction", maintain_order=True)
    drawn = chosen.sample(fraction=1.0, shuffle=True, seed=0)
    place = pl.int_range(pl.len()).over("category")
    parts = drawn.filter(place < trained), drawn.filter(place.is_between(trained, trained + tested - 1))
    return parts[0].to_dicts(), parts[1].to_dicts()


def played(folder: Path, model: str, *, quick: bool, seeds: int, until: float) -> dict[float, Outcome]:
    """Play the federations through with as many sets as there is time for; the last of each alpha is returned."""
    done = dict[float, Outcome]()
    tuning = Tuning(**vars(ClientTuning(batch_size=4)))
    for number in range(1, seeds + 1):
        started = time.monotonic()
        for alpha, arms in ARMS.items():
            done[alpha] = tried(
                federate,
                [str(folder / "train.jsonl")],
                model=model,
                federating=Federating(
                    clients=3 if quick else CLIENTS,
                    alpha=alpha,
                    by="category",
                    rounds=ROUNDS,
                    arms=arms,
                    min_rows=2 if quick else 4,
                    evaluate=(f"heldout:{folder / 'test.jsonl'}",),
                    seeds=number,
                ),
                tuning=tuning,
                max_length=LONGEST,
                store=str(folder / "store"),
                output=str(folder / f"alpha-{alpha:g}-{number}"),
            )
        took = time.monotonic() - started
        ran = any(each.ran for each in done.values())
        if number < seeds and ran and time.monotonic() + took > until:
            print(f"no time for set {number + 1} of {seeds}: run it again with more --minutes\n")
            break
    return done


def compared(done: dict[float, Outcome]) -> Iterator[str]:
    """Yield the tables of losses, as Markdown."""
    for file, baseline in (("table", "central"), ("against_lora", "federated LoRA")):
        yield f"| alpha | arm | loss | difference to {baseline} | interval | p | seen |"
        yield "| ---: | --- | ---: | ---: | --- | ---: | --- |"
        for alpha, outcome in done.items():
            for row in pl.read_parquet(outcome.folder / f"{file}.parquet").iter_rows(named=True):
                beside = "| | | |"
                if row["difference"] is not None:
                    interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
                    beside = f"| {row['difference']:+.4f} | {interval} | {row['p']:.4f} | {row['verdict']}"
                yield f"| {alpha:g} | {row['arm']} | {row['value']:.4f} {beside} |"
        yield ""


def closed(done: dict[float, Outcome]) -> Iterator[str]:
    """Yield by set the losses that the gap is made of, and the share of it that SLoRA closes, as Markdown."""
    yield "| alpha | set | central | federated LoRA | gap | SLoRA | share of the gap closed |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for alpha, outcome in done.items():
        results = pl.read_parquet(outcome.folder / "results.parquet").filter(pl.col("value").is_finite())
        for seed in range(outcome.facts["seeds"]):
            own = results.filter(seed=seed)
            central, lora, slora = (
                float(own.filter(arm=arm)["value"].cast(pl.Float64).sum()) / own.filter(arm=arm).height
                for arm in ("central", "lora", "slora")
            )
            gap = lora - central
            share = f"{(lora - slora) / gap:.2f}" if gap > 0 else "no gap"
            yield f"| {alpha:g} | {seed} | {central:.4f} | {lora:.4f} | {gap:+.4f} | {slora:.4f} | {share} |"
    yield ""


def measured(done: dict[float, Outcome]) -> Iterator[str]:
    """Yield what was sent, what the decomposition kept, and how the clients differ, as Markdown."""
    yield "| alpha | arm | sent by a client, MB | received, MB | clients that failed |"
    yield "| ---: | --- | ---: | ---: | ---: |"
    for alpha, outcome in done.items():
        for row in pl.read_parquet(outcome.folder / "traffic.parquet").iter_rows(named=True):
            sent, received = row["sent_bytes"] / MEGA, row["received_bytes"] / MEGA
            yield f"| {alpha:g} | {row['arm']} | {sent:.2f} | {received:.2f} | {row['failures']} |"
    yield ""
    yield "| alpha | arm | layer | energy kept | least | most |"
    yield "| ---: | --- | --- | ---: | ---: | ---: |"
    for alpha, outcome in done.items():
        for row in pl.read_parquet(outcome.folder / "kept.parquet").iter_rows(named=True):
            shares = " | ".join(f"{row[name]:.1%}" for name in ("energy", "least", "most"))
            yield f"| {alpha:g} | {row['arm']} | {row['layer']} | {shares} |"
    yield ""
    yield "| alpha | clients | rows of a client, fewest and most | distance of its categories from all (mean) |"
    yield "| ---: | ---: | --- | ---: |"
    for alpha, outcome in done.items():
        parts = pl.read_parquet(outcome.folder / "partition.parquet")
        rows, distance = parts["rows"].to_list(), sum(parts["distance"]) / parts.height
        yield f"| {alpha:g} | {outcome.facts['clients']} | {min(rows)} to {max(rows)} | {distance:.2f} |"


def shown(done: dict[float, Outcome]) -> Sequence[str]:
    """Return all tables, as Markdown."""
    return [*compared(done), *closed(done), *measured(done)]


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="sets, at most")
    parser.add_argument("--minutes", type=float, default=60.0, help="no set is begun that would end later")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rows and a tiny model")
    parser.add_argument("--output", type=Path, default=Path("runs/federated"))
    options = parser.parse_args()
    started, part = time.monotonic(), 5 if options.quick else 1
    options.output.mkdir(parents=True, exist_ok=True)
    model = str(tiny_model(options.output / "tiny")) if options.quick else options.model
    table = options.data / "train" / "dolly_15k.parquet"
    kept, tested = short_rows(table, trained=ROWS // part, tested=TESTED // part)
    for name, own in (("train", kept), ("test", tested)):
        lines = [json.dumps(row, ensure_ascii=False) for row in own]
        (options.output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    until = started + 60 * options.minutes
    done = played(options.output, model, quick=options.quick, seeds=options.seeds, until=until)
    first = done[0.1]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    sets = f"{first.facts['seeds']} set{'s' if first.facts['seeds'] > 1 else ''}"
    print(f"`python {shlex.join(sys.argv)}`: {date.today()}, {machine}, {first.facts['model']}, {sets}\n")
    print("\n".join(shown(done)))
    tokens = sum(each.cost.tokens for each in done.values())
    print(f"\n{time.monotonic() - started:,.0f} s and {tokens:,} tokens in the last set of this run")


if __name__ == "__main__":
    main()
