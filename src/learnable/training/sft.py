"""Supervised fine-tuning with TRL and PEFT on tokens that are rendered already; a killed run goes on where it was."""

import gc
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from learnable.atomic import disk_errors, replacing, write_json
from learnable.errors import TrainError
from learnable.model.loading import load_network, load_tokenizer, quiet
from learnable.model.source import resolved_dtype
from learnable.progress import Bar, bar
from learnable.types import ModelRef, Rendered, Tuning

CHECKPOINT_EVERY_S = 60.0
COMPLETE = "complete"
PIECE_TOKENS = {"cpu": 1_024, "cuda": 16_384, "mps": 4_096}
"""Most tokens, padding included, that are forwarded and backwarded at once; memory grows with them."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training did: ``tokens`` of all epochs, without padding; ``seconds`` up to each kill's last checkpoint.

    ``ran`` is False when it was done before.
    """

    folder: Path
    tokens: int
    steps: int
    seconds: float
    ran: bool = True


def fine_tune(
    ref: ModelRef,
    rendered: Sequence[Rendered],
    folder: Path,
    *,
    tuning: Tuning,
    label: str,
    token_ids: Sequence[int] = (),
    start: Path | None = None,
) -> Trained:
    """Fine-tune a model on the response tokens of rendered examples.

    Args:
        ref: The model to start from.
        rendered: n examples; those without a response token are left out.
        folder: Where the adapter (LoRA) or the whole model (full) goes. A finished run there is not repeated; an
            unfinished one goes on from its last checkpoint, with the same result as an unbroken one.
        tuning: How.
        label: What the progress bar says.
        token_ids: With LoRA: tokens whose rows of the embedding are trained beside the adapters, and saved with them.
        start: With LoRA: an adapter of the same model to go on from, such as that of an earlier stage.

    Raises:
        TrainError: If there is nothing to train on, or the loss is not finite.
        DiskError: If the disk is full.
    """
    record = folder / "training.json"
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        shutil.rmtree(
            folder / "checkpoints", ignore_errors=True
        )  # left by a kill right after the record was written
        return Trained(folder=folder, ran=False, **known)
    useful = sorted((example for example in rendered if example.mask.any()), key=lambda example: example.id)
    if not useful:
        raise TrainError(
            "there is no example with a response token to train on",
            hint="raise max_length, or look at `learnable show`",
        )
    try:
        with disk_errors(folder):
            return _fine_tune(ref, useful, folder, tuning, label, tuple(token_ids), start)
    except torch.cuda.OutOfMemoryError as error:
        longest = max(len(example.ids) for example in useful)
        raise TrainError(
            f"training does not fit the GPU's memory (longest example: {longest:,} tokens)",
            hint="lower max_length, or take a smaller model or dtype; the same command goes on from the last checkpoint",
        ) from error


