"""A loaded model: renders, measures, and wears adapters over one set of weights."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.errors import ModelError
from learnable.models.adapters import attach
from learnable.models.batching import Batching
from learnable.models.dtype import resolved
from learnable.models.generation import Answered, Asked, TextGenerator, generate_batches
from learnable.models.loading import load_network
from learnable.models.losses import batch_token_nll
from learnable.models.packing import Layout
from learnable.models.rendering import Renderer
from learnable.models.source import adapter_key, identify, position_limit
from learnable.models.speed import Shapes, peak
from learnable.types import Awaited, Launch, ModelRef, Rendered, Work

BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 4_096}

AHEAD = {"cuda": 1}
"""Batches that are begun before the one before is waited for, by kind of device: the CPU lays out one while a GPU computes."""


def usual_batch_tokens(ref: ModelRef, device: str) -> int:
    """Return how many tokens of a batch one pass takes where the memory is large enough, by kind of device."""
    return ref.batch_tokens or BATCH_TOKENS.get(device, BATCH_TOKENS["cpu"])


class LanguageModel(TextGenerator):
    """A causal language model on its device, with its tokenizer; implements ``types.MeasuredModel``.

    Its ``key`` is the identity of weights, active adapter, chat template and dtype.

    Raises:
        ModelError: If it cannot be found or loaded.
    """

    def __init__(self, ref: ModelRef) -> None:
        ref = self.ref = resolved(ref)
        self.network = load_network(ref)
        self.renderer = Renderer.of(ref)
        self.key = self._base_key = identify(ref)
        self._adapters: dict[str, str] = {}
        self._batching = Batching(self.network, key=self._base_key, position_limit=position_limit(ref))
        self._shapes = Shapes.of(self.network)
        self.work = Work()
        self._done = 0.0

    @property
    def dtype(self) -> str:
        """Name of the dtype the model computes in."""
        return str(self.network.dtype).removeprefix("torch.")

    @cached_property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one forward pass takes: on a GPU fewer where its memory is short."""
        device = self.network.device
        usual = usual_batch_tokens(self.ref, device.type)
        if self.ref.batch_tokens or device.type != "cuda":
            return usual
        free, _ = torch.cuda.mem_get_info(device)
        return self._shapes.tokens_within(free, most=usual, item_bytes=self.network.dtype.itemsize)

    @cached_property
    def peak_operations_per_s(self) -> float | None:
        """What the device can do in products of matrices of this model's shapes; takes a second to find out."""
        return peak(self.network)

    def measure(
        self, launch: Launch, batches: Sequence[Sequence[Rendered]]
    ) -> Iterator[tuple[int, Sequence[Any] | NDArray[Any]]]:
        """Yield the number of each batch and one value per example; implements ``types.MeasuredModel``."""
        ahead = AHEAD.get(self.network.device.type, 0)
        begun: deque[tuple[int, Awaited]] = deque()
        for number, batch in enumerate(batches):
            begun.append((number, self.begin(launch, batch)))
            if len(begun) > ahead:
                done, values = begun.popleft()
                yield done, values()
        for done, values in begun:
            yield done, values()

    def nll(self, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
        """Return the summed nll of the response tokens in nats, (n,)."""
        # One after the other, where a sum would add pairs: the bits are to stay what they were.
        return np.array([np.append(0.0, part).cumsum()[-1] for part in self.token_nll(rendered)])

    def token_nll(self, rendered: Sequence[Rendered]) -> list[NDArray[np.float32]]:
        """Return the nll of each response token in nats, n arrays."""
        return list(self.begin(batch_token_nll, rendered)())

    def begin(self, launch: Launch, rendered: Sequence[Rendered]) -> Awaited:
        """Begin a batch, whose rows are computed together as far as they may be, and return what waits for its values."""
        groups = list(self._batching.groups(rendered))
        parts = [self._group_begun(launch, [rendered[position] for position in group]) for group in groups]

        def values() -> list[Any]:
            found = dict(zip(chain(*groups), chain.from_iterable(part() for part in parts), strict=True))
            return [found[position] for position in range(len(rendered))]

        return values

    def _group_begun(self, launch: Launch, rendered: Sequence[Rendered]) -> Awaited:
        """Begin a group of rows, in halves of halves if it does not fit the GPU's memory."""
        layout, started = self._batching.layout(rendered), time.monotonic()
        try:
            found = launch(self.network, rendered, layout)
        except torch.cuda.OutOfMemoryError as error:
            if len(rendered) == 1:
                raise ModelError(
                    f"one example of {len(rendered[0].ids):,} tokens does not fit the GPU's memory",
                    hint="lower max_length, or take a smaller model or dtype",
                ) from error
        else:
            return lambda: self._counted(found, rendered, layout, started)
        torch.cuda.empty_cache()
        half = len(rendered) // 2
        halves = [self._group_begun(launch, part) for part in (rendered[:half], rendered[half:])]
        return lambda: [value for part in halves for value in part()]

    def _counted(
        self, found: Awaited, rendered: Sequence[Rendered], layout: Layout, started: float
    ) -> Sequence[Any] | NDArray[Any]:
        """Wait for a batch, and count what it took: the time since it was begun, or since the one before was done."""
        values, now = found(), time.monotonic()
        tokens = sum(len(example.ids) for example in rendered)
        computed = tokens if layout.segments is None else layout.computed
        responses = sum(int(example.mask.sum()) for example in rendered)
        self.work += Work(
            tokens=tokens,
            computed=computed,
            padding=layout.computed - computed,
            operations=self._shapes.operations(layout, tokens=computed, responses=responses),
            seconds=now - max(started, self._done),
        )
        self._done = now
        return values

    @property
    def position_limit(self) -> int | None:
        """Most tokens of a sequence, None where the model does not say."""
        return position_limit(self.ref)

    def continued(self, asked: Asked) -> Answered:
        """Yield positions and answers as each batch is done."""
        yield from generate_batches(self.network, self.renderer.tokenizer, asked)

    @contextmanager
    def adapter(self, folder: Path | None) -> Iterator[None]:
        """Wear the LoRA adapter of ``folder``, if any, within the block; the base weights stay the same, in memory once."""
        if folder is None:
            yield
            return
        key = adapter_key(self._base_key, folder)
        if key not in self._adapters:
            name = f"adapter-{key[:16]}"
            self.network = attach(self.network, folder, name=name)
            self.network.set_adapter(name)
            # One at a time: a comparison wears dozens, and each takes memory as long as it is attached.
            for old in self._adapters.values():
                self.network.delete_adapter(old)
            self._adapters = {key: name}
        self.network.set_adapter(self._adapters[key])
        self.network.base_model.enable_adapter_layers()
        self.key = key
        try:
            yield
        finally:
            self.network.base_model.disable_adapter_layers()
            self.key = self._base_key
