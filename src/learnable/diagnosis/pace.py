"""How fast a model is on this machine, and in how much memory: a trial of some seconds, kept in the cache."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from learnable.diagnosis.batch_budget import memory_peak, rows_like, seconds_of
from learnable.models.cache import recalled, remember
from learnable.models.dtype import GIB
from learnable.models.language_model import LanguageModel
from learnable.models.loading import resolved_device
from learnable.models.network import without_dropout
from learnable.models.rendering import Renderer
from learnable.models.source import concrete_dtype, identify, position_limit
from learnable.models.weights import quiet
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.settings import Sampling, Tuning
from learnable.training.adapters import trainable
from learnable.training.loop import Loop
from learnable.training.samplers import length_grouped
from learnable.types import Message, ModelRef, Rendered

Kind = Literal["measuring", "training", "writing"]
VERSION = 2
"""Of the trial: those of another version are not taken from the cache."""
BATCH_S = 2.0
"""A batch of a trial has fewer tokens than usual where these would take longer."""
TRAINED_TOKENS, STEPS = 1_024, 2
"""Most tokens of a step of a trial of training, and how many steps; the first of a process is slower."""
ROWS, SHORTEST = 64, 16
"""Most rows of a batch of a trial, and their least length in tokens."""
BUSY, BUSY_S = 0.5, 600
"""A trial on a CPU that had less than this share of one core met a busy machine; it is made anew after so many seconds."""
WRITTEN, NEW_TOKENS = 8, 32
"""Texts that a trial of writing writes at once, and their length in tokens."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a trial found.

    Args:
        tokens_per_s: Tokens that went through the model, or were written, in a second.
        load_s: Seconds until it is loaded.
        peak_gib: The most memory there was, the model included: of the GPU, or of the process.
        disk_gib: What a training of any length writes.
        cores: Seconds of processor time in a second of the trial.
    """

    tokens_per_s: float
    load_s: float
    peak_gib: float
    disk_gib: float = 0.0
    cores: float = 1.0


def pace(ref: ModelRef, kind: Kind, *, row_tokens: int, tuning: Tuning | None = None) -> Pace:
    """Return how fast a model is here: timed now, or looked up where it was timed before.

    What was timed while other work had the processor is soon timed again.

    Args:
        ref: The model, its dtype resolved.
        kind: What it does.
        row_tokens: Length of the rows; the trial is made with the power of two next to it.
        tuning: Of a training.
    """
    length = max(SHORTEST, 1 << round(np.log2(max(row_tokens, 1))))
    length = SHORTEST if kind == "writing" else min(length, position_limit(ref) or length)
    device = resolved_device(ref)
    named = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    how = [tuning.method, tuning.rank, tuning.batch_size] if tuning is not None else []
    depends = [VERSION, identify(ref), ref.dtype, device, named, torch.get_num_threads(), ref.batch_tokens]
    key = fingerprint([*depends, kind, length, how])
    if known := recalled("pace", key):
        timed_at = known.pop("timed_at")
        if device != "cpu" or known["cores"] >= BUSY or time.time() - timed_at < BUSY_S:
            return Pace(**known)
    say(f"{ref.name}: timing its {kind} here, once")
    if kind == "training":
        assert tuning is not None
        found = _training(ref, length, tuning, pace(ref, "measuring", row_tokens=row_tokens))
    else:
        found = {"measuring": _measuring, "writing": _writing}[kind](ref, length)
    remember("pace", key, asdict(found) | {"timed_at": time.time()})
    if device == "cpu" and found.cores < BUSY:
        say(
            f"other work has the processor: the {kind} had {found.cores:.0%} of a core, and seconds are as slow"
        )
    return found


def _row(ref: ModelRef, length: int) -> Rendered:
    """Return a made-up row: nothing of it but its length matters to the time it takes."""
    words = len(Renderer.of(ref).tokenizer)
    ids = np.random.default_rng(0).integers(0, words, length).astype(np.int32)
    return Rendered(id="pace", ids=ids, mask=np.arange(length) >= length // 2, truncated=False)


def _timed(work: Callable[..., object], *arguments: Any) -> tuple[float, float]:
    """Return how long a call takes, and how many cores it had meanwhile."""
    busy = time.process_time()
    seconds = seconds_of(work, *arguments)
    return seconds, (time.process_time() - busy) / seconds


def _measuring(ref: ModelRef, length: int) -> Pace:
    with memory_peak(resolved_device(ref)) as peak:
        started = time.perf_counter()
        model, row = LanguageModel(ref), _row(ref, length)
        model.nll(rows_like(row, 1))  # the first batch of a process is slower
        load_s = time.perf_counter() - started
        alone = seconds_of(model.nll, rows_like(row, 1))
        count = min(ROWS, max(1, model.batch_tokens // length), max(1, int(BATCH_S / alone)))
        seconds, cores = _timed(model.nll, rows_like(row, count))
    return Pace(tokens_per_s=count * length / seconds, load_s=load_s, peak_gib=peak[0] / GIB, cores=cores)


def _writing(ref: ModelRef, length: int) -> Pace:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=NEW_TOKENS)
    asked = (Message(role="user", content=" ".join(["word"] * length)),)
    with memory_peak(resolved_device(ref)) as peak:
        started = time.perf_counter()
        model = LanguageModel(ref)
        load_s = time.perf_counter() - started
        answers = model.answers([asked] * WRITTEN, sampling=sampling, seeds=range(WRITTEN))
        seconds, cores = _timed(list, answers)
    # A text may end early; then it is slower than this by the share that is missing.
    speed = WRITTEN * NEW_TOKENS / seconds
    return Pace(tokens_per_s=speed, load_s=load_s, peak_gib=peak[0] / GIB, cores=cores)


def _training(ref: ModelRef, length: int, tuning: Tuning, measured: Pace) -> Pace:
    fits = int(BATCH_S * measured.tokens_per_s / length / 3)  # a step takes as long as about three passes
    count = max(1, min(tuning.batch_size, TRAINED_TOKENS // length, fits))
    how = replace(tuning, batch_size=count, epochs=STEPS, steps=None)
    rows = rows_like(_row(ref, length), count)
    with memory_peak(resolved_device(ref)) as peak, quiet():
        started = time.perf_counter()
        loop = Loop(
            trainable(ref, how),
            rows,
            sampler=length_grouped([(row,) for row in rows], how),
            tuning=how,
            mixed=concrete_dtype(ref) == "bfloat16",
        )
        load_s = time.perf_counter() - started
        with without_dropout(loop.network):
            seconds, cores = min(_timed(loop.step) for _ in range(STEPS))
    item_bytes = 4 if tuning.method == "lora" or concrete_dtype(ref) == "float32" else 2
    written = (
        sum(weights.numel() for weights in loop.network.parameters() if weights.requires_grad) * item_bytes
    )
    speed, peak_gib = count * length / seconds, peak[0] / GIB
    return Pace(tokens_per_s=speed, load_s=load_s, peak_gib=peak_gib, disk_gib=written / GIB, cores=cores)
