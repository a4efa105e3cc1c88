"""What moves in federated fine-tuning: some scalars of each linear weight, all of them, or LoRA factors beside them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import get_peft_model
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from learnable.federation import Arrays, Floats, Places
from learnable.models.adapters import lora_targets
from learnable.settings import Tuning
from learnable.training.adapters import lora

Moved = Mapping[str, torch.nn.Parameter]
"""The parameters that move, by the names under which their values travel."""


def linear_weights(network: Any) -> dict[str, torch.Tensor]:
    """Return the weights that LoRA adapts, by layer, each (d_out, d_in): of GPT-2's layers the transposed view."""
    layers = {name: network.get_submodule(name) for name in lora_targets(network)}
    return {
        name: layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach()
        for name, layer in layers.items()
    }


class _Shifted(torch.nn.Module):
    """A weight plus values at some places, or at all; the gradient of the values is that of the weight at their places."""

    index: torch.Tensor | None

    def __init__(self, layer: Any, places: Places | None) -> None:
        super().__init__()
        weight, self._turned = layer.weight, isinstance(layer, Conv1D)
        count = weight.numel() if places is None else len(places)
        self.values = torch.nn.Parameter(torch.zeros(count, dtype=torch.float32, device=weight.device))
        index = None if places is None else torch.from_numpy(places).to(weight.device)
        self.register_buffer("index", index, persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight as it counts."""
        flat = (weight.T if self._turned else weight).reshape(-1)
        shifted = flat + self.values if self.index is None else flat.index_add(0, self.index, self.values)
        return shifted.view(weight.T.shape).T if self._turned else shifted.view(weight.shape)


@contextmanager
def sparse(network: Any, places: Mapping[str, Places | None]) -> Iterator[Moved]:
    """Within the block, the scalars of linear weights at these places move, all others stay as they are.

    The weights themselves are kept: what moves is a vector of changes, and Adam remembers that of it alone.
    """
    moved = dict[str, torch.nn.Parameter]()
    for name, own in places.items():
        layer = network.get_submodule(name)
        shifted = _Shifted(layer, own)
        parametrize.register_parametrization(layer, "weight", shifted, unsafe=True)
        moved[name] = shifted.values
    try:
        yield moved
    finally:
        for name in moved:
            layer = network.get_submodule(name)
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


@contextmanager
def factors(network: Any, *, rank: int, freeze_A: bool) -> Iterator[tuple[Any, Moved]]:
    """Within the block, the network wears LoRA factors that move; give it so, and them as ``<layer>.A``, ``<layer>.B``.

    With ``freeze_A``, A stands still, and is named all the same, so that it can be put.
    """
    tuned = get_peft_model(network, lora(Tuning(rank=rank), network))
    moved = dict[str, torch.nn.Parameter]()
    for name, layer in tuned.base_model.model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        for letter, part in (("A", layer.lora_A), ("B", layer.lora_B)):
            moved[f"{name}.{letter}"] = part["default"].weight
            moved[f"{name}.{letter}"].requires_grad_(not (freeze_A and letter == "A"))
    try:
        yield tuned, moved
    finally:
        tuned.unload()


@contextmanager
def added(network: Any, changes: Mapping[str, Floats]) -> Iterator[None]:
    """Within the block, linear weights are greater by these changes, (d_out, d_in) each; then they have their bits again."""
    weights = {name: linear_weights(network)[name] for name in changes} if changes else {}
    kept = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}
    for name, weight in weights.items():
        weight += torch.from_numpy(changes[name]).to(weight.device)
    try:
        yield
    finally:
        for name, weight in weights.items():
            weight.copy_(kept[name])


def put(moved: Moved, values: Arrays) -> None:
    """Give the parameters these values."""
    with torch.no_grad():
        for name, array in values.items():
            parameter = moved[name]
            parameter.copy_(torch.from_numpy(array).reshape(parameter.shape))


def taken(moved: Moved) -> dict[str, Floats]:
    """Return the values of the parameters that move, float32."""
    return {
        name: each.detach().to("cpu", torch.float32, copy=True).numpy()
        for name, each in moved.items()
        if each.requires_grad
    }
