"""Where do corrupted rows land? Learnability, the raw difference and a random draw, in-sample and with two folds.

Takes 1,000 clean rows of an Alpaca-style table and 200 more that it corrupts in three ways (answers shuffled between
rows, answers cut in half, random words), runs the recipe ``lobass`` on them twice, and prints one table. A run that is
stopped goes on where it was.

    python benchmarks/corruption.py --data alpaca.parquet --output runs/corruption
"""

import argparse
import json
import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from learnable.data import read
from learnable.recipes import Run, lobass
from learnable.recipes.lobass import TrimmedReference
from learnable.runs.identity import fingerprint
from learnable.settings import Reading
from learnable.types import Budget

CLEAN, CORRUPTED = 1_000, 200
KINDS = ("clean", "shuffled", "cut", "random words")
SUBTLE = ("off by one", "swapped names", "template rubbish", "other language")
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
"""A capitalized word that does not begin a sentence."""
RUBBISH = (
    "### Response:\n{answer}\n\n### Instruction:",
    "As an AI language model, I can help with that. {answer} [INST]",
    "{answer}<br><br>Was this helpful? Yes / No",
)
SHARES = (0.06, 0.15)
DRAWS = 1_000


def corrupted_rows(path: Path, *, seed: int) -> list[dict[str, str]]:
    """Return 1,000 clean rows and 200 corrupted ones, with the column ``kind``, in random order."""
    pool = read([str(path)], on_error="skip")
    examples = sorted(pool.iter_examples(), key=lambda example: fingerprint([seed, example.id]))
    examples = [example for example in examples if len(example.messages[-1].content.split()) >= 4]
    pairs = [(each.messages[-2].content, each.messages[-1].content) for each in examples[: CLEAN + CORRUPTED]]
    return corrupt(pairs, clean=CLEAN, seed=seed)


def corrupt(
    pairs: Sequence[tuple[str, str]],
    *,
    clean: int,
    seed: int,
    kinds: Sequence[str] = KINDS[1:],
    foreign: Sequence[str] = (),
) -> list[dict[str, str]]:
    """Return rows of prompts and answers, those after the first ``clean`` corrupted, in random order.

    As many of each kind: the answer of another row, half of the answer, random words of the pool. Of the subtle kinds:
    each number one too high, each name another name of the pool, remains of a template, as many words of ``foreign``
    text. A row that a kind cannot change, such as one without a number, gets the next kind.
    """
    rng = np.random.default_rng(seed)
    words = sorted({word for _, answer in pairs for word in answer.split()})
    rows = []
    for number, (prompt, answer) in enumerate(pairs):
        kind = KINDS[0] if number < clean else _kind(answer, kinds, number)
        rows.append({"instruction": prompt, "input": "", "output": answer, "kind": kind})
    shuffled = [row for row in rows if row["kind"] == "shuffled"]
    answers = [row["output"] for row in shuffled]
    for row, answer in zip(shuffled, answers[1:] + answers[:1], strict=True):
        row["output"] = answer
    names = sorted({name for _, answer in pairs for name in NAME.findall(answer)})
    for number, row in enumerate(rows):
        if row["kind"] in SUBTLE:
            row["output"] = _subtly(row["output"], row["kind"], number, names=names, foreign=foreign)
    for row in rows:
        count = len(row["output"].split())
        if row["kind"] == "cut":
            row["output"] = row["output"][: len(row["output"]) // 2].rstrip()
        elif row["kind"] == "random words":
            row["output"] = " ".join(rng.choice(words, size=count))
    return [rows[position] for position in rng.permutation(len(rows))]


def _kind(answer: str, kinds: Sequence[str], number: int) -> str:
    """Return the kind of corruption of a row: the next one of some kinds that can change its answer."""
    needed = {"off by one": re.compile(r"\d"), "swapped names": NAME}
    turns = [kinds[(number + turn) % len(kinds)] for turn in range(len(kinds))]
    return next(kind for kind in turns if kind not in needed or needed[kind].search(answer))


def _subtly(answer: str, kind: str, number: int, *, names: Sequence[str], foreign: Sequence[str]) -> str:
    """Return an answer with a mistake that a reader may overlook, or with text that does not belong to it."""
    if kind == "off by one":
        return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), answer)
    if kind == "swapped names":
        shift = 1 + number % max(len(names) - 1, 1)
        return NAME.sub(lambda found: names[(names.index(found[0]) + shift) % len(names)], answer)
    if kind == "template rubbish":
        return RUBBISH[number % len(RUBBISH)].format(answer=answer)
    return " ".join(foreign[number % len(foreign)].split()[: len(answer.split())])