def _fine_tune(
    ref: ModelRef,
    rendered: list[Rendered],
    folder: Path,
    tuning: Tuning,
    label: str,
    token_ids: tuple[int, ...],
    start: Path | None,
) -> Trained:
    started = time.monotonic()
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    mixed = resolved_dtype(ref) == "bfloat16"
    # Full fine-tuning keeps float32 weights and computes in bfloat16: bfloat16 weights would lose small updates.
    network = load_network(replace(ref, dtype="float32") if tuning.method == "full" else ref)
    if start is not None:
        network = PeftModel.from_pretrained(network, str(start), is_trainable=True)
    tokenizer = load_tokenizer(ref)
    transformers.set_seed(tuning.seed)
    on_cpu = network.device.type == "cpu"
    tokens = sum(len(example.ids) for example in rendered)
    batches = LengthGroupedBatches(
        [len(example.ids) for example in rendered],
        batch_size=tuning.batch_size,
        steps=tuning.steps,
        seed=tuning.seed,
    )
    last = _last_complete(checkpoints)
    spent_before = float((last / COMPLETE).read_text(encoding="ascii") or 0) if last else 0.0
    arguments = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=tuning.epochs,
        per_device_train_batch_size=tuning.batch_size,
        learning_rate=tuning.peak_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=_warmup_steps(tuning, len(batches)),
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=mixed,
        fp16=False,
        activation_checkpointing=not on_cpu,
        optim="adamw_torch",
        seed=tuning.seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    # On one device whatever the machine has: several visible GPUs would multiply the batch, hence change the result.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    with bar(label, round(tokens * tuning.epochs)) as progress:
        trainer = _Trainer(
            model=network,
            args=arguments,
            train_dataset=_dataset(rendered),
            processing_class=tokenizer,
            peft_config=lora(tuning, network, token_ids)
            if tuning.method == "lora" and start is None
            else None,
            callbacks=[_Checkpoints(started=started - spent_before)],
        )
        head = trainer.model.get_output_embeddings()
        if token_ids and not hasattr(head, "bias"):
            head.bias = None  # TRL reads it, and PEFT's wrapper around new rows has lost it
        trainer.progress = progress
        trainer.batches = batches
        trainer.remove_callback(PrinterCallback)
        outcome = trainer.train(resume_from_checkpoint=str(last) if last else None)
    if not np.isfinite(outcome.training_loss):
        raise TrainError(
            "the training loss is not finite", hint="lower the learning rate, or use --dtype float32"
        )
    if tuning.method == "full":
        trainer.model.to(getattr(torch, resolved_dtype(ref)))
    with quiet():
        trainer.model.save_pretrained(folder)
    if tuning.method == "full":
        tokenizer.save_pretrained(folder)
    trained = Trained(
        folder=folder,
        tokens=round(tokens * tuning.epochs),
        steps=int(trainer.state.global_step),
        seconds=spent_before + time.monotonic() - started,
    )
    del trainer, network  # the next fold must not find them in memory
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    figures = {"tokens": trained.tokens, "steps": trained.steps, "seconds": trained.seconds}
    write_json(folder / "training.json", figures)
    shutil.rmtree(checkpoints)
    return trained


def lora(tuning: Tuning, network: Any, token_ids: Sequence[int] = ()) -> LoraConfig:
    """Return the adapters that a training moves: on all linear layers, and on the rows of these tokens.

    A token has a row of the input embedding and one of the output embedding, which most small models share.
    """
    rows = {}
    if token_ids:
        embeddings = (network.get_input_embeddings(), network.get_output_embeddings())
        tied = embeddings[0].weight is embeddings[1].weight
        for part in embeddings[:1] if tied else embeddings:
            name = next(name for name, module in network.named_modules() if module is part)
            rows[name.rpartition(".")[2]] = list(token_ids)
    return LoraConfig(
        r=tuning.rank,
        lora_alpha=2 * tuning.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        trainable_token_indices=rows or None,
    )


def save_whole(ref: ModelRef, adapter: Path, folder: Path) -> None:
    """Write a model with its adapter merged into the weights: a folder that plain transformers loads.

    Weights are added in float32 and rounded once, to the dtype of ``ref``. A folder that is there is kept.

    Raises:
        DiskError: If it cannot be written.
    """
    if (folder / "config.json").is_file():
        return
    for leftover in folder.glob("merged*"):  # of a run that was killed while it wrote
        shutil.rmtree(leftover)
    network = PeftModel.from_pretrained(
        load_network(replace(ref, dtype="float32", device="cpu")), str(adapter)
    )
    merged = network.merge_and_unload().to(getattr(torch, resolved_dtype(ref)))
    # The tokenizer first and the configuration last: a folder with a configuration is a whole model.
    with replacing(folder / "merged") as aside, quiet():
        merged.save_pretrained(aside)
        load_tokenizer(ref).save_pretrained(aside)
    for file in sorted((folder / "merged").iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(folder / file.name)
    (folder / "merged").rmdir()


def _dataset(rendered: Sequence[Rendered]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [example.ids.tolist() for example in rendered],
            "labels": [np.where(example.mask, example.ids, -100).tolist() for example in rendered],
        }
    )


def _warmup_steps(tuning: Tuning, batches: int) -> int:
    """Return the steps of rising learning rate: rounded up, but never all of them, as the first has the rate 0."""
    total = math.ceil(tuning.epochs * batches)
    return min(math.ceil(tuning.warmup * total), total - 1)


