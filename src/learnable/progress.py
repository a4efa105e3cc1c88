"""Progress of long work on standard error: a live bar in a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from learnable.visible import visible

LINE_EVERY_S, LINE_AT_MOST_EVERY_S = 15.0, 300.0
WIDE = 60
"""Columns of a terminal that hold the whole bar; a narrower one shows what is done and the time left."""


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
    """Writes a line every 15 s at first; the longer it takes the rarer, so that a log of a day stays short."""

    def __init__(self, label: str, total_tokens: int) -> None:
        self._label, self._total = label, total_tokens
        self._start = self._last = time.monotonic()
        self._done = 0

    def advance(self, tokens: int) -> None:
        self._done += tokens
        now = time.monotonic()
        if now - self._last >= min(max(LINE_EVERY_S, (now - self._start) / 10), LINE_AT_MOST_EVERY_S):
            self._last = now
            rate = self._done / (now - self._start)
            left_s = max(self._total - self._done, 0) / rate
            say(
                f"{self._label}: {self._done:,} of {self._total:,} tokens, "
                f"{rate:,.0f} tokens/s, {left_s:,.0f} s left"
            )


@contextmanager
def bar(label: str, total_tokens: int) -> Iterator[Bar]:
    """Show how far a piece of work of ``total_tokens`` is, with tokens/s and the time left."""
    console = Console(stderr=True)
    if not console.is_interactive:
        yield _Lines(label, total_tokens)
        return
    with Progress(*_columns(console.width), console=console, expand=True) as progress:
        yield _Live(progress, progress.add_task(label, total=total_tokens, rate=""))


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """Return what fits on one line: a bar that breaks into two is drawn anew below itself, again and again."""
    wide = width >= WIDE
    room: dict[str, Any] = {"max_width": width // 2 - 8} if wide else {"ratio": 1}
    label = TextColumn("{task.description}", table_column=_column(overflow="ellipsis", **room))
    done = TextColumn("{task.percentage:>3.0f}%", table_column=_column(min_width=4))
    left = TimeRemainingColumn(elapsed_when_finished=True, table_column=_column(min_width=7))
    if not wide:
        return label, done, left
    line = BarColumn(bar_width=None, table_column=_column(ratio=1))
    return label, line, done, TextColumn("{task.fields[rate]}", table_column=_column()), left


def _column(**options: Any) -> Column:
    return Column(no_wrap=True, **options)


def say(text: str) -> None:
    """Write one line of log to standard error; what of a row stands in it is made visible."""
    sys.stderr.write(visible(text) + "\n")
    sys.stderr.flush()


@cache
def say_once(text: str) -> None:
    """Write a line to standard error the first time that it comes up."""
    say(text)
