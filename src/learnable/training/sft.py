"""Supervised fine-tuning with TRL and PEFT on tokens that are rendered already; a killed run goes on where it was."""

import ctypes
import gc
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from datasets import Dataset
from numpy.typing import NDArray
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig

from learnable.errors import TrainError, UsageError
from learnable.models.adapters import attach, lora_targets
from learnable.models.batching import Batching
from learnable.models.loading import load_network, load_tokenizer, resolved_device
from learnable.models.network import without_dropout
from learnable.models.packing import packed, padded
from learnable.models.source import concrete_dtype, identify, position_limit
from learnable.models.weights import quiet
from learnable.runs.files import disk_errors, flush, replacing, write_frame, write_json
from learnable.runs.outputs import differences, in_words, recorded
from learnable.runs.progress import bar, say
from learnable.runs.step import note, read_json
from learnable.settings import Tuning
from learnable.training import devices
from learnable.training.batches import Batches, LengthGroupedBatches
from learnable.training.memory import PIECE_TOKENS
from learnable.training.trainer import ResponseTrainer
from learnable.types import ModelRef, Rendered

CHECKPOINT_EVERY_S = 60.0
COMPLETE, KEPT_LOSSES = "complete", "last_epoch.npy"
RECORD, CHECKPOINTS = "training.json", "checkpoints"
LAST_EPOCH = "last_epoch.parquet"


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
    processes: int = 1,
    keep_losses: bool = False,
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
        processes: Share each batch among so many processes of this machine, each with a GPU of its own or a part of
            the CPU's cores. The result is the same up to rounding. Under a launcher such as ``torchrun`` its
            processes are taken, however many.
        keep_losses: Write ``last_epoch.parquet`` too: ``id``, ``nll`` (float32, summed over the response) and
            ``response_tokens`` of each example as the last epoch met it.

    Raises:
        TrainError: If there is nothing to train on, or the loss is not finite.
        UsageError: If there are fewer GPUs than processes.
        DiskError: If the disk is full.
    """
    checkpoints = folder / CHECKPOINTS
    if (trained := _trained_before(folder)) is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)  # left by a kill right after the record was written
        return trained
    useful = sorted((example for example in rendered if example.mask.any()), key=lambda example: example.id)
    if not useful:
        raise TrainError(
            "there is no example with a response token to train on",
            hint="raise max_length, or look at `learnable show`",
        )
    _check_devices(ref, processes)
    with disk_errors(folder):
        checkpoints.mkdir(parents=True, exist_ok=True)
        job = _Job(
            ref=ref,
            rendered=useful,
            folder=folder,
            tuning=tuning,
            label=label,
            token_ids=tuple(token_ids),
            start=start,
            keep_losses=keep_losses,
        )
        done: Trained = devices.together(_fine_tune, job, processes=processes, scratch=checkpoints)
        shutil.rmtree(checkpoints)
    note(done.tokens)
    return done


def _trained_before(folder: Path) -> Trained | None:
    """Return what a finished training did, None where it is to be done, again if its files are not as it left them."""
    if not (folder / RECORD).is_file():
        return None
    record = read_json(folder / RECORD)
    if differing := differences(folder, record.pop("outputs", {})):
        say(f"{folder}: {in_words(differing)}, and is trained again")
        with disk_errors(folder):
            shutil.rmtree(folder)
        return None
    return Trained(folder=folder, ran=False, **record)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What ``fine_tune`` was asked for, as it goes to all processes."""

    ref: ModelRef
    rendered: list[Rendered]
    folder: Path
    tuning: Tuning
    label: str
    token_ids: tuple[int, ...]
    start: Path | None
    keep_losses: bool


def _check_devices(ref: ModelRef, processes: int) -> None:
    device, wanted = resolved_device(ref), max(processes, devices.processes_here())
    here = {
        "cpu": wanted,
        "cuda": torch.cuda.device_count() * (wanted if devices.processes_here() > 1 else 1),
    }
    if processes < 1 or wanted > here.get(device, 1):
        raise UsageError(
            f"{wanted if processes > 0 else processes} processes cannot train on this machine's {device}",
            hint="each process takes a GPU of its own, or some cores of the CPU: choose another --processes",
        )


def _fine_tune(job: _Job) -> Trained:
    """Do what was asked for; called in all processes, of which the main one writes."""
    with disk_errors(job.folder), _memory_errors(job.rendered):
        trained = _trained(job)
    _give_back_memory()
    return trained


