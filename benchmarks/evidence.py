"""Does choosing help? The same model on equal token budgets chosen in many ways, from a pool with corrupted rows.

Draws 1,000 rows from two or more tables, corrupts 15 % of them (answers shuffled between rows, cut in half, random
words), and takes 160 further clean rows of the first table to evaluate on, beside reference answers to other prompts.
Every method then gets 15 % of the pool's tokens, three trainings each. Prints one table for each evaluation, and one
that says from the scores what each method chose. A run that is stopped goes on where it was. ``--why`` prints from a
finished run what the scores of each kind of rows are, and how many response tokens each method learns from.

    python benchmarks/evidence.py --tables dolly_15k.parquet alpaca_46k.parquet --references alpaca_eval_805.jsonl
    python benchmarks/evidence.py --why runs/evidence/comparison-1a2b3c4d
"""

import argparse
import json
import platform
import time
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from corruption import KINDS, corrupt
from numpy.typing import NDArray

from learnable.commands.compare import compare
from learnable.data import read
from learnable.experiments import difference
from learnable.objects.given import finished
from learnable.objects.results import vectors_of
from learnable.runs.identity import fingerprint
from learnable.selectors.vectors import unit
from learnable.settings import Reading
from learnable.types import Example

ROWS, CORRUPTED_SHARE, HELDOUT, REFERENCES = 1_000, 0.15, 160, 100
MOST_CHARACTERS = 700
PAPER = (
    "learnability",
    "learnability@folds=2",
    "difference",
    "ifd",
    "perplexity",
    "longest",
    "k_center",
    "full",
)
VARIED = ("learnability", "length_matched", "soft_learnability")
VARIANTS = ("length_matched@folds=2", "soft_learnability@folds=2", "learnability@folds=2/diverse_top_k")


@cache
def rows_of(path: Path, *, seed: int) -> list[Example]:
    """Return the rows of a table that are neither long nor nearly empty, in an order that depends on the seed alone."""
    examples = sorted(
        read([str(path)], on_error="skip").iter_examples(), key=lambda each: fingerprint([seed, each.id])
    )
    return [
        each
        for each in examples
        if len(each.messages[-1].content.split()) >= 4
        and sum(len(message.content) for message in each.messages) <= MOST_CHARACTERS
    ]


