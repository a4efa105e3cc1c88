"""A loaded model: renders, measures, and wears adapters over one set of weights."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.errors import ModelError
from learnable.model.adapters import attach
from learnable.model.batching import Batching
from learnable.model.generation import TextGenerator, generate_batches
from learnable.model.loading import load_network
from learnable.model.losses import batch_embeddings, batch_nll, batch_token_nll
from learnable.model.packing import Layout
from learnable.model.rendering import Renderer
from learnable.model.source import adapter_key, identify, position_limit
from learnable.model.speed import Shapes, peak
from learnable.types import Answer, ModelRef, Rendered, Sampling, Work

Part = TypeVar("Part")
Value = TypeVar("Value")
BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 4_096}


class LanguageModel(TextGenerator):
    """A causal language model on its device, with its tokenizer; implements ``types.Model``.

    Args:
        ref: Which model.

    Raises:
        ModelError: If it cannot be found or loaded.
    """

    def __init__(self, ref: ModelRef) -> None:
        self.ref = ref
        self.network = load_network(ref)
        self.renderer = Renderer.of(ref)
        self._key = self._base_key = identify(ref)
        self._adapters: dict[str, str] = {}
        self._batching = Batching(self.network, key=self._base_key, position_limit=position_limit(ref))
        self._shapes = Shapes.of(self.network)
        self.work = Work()

    @property
    def key(self) -> str:
        """Identity of weights, active adapter, chat template and dtype."""
        return self._key

    @property
    def dtype(self) -> str:
        """Name of the dtype the model computes in."""
        return str(self.network.dtype).removeprefix("torch.")

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one forward pass takes."""
        return self.ref.batch_tokens or BATCH_TOKENS.get(self.network.device.type, BATCH_TOKENS["cpu"])

    @cached_property
    def peak_operations_per_s(self) -> float | None:
        """What the device can do in products of matrices of this model's shapes; takes a second to find out."""
        return peak(self.network)

    def measure(
        self, kind: str, batches: Sequence[Sequence[Rendered]]
    ) -> Iterator[tuple[int, Sequence[Any] | NDArray[Any]]]:
        """Yield the number of each batch and one value per example; implements ``types.Model``."""
        by_kind: dict[str, Callable[[Sequence[Rendered]], Sequence[Any] | NDArray[Any]]] = {
            "nll": self.nll,
            "token_nll": self.token_nll,
            "embedding": self.embed,
        }
        compute = by_kind[kind]
        for number, batch in enumerate(batches):
            yield number, compute(batch)

    def nll(self, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
        """Return the summed nll of the response tokens in nats, (n,)."""
        return np.array(self._each(batch_nll, rendered), dtype=np.float64)

    def token_nll(self, rendered: Sequence[Rendered]) -> list[NDArray[np.float32]]:
        """Return the nll of each response token in nats, n arrays."""
        return self._each(batch_token_nll, rendered)

    def embed(self, rendered: Sequence[Rendered]) -> NDArray[np.float32]:
        """Return one vector for each example, (n, d)."""
        return np.stack(self._each(batch_embeddings, rendered))

    def _each(
        self,
        compute: Callable[[Any, Sequence[Rendered], Layout], Iterable[Value]],
        rendered: Sequence[Rendered],
    ) -> list[Value]:
        """Return one value for each example of a batch, whose rows are computed together as far as they may be."""
        values: dict[int, Value] = {}
        for group in self._batching.groups(rendered):
            parts = self._within_memory(compute, [rendered[position] for position in group])
            values.update(zip(group, chain.from_iterable(parts), strict=True))
        return [values[position] for position in range(len(rendered))]

    def _within_memory(
        self, compute: Callable[[Any, Sequence[Rendered], Layout], Part], rendered: Sequence[Rendered]
    ) -> list[Part]:
        """Compute a group of rows, in halves of halves if it does not fit the GPU's memory."""
        layout, started = self._batching.layout(rendered), time.monotonic()
        try:
            found = compute(self.network, rendered, layout)
        except torch.cuda.OutOfMemoryError as error:
            if len(rendered) == 1:
                raise ModelError(
                    f"one example of {len(rendered[0].ids):,} tokens does not fit the GPU's memory",
                    hint="lower max_length, or take a smaller model or dtype",
                ) from error
        else:
            self.work += self._work(rendered, layout, time.monotonic() - started)
            return [found]
        torch.cuda.empty_cache()
        half = len(rendered) // 2
        return [
            *self._within_memory(compute, rendered[:half]),
            *self._within_memory(compute, rendered[half:]),
        ]

    def _work(self, rendered: Sequence[Rendered], layout: Layout, seconds: float) -> Work:
        tokens = sum(len(example.ids) for example in rendered)
        computed = tokens if layout.segments is None else layout.computed
        responses = sum(int(example.mask.sum()) for example in rendered)
        return Work(
            tokens=tokens,
            computed=computed,
            padding=layout.computed - computed,
            operations=self._shapes.operations(layout, tokens=computed, responses=responses),
            seconds=seconds,
        )

    @property
    def position_limit(self) -> int | None:
        """Most tokens of a sequence, None where the model does not say."""
        return position_limit(self.ref)

    def _continued(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        only: Collection[int] | None,
        stop_ids: Collection[int],
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        yield from generate_batches(
            self.network,
            self.renderer.tokenizer,
            prompts,
            **asdict(sampling),
            seeds=seeds,
            stop_ids=stop_ids,
            only=only,
        )

    @contextmanager
    def adapter(self, folder: Path) -> Iterator[None]:
        """Wear the LoRA adapter of ``folder`` within the block; the base weights stay the same, in memory once.

        Raises:
            ModelError: If the adapter does not fit this model.
        """
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
        self._key = key
        try:
            yield
        finally:
            self.network.base_model.disable_adapter_layers()
            self._key = self._base_key
