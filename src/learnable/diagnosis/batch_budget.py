"""How many tokens a batch should have on this machine: a few sizes, timed, with the memory they take."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

import numpy as np
import psutil
import torch

from learnable.diagnosis.checks import CheckResult, ok, warning
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
    """Find the smallest batch budget that is about as fast as the fastest, with rows like the one of median length."""
    row = sorted(rendered, key=lambda each: len(each.ids))[len(rendered) // 2]
    timings, limit = time_budgets(model, row)
    best, default = recommended(timings), model.batch_tokens
    usual = next((timing for timing in timings if timing.batch_tokens == default), None)
    advice, remedy = f"recommended {best.batch_tokens:,} tokens a batch, default {default:,}", ""
    if usual is None and limit == "time":  # nothing is known against it
        advice = f"the default of {default:,} tokens a batch stays, it is too slow here to be tried"
    elif usual is None:
        remedy = "the default may not fit the memory: free some, or take a smaller model or dtype"
    elif best.tokens_per_s > WORTH_SAYING * usual.tokens_per_s:
        share = usual.tokens_per_s / best.tokens_per_s
        remedy = f"the default reaches {share:.0%} of the speed: give --batch-tokens {best.batch_tokens}"
    table = ", ".join(
        f"{timing.batch_tokens:,}: {timing.tokens_per_s:,.0f} tokens/s in {timing.peak_bytes / GIB:.2f} GiB"
        for timing in timings
    )
    found = f"{advice}; rows of {len(row.ids)} tokens: {table}"
    found += f"; larger ones {LIMITS[limit]}" if limit else ""
    return warning("batch budget", found, remedy) if remedy else ok("batch budget", found)


def recommended(timings: Sequence[Timing]) -> Timing:
    """Return the smallest budget that no other beats by more than ``GAIN``."""
    fastest = max(timing.tokens_per_s for timing in timings)
    enough = [timing for timing in timings if timing.tokens_per_s * GAIN >= fastest]
    return min(enough, key=lambda timing: timing.batch_tokens)


def time_budgets(model: LanguageModel, row: Rendered) -> tuple[list[Timing], Limit]:
    """Time batches of rows as long as one, budget after budget, in several rounds so that noise meets all alike.

    Also return what kept larger ones from being timed; empty when all were.
    """
    device = str(model.network.device)
    timings: list[Timing] = []
    limit: Limit = ""
    before = _used_bytes(device)
    room = MEMORY_SHARE * free_and_total_bytes(device)[0]
    for share in SHARES:
        budget = int(model.batch_tokens * share)
        batch = rows_like(row, max(1, budget // len(row.ids)))
        if not timings:
            model.nll(batch)  # the first batch of a process is slower
        with memory_peak(device) as peak:
            seconds = seconds_of(model.nll, batch)
        tokens = len(batch) * len(row.ids)
        timings.append(Timing(batch_tokens=budget, tokens=tokens, seconds=[seconds], peak_bytes=peak[0]))
        slow, large = seconds > LONGEST_BATCH_S, 2 * (peak[0] - before) > room
        if share != SHARES[-1] and (slow or large):
            limit = "time" if slow else "memory"
            break
    for number in range(1, ROUNDS):
        if sum(sum(timing.seconds) for timing in timings) * (number + 1) / number > ALTOGETHER_S:
            break
        for timing in timings:
            batch = rows_like(row, timing.tokens // len(row.ids))
            timing.seconds.append(seconds_of(model.nll, batch))
    return timings, limit


def rows_like(row: Rendered, count: int) -> list[Rendered]:
    """Return rows with the length and the mask of one, which share no beginning: what is shared is computed once."""
    rng = np.random.default_rng(0)
    return [replace(row, id=f"{row.id}-{place}", ids=rng.permutation(row.ids)) for place in range(count)]


def seconds_of(work: Callable[..., object], *arguments: Any) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work(*arguments)
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
