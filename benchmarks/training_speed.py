"""How fast is a training? Tokens per second of ``fine_tune`` and of TRL's trainer with its defaults, on the same rows.

Both train LoRA adapters (rank 16, all linear layers, batches of 8) on the same tokens with the same response mask, in
the same dtype, each in a process of its own, one after the other, as often as asked. TRL's trainer is given tokens and
labels, so that neither of the two spends time on rendering; all else is what ``SFTTrainer`` does by default: activation
checkpointing, random batches, its collator and its loss. What is timed is ``train()`` there, and all steps here. The learning rate is 0, which
costs the same: so each example's loss can be compared, and with it that both trained on the same thing.

    python benchmarks/training_speed.py --data dolly_15k.parquet
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from learnable.commands import load
from learnable.data import load_pool
from learnable.models.rendering import Renderer
from learnable.models.source import locate
from learnable.runs.price import peak_memory_bytes
from learnable.settings import Tuning
from learnable.training import fine_tune
from learnable.training.loop import Loop
from learnable.types import ModelRef, Rendered

OURS, TRL = "learnable", "TRL's defaults"
RANK, BATCH_SIZE, MAX_LENGTH = 16, 8, 1_024


def rows_of(path: Path, ref: ModelRef, *, rows: int, seed: int) -> list[Rendered]:
    """Return rendered examples, drawn at random, in the order drawn."""
    with tempfile.TemporaryDirectory() as folder:
        pool = load_pool(load([str(path)], output=f"{folder}/pool").folder)
    examples = list(pool.iter_examples())
    drawn = np.random.default_rng(seed).permutation(len(examples))[:rows]
    rendered = Renderer.of(ref).render([examples[each] for each in drawn], max_length=MAX_LENGTH)
    return [example for example in rendered if example.mask.any()]


def with_ours(ref: ModelRef, rendered: Sequence[Rendered], folder: Path) -> dict[str, float]:
    """Train with ``fine_tune``; return the loss per token of each example by id."""
    tuning = Tuning(learning_rate=0.0, batch_size=BATCH_SIZE, rank=RANK)
    fine_tune(ref, rendered, folder, tuning=tuning, label="learnable", keep_losses=True)
    kept = pl.read_parquet(folder / "last_epoch.parquet")
    return dict(zip(kept["id"], kept["nll"] / kept["response_tokens"], strict=True))


def with_trl(ref: ModelRef, rendered: Sequence[Rendered], folder: Path) -> dict[str, float]:
    """Train as a user of TRL would; return the loss per token of each example by id."""
    labels = [np.where(example.mask, example.ids, -100).tolist() for example in rendered]
    trainer = SFTTrainer(
        model=str(locate(ref)),
        args=SFTConfig(
            output_dir=str(folder),
            learning_rate=0.0,
            num_train_epochs=1,
            # By default it cuts what is longer than 1,024 tokens: both are to train on the same.
            max_length=max(MAX_LENGTH, *(len(example.ids) for example in rendered)),
            bf16=ref.dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            model_init_kwargs={"dtype": ref.dtype},
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict(
            {"input_ids": [example.ids.tolist() for example in rendered], "labels": labels}
        ),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    ids = {example.ids.tobytes(): example.id for example in rendered}
    found: dict[str, float] = {}

    def keep(_: Any, __: Any, inputs: dict[str, torch.Tensor], output: Any) -> None:
        losses = -output.log_probs.detach().sum(dim=1) / output.label_mask.sum(dim=1)
        for row, loss in enumerate(losses.tolist()):
            seen = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
            found[ids[seen.numpy(force=True).astype(np.int32).tobytes()]] = loss

    trainer.model.get_base_model().register_forward_hook(keep, with_kwargs=True)
    trainer.train()
    return found


def trained(one: str, ref: ModelRef, rendered: Sequence[Rendered]) -> dict[str, Any]:
    """Train once in this process; return seconds of training, tokens, peak memory and losses by id."""
    seconds: list[float] = []
    owner, name = {OURS: (Loop, "step"), TRL: (Trainer, "train")}[one]
    work = getattr(owner, name)

    def timed(self: Any, *given: Any, **named: Any) -> Any:
        started = time.monotonic()
        outcome = work(self, *given, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
        return outcome

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    setattr(owner, name, timed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            losses = {OURS: with_ours, TRL: with_trl}[one](ref, rendered, Path(folder))
    finally:
        setattr(owner, name, work)
    return {
        "seconds": sum(seconds),
        "tokens": sum(len(example.ids) for example in rendered),
        "peak": torch.cuda.max_memory_allocated() if on_gpu else peak_memory_bytes(),
        "losses": losses,
    }


def measured(arguments: argparse.Namespace, one: str, dtype: str) -> dict[str, Any]:
    """Return what ``trained`` finds in a fresh process."""
    words = ["--one", one, "--dtype", dtype, "--model", arguments.model, "--data", str(arguments.data)]
    words += ["--rows", str(arguments.rows), "--seed", str(arguments.seed)]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(arguments: argparse.Namespace) -> list[str]:
    """Return the lines of the table in Markdown, the best of the repeats of each."""
    lines = [
        "| dtype | training | tokens/s | times TRL | peak memory | largest difference of a loss |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for dtype in arguments.dtypes:
        runs: dict[str, list[dict[str, Any]]] = {TRL: [], OURS: []}
        for _ in range(arguments.repeats):
            for one, found in runs.items():
                found.append(measured(arguments, one, dtype))
        rates = {one: max(run["tokens"] / run["seconds"] for run in found) for one, found in runs.items()}
        losses = {one: found[0]["losses"] for one, found in runs.items()}
        if losses[TRL].keys() != losses[OURS].keys():
            raise AssertionError("the two have not trained on the same examples")
        apart = max(abs(losses[TRL][each] - losses[OURS][each]) for each in losses[OURS])
        for one, found in runs.items():
            peak = max(run["peak"] for run in found) / 1e9
            lines.append(
                f"| {dtype} | {one} | {rates[one]:,.0f} | {rates[one] / rates[TRL]:.2f} | {peak:.1f} GB | "
                f"{apart:.1e} |"
            )
    return lines


def main() -> None:
    """Time both and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="rows in any form that learnable reads")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="seeds which rows are drawn")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--one", choices=[OURS, TRL], help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        ref = ModelRef(name=arguments.model, dtype=arguments.dtype)
        rendered = rows_of(arguments.data, ref, rows=arguments.rows, seed=arguments.seed)
        print(json.dumps(trained(arguments.one, ref, rendered)))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    threads = os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))
    print("\n".join(table(arguments)))
    print(
        f"\n{arguments.rows} rows of {arguments.data.name} (seed {arguments.seed}), {arguments.model}, LoRA of rank "
        f"{RANK} on all linear layers, batches of {BATCH_SIZE}, best of {arguments.repeats}; {device}, {threads} threads, "
        f"{date.today().isoformat()}"
    )


if __name__ == "__main__":
    main()
