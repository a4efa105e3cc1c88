"""How fast are losses measured? Tokens per second of five ways, on the same rows, weights, dtype and machine.

(a) a loop of transformers over one row at a time, (b) padded batches of 4 in file order with the logits of all tokens,
(c) lm-eval's HFLM with its best batch size, (d) evaluate of TRL's trainer with its defaults, (e) learnable.

Each way runs in a process of its own, one after another in slices of a few seconds: while one runs the others are stopped
(SIGSTOP), so that a machine that others use too slows all of them alike. A way's time is that of its slices. Loading and
a warm-up come before, and so does the search for (c)'s best batch size.

    python benchmarks/speed.py --data dolly_15k.parquet
"""

import argparse
import json
import os
import pickle
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.types import ModelRef, Rendered

NAMES = {
    "a": "(a) transformers, one row at a time",
    "b": "(b) padded batches of 4, file order, all logits",
    "c": "(c) lm-eval HFLM, its best batch size",
    "d": "(d) TRL trainer's evaluate, its defaults",
    "e": "(e) learnable",
}
WARM_UP = 8
Losses = NDArray[np.float64]


def main() -> None:
    """Time what is asked for and print a table for each dtype and set of rows."""
    parser = argparse.ArgumentParser(description=re.sub(r"\s+", " ", (__doc__ or "").split("\n\n", 1)[0]))
    parser.add_argument("--data", type=Path, help="file with at least 500 rows, such as dolly_15k.parquet")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--short", type=int, default=1_000, help="rows of the starter set; 0 for none")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--ways", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--slice", type=float, default=5.0, help="seconds of a slice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--profile", action="store_true", help="only say where the time of (e) goes, operation by operation"
    )
    parser.add_argument("--way", choices=list(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        work(chosen.way, chosen.job)
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{date.today().isoformat()}, {machine}, model {chosen.model}, seed {chosen.seed}")
    sets = {}
    if chosen.data is not None:
        sets[f"{chosen.rows} rows of {chosen.data.name}"] = (str(chosen.data), chosen.rows)
    if chosen.short:
        sets[f"{chosen.short} short rows of the starter set"] = ("starter", chosen.short)
    for title, (source, count) in sets.items():
        exact: Losses | None = None
        slowest: float | None = None
        for dtype in chosen.dtypes:
            with tempfile.TemporaryDirectory() as folder:
                job = Path(folder)
                ref = ModelRef(name=chosen.model, dtype=dtype, device=chosen.device)
                rendered = rows_of(source, count, ref, job, seed=chosen.seed)
                if chosen.profile:
                    profile(title, ref, rendered, job)
                    continue
                (job / "rows.pkl").write_bytes(pickle.dumps((ref, rendered)))
                found = raced(chosen.ways, job, chosen.slice)
            if exact is None and "a" in found and dtype == "float32":
                exact, slowest = np.array(found["a"]["losses"]), found["a"]["seconds"]
            show(title, dtype, rendered, found, exact, slowest)


def rows_of(source: str, count: int, ref: ModelRef, folder: Path, *, seed: int) -> list[Rendered]:
    """Return ``count`` rows with one response, which is all that (c) takes, drawn at random, in the order of the file."""
    from learnable.commands import load
    from learnable.data import load_pool
    from learnable.models.rendering import Renderer

    examples = list(load_pool(load([source], output=str(folder / "pool")).folder).iter_examples())
    rendered = Renderer.of(ref).render(examples, max_length=2_048, skip_refused=True)
    useful = [
        position
        for position, example in enumerate(rendered)
        if (np.diff(example.mask.astype(int)) > 0).sum() == 1
    ]
    drawn = np.random.default_rng(seed).permutation(useful)[:count]
    return [rendered[position] for position in sorted(drawn.tolist())]


def raced(ways: Sequence[str], job: Path, slice_s: float) -> dict[str, dict[str, Any]]:
    """Run each way in its own process, in slices; return what each found."""
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for way in ways:
            say(f"warming up {NAMES[way]}")
            running[way] = _warmed_up(way, job)
        spent = _in_slices(running, slice_s)
    finally:
        for process in running.values():
            process.kill()
    found = {way: json.loads((job / f"{way}.json").read_text()) for way in ways}
    for way, slices in spent.items():
        # What comes after the measurement, such as leaving Python, does not count.
        ended = found[way]["ended"]
        found[way]["seconds"] = sum(max(0.0, min(stop, ended) - start) for start, stop in slices)
        say(f"{NAMES[way]}: {found[way]['seconds']:.1f} s")
    return found


def _warmed_up(way: str, job: Path) -> "subprocess.Popen[str]":
    """Return a process that is stopped, and measures when it goes on."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--way", way, "--job", str(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{NAMES[way]} failed")
    process.send_signal(signal.SIGSTOP)
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def _in_slices(
    running: "dict[str, subprocess.Popen[str]]", slice_s: float
) -> dict[str, list[tuple[float, float]]]:
    """Let each run for some seconds in turn until all are done; return when each ran, from and to."""
    slices: dict[str, list[tuple[float, float]]] = {way: [] for way in running}
    order = list(running)
    while order:
        way = order.pop(0)
        process, started = running[way], time.monotonic()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(slice_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGSTOP)
            order.append(way)
        else:
            if process.returncode:
                raise SystemExit(f"{NAMES[way]} failed")
        slices[way].append((started, time.monotonic()))
    return slices


def work(way: str, job: Path) -> None:
    """Load, warm up, wait for the word, and measure."""
    ref, rendered = pickle.loads((job / "rows.pkl").read_bytes())
    before = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is not for the parent
    measure: Callable[[Sequence[Rendered]], dict[str, Any]]
    measure = {"a": one_by_one, "b": padded, "c": lm_eval, "d": trl, "e": ours}[way](ref, rendered, job)
    measure(rendered[:WARM_UP])
    before.write("ready\n")
    before.flush()
    sys.stdin.readline()
    found = measure(rendered)
    ended = time.monotonic()
    if "after" in found:
        found |= found.pop("after")()
    found["ended"], found["peak"] = ended, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (job / f"{way}.json").write_text(json.dumps(found))


def plain_network(ref: ModelRef) -> tuple[Any, Any]:
    """Return network and tokenizer as a user of transformers would load them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from learnable.models.loading import resolved_device
    from learnable.models.source import locate

    folder = locate(ref)
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, ref.dtype))
    return network.to(resolved_device(ref)).eval(), AutoTokenizer.from_pretrained(folder)


