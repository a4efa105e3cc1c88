"""Gradients of single examples, of one backward pass over a batch: parameter by parameter, and kept by nobody.

The gradient of a linear layer's weight is a sum over tokens of the products of what goes in and what comes back. Taken
over the tokens of one example alone, it is the gradient of that example. So a batch costs one backward pass, and what
is held is the gradients of one LoRA factor at a time.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence

from learnable.errors import TrainError
from learnable.models.attention import attending
from learnable.models.network import without_dropout
from learnable.models.packing import Layout, packed
from learnable.training.batches import batch_of, inputs_of
from learnable.training.loss import response_nll
from learnable.types import Rendered

GRADIENT_TOKENS = {"cpu": 288, "cuda": 8_192, "mps": 1_024}
"""Most tokens of a batch, padding included, whose states are kept for its gradients, by kind of device."""


FILLED = {"cpu": 32}
"""A batch is filled up to a multiple of so many tokens: each other shape takes kernels of its own, which are kept."""

SKETCH_VERSION = 1
"""Of the hash: sketches of another one are not comparable."""


class Consumer(Protocol):
    """What is made of the gradients of a batch of n examples."""

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Take the gradients of one parameter, float32 (n, P), which may not be changed.

        Args:
            name: Of the parameter, as PEFT saves it.
            gradients: Of each example's mean loss per response token.
        """


def take_gradients(
    network: Any, rendered: Sequence[Rendered], layout: Layout, consumers: Sequence[Consumer]
) -> None:
    """Hand the gradients of each example's mean loss to consumers, in the order in which they are computed.

    They are those of the factors of the active LoRA adapter, whether it is being trained or not, and of all other
    parameters that are. The latter come from autograd, which adds up: a batch has one example then
    (``takes_one``). Nothing is dropped out, and no ``grad`` is left. Each example has a response token; a beginning that
    several of them share in the layout is taken apart, as its gradients would mix.
    """
    if layout.segments is not None:
        layout = packed(rendered, share=False, multiple=FILLED.get(network.device.type, 1))
    counted = torch.tensor([int(example.mask[1:].sum()) for example in rendered], device=network.device)
    piece = inputs_of(batch_of(list(enumerate(rendered))), layout)
    piece |= {name: value.to(network.device) for name, value in piece.items() if name != "layout"}

    def hand_out(name: str, gradients: torch.Tensor) -> None:
        for consumer in consumers:
            consumer.add(name, gradients)

    # One by one: what PEFT puts around a network is in training mode where the network is not.
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with without_dropout(network), _tapped(network, layout, hand_out), attending(network, layout):
            nll, _ = response_nll(network, piece, count=len(rendered), forward=network)
            (nll / counted).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        for module in training:
            module.training = True


def takes_one(network: Any) -> bool:
    """Return whether a batch must be one example: parameters are trained that are no factors of LoRA adapters."""
    return bool(_others(network))


def parameter_names(network: Any) -> list[str]:
    """Return the names of all parameters that gradients are taken of."""
    return [*_factors(network), *_others(network)]


def _factors(network: Any) -> dict[str, torch.nn.Linear]:
    """Return the layers whose weights are factors of the active adapter, by the weight's name."""
    if not isinstance(network, PeftModel):
        return {}
    found = {}
    for name, module in network.named_modules():
        place, _, adapter = name.rpartition(".")
        if place.endswith((".lora_A", ".lora_B")) and adapter in network.active_adapters:
            found[f"{place}.weight"] = module
    return found


def _others(network: Any) -> dict[str, torch.nn.Parameter]:
    """Return the other parameters that are trained, by name."""
    factors = {id(module.weight) for module in _factors(network).values()}
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and id(parameter) not in factors
    }


