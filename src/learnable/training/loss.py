"""The loss of a training: of the response tokens only, in chunks, and known for each example.

Padding stands on the right and attention is causal: a real token never sees it, without a mask. Only the positions that
predict a response token are projected to the vocabulary, by cutting the input of the output layer: the model's own
forward then applies whatever it does to its logits, without a line about any model family here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from learnable.errors import TrainError
from learnable.models.attention import by_itself
from learnable.models.losses import gives_plain_logits

LOGITS_AT_ONCE = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Elements of a chunk of logits, by kind of device: 128 MiB or 1 GiB in float32."""


def response_nll(
    network: Any, piece: Mapping[str, Any], *, count: int, forward: Callable[..., Any], **options: Any
) -> tuple[torch.Tensor, Any]:
    """Return the summed nll of the response tokens of each example, in nats, and what the forward pass returned.

    The first chunk of logits comes out of the forward pass. Each other one is projected by the output layer, or, where
    the model does more to its logits, by a pass over one token with the chunk put in front of that layer; and again for
    its gradient: what is held is one chunk, however long the responses are.

    Args:
        network: A causal language model; its attention follows the layout of the piece, also while gradients are taken.
        piece: See ``batches.inputs_of``.
        count: Rows of the whole batch, n.
        forward: What to call for the pass over the piece: the network, or what wraps it for several devices.
        options: More arguments of the pass.

    Returns:
        float32 (n,), which a gradient can be taken of; 0 for an example without response tokens, or of another piece.
    """
    ids, targets = piece["input_ids"], piece["targets"]
    head = network.get_output_embeddings()
    at_once = max(1, LOGITS_AT_ONCE.get(ids.device.type, LOGITS_AT_ONCE["cpu"]) // head.weight.shape[0])
    plain = len(targets) > at_once and gives_plain_logits(network)
    chosen: list[torch.Tensor] = []

    def keep_first_chunk(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = arguments[0]  # (B, T, d)
        chosen.append(hidden.reshape(-1, hidden.shape[-1])[piece["predicting"]])
        return (chosen[0][None, :at_once],)

    if piece["layout"].segments is not None:
        options["position_ids"] = piece["position_ids"]
    with head.register_forward_pre_hook(keep_first_chunk):
        output = forward(input_ids=ids, use_cache=False, **options)
    if not chosen:
        raise TrainError("the output layer of this model is never called, so it cannot be trained here")

    def project(hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if plain:
            return cross_entropy(head(hidden).float(), target, reduction="none")
        with by_itself(network), head.register_forward_pre_hook(lambda *_: (hidden[None],)):
            logits = network(input_ids=ids[:1, :1], use_cache=False).logits[0]  # (C, V)
        return cross_entropy(logits.float(), target, reduction="none")

    losses = [cross_entropy(output.logits[0].float(), targets[:at_once], reduction="none")]
    for start in range(at_once, len(targets), at_once):
        chunk = slice(start, start + at_once)
        losses.append(checkpoint(project, chosen[0][chunk], targets[chunk], use_reentrant=False))
    sums = torch.zeros(count, dtype=torch.float32, device=ids.device)
    return sums.index_add(0, piece["rows"], torch.cat(losses)), output
