"""Ends the command when it is asked to, soon and in one line: Ctrl-C, SIGTERM (as clusters preempt) and SIGHUP."""

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Never

if TYPE_CHECKING:
    import psutil

GRACE_S = 1.5
"""Time that the command gets to end in good order: what it computes may not listen before it is done."""
STOPPED = "stopped; the same command goes on from here\n"
SHOW_CURSOR = b"\x1b[?25h\n"
_SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])
_said = threading.Event()
_numbers: list[int] = []
"""The signals that came."""
_came = threading.Event()
NOTICED_S = 0.5
"""Time within which the watching thread knows of a signal."""


class Stopped(KeyboardInterrupt):
    """Raised in the main thread, wherever it is; what cleans up after Ctrl-C does so after any of the signals.

    Args:
        number: The signal that came.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        _numbers.append(number)


def asked() -> bool:
    """Tell whether a signal has asked the process to end; waits for one that is on its way."""
    return _came.wait(NOTICED_S)


def told() -> int:
    """Say, in the main process, how the command goes on, and return a shell's exit code after a signal."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(STOPPED)
        sys.stderr.flush()
    _said.set()
    return 128 + next(iter(_numbers), signal.SIGINT)


def end(code: int) -> Never:
    """End the process in good order, and those it started; but without the seconds that large libraries take to leave."""
    children = _children()
    atexit._run_exitfuncs()
    _kill(children)
    os._exit(code)


def listen() -> None:
    """Raise ``Stopped`` on each signal that is not ignored, from now on, and end the process if it goes on for long.

    For the process of a command. Files are there whole or not at all, so that it may be ended at any moment.
    """
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup
    there, here = socket.socketpair()
    there.settimeout(0)
    # The system writes the number of each signal there, also while the main thread cannot run its handler.
    signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    # Its own way to standard error: sys.stderr may be in the hands of what does not end.
    watch = threading.Thread(target=_watch, args=(there, here, set(heard), os.dup(2)), daemon=True)
    watch.start()
    for number in heard:
        signal.signal(number, _stop)
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_be_plain)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back, after the block, the handlers of signals that were there before it: libraries set their own for good."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # Ours in any case: what is set below Python, such as by Ray's C++, does not show here.
            if handler is not None and (handler is _stop or signal.getsignal(number) is not handler):
                signal.signal(number, handler)


def be_patient() -> None:
    """Wait from now on as long as the main thread takes to end: it serves, and ends in good order."""
    signal.set_wakeup_fd(-1)


def _stop(number: int, _frame: Any) -> Never:
    for each in _SIGNALS:
        if signal.getsignal(each) is _stop:
            signal.signal(each, _again)
    raise Stopped(number)


def _again(_number: int, _frame: Any) -> None:
    """Leave what is ending already to it: launchers send more than one signal."""


def _be_plain() -> None:
    """Let a child process end on signals as any other, and not wake its parent."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if signal.getsignal(number) in (_stop, _again):
            signal.signal(number, signal.SIG_DFL)


def _watch(_there: socket.socket, here: socket.socket, heard: set[int], say: int) -> None:
    while not _numbers:
        number = here.recv(1)[0]
        if number in heard:
            _numbers.append(number)
    _came.set()
    children = _children()
    time.sleep(GRACE_S)
    if os.isatty(say):
        os.write(say, SHOW_CURSOR)
    if not _said.is_set() and os.environ.get("RANK", "0") == "0":
        os.write(say, STOPPED.encode())
    _kill(children)
    os._exit(128 + _numbers[0])


def _children() -> "list[psutil.Process]":
    import psutil

    return psutil.Process().children(recursive=True)


def _kill(children: "list[psutil.Process]") -> None:
    import psutil

    for child in children:
        with suppress(psutil.NoSuchProcess):  # it ended by itself
            child.kill()


def end_with(parent: int) -> None:
    """Let this process end quietly, on Ctrl-C, and when the one that started it is gone: a second run may go on then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def leave() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