@contextmanager
def _tapped(network: Any, layout: Layout, take: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Within the block, let ``take`` have the gradients of each backward pass over a layout."""
    factors, others = _factors(network), _others(network)
    trained = {parameter: parameter.requires_grad for parameter in network.parameters()}
    handles: list[Any] = []
    taps = _Taps(layout, network.device, take)
    try:
        for name, module in factors.items():
            # Autograd would add up over the batch what is taken apart here.
            module.weight.requires_grad = False
            handles.append(module.register_forward_hook(partial(taps.lay, name)))
        for name, parameter in others.items():
            whole = partial(_take_whole, name, take)
            handles.append(parameter.register_post_accumulate_grad_hook(whole))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, was in trained.items():
            parameter.requires_grad_(was)
        for parameter in others.values():
            parameter.grad = None


def _take_whole(name: str, take: Callable[[str, torch.Tensor], None], parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    take(name, parameter.grad.float().flatten()[None])
    parameter.grad = None


class _Taps:
    """Joins what went into each layer and what came back, example by example."""

    def __init__(
        self, layout: Layout, device: torch.device, take: Callable[[str, torch.Tensor], None]
    ) -> None:
        places = [torch.from_numpy(each) for each in layout.places]
        real = pad_sequence([torch.ones(len(each)) for each in places], batch_first=True)
        self._at = pad_sequence(places, batch_first=True).to(device)  # (n, T)
        self._real = None if real.all() else real.to(device)[..., None]
        self._take = take
        self._calls: dict[str, int] = {}
        self._sums: dict[str, torch.Tensor] = {}

    def lay(
        self, name: str, _: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        """Begin to wait for what comes back to a layer; a hook of its forward pass."""
        if not torch.is_grad_enabled():
            return output
        self._calls[name] = self._calls.get(name, 0) + 1
        # Where nothing before the layer takes gradients, what it gives begins to: so the hook is asked.
        tapped = output if output.requires_grad else output.detach().requires_grad_()
        tapped.register_hook(partial(self._back, name, given[0].detach()))  # type: ignore[no-untyped-call]
        return tapped

    def _back(self, name: str, given: torch.Tensor, gradient: torch.Tensor) -> None:
        inputs, outputs = (part.reshape(-1, part.shape[-1])[self._at].float() for part in (given, gradient))
        if self._real is not None:
            outputs *= self._real
        found = torch.bmm(outputs.transpose(1, 2), inputs).flatten(1)
        # A layer that is called several times has the sum for its gradient.
        self._sums[name] = self._sums[name] + found if name in self._sums else found
        self._calls[name] -= 1
        if not self._calls[name]:
            self._take(name, self._sums.pop(name))


class Squares:
    """The squared L2 norms of gradients: ``found`` float32 (n,)."""

    def __init__(self) -> None:
        self.found: Any = 0.0

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Take the gradients of one parameter."""
        self.found = self.found + torch.linalg.vector_norm(gradients, dim=1).square()


class Products:
    """The dot products of gradients with J vectors, float32 (J, P) by name of the parameter: ``found`` float32 (n, J)."""

    def __init__(self, vectors: Mapping[str, torch.Tensor]) -> None:
        self._vectors = vectors
        self.found: Any = 0.0

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Take the gradients of one parameter."""
        self.found = self.found + gradients @ self._vectors[name].T


class WeightedSums:
    """Sums of gradients over all batches: ``found`` by name of the parameter, float32 (J, P).

    ``weights``: of the batch at hand, float32 (J, n).
    """

    def __init__(self) -> None:
        self.weights = torch.zeros(0)
        self.found: dict[str, torch.Tensor] = {}

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Take the gradients of one parameter."""
        added = self.weights.to(gradients.device) @ gradients
        if name in self.found:
            self.found[name] += added
        else:
            self.found[name] = added


class CountSketch:
    """Adds up coordinates with random signs in random buckets: ``found`` float32 (n, d).

    Products of two sketches have the products of the vectors for their mean, and the variance of a random projection:
    ``(|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / d``. Sign and bucket of a coordinate depend on its parameter's
    name, its place there and the seed, on every machine alike.

    Args:
        dimensions: d.
        seed: Of the map.

    Source: Charikar, Chen and Farach-Colton (2002). LESS (2402.04333) projects with a dense matrix of random signs: d
        additions for each coordinate, where this is one.
    """

    def __init__(self, *, dimensions: int, seed: int) -> None:
        self._dimensions, self._seed = dimensions, seed
        self.found = torch.zeros(0)

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Take the gradients of one parameter, float32 (n, P)."""
        if not len(self.found):
            self.found = gradients.new_zeros(len(gradients), self._dimensions)
        buckets, signs = _places(name, gradients.shape[1], self._dimensions, self._seed, gradients.device)
        self.found.scatter_add_(1, buckets.expand(len(gradients), -1), gradients * signs)


@cache
def _places(
    name: str, size: int, dimensions: int, seed: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bucket, int64 (P,), and the sign, float32 (P,), of each coordinate of a parameter."""
    digest = hashlib.blake2b(f"{SKETCH_VERSION} {seed} {name}".encode(), digest_size=16).digest()
    # Philox hashes a counter under a key; its raw numbers are the same in every version of numpy.
    drawn = np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(size)
    buckets = ((drawn >> np.uint64(1)) % np.uint64(dimensions)).astype(np.int64)
    signs = ((drawn & np.uint64(1)) * 2).astype(np.float32) - 1
    return torch.from_numpy(buckets).to(device), torch.from_numpy(signs).to(device)


def checked(values: torch.Tensor, rendered: Sequence[Rendered]) -> NDArray[np.float32]:
    """Return what was found of n examples, one row each, on the CPU.

    Raises:
        TrainError: If a number is not finite.
    """
    found = values.detach().float().cpu().numpy()
    finite = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
    if not finite.all():
        bad = rendered[int(np.flatnonzero(~finite)[0])]
        raise TrainError(f"the gradient of example {bad.id[:8]} is not finite", hint="try dtype float32")
    return found
