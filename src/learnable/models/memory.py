"""A network that is in memory already: a folder with its tokenizer and the hash of its weights stands for it.

All that asks a folder for a model's identity, tokenizer or configuration is answered from there; only the weights are
taken from memory, and shared.
"""

import copy
import shutil
import tempfile
import weakref
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learnable.errors import UsageError
from learnable.runs.files import write_json

_NETWORKS: dict[Path, Any] = {}
"""The networks that folders stand for."""


class NetworkInMemory:
    """A causal language model of transformers, which stays as it is, and its tokenizer, as long as this object is there.

    Raises:
        UsageError: If they are something else, or the weights are not all on one device.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        if not isinstance(network, PreTrainedModel) or getattr(network, "_hf_peft_config_loaded", False):
            raise UsageError(
                f"a model in memory is a causal language model of transformers, got {type(network).__name__}",
                hint="give the network without what wraps it; of a network with adapters, merge_and_unload() of it",
            )
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise UsageError(
                f"a model in memory needs its tokenizer, got {type(tokenizer).__name__}",
                hint="write Model(network, AutoTokenizer.from_pretrained(...))",
            )
        devices = {str(each.device) for each in network.parameters()}
        if len(devices) != 1 or devices == {"meta"}:
            raise UsageError(
                f"the weights of a model in memory are on one device, got {', '.join(sorted(devices))}",
                hint="load it without device_map, or give the name of its folder",
            )
        self.network: Any = network
        self._tokenizer = tokenizer
        self._root = Path(tempfile.mkdtemp(prefix="learnable-"))
        weakref.finalize(self, _forget, self._root)

    def folder(self) -> Path:
        """Return the folder that stands for the network with the weights that it has now: with others, another one."""
        hashed = xxhash.xxh3_128(type(self.network).__qualname__.encode())
        for name, tensor in chain(self.network.named_parameters(), self.network.named_buffers()):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        digest = hashed.hexdigest()
        folder = self._root / digest[:16] / type(self.network).__name__
        if folder not in _NETWORKS:
            folder.mkdir(parents=True)
            self.network.config.to_json_file(folder / "config.json", use_diff=False)
            self._tokenizer.save_pretrained(folder)
            write_json(folder / "weights.json", {"digest": digest})
        _NETWORKS[folder] = self.network
        return folder

    def copied(self) -> "NetworkInMemory":
        """Return the same network with weights of its own, for a training that moves them."""
        return NetworkInMemory(copy.deepcopy(self.network), self._tokenizer)


def network_in_memory(folder: Path) -> Any | None:
    """Return the network that a folder stands for, None where it is an ordinary one.

    Its modules are copies and its weights are shared: what is done to it does not show in the network that was given.
    """
    network = _NETWORKS.get(folder)
    if network is None:
        return None
    weights = [each for each in network.parameters() if type(each) is torch.nn.Parameter]
    shared: dict[int, Any] = {id(each): each for each in network.buffers()}
    shared |= {id(each): torch.nn.Parameter(each.data, requires_grad=each.requires_grad) for each in weights}
    return copy.deepcopy(network, shared)


def _forget(root: Path) -> None:
    for folder in [folder for folder in _NETWORKS if folder.is_relative_to(root)]:
        del _NETWORKS[folder]
    shutil.rmtree(root, ignore_errors=True)