def _last_complete(checkpoints: Path) -> Path | None:
    found = sorted(
        checkpoints.glob(f"checkpoint-*/{COMPLETE}"), key=lambda mark: int(mark.parent.name.split("-")[1])
    )
    for folder in checkpoints.glob("checkpoint-*"):
        if not (folder / COMPLETE).exists():  # the run was killed while it wrote this one
            shutil.rmtree(folder)
    return found[-1].parent if found else None


class LengthGroupedBatches(torch.utils.data.Sampler[list[int]]):
    """Batches of indices of about one length, shuffled.

    Little padding, and no drift of length over the epoch: examples are shuffled, sorted by length within windows of
    ``window`` batches, cut into batches, and all batches are shuffled.

    Args:
        lengths: Tokens of each example, (n,).
        batch_size: Examples per batch; the last one may have fewer.
        steps: Make this many batches instead, their sizes as even as can be.
        seed: Seeds the order, together with the epoch.
        window: Batches per window.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        window: int = 16,
    ) -> None:
        count = len(lengths)
        self._lengths, self._seed, self._epoch = np.asarray(lengths), seed, 0
        if steps is None:
            self._borders = np.append(np.arange(0, count, batch_size), count)
        else:
            self._borders = np.round(np.linspace(0, count, min(steps, count) + 1)).astype(np.int64)
        self._windows = np.append(self._borders[:-1:window], count)
        self._even = steps is not None or count % batch_size == 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of another epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._borders) - 1

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._lengths))
        windows = [order[start:end] for start, end in pairwise(self._windows)]
        grouped = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in windows])
        batches = [grouped[start:end].tolist() for start, end in pairwise(self._borders)]
        # A last batch that is not full stays last, so that the learning rate is lowest where the gradient is noisiest.
        full = len(batches) - (not self._even)
        batches[:full] = [batches[position] for position in rng.permutation(full)]
        return iter(batches)


class _Trainer(SFTTrainer):  # type: ignore[misc]
    progress: Bar

    batches: LengthGroupedBatches

    def get_train_dataloader(self) -> Any:
        """Return the batches as they are planned; the trainer's own way knows only batches of one size."""
        loader = torch.utils.data.DataLoader(
            self._remove_unused_columns(self.train_dataset, description="Training"),
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def training_step(
        self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Take a batch in pieces of bounded size: the same gradient, as each loss is over the tokens of the whole."""
        if num_items_in_batch is None:
            num_items_in_batch = (inputs["labels"][:, 1:] != -100).sum()
        loss = torch.zeros((), device=inputs["labels"].device)
        for piece in self._pieces(inputs):
            loss = loss + super().training_step(model, piece, num_items_in_batch)
            self.progress.advance(int(piece["attention_mask"].sum()))
        return loss

    def _pieces(self, inputs: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        while order:
            longest = int(lengths[order[0]])
            rows = max(1, PIECE_TOKENS.get(inputs["labels"].device.type, PIECE_TOKENS["cpu"]) // longest)
            yield {name: value[order[:rows], :longest] for name, value in inputs.items()}
            order = order[rows:]


class _Checkpoints(TrainerCallback):
    """Asks for a checkpoint every minute, or less often where saving is slow, and marks it once it is whole.

    The mark holds the seconds spent so far, so that a run that goes on knows its whole cost.
    """

    def __init__(self, *, started: float) -> None:
        self._started = started
        self._asked = self._saved = time.monotonic()
        self._pause_s = CHECKPOINT_EVERY_S

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if time.monotonic() - self._saved >= self._pause_s and state.global_step < state.max_steps:
            self._asked = time.monotonic()
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = time.monotonic()
        mark = Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE
        with replacing(mark) as part:
            part.write_text(f"{self._saved - self._started:.1f}", encoding="ascii")
        self._pause_s = max(CHECKPOINT_EVERY_S, 10 * (self._saved - self._asked) * (CHECKPOINT_EVERY_S > 0))
