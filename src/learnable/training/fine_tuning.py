"""Fine-tuning of a model on tokens that are rendered already, by any objective; a killed run goes on where it was."""

import ctypes
import gc
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from numpy.typing import NDArray

from learnable.errors import TrainError, UsageError
from learnable.models.batching import Batching
from learnable.models.dtype import float32_bytes
from learnable.models.loading import load_tokenizer, resolved_device
from learnable.models.network import without_dropout
from learnable.models.source import concrete_dtype, identify, position_limit
from learnable.models.weights import quiet
from learnable.objectives import NLL, Objective
from learnable.runs.files import disk_errors, flush, write_frame, write_json
from learnable.runs.outputs import differences, in_words, recorded
from learnable.runs.progress import bar, say
from learnable.runs.records import read_json
from learnable.runs.step import note
from learnable.settings import Tuning
from learnable.training import devices
from learnable.training.adapters import Layers, trainable
from learnable.training.checkpoints import Checkpoints
from learnable.training.epochs import keep_epoch
from learnable.training.loop import Loop
from learnable.training.memory import PIECE_TOKENS
from learnable.training.mixtures import MixedBatches
from learnable.training.samplers import Sampler, length_grouped
from learnable.types import ModelRef, Rendered

RECORD, CHECKPOINTS = "training.json", "checkpoints"
COSTS = ("tokens", "steps", "seconds")
LAST_EPOCH, MIXTURE = "last_epoch.parquet", "mixture.parquet"


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

    @classmethod
    def together(cls, trainings: Sequence["Trained"]) -> "Trained":
        """Return the last of several trainings, with the cost of all."""
        costs = {name: sum(getattr(each, name) for each in trainings) for name in COSTS}
        return replace(trainings[-1], **costs, ran=any(each.ran for each in trainings))

    def write(self) -> None:
        """Write the record of a finished training, with the files that are in its folder now."""
        flush(self.folder)
        figures = {name: getattr(self, name) for name in COSTS}
        outputs = recorded(self.folder, leave_out=[CHECKPOINTS])
        write_json(self.folder / RECORD, figures | {"outputs": outputs})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What ``fine_tune`` was asked for, as it goes to all processes: the first five are what it made of its arguments.

    Args:
        tuning: How.
        label: What the progress bar says.
        sampler: Which examples each step takes, given the examples and ``tuning``; batches of examples of about one length
            when not given. What a mixture drew is in ``mixture.parquet``.
        token_ids: With LoRA: tokens whose rows of the embedding are trained beside the adapters.
        token_rate: How many times the learning rate these rows learn at.
        start: With LoRA: an adapter of the same model to go on from.
        keep_losses: Write ``last_epoch.parquet`` too: ``id``, ``nll`` (float32, summed over the response) and
            ``response_tokens`` of each answer as the last epoch met it.
        keep_epochs: With LoRA and whole epochs: write ``epoch-1``, ``epoch-2`` ... too, see ``epochs.keep_epoch``.
        layers: Which layers fresh adapters go on, see ``adapters.lora``.
    """

    ref: ModelRef
    examples: list[tuple[Rendered, ...]]
    folder: Path
    objective: Objective
    columns: Mapping[str, NDArray[Any]]
    tuning: Tuning
    label: str
    sampler: Callable[[Sequence[tuple[Rendered, ...]], Tuning], Sampler] | None = None
    token_ids: Sequence[int] = ()
    token_rate: float = 1.0
    start: Path | None = None
    keep_losses: bool = False
    keep_epochs: bool = False
    layers: Layers = "linear"

    @property
    def rows(self) -> list[Rendered]:
        """All answers of the first example, then those of the next."""
        return [row for example in self.examples for row in example]


def fine_tune(
    ref: ModelRef,
    rendered: Sequence[Rendered] | Sequence[tuple[Rendered, ...]],
    folder: Path,
    *,
    objective: Objective = NLL(),
    columns: pl.DataFrame | None = None,
    processes: int = 1,
    **options: Any,
) -> Trained:
    """Fine-tune a model on the response tokens of rendered examples.

    Args:
        ref: The model to start from.
        rendered: n examples, each one answer or a tuple of so many as the objective takes. Those of which an answer has
            no response token are left out.
        folder: Where the adapter (LoRA) or the whole model (full) goes. A finished run there is not repeated; an
            unfinished one goes on from its last checkpoint, to the same result.
        objective: What is lowered.
        columns: What the objective needs of each answer, by its ``id``.
        processes: Share each batch among so many processes of this machine, to the same result up to rounding. Under a
            launcher such as ``torchrun`` its processes are taken.
        options: The other fields of ``Job``; ``tuning`` and ``label`` must be among them.

    Raises:
        TrainError: If there is nothing to train on, the objective lacks a value, or the loss is not finite.
        UsageError: If there are fewer GPUs than processes.
        DiskError: If the disk is full.
    """
    if (trained := trained_before(folder)) is not None:
        return trained
    examples = _useful(rendered, objective)
    needed = _needed(columns, examples, objective)
    job = Job(ref=ref, examples=examples, folder=folder, objective=objective, columns=needed, **options)
    if job.keep_epochs:
        _check_kept(ref, job.tuning)
    _check_devices(ref, processes)
    checkpoints = folder / CHECKPOINTS
    with disk_errors(folder):
        checkpoints.mkdir(parents=True, exist_ok=True)
        done: Trained = devices.together(_fine_tune, job, processes=processes, scratch=checkpoints)
        shutil.rmtree(checkpoints)
    note(done.tokens)
    return done


def trained_before(folder: Path) -> Trained | None:
    """Return what a finished training did, None where it is to be done, again if its files are not as it left them."""
    if not (folder / RECORD).is_file():
        return None
    record = read_json(folder / RECORD)
    if differing := differences(folder, record.pop("outputs", {})):
        say(f"{folder}: {in_words(differing)}, and is trained again")
        with disk_errors(folder):
            shutil.rmtree(folder)
        return None
    # Left by a kill right after the record was written.
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return Trained(folder=folder, ran=False, **record)


def _useful(
    rendered: Sequence[Rendered] | Sequence[tuple[Rendered, ...]], objective: Objective
) -> list[tuple[Rendered, ...]]:
    """Return the examples that can be trained on, in an order of their own."""
    examples = [(each,) if isinstance(each, Rendered) else each for each in rendered]
    if other := [example for example in examples if len(example) != objective.answers]:
        raise TrainError(
            f"{type(objective).__name__} takes {objective.answers} answers of an example, and example "
            f"{other[0][0].id[:8]} has {len(other[0])}"
        )
    useful = [example for example in examples if all(answer.mask.any() for answer in example)]
    if not useful:
        raise TrainError(
            "there is no example with a response token to train on",
            hint="raise max_length, or look at `learnable show`",
        )
    return sorted(useful, key=lambda example: [answer.id for answer in example])


def _needed(
    columns: pl.DataFrame | None, examples: Sequence[tuple[Rendered, ...]], objective: Objective
) -> dict[str, NDArray[Any]]:
    """Return what the objective needs, by name, a value for each row."""
    name, needs = type(objective).__name__, objective.needs
    if not needs:
        return {}
    given = pl.DataFrame(schema={"id": pl.String}) if columns is None else columns
    if lacking := [column for column in needs if column not in given.columns]:
        raise TrainError(f"{name} needs {', '.join(lacking)}, and has {', '.join(given.columns)}")
    ids = pl.DataFrame({"id": [answer.id for example in examples for answer in example]})
    found = ids.join(given.unique("id"), on="id", how="left", maintain_order="left")
    undefined = found.filter(pl.any_horizontal(pl.col(needs).is_null() | pl.col(needs).is_nan()))["id"]
    if len(undefined):
        raise TrainError(
            f"{name} needs {', '.join(needs)} of every answer, and {len(undefined):,} of {ids.height:,} lack it, "
            f"such as {undefined[0][:8]}"
        )
    return {column: found[column].cast(pl.Float32).to_numpy(writable=True) for column in needs}


def _check_kept(ref: ModelRef, tuning: Tuning) -> None:
    """Refuse to keep epochs of what is no adapter, or of half an epoch."""
    if tuning.method == "full":
        size = float32_bytes(ref)
        raise UsageError(
            f"keep_epochs takes LoRA: a gradient of all {size // 4:,} weights has {size / 1e9:.3g} GB, and Adam "
            "remembers two of them for each epoch",
            hint="leave --method full out",
        )
    if tuning.epochs != int(tuning.epochs):
        raise UsageError(f"keep_epochs takes whole epochs, got {tuning.epochs:g}")


def _check_devices(ref: ModelRef, processes: int) -> None:
    device, launched = resolved_device(ref), devices.processes_here()
    wanted = max(processes, launched)
    here = {"cpu": wanted, "cuda": torch.cuda.device_count() * (wanted if launched > 1 else 1)}
    if processes < 1 or wanted > here.get(device, 1):
        raise UsageError(
            f"{wanted if processes > 0 else processes} processes cannot train on this machine's {device}",
            hint="each process takes a GPU of its own, or some cores of the CPU: choose another --processes",
        )


def _fine_tune(job: Job) -> Trained:
    """Do what was asked for; called in all processes, of which the main one writes."""
    try:
        with disk_errors(job.folder):
            trained = _trained(job)
    except torch.cuda.OutOfMemoryError as error:
        longest = max(len(row.ids) for row in job.rows)
        raise TrainError(
            f"training does not fit the GPU's memory (longest example: {longest:,} tokens)",
            hint="lower max_length, or take a smaller model or dtype; the same command goes on from the last checkpoint",
        ) from error
    _give_back_memory()
    return trained


def _trained(job: Job) -> Trained:
    checkpoints, started = Checkpoints(job.folder / CHECKPOINTS), time.monotonic()
    if last := checkpoints.read():
        started -= last["seconds"]
    sampler = (job.sampler or length_grouped)(job.examples, job.tuning)
    tokens = round(sum(len(row.ids) for row in job.rows) * job.tuning.epochs)
    tokens = sampler.tokens if isinstance(sampler, MixedBatches) else tokens
    shown = bar(job.label, tokens, done=last["tokens"] if last else 0) if devices.is_main() else nullcontext()
    with shown as progress, quiet():
        loop = _loop(job, sampler, advance=progress.advance if progress else lambda _: None)
        if last:
            loop.load(last)
        with without_dropout(loop.network):
            while loop.done < loop.steps and not loop.ended:
                loop.step()
                if job.keep_epochs:
                    _keep_epoch(loop, job)
                if loop.done < loop.steps and not loop.ended and checkpoints.due():
                    checkpoints.write(loop.state() | {"seconds": time.monotonic() - started})
    trained = Trained(
        folder=job.folder, tokens=loop.tokens, steps=loop.done, seconds=time.monotonic() - started
    )
    gathered = loop.gathered()
    if devices.is_main():
        if not torch.isfinite(loop.loss):
            raise TrainError(
                "the training loss is not finite", hint="lower the learning rate, or use --dtype float32"
            )
        _save(loop, job, gathered)
        if isinstance(sampler, MixedBatches):
            write_frame(sampler.frame(), job.folder / MIXTURE)
        trained.write()
    return trained


def _keep_epoch(loop: Loop, job: Job) -> None:
    """Write down how an epoch left the adapters, where one just ended; called in all processes."""
    length = loop.steps // round(job.tuning.epochs)
    number, begun = divmod(loop.done, length)
    if begun:
        return
    state, gathered = loop.state(), loop.gathered()
    if devices.is_main():
        rates = [loop.learning_rate(step) for step in range(loop.done - length, loop.done)]
        keep_epoch(loop.network, state, gathered, job.folder / f"epoch-{number}", learning_rates=rates)


def _loop(job: Job, sampler: Sampler, *, advance: Callable[[int], None]) -> Loop:
    """Return a training that is ready to begin."""
    ref, tuning = job.ref, job.tuning
    network = trainable(ref, tuning, token_ids=job.token_ids, start=job.start, layers=job.layers)
    torch.manual_seed(tuning.seed)
    mixed = concrete_dtype(ref) == "bfloat16"
    for module in network.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # Autocast rounds what adapters see to bfloat16 anyway: a copy of it in float32 is for nothing.
            module.cast_input_dtype_enabled = not mixed
    return Loop(
        network,
        job.rows,
        columns=job.columns,
        sampler=sampler,
        objective=job.objective,
        tuning=tuning,
        token_rate=job.token_rate,
        mixed=mixed,
        packs=network.device.type == "cuda" and _packs(network, job),
        keep_losses=job.keep_losses,
        advance=advance,
    )


def _packs(network: Any, job: Job) -> bool:
    """Return whether pieces may be one sequence; tried with rows that are as long and as many as any piece."""
    batching = Batching(network, key=identify(job.ref), position_limit=position_limit(job.ref))
    most, rows = PIECE_TOKENS[network.device.type], list[Rendered]()
    for row in sorted(job.rows, key=lambda example: -len(example.ids)):
        if rows and most < len(row.ids):
            break
        rows.append(row)
        most -= len(row.ids)
    groups = ([rows[position] for position in group] for group in batching.groups(rows))
    return all(batching.layout(group).segments is not None for group in groups)


def _save(loop: Loop, job: Job, gathered: Mapping[str, torch.Tensor] | None) -> None:
    if job.tuning.method == "full":
        dtype = getattr(torch, concrete_dtype(job.ref))
        loop.network.to(dtype)
        gathered = gathered and {name: value.to(dtype) for name, value in gathered.items()}
    with quiet():
        loop.network.save_pretrained(job.folder, state_dict=gathered)
    if job.tuning.method == "full":
        load_tokenizer(job.ref).save_pretrained(job.folder)
    if loop.losses is not None:
        columns = {
            "id": [row.id for row in job.rows],
            "nll": loop.losses,
            "response_tokens": [int(row.mask[1:].sum()) for row in job.rows],
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
