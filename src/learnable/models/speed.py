"""What a pass costs in floating-point operations, and how many of them the device can do."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.benchmark import Timer

from learnable.models.network import base_network
from learnable.models.packing import Layout

PEAK_OPERATIONS = 2e10
"""Operations of one timed product: long enough to tell, short enough to wait for."""

MOST_ROWS = 2_048

MEMORY_SHARE = 0.5
"""Of a GPU's free memory, what the states of a batch may take; logits and a second batch take from the rest."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The matrices of a network.

    ``body`` and ``head`` count weights; ``attention`` is layers times heads times head width; ``products`` holds the
    shapes (out, in) of the distinct matrices of a layer.
    """

    body: int
    head: int
    attention: int
    products: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, network: Any) -> "Shapes":
        """Read them off a network; adapters are not counted."""
        inner = base_network(network)
        head = inner.get_output_embeddings().weight
        embeddings = {id(head), id(inner.get_input_embeddings().weight)}
        matrices = [
            weight
            for name, weight in inner.named_parameters()
            if weight.ndim == 2 and id(weight) not in embeddings and "lora_" not in name
        ]
        config = inner.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0)  # a state-space model has none
        width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
        return cls(
            body=sum(weight.numel() for weight in matrices),
            head=head.numel(),
            attention=config.num_hidden_layers * heads * width,
            products=tuple(sorted({(int(weight.shape[0]), int(weight.shape[1])) for weight in matrices})),
        )

    def tokens_within(self, free_bytes: int, *, most: int, item_bytes: int) -> int:
        """Return how many tokens a pass may take in so much memory: a power of two, at most ``most``.

        While a layer computes, no more is held for a token than what all its matrices give, twice over.
        """
        per_token = 2 * item_bytes * sum(out for out, _ in self.products)
        fitting = max(1, int(MEMORY_SHARE * free_bytes / per_token))
        return int(min(most, 1 << (fitting.bit_length() - 1)))

    def operations(self, layout: Layout, *, tokens: int, responses: int) -> float:
        """Return the operations of a pass over ``tokens`` without padding, of which ``responses`` are predicted."""
        if layout.segments is None:
            pairs = sum(len(places) * (len(places) + 1) / 2 for places in layout.places)
        else:
            pairs = sum(
                part.count * part.length * (part.shared + (part.length + 1) / 2) for part in layout.segments
            )
        return 2.0 * (self.body * tokens + self.head * responses) + 4.0 * self.attention * pairs


def peak(network: Any) -> float:
    """Return the operations per second of products with the matrices of this network, each timed by itself."""
    weights = next(network.parameters())
    operations = seconds = 0.0
    for out, into in Shapes.of(network).products:
        rows = max(1, min(MOST_ROWS, int(PEAK_OPERATIONS / (2 * out * into))))
        x, w = (torch.randn(n, into, dtype=weights.dtype, device=weights.device) for n in (rows, out))
        given = {"x": x, "w": w, "linear": torch.nn.functional.linear}
        timer = Timer("linear(x, w)", globals=given, num_threads=torch.get_num_threads())
        seconds += min(timer.blocked_autorange(min_run_time=0.05).times)
        operations += 2.0 * rows * out * into
    return operations / seconds
