"""Does the order of a training show, and is a model merged of several orders worth more than one training?

First an order whose effect is known: 160 dolly rows and 40 of gpteacher, one epoch at a constant rate, in four orders. In two of
them gpteacher is the last fifth, in two the first: the place matters by construction, and the interval of the slope must exclude
0. (What is met last is remembered best, which makes it negative; Adam's first steps are its largest, which makes it
positive.) Then 300 dolly rows of at most 450 characters, two epochs, LoRA of rank 16, four
orders, by the recipe ``merge``: a single training (the mean over the orders), the best one, the average, selection, the average with
as much noise, and the untuned model, on 150 other rows. Up to three sets of trainings, as many as the time allows.

    python benchmarks/merging.py --data DIRECTORY

DIRECTORY holds ``train/`` with dolly_15k and gpteacher_10k as parquet tables. A run that is stopped goes on where it was, and so
does one that ran out of time, when it is given more.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from targeted import Row, rows_of

from learnable.commands.experiment import tried
from learnable.commands.merging import Merging, merging, tuning_of_order
from learnable.commands.network import Network
from learnable.commands.order import Ordered, losses_by_order
from learnable.experiments import Arm, Imbalance, slopes_of
from learnable.experiments.run import place_of, train_arms
from learnable.models.rendering import Renderer
from learnable.runs.records import Outcome
from learnable.runs.store import Store
from learnable.settings import Loading, Tuning
from learnable.testing import tiny_model
from learnable.training.samplers import Sampler
from learnable.types import Message, Rendered

PLANTED, OTHERS, TRAINED, TESTED = 160, 40, 300, 150
ORDERS, SEEDS, LONGEST = 4, 3, 256


@dataclass(frozen=True, kw_only=True)
class OtherTaskApart:
    """One epoch in which rows of another task come last, or first where the seed of the order is odd."""

    others: tuple[str, ...]

    def __call__(self, examples: Sequence[tuple[Rendered, ...]], tuning: Tuning) -> Sampler:
        """Return the batches of a training."""
        rng = np.random.default_rng(tuning.seed_of_order)
        is_other = np.array([each[0].id in self.others for each in examples])
        parts = [rng.permutation(np.flatnonzero(is_other == which)) for which in (False, True)]
        order = np.concatenate(parts[:: -1 if tuning.seed_of_order % 2 else 1])
        return _Planned(np.array_split(order, int(np.ceil(len(order) / tuning.batch_size))))


class _Planned:
    """Batches that are known."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self.steps, self._batches = len(batches), batches

    def batch(self, step: int) -> list[int]:
        """Return the positions of the examples that a step takes."""
        found: list[int] = self._batches[step].tolist()
        return found


def planted(network: Network, dolly: list[Row], others: list[Row], store: Path) -> dict[str, Imbalance]:
    """Train in orders whose effect is known, and return the slopes over all rows, and over those of each task."""
    from learnable.runs.identity import example_id
    from learnable.types import Example

    def examples(rows: list[Row]) -> Iterator[Example]:
        for row in rows:
            turns = (
                Message(role="user", content=row["instruction"]),
                Message(role="assistant", content=row["output"]),
            )
            yield Example(id=example_id(turns), messages=turns, source="")

    renderer = Renderer.of(network.ref)
    parts = [renderer.render(list(examples(rows)), max_length=network.longest) for rows in (dolly, others)]
    sampler = OtherTaskApart(others=tuple(row.id for row in parts[1]))
    tuning = Tuning(schedule="constant", warmup=0.0)
    arms = [
        Arm(
            label="planted",
            seed=0,
            base=network.ref,
            stages=((*parts[0], *parts[1]),),
            tuning=tuning_of_order(tuning, seed=0, order=order, orders=ORDERS),
            sampler=sampler,
        )
        for order in range(ORDERS)
    ]
    trained, _ = train_arms(arms, max_length=network.longest, store=store)
    ordered = [
        Ordered(place=place_of(arm.base, done, method="lora"), tuning=arm.tuning, sampler=sampler)
        for arm, done in zip(arms, trained, strict=True)
    ]
    frame, _ = losses_by_order(network, arms[0].rows, ordered, store=Store(store))
    is_other = pl.col("id").is_in(list(sampler.others))
    slices = {"all rows": frame, "dolly": frame.filter(~is_other), "gpteacher": frame.filter(is_other)}
    return {f"planted, {name}": slopes_of(each)["first"] for name, each in slices.items()}


