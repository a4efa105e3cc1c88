"""How much of learnability is learning to stop: the share of the fall of the loss that is that of the end of turns.

Runs the recipe ``lobass`` over the starter set, over the same with bare answers (cut to their first sentence of at most
six words, where there is one, as a second source), and over any file that is named; and prints one table. A run that is
stopped goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/learning_to_stop.py
    OMP_NUM_THREADS=1 python benchmarks/learning_to_stop.py --data alpaca.jsonl --rows 1000
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import polars as pl
from scipy.stats import spearmanr

from learnable.data import read
from learnable.recipes import Run, lobass
from learnable.runs.identity import fingerprint
from learnable.scorers import end_of_turn_share
from learnable.settings import Reading
from learnable.types import Example

BARE_WORDS = 6
SCORERS = ("learnability", "text_learnability")


def written(examples: Sequence[Example], path: Path, *, bare: bool) -> Path:
    """Write rows of one question and answer; with ``bare`` also each answer that can be cut to a few words, so cut."""
    rows = []
    for example in examples:
        turns = [{"role": each.role, "content": each.content} for each in example.messages]
        rows.append({"messages": turns, "kind": "as it is"})
        words = example.messages[-1].content.split(".")[0].split()
        if bare and 0 < len(words) <= BARE_WORDS:
            turns = [*turns[:-1], {"role": "assistant", "content": " ".join(words)}]
            rows.append({"messages": turns, "kind": "bare"})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scored(data: Path, model: str, folder: Path) -> pl.DataFrame:
    """Return the scores of a pool with an in-sample reference, as the recipe makes them."""
    outcomes = lobass(
        [str(data)],
        model=model,
        form="paper",
        reading=Reading(source_column="kind"),
        budget="20%",
        scorers=SCORERS,
        run=Run(output=str(folder)),
    )
    return pl.read_parquet(outcomes["scores"].folder / "scores.parquet")


def line(label: str, frame: pl.DataFrame) -> str:
    """Return a line of the table."""
    both = frame.drop_nans(list(SCORERS))
    count = max(1, both.height // 5)
    best = [set(both.sort(name, "id", descending=[True, False])["id"].head(count)) for name in SCORERS]
    rho = spearmanr(both[SCORERS[0]], both[SCORERS[1]]).statistic
    length = frame.select(pl.col("response_tokens").median()).item()
    before, after = (frame.select(pl.col(f"end_nll_{when}").mean()).item() for when in ("before", "after"))
    share = end_of_turn_share(frame)
    return (
        f"| {label} | {frame.height:,} | {length:.0f} | {before:.2f} | {after:.2f} | "
        f"{'not known' if share is None else f'{share:.0%}'} | {rho:.2f} | {len(best[0] & best[1]) / count:.0%} |"
    )


def main() -> None:
    """Run the recipe for each pool, and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="another pool, instead of the starter set")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=1_000, help="of it, drawn at random")
    parser.add_argument("--output", type=Path, default=Path("runs/learning-to-stop"))
    options = parser.parse_args()
    started = time.monotonic()
    name = options.data.name if options.data else "starter set"
    examples = list(read([str(options.data or "starter")], on_error="skip").iter_examples())
    examples = sorted(examples, key=lambda each: fingerprint([0, each.id]))[: options.rows]
    pools = {name: False} if options.data else {name: False, f"{name} and bare answers": True}
    lines = []
    for label, bare in pools.items():
        data = written(examples, options.output / f"{label.replace(' ', '-')}.jsonl", bare=bare)
        frame = scored(data, options.model, options.output / "runs")
        lines.append(line(label, frame))
        if bare:
            kinds = frame.partition_by("source", maintain_order=True)
            lines += [line(f"of these, {part['source'][0]}", part) for part in kinds]
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, model {options.model}, in-sample reference, defaults of the recipe\n"
    )
    print(
        "| pool | rows | median answer, tokens | end of turn before, nats | after | share of the fall | "
        "Spearman with text_learnability | of the best 20 % the same |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(lines))
    print(f"\nCost: {time.monotonic() - started:,.0f} s")


if __name__ == "__main__":
    main()
