"""Commands in processes of their own, which are forked from one that has imported what takes seconds."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from learnable.cli import app as cli
from learnable.runs import stopping

OFTEN = {"learnable.measures.keep.STORE_EVERY_S": 0, "learnable.training.checkpoints.CHECKPOINT_EVERY_S": 0}
"""Stores parts and checkpoints all the time, so that a kill meets them."""

_forks = get_context("forkserver")
_forks.set_forkserver_preload(["learnable.training", "learnable.models.language_model", "learnable.cli.app"])


def at_work(
    words: Sequence[str],
    folder: Path,
    settings: Mapping[str, Any] = OFTEN,
    *,
    said: str | Path = os.devnull,
) -> BaseProcess:
    """Start a command in a folder, with other values of some names of modules; return once it is at work.

    What it says on standard error goes to the file ``said``.
    """
    begun = _forks.Event()
    given = [str(word) for word in words], folder, settings, str(said), begun
    process = _forks.Process(target=_run, args=given)
    process.start()
    while not begun.wait(timeout=1):
        assert process.is_alive(), f"it ended with {process.exitcode} before it began"
    return process


def _run(words: Sequence[str], folder: Path, settings: Mapping[str, Any], said: str, begun: Any) -> None:
    os.chdir(folder)
    for stream, path in ((sys.stdout, os.devnull), (sys.stderr, said)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    for place, value in settings.items():
        module, _, name = place.rpartition(".")
        setattr(import_module(module), name, value)
    stopping.listen()
    sys.argv[1:] = words
    begun.set()
    cli.main()