def prepare(
    tables: list[Path], references: Path | None, folder: Path, *, count: int, seed: int
) -> list[Path]:
    """Write the pool, the held-out rows and, if there are any, the reference answers; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [rows_of(path, seed=seed) for path in tables]
    share = count // len(tables)
    taken = [each[:share] for each in drawn]
    # Clean rows first, evenly from all tables, so that the corrupted ones are as even.
    mixed = [each for group in zip(*taken, strict=True) for each in group]
    rows = corrupt(
        [(each.messages[-2].content, each.messages[-1].content) for each in mixed],
        clean=round(count * (1 - CORRUPTED_SHARE)),
        seed=seed,
    )
    of = {
        each.messages[-1].content: path.stem
        for path, group in zip(tables, taken, strict=True)
        for each in group
    }
    for row in rows:
        row["source"] = of[row["output"]] if row["kind"] == KINDS[0] else row["kind"]
    heldout = [
        {"instruction": each.messages[-2].content, "input": "", "output": each.messages[-1].content}
        for each in drawn[0][share : share + HELDOUT]
    ]
    text = references.read_text(encoding="utf-8") if references is not None else ""
    asked = [json.loads(line) for line in text.splitlines()]
    answered = [
        {"instruction": row["instruction"], "input": "", "output": row["reference_gpt4"]}
        for row in sorted(asked, key=lambda row: fingerprint([seed, row["instruction"]]))
        if len(row["reference_gpt4"]) >= 4
        and len(row["instruction"] + row["reference_gpt4"]) <= 2 * MOST_CHARACTERS
    ][:REFERENCES]
    paths = []
    for name, lines in (("pool", rows), ("heldout", heldout), ("references", answered)):
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return paths if references is not None else paths[:2]


def shown_evaluation(table: pl.DataFrame, label: str) -> list[str]:
    """Return one evaluation as Markdown."""
    lines = [
        f"**{label}**, {table['unit'].to_list()[0]}, {'higher' if table['higher_is_better'][0] else 'lower'} is better; "
        f"{table['items'][0]} items, {int(table['seeds'].to_numpy().max())} seeds.\n",
        "| method | tokens | examples | steps | value | difference to random | p | verdict | selection costs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in table.sort("value", descending=bool(table["higher_is_better"][0])).iter_rows(named=True):
        against = (
            ""
            if row["difference"] is None
            else f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        )
        seconds = row["score_s"] + row["reference_s"]
        lines.append(
            f"| {row['method']} | {row['tokens']:,.0f} | {row['examples']:,.0f} | {row['steps']:.0f} | {row['value']:.4f} "
            f"| {against} | {'' if row['p'] is None else format(row['p'], '.2g')} | {row['verdict'] or ''} "
            f"| {f'{seconds:,.0f} s' if seconds > 0 else ''} |"
        )
    return lines


def shown_choices(folder: Path) -> list[str]:
    """Return from the scores what each method chose, as Markdown."""
    scores = pl.read_parquet(folder / "scores.parquet")
    shown = {"response_tokens": "response tokens", "loss_before": "L_base", "loss_alone": "L_alone"}
    shown = {name: title for name, title in shown.items() if name in scores.columns}
    chosen = pl.read_parquet(folder / "selections.parquet").filter(pl.col("budget_tokens").is_not_null())
    names = ["method", "seed", "source", *shown]
    joined = chosen.join(scores.select("id", "source", *shown), on="id").select(names)
    ours = scores.with_columns(method=pl.lit("the pool"), seed=pl.lit(0, pl.Int64)).select(names)
    both = pl.concat([joined, ours])
    kinds = KINDS[1:]
    titles = [*(f"{kind}, %" for kind in kinds), "corrupted, %", *shown.values()]
    lines = ["| method | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(titles)]
    for part in both.partition_by("method", maintain_order=True):
        shares = [100 * float((part["source"] == kind).mean()) for kind in kinds]  # type: ignore[arg-type]
        means = [float(part[name].mean()) for name in shown]  # type: ignore[arg-type]
        cells = [f"{share:.1f}" for share in [*shares, sum(shares)]]
        cells += [f"{means[0]:.0f}", *(f"{mean:.2f}" for mean in means[1:])]
        lines.append(f"| {part['method'][0]} | " + " | ".join(cells) + " |")
    return lines


def shown_without_overlap(folder: Path) -> list[str]:
    """Return the differences to random on the items that share nothing with the pool, as Markdown; nothing if all do."""
    table = pl.read_parquet(folder / "table.parquet")
    results = pl.read_parquet(folder / "results.parquet")
    overlap = pl.read_parquet(folder / "overlap.parquet")
    methods = table.filter(pl.col("difference").is_not_null() & pl.col("budget_tokens").is_not_null())
    lines = [
        "| evaluation | items | method | difference to random | p | verdict |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for label in overlap["evaluation"].unique(maintain_order=True):
        known = overlap.filter(pl.col("evaluation") == label)["item"].to_list()
        here = results.filter((pl.col("evaluation") == label) & ~pl.col("id").is_in(known))
        higher = bool(table.filter(pl.col("evaluation") == label)["higher_is_better"].to_list()[0])
        names = methods.filter(pl.col("evaluation") == label)["method"].to_list()
        for name in names:
            against = difference(
                _values(here, name), _values(here, "random"), higher_is_better=higher, comparisons=len(names)
            )
            lines.append(
                f"| {label} | {against.items} | {name} | {against.mean:+.4f} ({against.low:+.4f} to {against.high:+.4f}) "
                f"| {against.p:.2g} | {against.verdict} |"
            )
    return lines if len(lines) > 2 else []


def shown_variants(folder: Path, *, paper: str) -> list[str]:
    """Return what the variants are worth against the paper's form, as Markdown."""
    table = pl.read_parquet(folder / "table.parquet")
    results = pl.read_parquet(folder / "results.parquet")
    variants = [
        name
        for name in table["method"].unique(maintain_order=True)
        if name.split("@")[0].split("/")[0] in VARIED
    ]
    variants = [name for name in variants if name != paper]
    lines = [
        f"| evaluation | variant | difference to {paper} | p | verdict |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for label in table["evaluation"].unique(maintain_order=True):
        here = results.filter(pl.col("evaluation") == label)
        higher = bool(table.filter(pl.col("evaluation") == label)["higher_is_better"].to_list()[0])
        for name in variants:
            against = difference(
                _values(here, name), _values(here, paper), higher_is_better=higher, comparisons=len(variants)
            )
            lines.append(
                f"| {label} | {name} | {against.mean:+.4f} ({against.low:+.4f} to {against.high:+.4f}) | {against.p:.2g} | {against.verdict} |"
            )
    return lines


def shown_why(folder: Path) -> list[str]:
    """Return from a finished run what the methods saw and what they made a model learn from, as Markdown."""
    return [
        "Medians of scores by kind of rows, mean response tokens, mean cosine of two rows of a kind, and median distance",
        "of a row to its nearest neighbour in the pool (Euclidean, vectors of length 1):\n",
        *shown_kinds(folder),
        "\nWhat one training learns from, means over seeds:\n",
        *shown_response_tokens(folder),
    ]


def shown_kinds(folder: Path) -> list[str]:
    """Return the scores of each kind of rows of the pool, and where their vectors lie, as Markdown."""
    scores = pl.read_parquet(folder / "scores.parquet")
    vectors = _vectors(folder, scores["id"])
    figures = {
        "L_base": ("loss_before", pl.Expr.median, ".2f"),
        "difference": ("difference", pl.Expr.median, ".2f"),
        "IFD": ("ifd", pl.Expr.median, ".2f"),
        "IFD above 1, %": ("ifd", lambda ifd: 100 * (ifd > 1).mean(), ".1f"),
        "response tokens": ("response_tokens", pl.Expr.mean, ".0f"),
    }
    figures = {title: figure for title, figure in figures.items() if figure[0] in scores.columns}
    titles = [*figures, *(("cosine", "nearest") if vectors is not None else ())]
    lines = ["| rows | n | " + " | ".join(titles) + " |", "| --- | ---: |" + " ---: |" * len(titles)]
    kinds = sorted(scores["source"].unique(), key=lambda kind: (kind in KINDS, kind))
    for kind in [*kinds, "the pool"]:
        mine = np.array([kind in (source, "the pool") for source in scores["source"]])
        rows = scores.filter(mine).fill_nan(None)
        cells = [format(rows.select(of(pl.col(name))).item(), form) for name, of, form in figures.values()]
        if vectors is not None:
            cells += [f"{figure:.2f}" for figure in _among(vectors, mine)]
        lines.append(f"| {kind} | {rows.height} | " + " | ".join(cells) + " |")
    return lines


def _among(vectors: NDArray[np.float32], mine: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean cosine of two of these rows, and the median distance of one to its nearest neighbour in the pool."""
    cosines = vectors[mine] @ vectors.T
    own, count = cosines[:, mine], int(mine.sum())
    cosine = (own.sum() - np.trace(own)) / (count * (count - 1))
    cosines[np.arange(count), np.flatnonzero(mine)] = -1  # itself
    return float(cosine), float(np.median(np.sqrt(np.maximum(2 - 2 * cosines.max(axis=1), 0))))


def _vectors(folder: Path, ids: pl.Series) -> NDArray[np.float32] | None:
    """Return the vectors of length 1 that the selectors of a run looked at, (n, d); None if none did."""
    pool = finished(folder, "compare").inputs["pool"]
    for scored in sorted((folder.parent / "store").glob("scores-*")):
        known = vectors_of(scored)
        if known is None or finished(scored, "score").inputs["pool"] != pool:
            continue
        place = {
            identity: row for row, identity in enumerate(pl.read_parquet(scored / "scores.parquet")["id"])
        }
        return unit(known[[place[identity] for identity in ids]])
    return None


def shown_response_tokens(folder: Path) -> list[str]:
    """Return how many response tokens a training of each method learns from, as Markdown."""
    arms = pl.read_parquet(folder / "arms.parquet").filter(pl.col("budget_tokens").is_not_null())
    means = arms.group_by("method", maintain_order=True).agg(pl.col("tokens", "response_tokens").mean())
    return [
        "| method | tokens | response tokens |",
        "| --- | ---: | ---: |",
        *(
            f"| {method} | {tokens:,.0f} | {response:,.0f} |"
            for method, tokens, response in means.iter_rows()
        ),
    ]


def _values(results: pl.DataFrame, method: str) -> NDArray[np.float64]:
    wide = results.filter(pl.col("method") == method).pivot("id", index="seed", values="value").sort("seed")
    return wide.select(sorted(set(wide.columns) - {"seed"})).to_numpy().astype(np.float64)


def main() -> None:
    """Run the benchmark and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tables", type=Path, nargs="+", help="tables of instructions and answers")
    what.add_argument("--why", type=Path, metavar="COMPARISON", help="a finished run to look into")
    parser.add_argument("--references", type=Path, help="a .jsonl with instruction and reference_gpt4")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--by", nargs="+", default=[*PAPER, *VARIANTS])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--budget", default="15%")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", type=int, default=0, help="seeds the draw and the corruption of the rows")
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"))
    options = parser.parse_args()
    if options.why is not None:
        print("\n".join(shown_why(finished(options.why, "compare").folder)))
        return
    started = time.monotonic()
    pool, *evaluated = prepare(
        options.tables, options.references, options.output / "data", count=options.rows, seed=options.draw
    )
    outcome = compare(
        [str(pool)],
        model=options.model,
        by=options.by,
        budget=[options.budget],
        seeds=options.seeds,
        evaluate=[f"heldout:{path}" for path in evaluated],
        reading=Reading(source_column="source"),
        store=str(options.output / "store"),
        output=str(options.output / "comparison-{fingerprint}"),
    )
    table = pl.read_parquet(outcome.folder / "table.parquet")
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, model {options.model}, "
        f"{outcome.facts['pool']:,} rows, {outcome.facts['pool_tokens']:,} tokens, "
        f"{outcome.facts['in both']} evaluation items overlap with the pool\n"
    )
    for label in table["evaluation"].unique(maintain_order=True):
        print("\n".join(shown_evaluation(table.filter(pl.col("evaluation") == label), label)), "\n")
    print("What was chosen, means over examples and seeds:\n")
    print("\n".join(shown_choices(outcome.folder)))
    if "learnability" in options.by:
        print("\nVariants against the paper's form, intervals for all variants of an evaluation together:\n")
        print("\n".join(shown_variants(outcome.folder, paper="learnability")))
    if clean := shown_without_overlap(outcome.folder):
        print("\nOn the evaluation items that share nothing with the pool:\n")
        print("\n".join(clean))
    arms = pl.read_parquet(outcome.folder / "arms.parquet")
    print(
        f"\nCost: {arms['tokens'].sum():,} tokens in {outcome.facts['trainings']} trainings, {arms['seconds'].sum():,.0f} s; "
        f"this run {time.monotonic() - started:,.0f} s in all"
    )


if __name__ == "__main__":
    main()