def one_by_one(ref: ModelRef, _: Sequence[Rendered], __: Path) -> Callable[..., dict[str, Any]]:
    """(a)."""
    import torch

    network, _tokenizer = plain_network(ref)

    @torch.no_grad()
    def measure(rendered: Sequence[Rendered]) -> dict[str, Any]:
        losses = []
        for example in rendered:
            ids = torch.from_numpy(example.ids.astype(np.int64))[None].to(network.device)
            labels = torch.where(torch.from_numpy(example.mask).to(ids.device), ids[0], -100)[1:]
            logits = network(input_ids=ids).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, labels).item())
        return {"losses": losses}

    return measure


def padded(ref: ModelRef, _: Sequence[Rendered], __: Path) -> Callable[..., dict[str, Any]]:
    """(b)."""
    import torch

    network, tokenizer = plain_network(ref)

    @torch.no_grad()
    def measure(rendered: Sequence[Rendered]) -> dict[str, Any]:
        losses: list[float] = []
        for start in range(0, len(rendered), 4):
            batch = rendered[start : start + 4]
            longest = max(len(example.ids) for example in batch)
            ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
            attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, example in enumerate(batch):
                own = torch.from_numpy(example.ids.astype(np.int64))
                ids[row, : len(own)], attention[row, : len(own)] = own, 1
                labels[row, : len(own)] = torch.where(torch.from_numpy(example.mask), own, -100)
            ids, attention, labels = (each.to(network.device) for each in (ids, attention, labels))
            logits = network(input_ids=ids, attention_mask=attention).logits[:, :-1].float()
            each = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], reduction="none"
            ).sum(1)
            losses += (each / (labels[:, 1:] != -100).sum(1)).tolist()
        return {"losses": losses}

    return measure


def lm_eval(ref: ModelRef, rendered: Sequence[Rendered], _: Path) -> Callable[..., dict[str, Any]]:
    """(c)."""
    from lm_eval.models.huggingface import HFLM

    network, tokenizer = plain_network(ref)
    harness: Any = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=1, max_length=2_048)

    def measure(rendered: Sequence[Rendered]) -> dict[str, Any]:
        requests = []
        for example in rendered:
            first, last = np.flatnonzero(example.mask)[[0, -1]]
            ids = example.ids.tolist()
            requests.append((("", ""), ids[:first], ids[first : last + 1]))
        found = harness._loglikelihood_tokens(requests, disable_tqdm=True)
        counts = [int(example.mask.sum()) for example in rendered]
        return {"losses": [-value / count for (value, _), count in zip(found, counts, strict=True)]}

    sample = [rendered[p] for p in np.random.default_rng(0).permutation(len(rendered))[:32]]
    seconds = {}
    for size in (1, 4, 16):
        harness.batch_size_per_gpu = size
        started = time.monotonic()
        measure(sample)
        seconds[size] = time.monotonic() - started
    harness.batch_size_per_gpu = min(seconds, key=lambda size: seconds[size])
    say(f"lm-eval's best batch size: {harness.batch_size_per_gpu}")
    return measure


