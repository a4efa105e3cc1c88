"""What does a GPU give? Are the losses right there, and how fast are scoring, training and generation?

One script for the day that a GPU is at hand. Each part runs in a process of its own and prints its table as soon as it
is measured, the most valuable first; what is measured is kept in --output, and a second run goes on behind it. A part
that would begin after --minutes is left out, and said. Models of real shapes are made from configurations, with random
weights: nothing is downloaded.

    python benchmarks/gpu.py --expected expected.parquet --output runs/gpu
    python benchmarks/gpu.py --make-expected expected.parquet          # the CPU's losses, made once, without a GPU
    python benchmarks/gpu.py --device cpu --quick --output runs/try    # tries the script itself
"""

import argparse
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.runs.progress import say
from learnable.settings import Sampling, Tuning
from learnable.types import Example, ModelRef, Rendered

ROWS = 200
"""Rows of the starter set whose losses are compared with those of a CPU."""

SHAPES: dict[str, dict[str, Any]] = {
    "0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "1.7B": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
}
"""Shapes of the Qwen3 family; all have 8 key heads of width 128 and 151,936 tokens."""

QUICK: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TOKENS = {"0.6B": 800_000, "1.7B": 500_000, "8B": 200_000, "quick": 4_000}
KINDS = {"short chat rows": (120, 0.6, 1_024), "long rows": (2_500, 0.3, 4_096)}
"""Median length, spread (of the logarithm) and longest length of made-up rows."""

RESPONSE = 0.6
"""Share of a made-up row that is its response."""

HEADER = 24
"""Tokens that every made-up row begins with, as chat templates do."""

EVIDENCE: dict[str, tuple[str, ...]] = {
    "6": ("conditions.py", "budget", "--rows", "37000", "--only", "6 % of Alpaca, one"),
    "16.7": ("conditions.py", "budget", "--rows", "37000", "--only", "16.7 % of Alpaca, one"),
    "1.5": ("conditions.py", "budget", "--rows", "37000", "--only", "1.5 % of Alpaca, one"),
    "target": ("targeted.py", "--times", "38", "--by", "relevance/round_robin", "dsir", "longest"),
    "delia-67": (
        "delia.py",
        "--arms",
        "common",
        "delia@ratio=67",
        "repeated/delia@ratio=67",
        "--buffer",
        "3082",
    ),
    "delia-260": (
        "delia.py",
        "--arms",
        "common",
        "delia@ratio=260",
        "repeated/delia@ratio=260",
        "--buffer",
        "11960",
    ),
}
"""What a CPU cannot do in a night: shares of all short rows of Alpaca, a pool of 19,000 rows, the paper's buffers."""

OTHERS_SHARE = 8
"""The slow ways get one row in so many."""


def main() -> None:
    """Run the parts that are asked for and not done, and print their tables."""
    parser = argparse.ArgumentParser(description=re.sub(r"\s+", " ", (__doc__ or "").split("\n\n", 1)[0]))
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="where results are kept")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--expected", type=Path, help="losses of a CPU, as --make-expected wrote them")
    parser.add_argument("--make-expected", type=Path, metavar="FILE", help="only write the CPU's losses")
    parser.add_argument("--model", default="starter", help="model of correctness and generation")
    parser.add_argument("--data", type=Path, help="folder with train/ and eval/, for the evidence")
    parser.add_argument("--scratch", type=Path, help="where made-up models are written; a temporary folder")
    parser.add_argument("--minutes", type=float, default=10.0, help="no part begins later than this")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.make_expected:
        make_expected(chosen)
        return
    if chosen.one:
        work(chosen)
        return
    chosen.output.mkdir(parents=True, exist_ok=True)
    print(f"{date.today().isoformat()}, {device_name(chosen.device)}, torch {torch.__version__}", flush=True)
    ended = time.monotonic() + 60 * chosen.minutes
    with tempfile.TemporaryDirectory() as scratch:
        for name in planned(chosen):
            run(name, chosen, scratch=chosen.scratch or Path(scratch), left_s=ended - time.monotonic())