def real(folder: Path, model: str, *, seeds: int, until: float) -> Outcome:
    """Run the experiment with as many sets as there is time for; the last one that was done is returned."""
    for number in range(1, seeds + 1):
        started = time.monotonic()
        outcome = tried(
            merging,
            [str(folder / "train.jsonl")],
            model=model,
            how=Merging(orders=ORDERS, evaluate=[f"heldout:{folder / 'test.jsonl'}"], seeds=number),
            tuning=Tuning(epochs=2.0),
            max_length=LONGEST,
            store=str(folder / "store"),
            output=str(folder / f"merging-{number}"),
        )
        took = time.monotonic() - started
        if number < seeds and outcome.ran and time.monotonic() + took > until:
            print(f"no time for set {number + 1} of {seeds}: run it again with more --minutes\n")
            break
    return outcome


def shown(slopes: dict[str, Imbalance], done: Outcome) -> Iterator[str]:
    """Yield the tables, as Markdown."""
    yield "| trainings | slope, nats per token and epoch | interval | p | rows | orders |"
    yield "| --- | ---: | --- | ---: | ---: | ---: |"
    for name, each in slopes.items():
        interval = f"{each.low:+.4f} to {each.high:+.4f}"
        yield f"| {name} | {each.slope:+.4f} | {interval} | {each.p:.4f} | {each.examples} | {each.orders} |"
    yield ""
    for file, baseline in (("table", "single"), ("against_average", "average")):
        table = pl.read_parquet(done.folder / f"{file}.parquet")
        yield f"| arm | loss | difference to {baseline} | interval | p | seen |"
        yield "| --- | ---: | ---: | --- | ---: | --- |"
        for row in table.sort("value").iter_rows(named=True):
            beside = "| | | |"
            if row["difference"] is not None:
                interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
                beside = f"| {row['difference']:+.4f} | {interval} | {row['p']:.4f} | {row['verdict']}"
            yield f"| {row['arm']} | {row['value']:.4f} {beside} |"
        yield ""
    yield "| merge | set | changes that are zero | zero in some models only | lowest cosine |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for row in pl.read_parquet(done.folder / "merges.parquet").iter_rows(named=True):
        shares = f"{row['zero']:.2%} | {row['replaceable']:.2%}"
        yield f"| {row['merger']} | {row['seed']} | {shares} | {row['cosine']:.3f} |"


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="sets of trainings, at most")
    parser.add_argument("--minutes", type=float, default=25.0, help="no set is begun that would end later")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and a tiny model")
    parser.add_argument("--output", type=Path, default=Path("runs/merging"))
    options = parser.parse_args()
    started, part = time.monotonic(), 10 if options.quick else 1
    options.output.mkdir(parents=True, exist_ok=True)
    model = str(tiny_model(options.output / "tiny")) if options.quick else options.model
    dolly, other = (
        rows_of(options.data / "train" / f"{name}.parquet", seed=0) for name in ("dolly_15k", "gpteacher_10k")
    )
    kept, tested = dolly[: TRAINED // part], dolly[TRAINED : TRAINED + TESTED // part]
    for name, rows in (("train", kept), ("test", tested)):
        lines = [json.dumps({key: row[key] for key in ("instruction", "output")}) for row in rows]
        (options.output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    network = Network.of(model, Loading(), max_length=LONGEST, dry_run=False)
    slopes = planted(network, kept[: PLANTED // part], other[: OTHERS // part], options.output / "store")
    until = started + 60 * options.minutes
    done = real(options.output, model, seeds=options.seeds, until=until)
    slopes |= {
        f"real, {which} epoch": each
        for which, each in slopes_of(pl.read_parquet(done.folder / "order.parquet")).items()
    }
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    sets = f"{done.facts['seeds']} set{'s' if done.facts['seeds'] > 1 else ''} of {ORDERS} orders"
    print(f"{date.today()}, {machine}, {network.ref.name} in {network.ref.dtype}, {sets}\n")
    print("\n".join(shown(slopes, done)))
    print(f"\n{time.monotonic() - started:,.0f} s in this run")


if __name__ == "__main__":
    main()
