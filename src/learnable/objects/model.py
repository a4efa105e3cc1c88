"""A model as an object: named, or a network that is loaded already."""

import os
import shutil
import tempfile
import weakref
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from learnable.deferred import models
from learnable.errors import UsageError
from learnable.objects.given import checked_settings, opened, pinned
from learnable.runs.store import Store
from learnable.settings import Loading
from learnable.types import ModelRef

IN_MEMORY = ("batch_tokens", "chat_template")
"""How to load a network has no effect on one that is loaded, but for these."""


class Scratch:
    """A folder that is there as long as this object is."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="learnable-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def output_folder(given: str | os.PathLike[str] | None) -> tuple[Path, Scratch | None]:
    """Return the folder that is given, or else one that is there as long as what comes with it."""
    scratch = Scratch() if given is None else None
    return (Path(given or "") if scratch is None else scratch.folder), scratch


class Model:
    """A causal language model; its weights are loaded when they are first needed.

    Args:
        model: Folder, hub id, GGUF file or ``starter``; or a network of transformers, which stays as it is.
        tokenizer: Of a network.
        on: Where a named model runs: here, or ``ray[:ADDRESS]``, a Ray cluster.
        loading: Fields of ``Loading``: ``revision``, ``dtype``, ``device``, ``trust_remote_code``, ``batch_tokens``,
            ``chat_template``; of a network the last two only.

    Raises:
        ModelError: If there is no model of that name.
        UsageError: If it is neither a name nor a network with its tokenizer, or a setting is not known.
    """

    def __init__(
        self, model: Any = "starter", tokenizer: Any = None, *, on: str | None = None, **loading: Any
    ) -> None:
        self.loading = Loading(**checked_settings(loading, Loading))
        self._opened = cast("models.LanguageModel | None", None)
        self._held: models.memory.NetworkInMemory | None = None
        self._on = on
        if isinstance(model, str | os.PathLike):
            if tokenizer is not None:
                raise UsageError(f"{model} brings its own tokenizer", hint="leave the tokenizer out")
            self.name = os.fspath(model)
            models.source.look_up(self._named)
            return
        if idle := sorted(set(loading) - set(IN_MEMORY) | ({"on"} if on else set())):
            raise UsageError(f"{idle[0]} has no effect on a network that is loaded", hint="leave it out")
        self._held = models.memory.NetworkInMemory(model, tokenizer)
        self.name = model.config.name_or_path or type(model).__name__

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    @property
    def ref(self) -> ModelRef:
        """What names it to the engine, its dtype resolved; of a network, with the weights that it has now."""
        return self._resolved if self._held is None else _ref_of(self._held, self.loading)

    @property
    def _named(self) -> ModelRef:
        return ModelRef(name=self.name, **asdict(self.loading))

    @cached_property
    def _resolved(self) -> ModelRef:
        return pinned(self._named, on=self._on)

    @cached_property
    def _scratch(self) -> "Scratch":
        return Scratch()

    @property
    def store(self) -> Store:
        """Measurements that are there as long as this object is."""
        return Store(self._scratch.folder / "store")

    def opened(self) -> "models.LanguageModel":
        """Return the model with its weights loaded, once."""
        ref = self.ref
        if self._opened is None or self._opened.ref != ref:
            self._opened = None  # two sets of weights may not fit the memory
            self._opened = opened(ref, on=self._on)
        return self._opened

    def beside(self, ref: ModelRef) -> "models.LanguageModel":
        """Return another model, its weights loaded where those of this one are."""
        return opened(ref, on=self._on)

    def for_training(self, *, moves_weights: bool) -> "tuple[ModelRef, models.memory.NetworkInMemory | None]":
        """Return what a training starts from, and what must be there as long as it runs; lets go of loaded weights.

        A network whose weights are moved gets a copy of its own.
        """
        self._opened = None
        if self._held is None:
            return self.ref, None
        held = self._held.copied() if moves_weights else self._held
        return _ref_of(held, self.loading), held


def _ref_of(held: "models.memory.NetworkInMemory", loading: Loading) -> ModelRef:
    network = held.network
    own = {"dtype": str(network.dtype).removeprefix("torch."), "device": str(network.device)}
    return ModelRef(name=str(held.folder()), **(asdict(loading) | own))


def as_model(model: Any) -> Model:
    """Return a model, made now where only its name was given."""
    if isinstance(model, str | os.PathLike):
        return Model(model)
    if not isinstance(model, Model):
        raise UsageError(
            f"a model is a learnable.Model or its name, got {type(model).__name__}",
            hint="write learnable.Model(network, tokenizer)",
        )
    return model