def _trained(job: _Job) -> Trained:
    started = time.monotonic()
    last = devices.shared(_last_complete(job.folder / CHECKPOINTS) if devices.is_main() else None)
    spent_before = float((last / COMPLETE).read_text(encoding="ascii") or 0) if last else 0.0
    trainer = _trainer(job, last, started=started - spent_before)
    tokens = round(sum(len(example.ids) for example in job.rendered) * job.tuning.epochs)
    done = trainer.batches.planned.tokens(int(last.name.split("-")[1])) if last else 0
    with (
        bar(job.label, tokens, done=done) if devices.is_main() else nullcontext() as trainer.progress,
        quiet(),
        without_dropout(trainer.model),
    ):
        outcome = trainer.train(resume_from_checkpoint=str(last) if last else None)
    trained = Trained(
        folder=job.folder,
        tokens=tokens,
        steps=int(trainer.state.global_step),
        seconds=spent_before + time.monotonic() - started,
    )
    if devices.is_main():
        if not np.isfinite(outcome.training_loss):
            raise TrainError(
                "the training loss is not finite", hint="lower the learning rate, or use --dtype float32"
            )
        _save(trainer, job)
        flush(job.folder)
        figures = {"tokens": trained.tokens, "steps": trained.steps, "seconds": trained.seconds}
        written = recorded(job.folder, leave_out=[CHECKPOINTS])
        write_json(job.folder / RECORD, figures | {"outputs": written})
    return trained


