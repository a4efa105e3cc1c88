"""The loss engine: negative log-likelihood of the response tokens, one batch at a time.

Two things make it cheap. A batch is one sequence without padding, in which a beginning that several examples share is
computed once (``packing``). And only the positions that predict a response token are projected to the vocabulary, in
chunks, by cutting the input of the output layer: the model's own forward then applies whatever it does to its logits
(soft caps, scales), without a line about any model family here.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.errors import ModelError
from learnable.models.attention import attending, by_itself
from learnable.models.packing import Arriving, Layout, sent
from learnable.types import Awaited, Rendered

LOGITS_AT_ONCE = {"cpu": 3 << 22, "cuda": 1 << 28}
"""Elements of a chunk of logits, by kind of device: what a CPU keeps in its cache, and 1 GiB in float32."""


@torch.inference_mode()
def batch_token_nll(network: Any, rendered: Sequence[Rendered], layout: Layout) -> Awaited:
    """Begin to compute the nll of each response token of n examples, which lie as the layout says, in nats.

    Returns:
        What gives them: n arrays, float32; it raises a ``ModelError`` if losses are not finite.

    Raises:
        ModelError: If the network has no output layer.
    """
    device = next(network.parameters()).device
    counted = [np.flatnonzero(example.mask) for example in rendered]
    borders = np.cumsum([len(response) for response in counted])
    if not borders[-1]:
        return lambda: [np.zeros(0, dtype=np.float32) for _ in rendered]
    predicting = np.concatenate(
        [places[response - 1] for places, response in zip(layout.places, counted, strict=True)]
    )
    wanted = np.concatenate(
        [example.ids[response] for example, response in zip(rendered, counted, strict=True)]
    ).astype(np.int64)
    # What several examples begin with is predicted once.
    _, first, again = np.unique((predicting << 32) | wanted, return_index=True, return_inverse=True)
    if len(first) == len(wanted):
        first = again = np.arange(len(wanted))
    targets = sent(wanted[first], device)
    losses = []
    for logits in _logits(network, layout, sent(predicting[first], device)):
        some, targets = targets[: len(logits)], targets[len(logits) :]
        losses.append(torch.nn.functional.cross_entropy(logits.float(), some, reduction="none"))
    values = Arriving(torch.cat(losses))

    def parts() -> list[NDArray[np.float32]]:
        found = np.split(values.numpy()[again], borders[:-1])
        for part, example in zip(found, rendered, strict=True):
            if not np.isfinite(part).all():
                raise ModelError(
                    f"the model gives a loss that is not finite on example {example.id[:8]}",
                    hint="try dtype float32, and look whether the model was loaded whole",
                )
        return found

    return parts


@torch.inference_mode()
def batch_embeddings(network: Any, rendered: Sequence[Rendered], layout: Layout) -> Awaited:
    """Begin to compute one vector for each example: the mean of its last hidden states, later tokens weighing more.

    The weight of token i of T is ``i / (1 + 2 + ... + T)``: with causal attention a later state has seen more.

    What gives them gives float32 (n, d), d the width of the model.

    Source: RDS+ (2503.01807), position-weighted mean pooling over prompt and response.
    """
    hidden = hidden_states(network, layout)
    states = hidden[sent(np.concatenate(layout.places), hidden.device)].float()
    lengths = [len(places) for places in layout.places]
    means = []
    for part in torch.split(states, lengths):
        weights = torch.arange(1, len(part) + 1, device=part.device, dtype=part.dtype)
        means.append((weights / weights.sum()) @ part)
    return Arriving(torch.stack(means)).numpy


@torch.inference_mode()
def hidden_states(network: Any, layout: Layout) -> torch.Tensor:
    """Return what the output layer would be given, of all tokens of a layout, (B * T, d)."""
    found: list[torch.Tensor] = []

    def keep(head: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        found.append(arguments[0].reshape(-1, arguments[0].shape[-1]))
        return (arguments[0][:1, :1].to(head.weight.dtype),)

    with _head(network).register_forward_pre_hook(keep), attending(network, layout):
        network(**_inputs(network, layout), use_cache=False)
    if not found:
        raise ModelError("the output layer of this model is never called, so its states cannot be read")
    return found[0]


def _inputs(network: Any, layout: Layout) -> dict[str, torch.Tensor]:
    device = next(network.parameters()).device
    inputs = {"input_ids": sent(layout.ids, device)}
    return inputs if layout.segments is None else inputs | {"position_ids": sent(layout.positions, device)}


def _logits(network: Any, layout: Layout, positions: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the logits of positions, some (C, V) at a time."""
    head = _head(network)
    elements = LOGITS_AT_ONCE.get(positions.device.type, LOGITS_AT_ONCE["cpu"])
    inputs = _inputs(network, layout)
    at_once = max(1, elements // head.weight.shape[0])
    # Asked before the pass, as the answer is waited for; it is found once.
    plain = len(positions) <= at_once or gives_plain_logits(network)
    chosen: list[torch.Tensor] = []

    def keep_first_chunk(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = arguments[0]
        chosen.append(hidden.reshape(-1, hidden.shape[-1])[positions])
        return (chosen[0][None, :at_once],)

    with head.register_forward_pre_hook(keep_first_chunk), attending(network, layout):
        logits = network(**inputs, use_cache=False).logits
    if not chosen:
        raise ModelError("the output layer of this model is never called, so its losses cannot be measured")
    yield logits[0]
    for start in range(at_once, len(positions), at_once):
        chunk = chosen[0][None, start : start + at_once]
        if plain:
            yield head(chunk)[0]
            continue
        # The model does something to its logits: a forward over one token, with the chunk put before the output layer.
        with head.register_forward_pre_hook(lambda *_, chunk=chunk: (chunk,)):
            yield network(input_ids=inputs["input_ids"][:1, :1], use_cache=False).logits[0]


_plain: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def gives_plain_logits(network: Any) -> bool:
    """Return whether the logits of a network are what its output layer gives, without a soft cap or a scale; tried once."""
    head = _head(network)
    if head not in _plain:
        projected: list[torch.Tensor] = []
        ids = torch.zeros((1, 1), dtype=torch.int64, device=next(network.parameters()).device)
        # A training asks while attention follows the layout of a batch: this token is of none.
        with by_itself(network), head.register_forward_hook(lambda *given: projected.append(given[-1])):
            logits = network(input_ids=ids, use_cache=False).logits
        _plain[head] = torch.equal(projected[0], logits)
    return _plain[head]


def _head(network: Any) -> Any:
    head = network.get_output_embeddings()
    if head is None:
        raise ModelError("the model has no output layer", hint="learnable needs a causal language model")
    return head
