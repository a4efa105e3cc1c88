"""What runs in a worker of a cluster: one model, and answers that carry their errors with them.

An error that is raised in a worker, Ray wraps in a page of its own calls. So errors are results, and raised where the user
is.
"""

import io
import pickle
import socket
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from learnable.errors import LearnableError, ModelError, first_line
from learnable.models.dtype import resolved
from learnable.models.language_model import LanguageModel
from learnable.types import ModelRef, Work


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a worker found, the work that it took, and what it said on standard error."""

    found: Any
    said: str
    work: Work = field(default_factory=Work)


def ran(task: Callable[[], Any]) -> Done | LearnableError:
    """Return what a task gives, or why it gives nothing."""
    try:
        with redirect_stderr(io.StringIO()) as said:
            return Done(found=task(), said=said.getvalue())
    except Exception as error:
        told = error
        if not isinstance(told, LearnableError):
            told = ModelError(
                f"the worker {socket.gethostname()} failed: {type(error).__name__}: {first_line(error)}",
                hint="--debug shows where",
            )
        told.add_note("on the worker:\n" + "".join(traceback.format_exception(error)))
        return told


def opened(done: bytes) -> Done:
    """Return what a worker found; raises its error here."""
    found: Done | LearnableError = pickle.loads(done)
    if isinstance(found, LearnableError):
        raise found
    return found


class Worker:
    """One model, loaded once, in a process of its own; lives as long as a pass."""

    def __init__(self, ref: ModelRef, adapter: Path | None, key: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._wearing = ExitStack()
        self._loaded = ran(lambda: self._load(ref, adapter, key))

    def _load(self, ref: ModelRef, adapter: Path | None, key: str) -> LanguageModel:
        _check_seen(ref.name)
        model = LanguageModel(ref)
        if adapter is not None:
            # PEFT 0.21 asks transformers 5.23 for a property under its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            _check_seen(str(adapter))
            self._wearing.enter_context(model.adapter(adapter))
        if model.key != key:
            raise ModelError(
                f"the files of {ref.name} on the worker {socket.gethostname()} are others than here",
                hint="put the same files on all machines, or name the revision of a hub id: --revision COMMIT",
            )
        return model

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return what the task of a row gives, or why it gives nothing."""
        loaded = done = self._loaded
        if isinstance(loaded, Done):
            model: LanguageModel = loaded.found
            before = model.work
            done = ran(lambda: pickle.loads(row["task"])(model))
            if isinstance(done, Done):
                done = replace(done, work=model.work - before, said=loaded.said + done.said)
        return {"number": row["number"], "done": pickle.dumps(done)}


def dtype_here(ref: ModelRef, threads: int) -> bytes:
    """Return the dtype that a model gets on this worker, pickled, see ``opened``."""
    torch.set_num_threads(threads)

    def resolve() -> str:
        _check_seen(ref.name)
        return resolved(ref).dtype

    return pickle.dumps(ran(resolve))


def _check_seen(name: str) -> None:
    if Path(name).is_absolute() and not Path(name).exists():
        raise ModelError(
            f"there is no {name} on the worker {socket.gethostname()}",
            hint="put it where all machines of the cluster see it under this path, or give a hub id",
        )