def _trainer(job: _Job, last: Path | None, *, started: float) -> ResponseTrainer:
    """Return a trainer that is ready to begin, or to go on from the last checkpoint."""
    ref, tuning = job.ref, job.tuning
    # Full fine-tuning keeps float32 weights and computes in bfloat16: bfloat16 weights would lose small updates.
    network = load_network(replace(ref, dtype="float32") if tuning.method == "full" else ref)
    if job.start is not None:
        network = attach(network, job.start, trainable=True)
    transformers.set_seed(tuning.seed)
    planned = LengthGroupedBatches(
        [len(example.ids) for example in job.rendered],
        batch_size=tuning.batch_size,
        steps=tuning.steps,
        seed=tuning.seed,
    )
    on_cpu = network.device.type == "cpu"
    arguments = SFTConfig(
        output_dir=str(job.folder / CHECKPOINTS),
        num_train_epochs=tuning.epochs,
        per_device_train_batch_size=tuning.batch_size,
        learning_rate=tuning.peak_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=_warmup_steps(tuning, len(planned)),
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=concrete_dtype(ref) == "bfloat16",
        fp16=False,
        activation_checkpointing=False,  # the trainer decides, by the memory there is
        optim="adamw_torch_fused" if network.device.type == "cuda" else "adamw_torch",
        seed=tuning.seed,
        use_cpu=on_cpu,
        # All processes see the whole batch, and count its tokens themselves.
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,
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
    fresh = tuning.method == "lora" and job.start is None
    trainer = ResponseTrainer(
        batches=Batches(job.rendered, planned),
        layout_of=packed if network.device.type == "cuda" and _packs(network, job) else padded,
        losses=_kept_losses(job, last),
        model=network,
        args=arguments,
        # TRL wants a table; the tokens stay where they are.
        train_dataset=Dataset.from_dict({"position": list(range(len(job.rendered)))}),
        data_collator=lambda members: members,
        processing_class=load_tokenizer(ref),
        peft_config=lora(tuning, network, job.token_ids) if fresh else None,
    )
    for module in trainer.model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # Autocast rounds what adapters see to bfloat16 anyway: a copy of it in float32 is for nothing.
            module.cast_input_dtype_enabled = not arguments.bf16
    trainer.add_callback(_Checkpoints(started=started, losses=trainer.losses))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _packs(network: Any, job: _Job) -> bool:
    """Return whether pieces may be one sequence; tried with rows that are as long and as many as any piece."""
    batching = Batching(network, key=identify(job.ref), position_limit=position_limit(job.ref))
    most, rows = PIECE_TOKENS[network.device.type], list[Rendered]()
    for row in sorted(job.rendered, key=lambda example: -len(example.ids)):
        if rows and most < len(row.ids):
            break
        rows.append(row)
        most -= len(row.ids)
    groups = ([rows[position] for position in group] for group in batching.groups(rows))
    return all(batching.layout(group).segments is not None for group in groups)


def _save(trainer: ResponseTrainer, job: _Job) -> None:
    if job.tuning.method == "full":
        trainer.model.to(getattr(torch, concrete_dtype(job.ref)))
    with quiet():
        trainer.model.save_pretrained(job.folder)
    if job.tuning.method == "full":
        trainer.processing_class.save_pretrained(job.folder)
    if trainer.losses is not None:
        counted = [int(example.mask[1:].sum()) for example in job.rendered]
        columns = {
            "id": [example.id for example in job.rendered],
            "nll": trainer.losses,
            "response_tokens": counted,
        }
        write_frame(pl.DataFrame(columns), job.folder / LAST_EPOCH)


def _give_back_memory() -> None:
    """Give the memory of a training back, for the next one: the system sees less of it taken, and in one piece."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


@contextmanager
def _memory_errors(rendered: Sequence[Rendered]) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        longest = max(len(example.ids) for example in rendered)
        raise TrainError(
            f"training does not fit the GPU's memory (longest example: {longest:,} tokens)",
            hint="lower max_length, or take a smaller model or dtype; the same command goes on from the last checkpoint",
        ) from error


def _kept_losses(job: _Job, last: Path | None) -> NDArray[np.float32] | None:
    """Return the losses that were met before the last checkpoint, NaN where none was; None where none are kept."""
    if not job.keep_losses:
        return None
    if last is not None:
        kept: NDArray[np.float32] = np.load(last / KEPT_LOSSES)
        return kept
    return np.full(len(job.rendered), np.nan, dtype=np.float32)


def lora(tuning: Tuning, network: Any, token_ids: Sequence[int] = ()) -> LoraConfig:
    """Return the adapters that a training moves: on the linear layers, and on the rows of these tokens.

    A token has a row of the input embedding and one of the output embedding, which most small models share.
    """
    rows = {}
    if token_ids:
        embeddings = (network.get_input_embeddings(), network.get_output_embeddings())
        tied = embeddings[0].weight is embeddings[1].weight
        for part in embeddings[:1] if tied else embeddings:
            name = next(name for name, module in network.named_modules() if module is part)
            rows[name.rpartition(".")[2]] = list(token_ids)
    targets = lora_targets(network)
    return LoraConfig(
        r=tuning.rank,
        lora_alpha=2 * tuning.rank,
        lora_dropout=0.0,
        target_modules=targets,
        # GPT-2 has its weights the other way around.
        fan_in_fan_out=all(isinstance(network.get_submodule(name), Conv1D) for name in targets),
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
    network = attach(load_network(replace(ref, dtype="float32", device="cpu")), adapter)
    merged = network.merge_and_unload().to(getattr(torch, concrete_dtype(ref)))
    # The tokenizer first and the configuration last: a folder with a configuration is a whole model.
    with replacing(folder / "merged") as aside, quiet():
        merged.save_pretrained(aside)
        load_tokenizer(ref).save_pretrained(aside)
    for file in sorted((folder / "merged").iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(folder / file.name)
    (folder / "merged").rmdir()


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


class _Checkpoints(TrainerCallback):
    """Asks for a checkpoint every minute, or less often where saving is slow, and marks it once it is whole.

    The mark holds the seconds spent so far, so that a run that goes on knows its whole cost.
    """

    def __init__(self, *, started: float, losses: NDArray[np.float32] | None) -> None:
        self._started, self._losses = started, losses
        self._asked = self._saved = time.monotonic()
        self._pause_s = CHECKPOINT_EVERY_S

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        due = time.monotonic() - self._saved >= self._pause_s and state.global_step < state.max_steps
        if devices.shared(due):  # clocks differ, and all processes must save the same step
            self._asked = time.monotonic()
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = time.monotonic()
        if not devices.is_main():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self._losses is not None:
            np.save(folder / KEPT_LOSSES, self._losses)
        flush(folder)
        with replacing(folder / COMPLETE) as part:
            part.write_text(f"{self._saved - self._started:.1f}", encoding="ascii")
        note()
        self._pause_s = max(CHECKPOINT_EVERY_S, 10 * (self._saved - self._asked) * (CHECKPOINT_EVERY_S > 0))
