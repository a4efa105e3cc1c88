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

OFTEN = {"learnable.measures.keep.STORE_EVERY_S": 0, "learnable.training.checkpoints.CHECKPOINT_EVERY_S": 0}
"""Stores parts and checkpoints all the time, so that a kill meets them."""

_forks = get_context("forkserver")
_forks.set_forkserver_preload(["learnable.training", "learnable.models.language_model", "learnable.cli.app"])


def at_work(words: Sequence[str], folder: Path, settings: Mapping[str, Any] = OFTEN) -> BaseProcess:
    """Start a command in a folder, with other values of some names of modules; return once it is at work."""
    begun = _forks.Event()
    process = _forks.Process(target=_run, args=([str(word) for word in words], folder, settings, begun))
    process.start()
    while not begun.wait(timeout=1):
        assert process.is_alive(), f"it ended with {process.exitcode} before it began"
    return process


def _run(words: Sequence[str], folder: Path, settings: Mapping[str, Any], begun: Any) -> None:
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    for place, value in settings.items():
        module, _, name = place.rpartition(".")
        setattr(import_module(module), name, value)
    begun.set()
    sys.exit(cli.call(words))
