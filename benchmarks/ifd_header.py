"""What stands before an answer alone, and how much that choice moves IFD: nothing but a separator, or the answer header.

Measures the loss of each answer token after its instruction, behind the separator (EOS, or BOS where the tokenizer adds
one) and behind the header of the chat template, and prints one table. Losses are stored: a run that was stopped goes on.

    OMP_NUM_THREADS=1 python benchmarks/ifd_header.py
    OMP_NUM_THREADS=1 python benchmarks/ifd_header.py --data alpaca.jsonl --model Qwen/Qwen3-0.6B
"""

import argparse
import os
import platform
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import spearmanr

from learnable.data import read
from learnable.measures import answers_alone, column, lengths, measure_of, take
from learnable.models.language_model import LanguageModel
from learnable.runs.store import Store
from learnable.types import AnswerHeader, Measure, ModelRef, Rendered

MAX_LENGTH = 512
HEADERS = ("separator", "answer header")


def token_losses(
    model: LanguageModel, measure: Measure, rendered: list[Rendered], store: Store, label: str
) -> list[NDArray[np.float64]]:
    """Return the loss of each answer token of each row, in nats; what is stored is not measured again."""
    take(lambda: nullcontext(model), [measure], rendered, store=store, label=label)
    return [np.asarray(each) for each in column(measure, lengths(rendered), store=store)]


def main() -> None:
    """Measure the rows three times, and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="starter")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=300, help="drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/ifd-header"))
    options = parser.parse_args()
    started = time.monotonic()
    examples = list(read([options.data]).iter_examples())
    drawn = np.random.default_rng(options.seed).permutation(len(examples))[: options.rows]
    model = LanguageModel(ModelRef(name=options.model))
    renderer = model.renderer
    rendered = renderer.render([examples[place] for place in drawn], max_length=MAX_LENGTH, skip_refused=True)
    rendered = [each for each in rendered if each.mask.any()]
    store = Store(options.output / "store")
    usual = measure_of(model.key, rendering=renderer.key, max_length=MAX_LENGTH, kind="token_nll")
    given = token_losses(model, usual, rendered, store, "after the instruction")
    nothing = AnswerHeader(
        opening=np.array([], dtype=np.int32), marks=np.array([renderer.separator], dtype=np.int32)
    )
    headers = dict(zip(HEADERS, (nothing, renderer.answer_header), strict=True))
    alone = {}
    for name, header in headers.items():
        measure = replace(usual, parameters={**usual.parameters, "context": name})
        alone[name] = token_losses(model, measure, answers_alone(rendered, header=header), store, name)
    scores = {
        name: np.array([one.mean() / other.mean() for one, other in zip(given, losses, strict=True)])
        for name, losses in alone.items()
    }
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, model {options.model}, {model.network.dtype}, "
        f"{len(rendered)} rows of {Path(options.data).name}, seed {options.seed}; "
        f"answers of {np.mean([len(each) for each in given]):.0f} tokens in the mean\n"
        f"First answer token after the instruction: {_first(given):.2f} nats\n"
    )
    print(
        "| the answer alone stands behind | which is | first token, nats | all tokens, nats | median IFD | IFD above 1 |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, losses in alone.items():
        mean = float(np.mean([each.mean() for each in losses]))
        print(
            f"| {name} | `{renderer.decode(headers[name].ids)!r}` | {_first(losses):.2f} | {mean:.2f} | "
            f"{np.median(scores[name]):.2f} | {np.mean(scores[name] > 1):.1%} |"
        )
    rho = float(spearmanr(*scores.values()).statistic)
    kept = {name: set(_best(score)) for name, score in scores.items()}
    shared = len(set.intersection(*kept.values())) / len(kept[HEADERS[1]])
    print(
        f"\nSpearman correlation of the two IFDs: {rho:.2f}; of the best 10 % at or under 1, {shared:.0%} are the same rows"
    )
    print(f"Cost: {time.monotonic() - started:,.0f} s")


def _first(losses: list[NDArray[np.float64]]) -> float:
    """Return the mean loss of the first tokens."""
    return float(np.mean([each[0] for each in losses]))


def _best(score: NDArray[np.float64]) -> list[int]:
    """Return the rows that a selection of a tenth by IFD takes."""
    frame = pl.DataFrame({"row": np.arange(len(score)), "score": score}).filter(pl.col("score") <= 1)
    return frame.sort("score", descending=True)["row"].head(len(score) // 10).to_list()


if __name__ == "__main__":
    main()
