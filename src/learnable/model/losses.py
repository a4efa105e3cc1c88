"""The loss engine: summed negative log-likelihood of the response tokens, one padded batch at a time.

Two things make it cheap. Padding stands on the right and attention is causal, so no attention mask is needed: a real
token never sees padding. And only the positions that predict a response token are projected to the vocabulary, in
chunks, by cutting the input of the output layer: the model's own forward then applies whatever it does to its logits
(soft caps, scales), without a line about any model family here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.errors import ModelError
from learnable.types import Rendered

LOGITS_AT_ONCE = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Elements of a chunk of logits, by kind of device: 128 MiB or 1 GiB in float32."""


@torch.inference_mode()
def batch_nll(network: Any, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return the summed nll of the response tokens of each example, in nats.

    Args:
        network: A causal language model of transformers, with or without adapters.
        rendered: n examples, computed together; T is the length of the longest.

    Returns:
        float64 (n,); 0 for an example without response tokens.

    Raises:
        ModelError: If the network has no output layer, or gives losses that are not finite.
    """
    values, rows = _token_losses(network, rendered)
    total = np.zeros(len(rendered), dtype=np.float64)
    np.add.at(total, rows, values)
    return total


@torch.inference_mode()
def batch_token_nll(network: Any, rendered: Sequence[Rendered]) -> list[NDArray[np.float32]]:
    """Return the nll of each response token of each example, in nats.

    Returns:
        n arrays, float32; their sums are those of ``batch_nll`` but for rounding.

    Raises:
        ModelError: As ``batch_nll``.
    """
    values, rows = _token_losses(network, rendered)
    borders = np.searchsorted(rows, np.arange(1, len(rendered)))
    return [part.astype(np.float32) for part in np.split(values, borders)]


@torch.inference_mode()
def batch_embeddings(network: Any, rendered: Sequence[Rendered]) -> NDArray[np.float32]:
    """Return one vector for each example: the mean of its last hidden states, later tokens weighing more.

    The weight of token i of T is ``i / (1 + 2 + ... + T)``: with causal attention a later state has seen more.

    Returns:
        float32 (n, d), d the width of the model.

    Source: RDS+ (2503.01807), position-weighted mean pooling over prompt and response.
    """
    ids, _, _, _ = _padded(rendered)
    lengths = torch.tensor([len(example.ids) for example in rendered])
    weights = torch.arange(1, ids.shape[1] + 1)[None, :] * (
        torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    )
    pooled: list[torch.Tensor] = []

    def pool(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = arguments[0]  # (n, T, d)
        share = (weights / weights.sum(dim=1, keepdim=True)).to(hidden.device)  # (n, T)
        pooled.append(torch.einsum("nt,ntd->nd", share, hidden.float()))
        return (hidden[:1, :1],)

    with _hooked(_head(network), pool):
        network(input_ids=ids.to(next(network.parameters()).device), use_cache=False)
    if not pooled:
        raise ModelError("the output layer of this model is never called, so its states cannot be read")
    return pooled[0].cpu().numpy()


def _token_losses(
    network: Any, rendered: Sequence[Rendered]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the nll of all response tokens of a batch (P,), and the row of each (P,)."""
    device = next(network.parameters()).device
    ids, targets, rows, positions = _padded(rendered)
    if not len(rows):
        return np.zeros(0), rows
    ids_on_device, targets_on_device = ids.to(device), targets.to(device)
    losses = [
        torch.nn.functional.cross_entropy(
            logits.float(), targets_on_device[start : start + len(logits)], reduction="none"
        )
        for start, logits in _logits(network, ids_on_device, positions.to(device))
    ]
    values = torch.cat(losses).cpu().numpy().astype(np.float64)
    if not np.isfinite(values).all():
        bad = rendered[int(rows[np.flatnonzero(~np.isfinite(values))[0]])]
        raise ModelError(
            f"the model gives a loss that is not finite on example {bad.id[:8]}",
            hint="try dtype float32, and look whether the model was loaded whole",
        )
    return values, rows


def _padded(
    rendered: Sequence[Rendered],
) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.int64], torch.Tensor]:
    """Return ids (n, T), and per response token its id, its row, and the flat position that predicts it (P,)."""
    longest = max(len(example.ids) for example in rendered)
    ids = np.zeros((len(rendered), longest), dtype=np.int64)
    mask = np.zeros((len(rendered), longest), dtype=np.bool_)
    for row, example in enumerate(rendered):
        ids[row, : len(example.ids)] = example.ids
        mask[row, : len(example.ids)] = example.mask
    rows, columns = np.nonzero(mask)
    targets = torch.from_numpy(ids[rows, columns])
    positions = torch.from_numpy(rows * longest + columns - 1)
    return torch.from_numpy(ids), targets, rows, positions


def _logits(network: Any, ids: torch.Tensor, positions: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield ``(start, logits)`` with logits (C, V) of the positions ``start`` to ``start + C``."""
    head = _head(network)
    elements = LOGITS_AT_ONCE.get(ids.device.type, LOGITS_AT_ONCE["cpu"])
    at_once = max(1, elements // head.weight.shape[0])
    chosen: list[torch.Tensor] = []

    def keep_first_chunk(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = arguments[0]
        chosen.append(hidden.reshape(-1, hidden.shape[-1])[positions])
        return (chosen[0][None, :at_once],)

    with _hooked(head, keep_first_chunk):
        logits = network(input_ids=ids, use_cache=False).logits
    if not chosen:
        raise ModelError("the output layer of this model is never called, so its losses cannot be measured")
    yield 0, logits[0]
    for start in range(at_once, len(positions), at_once):
        # A forward over one token, with the next chunk put in front of the output layer.
        with _hooked(head, lambda _, __, start=start: (chosen[0][None, start : start + at_once],)):
            yield start, network(input_ids=ids[:1, :1], use_cache=False).logits[0]


def _head(network: Any) -> Any:
    head = network.get_output_embeddings()
    if head is None:
        raise ModelError("the model has no output layer", hint="learnable needs a causal language model")
    return head


@contextmanager
def _hooked(module: torch.nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
