"""How many tokens a batch should have on this machine: a few sizes, timed, with the memory they take."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import numpy as np
import psutil
import torch

from learnable.diagnosis.checks import CheckResult
from learnable.models.dtype import GIB, free_and_total_bytes
from learnable.models.language_model import LanguageModel
from learnable.types import Rendered

SHARES = (0.25, 0.5, 1, 2, 4)
"""Batch budgets to time, as shares of the default."""
ROUNDS = 3
ALTOGETHER_S = 25.0
"""No further round begins that would end later than this."""
LONGEST_BATCH_S = 4.0
"""No larger budget is tried after a batch that takes this long: on a machine that slow it gains nothing."""
MEMORY_SHARE = 0.8
"""How much of the memory that was free a batch may take."""
GAIN = 1.05
"""A larger budget must be faster by this factor to be worth its memory; less is noise of the clock."""
WORTH_SAYING = 1.1
"""How much faster than the default another budget must be to be a warning."""
SAMPLE_EVERY_S = 0.005
Limit = Literal["", "time", "memory"]
LIMITS = {"time": "would take too long to try", "memory": "might not fit the memory"}


@dataclass(kw_only=True)
class Timing:
    """What one batch budget costs: ``seconds`` of each batch, its tokens, and the most memory there was."""

    batch_tokens: int
    tokens: int
    seconds: list[float]
    peak_bytes: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second by the median of the batches."""
        return self.tokens / median(self.seconds)


def budget_check(model: LanguageModel, rendered: Sequence[Rendered]) -> CheckResult:
    """Find the best batch budget: the smallest that is about as fast as the fastest, within the memory.

    Args:
        model: The model.
        rendered: n rows; batches are made of the one of median length.
    """
    row = sorted(rendered, key=lambda each: len(each.ids))[len(rendered) // 2]
    timings, limit = time_budgets(model, row)
    best, default = recommended(timings), model.batch_tokens
    usual = next((timing for timing in timings if timing.batch_tokens == default), None)
    tokens, remedy = best.batch_tokens, ""
    if usual is None and limit == "time":
        tokens = default  # nothing is known against it
    elif usual is None:
        remedy = "the default may not fit the memory: free some, or take a smaller model or dtype"
    elif best.tokens_per_s > WORTH_SAYING * usual.tokens_per_s:
        share = usual.tokens_per_s / best.tokens_per_s
        remedy = f"the default reaches {share:.0%} of the speed: give --batch-tokens {tokens}"
    table = ", ".join(
        f"{timing.batch_tokens:,}: {timing.tokens_per_s:,.0f} tokens/s in {timing.peak_bytes / GIB:.2f} GiB"
        for timing in timings
    )
    advice = (
        f"recommended {tokens:,} tokens a batch, default {default:,}"
        if usual is not None or limit != "time"
        else f"the default of {default:,} tokens a batch stays, it is too slow here to be tried"
    )
    found = f"{advice}; rows of {len(row.ids)} tokens: {table}"
    if limit:
        found += f"; larger ones {LIMITS[limit]}"
    return CheckResult(name="batch budget", verdict="warning" if remedy else "ok", found=found, remedy=remedy)


def recommended(timings: Sequence[Timing]) -> Timing:
    """Return the smallest budget that no other beats by more than ``GAIN``."""
    fastest = max(timing.tokens_per_s for timing in timings)
    return min(
        (timing for timing in timings if timing.tokens_per_s * GAIN >= fastest),
        key=lambda timing: timing.batch_tokens,
    )


def time_budgets(model: LanguageModel, row: Rendered) -> tuple[list[Timing], Limit]:
    """Time batches of rows as long as one, budget after budget, in several rounds so that noise meets all alike.

    Returns:
        The timings, smallest budget first, and what kept larger ones from being timed; empty when all were.
    """
    device = str(model.network.device)
    timings: list[Timing] = []
    limit: Limit = ""
    before = _used_bytes(device)
    room = MEMORY_SHARE * free_and_total_bytes(device)[0]
    for share in SHARES:
        budget = int(model.batch_tokens * share)
        batch = _batch(row, max(1, budget // len(row.ids)))
        if not timings:
            model.nll(batch)  # the first batch of a process is slower
        with memory_peak(device) as peak:
            seconds = _seconds(model, batch)
        timings.append(
            Timing(
                batch_tokens=budget,
                tokens=len(batch) * len(row.ids),
                seconds=[seconds],
                peak_bytes=peak[0],
            )
        )
        if seconds > LONGEST_BATCH_S and share != SHARES[-1]:
            limit = "time"
            break
        if 2 * (peak[0] - before) > room and share != SHARES[-1]:
            limit = "memory"
            break
    for number in range(1, ROUNDS):
        if sum(sum(timing.seconds) for timing in timings) * (number + 1) / number > ALTOGETHER_S:
            break
        for timing in timings:
            timing.seconds.append(_seconds(model, _batch(row, timing.tokens // len(row.ids))))
    return timings, limit


def _batch(row: Rendered, count: int) -> list[Rendered]:
    """Return rows with the length and the mask of one, which share no beginning: what is shared is computed once."""
    rng = np.random.default_rng(0)
    return [replace(row, ids=rng.permutation(row.ids)) for _ in range(count)]


def _seconds(model: LanguageModel, batch: Sequence[Rendered]) -> float:
    start = time.perf_counter()
    model.nll(batch)
    return time.perf_counter() - start


def _used_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated(device))
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    return int(psutil.Process().memory_info().rss)


@contextmanager
def memory_peak(device: str) -> Iterator[list[int]]:
    """Give a list whose one element is, after the block, the most memory there was within it, in bytes."""
    peak = [_used_bytes(device)]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = int(torch.cuda.max_memory_allocated(device))
        return
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], _used_bytes(device))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()
        peak[0] = max(peak[0], _used_bytes(device))
