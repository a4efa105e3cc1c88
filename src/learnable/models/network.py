"""What is done to a network of transformers from outside, without a line about any model family."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch.nn.modules.dropout import _DropoutNd


def base_network(network: Any) -> Any:
    """Return the network under its adapters, which is the network itself where it has none."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


@contextmanager
def without_dropout(network: torch.nn.Module) -> Iterator[None]:
    """Within the block, drop nothing out: every rate of dropout in the modules and in their configurations is 0."""
    modules = list(network.modules())
    configs = {id(config): config for module in modules if (config := getattr(module, "config", None))}
    rates = [
        (owner, name, value)
        for owner in (*modules, *configs.values())
        for name, value in vars(owner).items()
        if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(owner, _DropoutNd)))
    ]
    for owner, name, _ in rates:
        setattr(owner, name, 0.0)
    try:
        yield
    finally:
        for owner, name, value in rates:
            setattr(owner, name, value)


@contextmanager
def in_float32(network: Any) -> Iterator[None]:
    """Let a network compute in float32 within the block, whatever the dtype of its weights.

    Layers are cast one at a time, each for its own pass, so that memory grows by one layer; embeddings are cast as they
    come out. The weights are put back afterwards, not cast back: they keep their bits.
    """
    inner = base_network(network)
    layers = _outermost(inner)
    in_layers = {id(module) for layer in layers for module in layer.modules()}
    tables = [module for module in inner.modules() if isinstance(module, torch.nn.Embedding)]
    left = {id(module) for module in (*tables, inner.get_output_embeddings())}
    others = [module for module in inner.modules() if id(module) not in in_layers | left]
    casts = [_cast(others)]
    with ExitStack() as hooks:
        for table in tables:
            hooks.enter_context(table.register_forward_hook(lambda _, __, output: output.float()))
        for layer in layers:
            before = layer.register_forward_pre_hook(lambda layer, _: casts.append(_cast(layer.modules())))
            after = layer.register_forward_hook(lambda *_: casts.pop()(), always_call=True)
            hooks.enter_context(before)
            hooks.enter_context(after)
        try:
            yield
        finally:
            while casts:
                casts.pop()()


def _cast(modules: Iterable[torch.nn.Module]) -> Callable[[], None]:
    """Put weights and buffers of modules in float32, and return what puts them back."""
    kept: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    for module in modules:
        for held in (cast("dict[str, Any]", module._parameters), cast("dict[str, Any]", module._buffers)):
            for name, weights in held.items():
                if weights is not None and weights.dtype in (torch.bfloat16, torch.float16):
                    kept.append((held, name, weights))
                    held[name] = weights.detach().float()

    def undo() -> None:
        for held, name, weights in kept:
            held[name] = weights

    return undo


def _outermost(network: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers of a network: what its lists of modules hold, but for lists within layers."""
    found: list[torch.nn.Module] = []
    for child in network.children():
        found += list(child) if isinstance(child, torch.nn.ModuleList) else _outermost(child)
    return found