def landed(scores: pl.DataFrame, by: str) -> dict[str, float]:
    """Return the median percentile of each kind (100 = highest score), and corrupted shares of the top."""
    scores = scores.with_columns(pl.col(by).fill_nan(None))
    ranked = scores.with_columns(percentile=pl.col(by).rank("average") / pl.col(by).count() * 100)
    figures = {kind: float(ranked.filter(pl.col("source") == kind)["percentile"].median()) for kind in KINDS}  # type: ignore[arg-type]
    ordered = ranked.sort(by, "id", descending=[True, False], nulls_last=True)
    for share in SHARES:
        top = ordered.head(int(share * ordered.height))
        figures[f"top {share:.0%}"] = 100 * float((top["source"] != "clean").mean())  # type: ignore[arg-type]
    return figures


def random_draw(scores: pl.DataFrame) -> tuple[dict[str, float], dict[str, float]]:
    """Return the means and standard deviations of the same figures over random scores."""
    rng = np.random.default_rng(0)
    draws = [landed(scores.with_columns(random=rng.random(scores.height)), "random") for _ in range(DRAWS)]
    return (
        {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]},
        {name: float(np.std([draw[name] for draw in draws])) for name in draws[0]},
    )


def main() -> None:
    """Run the benchmark and print its table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a table with instruction, input and output")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/corruption"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"corrupted-{options.seed}.jsonl"
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in corrupted_rows(options.data, seed=options.seed)),
        encoding="utf-8",
    )

    columns = [*KINDS, *(f"top {share:.0%}" for share in SHARES)]
    lines, costs = [], []
    for label, folds in (("in-sample", 0), ("two folds", 2)):
        outcomes = lobass(
            [str(path)],
            model=options.model,
            reference=TrimmedReference(folds=folds, rows="all"),
            reading=Reading(source_column="kind"),
            budget=str(Budget(fraction=SHARES[0])),
            run=Run(output=str(options.output)),
        )
        scores = pl.read_parquet(outcomes["scores"].folder / "scores.parquet")
        for by in ("learnability", "length_matched", "difference"):
            figures = landed(scores, by)
            lines.append(
                f"| {by} | {label} | " + " | ".join(f"{figures[column]:.1f}" for column in columns) + " |"
            )
        for name in ("reference", "scores"):
            cost = outcomes[name].cost
            costs.append(f"{label}, {name}: {cost.tokens:,} tokens, {cost.seconds:,.0f} s")
    mean, deviation = random_draw(scores)
    lines.append(
        "| random | none | " + " | ".join(f"{mean[c]:.1f} ± {deviation[c]:.1f}" for c in columns) + " |"
    )

    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, model {options.model}, {scores.height:,} rows, seed {options.seed}"
    )
    print(
        "Median percentile of each kind (100 = first to be chosen), and per cent of corrupted rows among the top.\n"
    )
    print(
        "| score | reference | "
        + " | ".join([*KINDS, *(f"corrupted in {c}" for c in columns[len(KINDS) :])])
        + " |"
    )
    print("| --- | --- | " + " | ".join("---:" for _ in columns) + " |")
    print("\n".join(lines))
    print("\nCost: " + "; ".join(costs))


if __name__ == "__main__":
    main()
