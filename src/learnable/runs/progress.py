"""Progress of long work on standard error: a live bar in a terminal, a display in a notebook, else a line now and then."""

import html
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column

from learnable.visible import visible

STARTING_S = 1.0
"""Time after which a command that has said nothing yet says that it is at work."""
FIRST_LINE_S, LINE_EVERY_S, LINE_AT_MOST_EVERY_S = 2.0, 15.0, 300.0
DRAWN_EVERY_S = 0.5
"""Time after which a notebook shows a piece of work, and then shows it anew."""
WARNING = "warning: "
"""How a line begins that is said also where nothing else is."""
WIDE = 60
"""Columns of a terminal that hold the whole bar; a narrower one shows what is done and the time left."""
_heard = threading.Event()
"""Set once anything was said."""
_silenced = threading.Event()
"""Set while only warnings are said."""


@contextmanager
def silenced() -> Iterator[None]:
    """Say nothing but warnings within the block: no notes, and no progress."""
    _silenced.set()
    try:
        yield
    finally:
        _silenced.clear()


class ProgressBar:
    """A piece of work: how much is done, and how fast; between slow steps at the speed of those before."""

    def __init__(self, label: str, total: int, done: int, unit: str) -> None:
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self._before, self._start = done, time.monotonic()
        self._last = self._start
        self._drawn: Callable[[int], None] = lambda _: None

    def show(self, progress: Progress) -> None:
        """Show the work as a bar that is drawn anew all the time."""
        task = progress.add_task(self.label, total=self.total, completed=self.done, work=self)
        self._drawn = lambda amount: progress.update(task, advance=amount)

    def advance(self, amount: int) -> None:
        """Add work done."""
        self.done += amount
        self._last = time.monotonic()
        self._drawn(amount)

    @property
    def rate(self) -> float:
        """How much was done each second of this run up to the end of the last step; 0 before the first."""
        seconds = self._last - self._start
        return (self.done - self._before) / seconds if seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds left; None before the first step has told the rate."""
        if not self.rate:
            return None
        return max(self.total - self.done, 0) / self.rate - (time.monotonic() - self._last)

    @property
    def speed(self) -> str:
        """The rate in words."""
        return f"{self.rate:,.0f} {self.unit}/s" if self.rate else ""

    @property
    def clock(self) -> str:
        """The time left, and at the end the time it took."""
        seconds = self.left_s if self.done < self.total else time.monotonic() - self._start
        if seconds is None:
            return "-:--:--"
        minutes, rest = divmod(max(round(seconds), 0), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

    def __str__(self) -> str:
        line = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"
        if self.left_s is None:
            return line
        return f"{line}, {self.speed}, {max(self.left_s, 0):,.0f} s left"

    def __repr__(self) -> str:
        return f"{self.label}: {self.done / max(self.total, 1):.0%} {self.speed} {self.clock}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        drawn = f'<progress value="{self.done}" max="{self.total}"></progress>'
        return f"<div>{drawn} {html.escape(repr(self))}</div>"


def pauses() -> Iterator[float]:
    """Yield seconds between lines: soon, every 15 s at first, and the longer it takes the rarer: a log stays short."""
    yield FIRST_LINE_S
    elapsed = FIRST_LINE_S
    while True:
        pause = min(max(LINE_EVERY_S, elapsed / 10), LINE_AT_MOST_EVERY_S)
        elapsed += pause
        yield pause


def _write_lines(work: ProgressBar, over: threading.Event) -> None:
    how_often = f"; a line every {LINE_EVERY_S:.0f} s, then every {LINE_AT_MOST_EVERY_S / 60:.0f} min"
    for number, pause in enumerate(pauses()):
        if over.wait(pause):
            return
        say(f"{work}{'' if number else how_often}")


def _draw_in_notebook(work: ProgressBar, over: threading.Event) -> None:
    """Show work in the cell that does it, drawn anew in its place; what is short is not shown."""
    from IPython.display import display  # a notebook has it

    if over.wait(DRAWN_EVERY_S):
        return
    _heard.set()
    shown = display(work, display_id=True)
    while not over.wait(DRAWN_EVERY_S):
        shown.update(work)
    shown.update(work)


@contextmanager
def bar(label: str, total: int, *, done: int = 0, unit: str = "tokens") -> Iterator[ProgressBar]:
    """Show how far work is, of which an earlier run may have ``done`` a part, its speed and the time left."""
    console, work = Console(stderr=True), ProgressBar(label, total, done, unit)
    if _silenced.is_set():
        yield work
        return
    if console.is_interactive:
        _heard.set()
        with Progress(*_columns(console.width), console=console, expand=True) as progress:
            work.show(progress)
            yield work
        return
    over = threading.Event()
    tell = _draw_in_notebook if console.is_jupyter else _write_lines
    telling = threading.Thread(target=tell, args=(work, over), daemon=True)
    telling.start()
    try:
        yield work
    finally:
        over.set()
        telling.join()


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """Return what fits on one line: a bar that breaks into two is drawn anew below itself, again and again."""
    wide = width >= WIDE
    room: dict[str, Any] = {"max_width": width // 2 - 8} if wide else {"ratio": 1}
    label = _text("{task.description}", overflow="ellipsis", **room)
    done = _text("{task.percentage:>3.0f}%", min_width=4)
    left = _text("{task.fields[work].clock}", min_width=7)
    if not wide:
        return label, done, left
    line = BarColumn(bar_width=None, table_column=Column(no_wrap=True, ratio=1))
    return label, line, done, _text("{task.fields[work].speed}"), left


def _text(written: str, **options: Any) -> TextColumn:
    return TextColumn(written, table_column=Column(no_wrap=True, **options))


def say(text: str) -> None:
    """Write one line of log to standard error; what of a row stands in it is made visible.

    Where notes are not wanted (``--quiet``), only a line that begins with ``WARNING`` is written.
    """
    if _silenced.is_set() and not text.startswith(WARNING):
        return
    _heard.set()
    sys.stderr.write(visible(text) + "\n")
    sys.stderr.flush()


@cache
def say_once(text: str) -> None:
    """Write a line to standard error the first time that it comes up."""
    say(text)


def say_if_silent(text: str) -> None:
    """Write a line to standard error soon, unless something else is said, or the process ends, before that."""

    def wait() -> None:
        if not _heard.wait(STARTING_S):
            say(text)

    threading.Thread(target=wait, daemon=True).start()
