"""What is done to a network of transformers from outside, without a line about any model family."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def base_network(network: Any) -> Any:
    """Return the network under its adapters, which is the network itself where it has none."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


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
