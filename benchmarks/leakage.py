"""Is a benchmark that a model was trained on found, and how often is one called leaked that was not?

400 short ARC-Easy items; 200 of them are trained on as whole texts, options in their order, LoRA of rank 16, and looked at after 1, 2, 4
and 6 epochs. Two arms that the statistic of the fixed order must not find: options in another order in each epoch, and a
chat training on the answer's letter alone. Each model is asked for all 400 items in all orders, its base beside it
(``learnable leakage``), and the 6 epochs for completions of the options too. Last the false alarms: of every statistic
on the untouched model, and on orders that are nothing but noise.

    python benchmarks/leakage.py --data DIRECTORY

DIRECTORY holds ``eval/commonsense_mcq.parquet``. A run that is stopped goes on where it was.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import permutations
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any

import numpy as np
import polars as pl

from learnable.commands import leakage
from learnable.commands.leak_search import Detecting
from learnable.evaluators.leakage import ChoiceItem, choice_items
from learnable.evaluators.multiple_choice import MultipleChoice
from learnable.experiments import Arm
from learnable.experiments.leakage import (
    AT,
    FOREST_THRESHOLDS,
    Seen,
    forest_scores,
    order_statistics,
    residuals,
    roc,
    set_verdict,
    top_probabilities,
)
from learnable.experiments.run import train_arms
from learnable.models.rendering import Renderer
from learnable.objects.given import pinned
from learnable.packages import is_installed
from learnable.runs.identity import example_id, fingerprint
from learnable.settings import Tuning
from learnable.testing import tiny_model
from learnable.types import Example, Message, ModelRef, Rendered

ITEMS, DOSES, MOST_CHARACTERS, LONGEST = 400, (1, 2, 4, 6), 160, 256
TASK, OPENING = "ARC-Easy", "Please choose the correct answer to the question:"
SPLITS, NOISE_ITEMS = 200, 400
HOW = Tuning(learning_rate=5e-4, schedule="constant", rank=16)
Row = dict[str, Any]


def prepare(table: Path, path: Path, *, items: int) -> Path:
    """Write short items with four options, half of them to be trained on, drawn by what they are."""
    reader, found = MultipleChoice(candidates_are="texts"), dict[str, Row]()
    for row in pl.read_parquet(table).filter(task=TASK).iter_rows(named=True):
        turns, grading = reader.item(row)
        question, options = turns[0].content.removeprefix(OPENING).strip(), list(grading["candidates"])
        if len(set(options)) == 4 and len(question) + sum(map(len, options)) <= MOST_CHARACTERS:
            answer = LETTERS[grading["labels"].index(grading["correct"])]
            found[question] = {"question": question, "choices": options, "answer": answer}
    drawn = sorted(found.values(), key=lambda row: fingerprint(["leakage", row]))[:items]
    if len(drawn) < items:
        raise SystemExit(
            f"{table} has {len(drawn)} items of {TASK} that are short enough, {items} are needed"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row | {"leaked": place % 2 == 0}) for place, row in enumerate(drawn)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def trainings(ref: ModelRef, rows: Path, doses: Sequence[int]) -> list[Arm]:
    """Return the arms: a stage for each epoch, so that a longer training goes on from a shorter one."""
    renderer, last = Renderer.of(ref), max(doses)
    items = [item for item in choice_items(str(rows), truth="leaked") if item.leaked]
    kept = tuple(texts(renderer, items, epoch=None))
    mixed = [tuple(texts(renderer, items, epoch=epoch)) for epoch in range(last)]
    letters = tuple(letters_alone(renderer, rows))
    stages = {f"whole texts, {dose} epoch{'s' * (dose > 1)}": (kept,) * dose for dose in doses}
    stages |= {"another order each epoch": tuple(mixed), "answer letters alone": (letters,) * last}
    return [Arm(label=label, seed=0, base=ref, stages=parts, tuning=HOW) for label, parts in stages.items()]


def texts(renderer: Renderer, items: Sequence[ChoiceItem], *, epoch: int | None) -> list[Rendered]:
    """Return items as whole texts that count from the first token on, options in an order of this epoch."""
    given = []
    for item in items:
        orders = list(permutations(range(len(item.options))))
        chosen = 0 if epoch is None else int(fingerprint([epoch, item.id])[:8], 16) % len(orders)
        text, _ = item.text(orders[chosen])
        given.append((fingerprint(["whole text", text]), text, 0))
    return renderer.render_texts(given, max_length=LONGEST)


def letters_alone(renderer: Renderer, rows: Path) -> list[Rendered]:
    """Return the items to train on as chats, of which the letter of the answer counts."""
    examples = []
    for example in MultipleChoice().read(str(rows)):
        if example.meta["leaked"]:
            turns = (example.messages[0], Message(role="assistant", content=example.meta["answer"]))
            examples.append(Example(id=example_id(turns), messages=turns, source=""))
    return renderer.render(examples, max_length=LONGEST)


def seen_of(frame: pl.DataFrame, which: pl.Expr, *, reference: bool = False) -> Seen:
    """Return what was found of some items, by the model or by the reference."""
    part = frame.filter(pl.col("counted") & which)
    columns = [part[f"{'reference_' * reference}{name}"].to_numpy() for name in ("level", "hit")]
    chance = np.array([1 / len(each) for each in part["sums"]])
    return Seen(levels=columns[0], hits=columns[1], chance=chance)


def mean(frame: pl.DataFrame, column: str) -> float:
    """Return the mean of a column."""
    return float(frame[column].to_numpy().mean())


def arm_line(label: str, frame: pl.DataFrame) -> str:
    """Return the line of one arm: how well it is found, the shares of hits, and the verdicts over both halves."""
    counted, leaked = frame.filter("counted"), pl.col("leaked")
    truth = counted["leaked"].to_numpy()
    by_d, by_z = (roc(counted[name].to_numpy(), truth) for name in ("difference", "level"))
    cells = [label, f"{by_d.area:.3f} ({by_d.low:.3f} to {by_d.high:.3f})", f"{by_z.area:.3f}"]
    for which in (leaked, ~leaked):
        part = counted.filter(which)
        cells.append(f"{mean(part, 'hit'):.1%} ({mean(part, 'reference_hit'):.1%})")
    for which in (leaked, ~leaked):
        found = set_verdict(seen_of(frame, which), reference=seen_of(frame, which, reference=True))
        cells.append(f"{'leaked' if found.leaked else 'not seen'}, p {min(t.p for t in found.tests):.2g}")
    return f"| {' | '.join(cells)} |"


def measured(options: argparse.Namespace, rows: Path, model: str, adapter: Path, by: str) -> pl.DataFrame:
    """Return the items of one arm, by one detector."""
    done = leakage(
        str(rows),
        model=model,
        adapter=str(adapter),
        detecting=Detecting(by=by, truth="leaked"),  # type: ignore[arg-type]
        max_length=LONGEST,
        store=str(options.output / "store"),
        output=str(options.output / f"{by}-{rows.stem}-{adapter.name}"),
    )
    return pl.read_parquet(done.folder / "items.parquet")


def alarms(name: str, sums: list[np.ndarray]) -> Iterator[str]:
    """Yield the lines of one set of items that were not trained on: how often each statistic calls one leaked."""
    found = [order_statistics(each) for each in sums]
    tops, counts = np.array([each.top for each in found]), np.array([len(each) for each in sums])
    pool = residuals(sums)
    rates = {
        "original order likeliest (1 in 24 by chance)": np.mean([each.rank == 1 for each in found]),
        f"one order stands out, p at most {AT}, normal": (top_probabilities(tops, counts) <= AT).mean(),
        f"one order stands out, p at most {AT}, own residuals": (
            top_probabilities(tops, counts, pool=pool) <= AT
        ).mean(),
    }
    if is_installed("sklearn"):
        scores = forest_scores(sums)
        rates |= {f"the paper's forest at {limit:g}": (scores < limit).mean() for limit in FOREST_THRESHOLDS}
    for statistic, rate in rates.items():
        yield f"| {name} | {statistic} | {rate:.1%} | {len(sums)} |"


def set_alarms(frame: pl.DataFrame) -> Iterator[str]:
    """Yield how often the set of half of the items is called leaked, of a model that was trained on none of them."""
    whole = seen_of(frame, pl.lit(value=True), reference=True)
    rng, clean = np.random.default_rng(0), 0
    for _ in range(SPLITS):
        half = rng.permutation(len(whole.levels)) < len(whole.levels) // 2
        clean += bool(set_verdict(whole.of(half), clean=whole.of(~half)).leaked)
    alone = set_verdict(whole)
    yield f"| untouched | set of one half against the other half as clean items | {clean / SPLITS:.1%} | {SPLITS} halvings |"
    said = "leaked" if alone.leaked else "not seen"
    yield f"| untouched | set against chance alone, uncorrected | {said}, p {alone.tests[0].p:.2g} | {len(whole.levels)} |"


def completed_lines(frame: pl.DataFrame) -> Iterator[str]:
    """Yield what completions of the options say."""
    counted = frame.filter("counted")
    curve = roc(counted["difference"].to_numpy(), counted["leaked"].to_numpy())
    yield f"Area under the curve of the difference of ROUGE-L: {curve.area:.3f} ({curve.low:.3f} to {curve.high:.3f}).\n"
    yield "| items | model calls leaked | base calls leaked | mean ROUGE-L of the model | of the base |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, which in (("trained on", pl.col("leaked")), ("untouched", ~pl.col("leaked"))):
        part = counted.filter(which)
        hits = f"{mean(part, 'hit'):.1%} | {mean(part, 'reference_hit'):.1%}"
        yield f"| {name} | {hits} | {mean(part, 'level'):.3f} | {mean(part, 'reference_level'):.3f} |"


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with eval/")
    parser.add_argument("--model", default="starter")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the items, two epochs and a tiny model"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/leakage"))
    options = parser.parse_args()
    started, items = time.monotonic(), ITEMS // (10 if options.quick else 1)
    model = str(tiny_model(options.output / "tiny")) if options.quick else options.model
    doses = (1, 2) if options.quick else DOSES
    rows = prepare(
        options.data / "eval" / "commonsense_mcq.parquet",
        options.output / f"items-{items}.jsonl",
        items=items,
    )
    ref = pinned(ModelRef(name=model))
    arms = trainings(ref, rows, doses)
    trained, tokens = train_arms(arms, max_length=LONGEST, store=options.output / "store")
    folders = [done.folder for done in trained if done is not None]
    frames = [measured(options, rows, model, folder, "orders") for folder in folders]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{date.today()}, {machine}, {model} in {ref.dtype}, {items} items, half of them trained on\n")
    print(
        "| training | area under the curve of d | of z alone | first, trained on (base) | first, untouched (base) |",
        end="",
    )
    print(" verdict, trained on | verdict, untouched |\n| --- | --- | ---: | ---: | ---: | --- | --- |")
    for arm, frame in zip(arms, frames, strict=True):
        print(arm_line(arm.label, frame), flush=True)
    print(f"\nCompletions of the options, {arms[len(doses) - 1].label}:\n")
    print(
        "\n".join(completed_lines(measured(options, rows, model, folders[len(doses) - 1], "ngram"))),
        flush=True,
    )
    print("\nFalse alarms, where nothing was trained on:\n\n| orders | statistic | called leaked | items |")
    print("| --- | --- | ---: | ---: |")
    untouched = base_sums(options, rows, model)
    print("\n".join(alarms("untouched", untouched)))
    print("\n".join(set_alarms(frames[0])))
    rng, shape = np.random.default_rng(0), (NOISE_ITEMS if not options.quick else items, 24)
    for name, noise in (
        ("normal noise", rng.standard_normal(shape)),
        ("t(3) noise", rng.standard_t(3, shape)),
    ):
        print("\n".join(alarms(name, list(noise))), flush=True)
    print(f"\n{tokens:,} tokens trained, {time.monotonic() - started:,.0f} s in this run")


def base_sums(options: argparse.Namespace, rows: Path, model: str) -> list[np.ndarray]:
    """Return the log-probabilities of the orders of the untouched model, which are stored."""
    done = leakage(
        str(rows),
        model=model,
        detecting=Detecting(truth="leaked"),
        max_length=LONGEST,
        store=str(options.output / "store"),
        output=str(options.output / f"untouched-{rows.stem}"),
    )
    frame = pl.read_parquet(done.folder / "items.parquet").filter("counted")
    return [np.array(each) for each in frame["sums"]]


if __name__ == "__main__":
    main()
