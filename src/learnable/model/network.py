"""What is done to a network of transformers from outside, without a line about any model family."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
def hooked(module: torch.nn.Module, replace: Callable[..., Any]) -> Iterator[None]:
    """Within the block, let a module be given what ``replace(module, arguments)`` makes of its arguments."""
    handle = module.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def heard(module: torch.nn.Module, listen: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Within the block, let ``listen`` have what a module gives."""
    handle = module.register_forward_hook(lambda _, __, output: listen(output))
    try:
        yield
    finally:
        handle.remove()