def planned(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield the names of the measurements, the most valuable first."""
    shapes = ["quick"] if chosen.quick else chosen.shapes
    for part in chosen.parts:
        if part in ("scoring", "training", "attention"):
            yield from (f"{part} {shape}" for shape in shapes)
        elif part == "correctness" and chosen.expected is None:
            say("correctness is left out: give --expected, the file that --make-expected writes")
        elif part == "evidence" and chosen.data is None:
            say("evidence is left out: give --data, the folder of the tables")
        else:
            yield from (f"evidence {name}" for name in EVIDENCE) if part == "evidence" else (part,)


def run(name: str, chosen: argparse.Namespace, *, scratch: Path, left_s: float) -> None:
    """Measure one part in a process of its own, unless it was done before, and print its table."""
    kept = chosen.output / f"{name.replace(' ', '-')}.json"
    if not kept.is_file():
        if left_s <= 0:
            say(
                f"{name} is left out: the {chosen.minutes:g} minutes are over; the same command goes on with it"
            )
            return
        words = ["--one", name, "--output", str(kept), "--device", chosen.device, "--model", chosen.model]
        words += ["--scratch", str(scratch)] + (["--quick"] if chosen.quick else [])
        words += ["--expected", str(chosen.expected)] if chosen.expected else []
        words += ["--data", str(chosen.data)] if chosen.data else []
        done = subprocess.run([sys.executable, __file__, *words], check=False)
        if done.returncode:
            print(f"\n{name}: failed with exit code {done.returncode}; what it said stands above", flush=True)
            return
    found = json.loads(kept.read_text(encoding="utf-8"))
    print(f"\n{name} ({found['seconds']:.0f} s)\n\n" + "\n".join(found["lines"]), flush=True)


def work(chosen: argparse.Namespace) -> None:
    """Measure one part in this process and keep its table."""
    part, _, shape = chosen.one.partition(" ")
    started = time.monotonic()
    lines = PARTS[part](chosen, shape)
    content = {"lines": lines, "seconds": time.monotonic() - started, "device": device_name(chosen.device)}
    aside = chosen.output.with_suffix(".part")
    aside.write_text(json.dumps(content), encoding="utf-8")
    aside.replace(chosen.output)


def device_name(device: str) -> str:
    """Return what the device calls itself."""
    return (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    )


# Correctness


def make_expected(chosen: argparse.Namespace) -> None:
    """Write what a CPU finds for the rows of the starter set: losses in both dtypes, and learnability."""
    found = losses_and_scores(
        replace(ModelRef(name=chosen.model), device="cpu"), rows=20 if chosen.quick else ROWS
    )
    found.write_parquet(chosen.make_expected)
    print(f"{found.height} rows in {chosen.make_expected}")


def losses_and_scores(ref: ModelRef, *, rows: int) -> pl.DataFrame:
    """Return ``id``, ``float32`` and ``bfloat16`` (loss per token in nats) and ``learnability`` of rows of the starter set."""
    examples = starter_rows(rows)
    columns: dict[str, Any] = {"id": [example.id for example in examples]}
    for dtype in ("float32", "bfloat16"):
        model = LanguageModel(replace(ref, dtype=dtype))
        rendered = model.renderer.render(examples, max_length=1_024)
        counts = np.array([int(example.mask.sum()) for example in rendered])
        columns[dtype] = model.nll(rendered) / counts
        if dtype == "float32":
            columns["learnability"] = 1 - after_training(model, rendered) / counts / columns[dtype]
        del model
        free()
    return pl.DataFrame(columns)


def starter_rows(count: int) -> list[Example]:
    """Return rows of the starter set, drawn at random."""
    from learnable.commands import load
    from learnable.data import load_pool

    with tempfile.TemporaryDirectory() as folder:
        examples = list(load_pool(load(["starter"], output=f"{folder}/pool").folder).iter_examples())
    return [examples[place] for place in np.random.default_rng(0).permutation(len(examples))[:count]]


def after_training(model: LanguageModel, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return the summed nll of each row after one LoRA epoch on all of them."""
    from learnable.training import fine_tune

    with tempfile.TemporaryDirectory() as folder:
        fine_tune(model.ref, rendered, Path(folder), tuning=Tuning(), label="reference")
        with model.adapter(Path(folder)):
            return model.nll(rendered)


def correctness(chosen: argparse.Namespace, _: str) -> list[str]:
    """Compare losses and scores here with those of a CPU."""
    expected = pl.read_parquet(chosen.expected)
    ref = ModelRef(name=chosen.model, device=chosen.device)
    found = losses_and_scores(ref, rows=expected.height)
    both = expected.join(found, on="id", suffix="_here", validate="1:1")
    if both.height != expected.height:
        raise AssertionError("the rows are not those of the CPU: was --expected made by another version?")
    lines = ["| figure | against the CPU's float32 |", "| --- | ---: |"]
    for dtype in ("float32", "bfloat16"):
        apart = np.abs((both[f"{dtype}_here"] - both["float32"]).to_numpy())
        lines.append(f"| largest difference of a loss, {dtype}, nats per token | {np.max(apart):.2g} |")
        lines.append(f"| mean difference, {dtype} | {np.mean(apart):.2g} |")
    apart = np.abs((both["bfloat16"] - both["float32"]).to_numpy())
    lines.append(f"| largest difference of the CPU's own bfloat16 | {np.max(apart):.2g} |")
    spearman = both.select(pl.corr("learnability", "learnability_here", method="spearman")).item()
    lines.append(f"| learnability, rank correlation over {both.height} rows | {spearman:.4f} |")
    return lines


# Speed


def made_up_model(chosen: argparse.Namespace, shape: str) -> ModelRef:
    """Return a model of this shape with random weights, written once."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = chosen.scratch / f"model-{shape}"
    if not (folder / "config.json").is_file():
        # The vocabulary of a model is most of a small one: the quick try takes the tokenizer's own size.
        renderer = Renderer.of(ModelRef(name=chosen.model))
        heads: dict[str, Any] = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936}
        if shape == "quick":
            heads = {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": len(renderer.tokenizer)}
        config = Qwen3Config(**(SHAPES.get(shape, QUICK) | heads), tie_word_embeddings=shape != "8B")
        with torch.device(chosen.device):
            network: Any = Qwen3ForCausalLM(config).bfloat16()
        network.save_pretrained(folder)
        renderer.tokenizer.save_pretrained(folder)
        del network
        free()
    return ModelRef(name=str(folder), dtype="bfloat16", device=chosen.device)


def made_up_rows(kind: str, tokens: int) -> list[Rendered]:
    """Return rows of random tokens that together have about so many tokens; all begin alike."""
    median, spread, longest = KINDS[kind]
    rng = np.random.default_rng(0)
    header = rng.integers(10, 20_000, size=HEADER)
    rows: list[Rendered] = []
    while tokens > 0:
        length = int(np.clip(rng.lognormal(np.log(median), spread), HEADER + 16, longest))
        ids = np.concatenate([header, rng.integers(10, 20_000, size=length - HEADER)]).astype(np.int32)
        mask = np.arange(length) >= length - max(1, int(RESPONSE * (length - HEADER)))
        rows.append(Rendered(id=f"{len(rows):06}", ids=ids, mask=mask, truncated=False))
        tokens -= length
    return rows


def scoring(chosen: argparse.Namespace, shape: str) -> list[str]:
    """Time the loss pass of this package and of others, on the same weights and rows."""
    model = LanguageModel(made_up_model(chosen, shape))
    peak = matrix_peak(chosen.device)
    lines = [
        f"bfloat16; the largest product of matrices reaches {peak / 1e12:,.1f} TFLOP/s here.",
        "",
        "| rows | way | tokens/s | share of the matrix peak | peak memory, GiB | learnable is faster by |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        rows = made_up_rows(kind, TOKENS[shape])
        ours: float | None = None
        for name, way in WAYS.items():
            some = rows if ours is None else rows[::OTHERS_SHARE]
            rate, memory, operations = timed(model, way, some, chosen.device)
            if rate is None:
                lines.append(f"| {kind} | {name} | {memory} | | | |")
                continue
            ours = ours or rate
            share = f"{operations * rate / peak:.0%}" if operations else ""
            lines.append(f"| {kind} | {name} | {rate:,.0f} | {share} | {memory} | {ours / rate:.2f} |")
    return lines


def timed(
    model: LanguageModel, way: Callable[..., None], rows: Sequence[Rendered], device: str
) -> tuple[float | None, str, float | None]:
    """Return tokens/s, peak memory in GiB, and operations per token where the way is ours; a reason in place of a rate."""
    try:
        way(model, rows[:: max(1, len(rows) // 16)])  # warms up
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before, started = model.work, time.monotonic()
        way(model, rows)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
    except ImportError as error:
        return None, f"not here: {error.name} is missing", None
    except torch.cuda.OutOfMemoryError:
        free()
        return None, "out of memory", None
    tokens = sum(len(row.ids) for row in rows)
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if device == "cuda" else ""
    done = (model.work - before).operations
    return tokens / seconds, memory, done / tokens if done else None


def matrix_peak(device: str) -> float:
    """Return the operations per second of a large product of matrices in bfloat16."""
    width = 8_192 if device == "cuda" else 1_024
    one, other = (torch.randn(width, width, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.monotonic()
        for _ in range(5):
            one @ other
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.monotonic() - started) / 5)
    return 2 * width**3 / best


def by_us(model: LanguageModel, rows: Sequence[Rendered]) -> None:
    """Plan, measure and store as `learnable score` does."""
    from learnable.measures import measure_of, take
    from learnable.runs.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        identity = measure_of(model.key, rendering="gpu", max_length=4_096)
        take(lambda: nullcontext(model), [identity], rows, store=store, label="learnable")


@torch.no_grad()
def one_by_one(model: LanguageModel, rows: Sequence[Rendered]) -> None:
    """Take one row at a time, all logits in float32, as a plain loop over transformers does."""
    for row in rows[:64]:
        ids = torch.from_numpy(row.ids.astype(np.int64))[None].to(model.network.device)
        logits = model.network(input_ids=ids).logits[0, :-1].float()
        torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").cpu()


@torch.no_grad()
def in_padded_batches(model: LanguageModel, rows: Sequence[Rendered], size: int = 16) -> None:
    """Take padded batches, the longest first, all logits in float32, as lm-eval does; half as many where memory ends."""
    order = sorted(rows, key=lambda row: -len(row.ids))
    start = 0
    while start < len(order):
        batch = order[start : start + size]
        ids = torch.zeros(len(batch), len(batch[0].ids), dtype=torch.int64)
        for place, row in enumerate(batch):
            ids[place, : len(row.ids)] = torch.from_numpy(row.ids.astype(np.int64))
        try:
            logits = model.network(input_ids=ids.to(model.network.device)).logits
            torch.nn.functional.log_softmax(logits, dim=-1, dtype=torch.float32).amax(dim=-1).cpu()
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            free()
        else:
            start += len(batch)


def by_lm_eval(model: LanguageModel, rows: Sequence[Rendered]) -> None:
    """Take lm-eval's own model class with its automatic batch size."""
    from lm_eval.models.huggingface import HFLM

    harness: Any = HFLM(
        pretrained=model.network,
        tokenizer=model.renderer.tokenizer,
        batch_size="auto" if torch.cuda.is_available() else 4,
        max_length=4_096,
    )
    first = [int(row.mask.argmax()) for row in rows]
    requests = [
        (("", ""), row.ids[:begin].tolist(), row.ids[begin:].tolist())
        for row, begin in zip(rows, first, strict=True)
    ]
    harness._loglikelihood_tokens(requests, disable_tqdm=True)


WAYS: dict[str, Callable[..., None]] = {
    "learnable": by_us,
    "transformers, one row at a time": one_by_one,
    "transformers, padded batches, longest first": in_padded_batches,
    "lm-eval HFLM, batch size auto": by_lm_eval,
}


def training(chosen: argparse.Namespace, shape: str) -> list[str]:
    """Time LoRA training against TRL's trainer with its defaults, on the same rows."""
    from training_speed import OURS, TRL, trained

    ref = made_up_model(chosen, shape)
    lines = [
        "| rows | training | tokens/s | times TRL | peak memory, GiB | largest difference of a loss |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        rows = made_up_rows(kind, TOKENS[shape] // 4)
        found: dict[str, Any] = {}
        for one in (OURS, TRL):
            try:
                found[one] = trained(one, ref, rows)
            except torch.cuda.OutOfMemoryError:
                lines.append(f"| {kind} | {one} | out of memory | | | |")
            free()
        rates = {one: each["tokens"] / each["seconds"] for one, each in found.items()}
        apart = ""
        if len(found) == 2:
            ours, theirs = (found[one]["losses"] for one in (OURS, TRL))
            apart = f"{max(abs(ours[each] - theirs[each]) for each in ours):.1e}"
        for one, rate in rates.items():
            times = f"{rate / rates[TRL]:.2f}" if TRL in rates else ""
            memory = f"{found[one]['peak'] / 2**30:.1f}"
            lines.append(f"| {kind} | {one} | {rate:,.0f} | {times} | {memory} | {apart} |")
    return lines


def attention(chosen: argparse.Namespace, shape: str) -> list[str]:
    """Time each way to attend in a packed batch, and say how far each is from the plain one in float32."""
    from learnable.models.attention import Followed, Scores, by_flash, by_flex, by_segments
    from learnable.models.packing import packed

    heads = (SHAPES.get(shape, QUICK))["num_attention_heads"]
    device = torch.device(chosen.device)
    lines = [
        "| rows | window | way | milliseconds a layer | largest difference |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for kind in KINDS:
        layout = packed(made_up_rows(kind, 2_000 if shape == "quick" else 16_384))
        count = layout.ids.shape[1]
        query, key, value = (
            torch.randn(1, each, count, 128, dtype=torch.bfloat16, device=device) for each in (heads, 2, 2)
        )
        for window in (None, 256):
            scores = Scores(scale=128**-0.5, window=window)
            exact = by_segments(query.float(), key.float(), value.float(), Followed(layout, device), scores)
            for name, way in {"segments": by_segments, "flash": by_flash, "flex": by_flex}.items():
                try:
                    arguments = (query, key, value, Followed(layout, device), scores)
                    found, seconds = repeated(partial(way, *arguments), device)
                except (RuntimeError, NotImplementedError) as error:
                    lines.append(
                        f"| {kind} | {window or ''} | {name} | not here: {str(error).splitlines()[0][:60]} | |"
                    )
                    continue
                apart = float((found.float() - exact).abs().max())
                lines.append(f"| {kind} | {window or ''} | {name} | {seconds * 1e3:.2f} | {apart:.1e} |")
    return lines


def repeated(call: Callable[[], torch.Tensor], device: torch.device) -> tuple[torch.Tensor, float]:
    """Return what a call gives, and its seconds: the least of a few, after one that may compile."""
    found, best = call(), float("inf")
    for _ in range(10 if device.type == "cuda" else 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.monotonic()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - started)
    return found, best


def generation(chosen: argparse.Namespace, _: str) -> list[str]:
    """Time the answers to starter questions."""
    model = LanguageModel(ModelRef(name=chosen.model, dtype="bfloat16", device=chosen.device))
    examples = starter_rows(20 if chosen.quick else 400)
    most = 16 if chosen.quick else 128
    prompts = [example.messages[:-1] for example in examples]
    lines = ["| decoding | prompts | new tokens | tokens/s |", "| --- | ---: | ---: | ---: |"]
    settings = {
        "greedy": Sampling(temperature=0.0, top_p=1.0, max_new_tokens=most),
        "sampled": Sampling(temperature=0.7, top_p=0.95, max_new_tokens=most),
    }
    for decoding, sampling in settings.items():
        first = replace(settings["greedy"], max_new_tokens=4)
        list(model.answers(prompts[:8], sampling=first, seeds=()))
        started, seeds = time.monotonic(), range(len(prompts)) if sampling.temperature else ()
        found = [each for _, some in model.answers(prompts, sampling=sampling, seeds=seeds) for each in some]
        seconds = time.monotonic() - started
        encoded = model.renderer.tokenizer([each.text for each in found], add_special_tokens=False)[
            "input_ids"
        ]
        tokens = sum(min(len(ids) + 1, most) for ids in encoded)
        lines.append(f"| {decoding} | {len(prompts)} | {tokens:,} | {tokens / seconds:,.0f} |")
    return lines


def evidence(chosen: argparse.Namespace, name: str) -> list[str]:
    """Run another benchmark at a size that takes a GPU, and return what it printed; stopped, it goes on where it was."""
    script, *options = EVIDENCE[name]
    words = [sys.executable, str(Path(__file__).with_name(script)), *options, "--model", chosen.model]
    words += ["--data", str(chosen.data), "--output", str(chosen.output.parent / f"evidence-{script}")]
    if chosen.quick:
        words += {
            "conditions.py": ["--rows", "64", "--seeds", "1"],
            "targeted.py": ["--times", "1", "--seeds", "1"],
        }.get(script, ["--rows", "4", "--buffer", "8", "--tests", "4", "--seeds", "1"])
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def free() -> None:
    """Give the memory of what is no longer used back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


PARTS: dict[str, Callable[[argparse.Namespace, str], list[str]]] = {
    "correctness": correctness,
    "scoring": scoring,
    "training": training,
    "attention": attention,
    "generation": generation,
    "evidence": evidence,
}
"""What is measured, the most valuable first; a later experiment adds a line of its own."""


if __name__ == "__main__":
    main()
