"""Progress of long work on standard error: a live bar in a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0


class Bar(Protocol):
    """Counts tokens done."""

    def advance(self, tokens: int) -> None:
        """Add work done."""


class _Live:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._start, self._done = progress, task, time.monotonic(), 0

    def advance(self, tokens: int) -> None:
        self._done += tokens
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        self._progress.update(self._task, advance=tokens, rate=f"{rate:,.0f} tokens/s")


class _Lines:
    def __init__(self, label: str, total_tokens: int) -> None:
        self._label, self._total = label, total_tokens
        self._start = self._last = time.monotonic()
        self._done = 0

    def advance(self, tokens: int) -> None:
        self._done += tokens
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            rate = self._done / (now - self._start)
            left_s = max(self._total - self._done, 0) / rate
            sys.stderr.write(
                f"{self._label}: {self._done:,} of {self._total:,} tokens, "
                f"{rate:,.0f} tokens/s, {left_s:,.0f} s left\n"
            )
            sys.stderr.flush()


@contextmanager
def bar(label: str, total_tokens: int) -> Iterator[Bar]:
    """Show how far a piece of work of ``total_tokens`` is, with tokens/s and the time left."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(label, total_tokens)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Live(progress, progress.add_task(label, total=total_tokens, rate=""))


def say(text: str) -> None:
    """Write one line of log to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