def trl(ref: ModelRef, _: Sequence[Rendered], job: Path) -> Callable[..., dict[str, Any]]:
    """(d); it gives the mean loss of its batches only."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    network, tokenizer = plain_network(ref)

    def measure(rendered: Sequence[Rendered]) -> dict[str, Any]:
        rows = {
            "input_ids": [example.ids.tolist() for example in rendered],
            "labels": [np.where(example.mask, example.ids, -100).tolist() for example in rendered],
        }
        arguments = SFTConfig(
            output_dir=str(job / "trl"),
            use_cpu=network.device.type == "cpu",
            bf16=False,
            report_to="none",
            max_length=None,
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        dataset = Dataset.from_dict(rows)
        trainer = SFTTrainer(
            model=network,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.evaluate()
        return {"losses": None}

    return measure


def ours(ref: ModelRef, _: Sequence[Rendered], job: Path) -> Callable[..., dict[str, Any]]:
    """(e): planned, measured and stored as by `learnable score`."""
    import polars as pl

    from learnable.measures import column, lengths, measure_of, take
    from learnable.models.language_model import LanguageModel
    from learnable.runs.store import Store

    model = LanguageModel(ref)

    def measure(rendered: Sequence[Rendered]) -> dict[str, Any]:
        store, before = Store(job / fingerprint(len(rendered))), model.work
        # The same conversation stands in some files twice; the rivals do not look.
        named = [
            Rendered(id=str(place), ids=each.ids, mask=each.mask, truncated=each.truncated)
            for place, each in enumerate(rendered)
        ]
        identity = measure_of(model.key, rendering="speed", max_length=2_048)
        take(lambda: nullcontext(model), [identity], named, store=store, label="learnable")
        frame = lengths(named).with_columns(pl.col("id").cast(pl.String))
        work = model.work - before
        return {
            "losses": column(identity, frame, store=store).to_list(),
            "computed": work.computed,
            "padding": work.padding,
            "operations": work.operations,
            "after": lambda: {"matrix peak": model.peak_operations_per_s},
        }

    return measure


def profile(title: str, ref: ModelRef, rendered: Sequence[Rendered], job: Path) -> None:
    """Print the share of each operation in the time of (e); the profiler takes time itself."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    measure = ours(ref, rendered, job)
    measure(rendered[:WARM_UP])
    with profiling(activities=[ProfilerActivity.CPU]) as profiler:
        measure(rendered)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(f"\n{title}, {ref.dtype}\n\n| operation | share of the time |\n| --- | ---: |")
    for event in events[:12]:
        print(f"| `{event.key}` | {event.self_cpu_time_total / total:.1%} |")


def show(
    title: str,
    dtype: str,
    rendered: Sequence[Rendered],
    found: dict[str, dict[str, Any]],
    exact: Losses | None,
    slowest: float | None,
) -> None:
    """Print one table."""
    tokens = sum(len(example.ids) for example in rendered)
    responses = sum(int(example.mask.sum()) for example in rendered)
    mine = found.get("e", {}).get("seconds")
    print(f"\n{title}, {dtype}: {tokens:,} tokens, of which {responses:,} in responses\n")
    print("| way | tokens/s | peak memory, GiB | largest difference, nats/token | learnable is faster by |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for way, one in found.items():
        apart = "means only"
        if one["losses"] is not None:
            apart = (
                f"{np.abs(np.array(one['losses']) - exact).max():.1g}"
                if exact is not None
                else "not measured"
            )
        ratio = f"{one['seconds'] / mine:.2f}" if mine else ""
        print(
            f"| {NAMES[way]} | {tokens / one['seconds']:,.0f} | {one['peak'] / 2**30:.2f} | {apart} | {ratio} |"
        )
    if mine:
        one = found["e"]
        share = one["operations"] / mine / one["matrix peak"]
        print(
            f"\nlearnable: {one['padding'] / (one['computed'] + one['padding']):.1%} padding; "
            f"{1 - one['computed'] / tokens:.1%} of the tokens shared and computed once; {share:.0%} of the peak of matrix "
            f"products at the model's shapes, measured in the same process ({one['matrix peak'] / 1e9:,.0f} GFLOP/s)"
        )
        if slowest is not None and dtype != "float32":
            print(f"Against float32 (a), a user's default: {slowest / mine:.2f} times as fast")


if __name__ == "__main__":
    main()
