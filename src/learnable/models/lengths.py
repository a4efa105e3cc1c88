"""Lengths at which a network computes otherwise for all tokens of a batch: rows on two sides of one are never together.

Rotary embeddings that change with the length take it from the longest row of a batch. A row among longer ones would then
have another loss than alone.
"""

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class LengthSwitches:
    """Where a network switches.

    Rows of up to as many tokens as a border, ascending, and longer ones are computed with other frequencies (LongRoPE).
    Above ``growing_from`` each length has frequencies of its own (dynamic NTK); None where there is no such length.
    """

    borders: tuple[int, ...] = ()
    growing_from: int | None = None

    @classmethod
    def of(cls, network: Any) -> "LengthSwitches":
        """Read them off the configuration of a network, of all its rotary embeddings."""
        config = network.config.get_text_config()
        borders: set[int] = set()
        growing: set[int] = set()
        given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
        nested = [value for value in given.values() if isinstance(value, Mapping)]
        for rope in nested or [given]:
            kind = str(rope.get("rope_type") or rope.get("type"))
            if kind == "longrope":
                own = rope.get("original_max_position_embeddings")
                borders.add(int(own or config.original_max_position_embeddings))
            elif "dynamic" in kind:
                growing.add(int(config.max_position_embeddings))
        return cls(borders=tuple(sorted(borders)), growing_from=min(growing, default=None))

    def kind(self, length: int) -> tuple[int, int]:
        """Return the kind of rows of a length, of which those of one kind may be in one batch.

        It is the last border below it, or 0, and the length itself where each has frequencies of its own, or 0.
        """
        place = bisect_left(self.borders, length)
        grown = self.growing_from is not None and length > self.growing_from
        return (self.borders[place - 1] if place else 0), (length if grown else 0)

    def groups(self, lengths: Sequence[int], *, growing_by: int = 0) -> list[list[int]]:
        """Group rows of these lengths, by position, such that those of a group may be in one batch.

        Where each grows by so many tokens, one that switches on its way is only with those that do so at the same token.
        """
        found: dict[Hashable, list[int]] = {}
        for position, length in enumerate(lengths):
            kind, later = self.kind(length), self.kind(length + growing_by)
            found.setdefault((kind, later, length if kind != later else 0), []).append(position)
        return list(found.values())


def batches_within(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield positions, longest first, such that padded rows keep to ``batch_tokens``, or are alone."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def forget_lengths(network: Any) -> None:
    """Let the rotary embeddings of a network forget the longest row that they met.

    Dynamic NTK keeps the frequencies of the longest row until a short one comes: the loss of a row would depend on
    those before it.
    """
    if LengthSwitches.of(network).growing_from is None:
        return
    for module in network.modules():
        if hasattr(module, "original_max_seq_len"):
            module.register_forward_pre_hook(_forget)


def _forget(module: torch.nn.Module, _: Any) -> None:
    for name, frequencies in list(module.named_buffers(recurse=False)):
        if name.endswith("original_inv_freq"):
            module.register_buffer(name.replace("original_", ""), frequencies, persistent=False)
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)
