"""The passes of a training over one piece of a batch: how its rows lie, how attention is computed, what is added."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from learnable.models.attention import attending
from learnable.models.lengths import LengthSwitches
from learnable.models.network import base_network
from learnable.models.packing import Layout, packed, padded
from learnable.training.batches import Member, inputs_of, pieces
from learnable.training.loss import response_nll
from learnable.training.memory import PieceSize

WRITTEN_OUT = 256
"""Longest sequence whose attention a CPU computes faster as products of matrices in bfloat16 than fused."""


class TrainingPasses:
    """Computes the nll of pieces, each as large as the memory allows; see ``Loop`` for the arguments."""

    def __init__(self, network: Any, *, longest: int, packs: bool, mixed: bool) -> None:
        self._network, self._base = network, base_network(network)
        self._device = next(network.parameters()).device
        self._packs, self._switches = packs, LengthSwitches.of(self._base)
        self._size = PieceSize.of(network, longest=longest)
        self._compute_again_if_needed()
        fused = self._base.config._attn_implementation == "sdpa" and self._base._can_set_attn_implementation()
        self._chooses_attention = mixed and self._device.type == "cpu" and fused
        config = network.config.get_text_config()
        # Experts: how evenly they are used counts too, as much as the model's own configuration says.
        has_experts = hasattr(config, "output_router_logits")
        self._experts = getattr(config, "router_aux_loss_coef", 0.0) if has_experts else 0.0

    def pieces(self, members: Sequence[Member]) -> list[list[Member]]:
        """Return rows, of which the longest comes first, in pieces that fit the memory."""
        most = self._size.tokens
        return list(pieces(members, most_tokens=most, padding=not self._packs, switches=self._switches))

    def shrink(self, *, longest: int) -> bool:
        """Make pieces smaller, or compute states again for the gradients; False when nothing is left to do."""
        smaller = self._size.shrink(longest=longest)
        self._compute_again_if_needed()
        return smaller

    @contextmanager
    def over(self, piece: Sequence[Member], model: Any, *, count: int) -> Iterator[tuple[torch.Tensor, Any]]:
        """Give the nll of a piece, float32 (n,), and what uneven use of experts adds for each of its response tokens.

        Gradients are taken within the block: states that are computed again for them need the layout too. ``model``
        is the network, or what wraps it for several devices; rows of the batch of n that are not in the piece have 0.
        """
        layout = (packed if self._packs else padded)([member.example for member in piece])
        if self._chooses_attention and layout.segments is None:
            wanted = "eager" if layout.ids.shape[1] <= WRITTEN_OUT else "sdpa"
            if self._base.config._attn_implementation != wanted:
                self._base.set_attn_implementation(wanted)
        inputs = {
            name: value.to(self._device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs_of(piece, layout).items()
        }
        options: dict[str, Any] = {}
        if self._experts:  # padding must not count
            options = {"output_router_logits": True, "attention_mask": _real(layout, inputs["input_ids"])}
        with attending(self._base, layout):
            nll, output = response_nll(self._network, inputs, count=count, forward=model, **options)
            # Some models take the option and give no such loss.
            uneven = getattr(output, "aux_loss", None) if self._experts else None
            yield nll, 0.0 if uneven is None else self._experts * uneven

    def _compute_again_if_needed(self) -> None:
        if self._size.again and not self._base.is_activation_checkpointing:
            self._base.activation_checkpointing_enable({"use_reentrant": False})
            self._base.enable_input_require_grads()


def _real(layout: Layout, ids: torch.Tensor) -> torch.Tensor | None:
    """Return which tokens are no padding, bool (B, T); None where there is none."""
    if layout.segments is not None:
        return None
    lengths = torch.tensor([len(places) for places in layout.places], device=ids.device)
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
