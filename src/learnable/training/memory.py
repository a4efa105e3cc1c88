"""How much of a batch a GPU trains on at once: by the memory that a trial takes, and less where it does not fit after all."""

from dataclasses import dataclass
from typing import Any

import psutil
import torch

from learnable.runs.progress import say

PIECE_TOKENS = {"cpu": 1_024, "cuda": 16_384, "mps": 4_096}
"""Most tokens, padding included, that are forwarded and backwarded at once; memory grows with them."""

TRIED_TOKENS = 256
"""Tokens of the pass that tells how much memory a token takes."""

SHARE = 0.7
"""Of the memory that is free, what the trial may promise to a piece; logits and gradients take from the rest."""

WORTH_KEEPING = 2_048
"""Fewest tokens of a piece that keep a GPU busy: rather than less, states are computed again for the gradients."""


@dataclass(kw_only=True)
class PieceSize:
    """What is forwarded and backwarded at once.

    ``tokens``: most of a piece. ``again``: states are computed again for the gradients (activation checkpointing).
    """

    tokens: int
    again: bool = False

    @classmethod
    def of(cls, network: Any, *, longest: int) -> "PieceSize":
        """Return the size for a network in training mode and a longest row of so many tokens; a GPU is tried."""
        device = next(network.parameters()).device
        most = PIECE_TOKENS.get(device.type, PIECE_TOKENS["cpu"])
        if device.type != "cuda":
            return cls(tokens=most)
        free, _ = torch.cuda.mem_get_info(device)
        return cls.within(free, bytes_per_token=_tried(network, device), longest=longest, most=most)

    @classmethod
    def within(cls, free_bytes: int, *, bytes_per_token: float, longest: int, most: int) -> "PieceSize":
        """Return the size: states are kept where pieces are then long enough, and the longest row fits."""
        fitting = int(SHARE * free_bytes / max(bytes_per_token, 1.0))
        if fitting >= max(WORTH_KEEPING, longest):
            return cls(tokens=min(fitting, most))
        say("states are computed again for the gradients: keeping them would not fit the GPU's memory")
        return cls(tokens=most, again=True)

    def shrink(self, *, longest: int) -> bool:
        """Make pieces smaller, down to the longest row, then compute states again; False when nothing is left to do."""
        if self.tokens > longest:
            self.tokens = max(self.tokens // 2, longest)
        elif not self.again:
            self.again, self.tokens = True, max(self.tokens, WORTH_KEEPING)
        else:
            return False
        return True


def free_bytes(device: torch.device) -> int:
    """Return how much memory a device has left, with what torch holds of it and does not use."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached


def _tried(network: Any, device: torch.device) -> float:
    """Return the bytes that are kept for each token between a forward pass and its gradients."""
    ids = torch.zeros((1, TRIED_TOKENS), dtype=torch.int64, device=device)
    head = network.get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, arguments: (arguments[0][:, :1],)):
        before = torch.cuda.memory_allocated(device)
        output = network(input_ids=ids, use_cache=False)
        kept = torch.cuda.memory_allocated(device) - before
    del output
    return kept / TRIED_TOKENS
