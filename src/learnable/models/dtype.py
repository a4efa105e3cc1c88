"""Which dtype a model computes in: ``auto`` is resolved once, where a model is opened, and tried on a CPU."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from learnable.errors import ModelError, first_line
from learnable.models.cache import recalled, remember
from learnable.models.conversations import CONVERSATIONS
from learnable.models.loading import empty_network, load_network, resolved_device
from learnable.models.rendering import Renderer
from learnable.models.source import identity, locate
from learnable.runs.progress import say
from learnable.types import ModelRef, Rendered

GIB = 1 << 30
TRIED_TOKENS = 256
FROM_FLOAT32_NATS = {"float32": 1e-4, "bfloat16": 0.15}
"""How far rounding may move the loss per token of a row away from plain transformers in float32.

What the tests hold the starter model to on its own rows. In bfloat16 only answers of one or two tokens come near it:
long ones average rounding out.
"""


def resolved(ref: ModelRef) -> ModelRef:
    """Return a model with the dtype that ``auto`` stands for: bfloat16 where its device computes in it, else float32.

    On a CPU the model is tried first: bfloat16 must leave its losses near those in float32.
    """
    if ref.dtype != "auto":
        return ref
    device, half = resolved_device(ref), False
    if device.startswith("cuda"):
        half = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        half = torch.ops.mkldnn._is_mkldnn_bf16_supported() and _bfloat16_is_near(ref)
    return replace(ref, dtype="bfloat16" if half else "float32")


def _bfloat16_is_near(ref: ModelRef) -> bool:
    """Return whether bfloat16 leaves the losses of a model near those in float32, on a few conversations.

    Tried once for each model and kept in the cache; said on standard error. A model that does not fit the memory in
    float32 is not tried, and computes in bfloat16.
    """
    key = identity(locate(ref), "bfloat16")
    if known := recalled("bfloat16", key):
        return bool(known["near"])
    half, full = (replace(ref, dtype=dtype, device="cpu") for dtype in ("bfloat16", "float32"))
    needed, free = float32_bytes(full), free_and_total_bytes("cpu")[0]
    rendered = Renderer.of(half).render(CONVERSATIONS, max_length=TRIED_TOKENS, skip_refused=True)
    rendered = [row for row in rendered if row.mask.any()]
    why = "" if rendered else "its chat template takes none of our conversations"
    if needed > free:
        why = f"float32 takes {needed / GIB:.1f} GiB and {free / GIB:.1f} are free"
    if why:
        say(f"{ref.name}: bfloat16 is used untried, as {why}")
        return True
    losses = []
    for each in (half, full):
        network = load_network(each)
        losses.append(per_token(np.concatenate([plain_nll(network, [row]) for row in rendered]), rendered))
    apart, bound = float(np.abs(losses[0] - losses[1]).max(initial=0.0)), FROM_FLOAT32_NATS["bfloat16"]
    near = bool(apart <= bound)
    say(
        f"{ref.name}: bfloat16 moves the loss of {len(rendered)} rows by at most {apart:.2g} nats per token "
        f"(bound {bound:g}): {'bfloat16' if near else 'float32'} is used"
    )
    found = {"near": near, "apart_nats": apart, "bound_nats": bound, "rows": len(rendered)}
    remember("bfloat16", key, found)
    return near


def float32_bytes(ref: ModelRef) -> int:
    """Return how much memory the weights of a model take in float32, without loading them."""
    return 4 * sum(int(parameter.numel()) for parameter in empty_network(ref).parameters())


def free_and_total_bytes(device: str) -> tuple[int, int]:
    """Return the memory of a device that is free, and all of it."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def per_token(nll: NDArray[np.float64], rendered: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return the loss per response token from the summed nll, (n,)."""
    counts = np.array([row.mask.sum() for row in rendered], dtype=np.float64)
    return np.asarray(nll / counts, dtype=np.float64)


@torch.inference_mode()
def plain_nll(network: Any, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return the summed nll of the response tokens the obvious way, (n,): full logits, cross-entropy in float32.

    Rows of several lengths are padded on the left, with an attention mask and positions that begin at the first token.

    Raises:
        ModelError: If the network fails, as when the logits do not fit the memory.
    """
    device, longest = next(network.parameters()).device, max(len(row.ids) for row in rendered)
    rows = [torch.from_numpy(row.ids.astype(np.int64)) for row in rendered]
    ids = pad_sequence(rows, batch_first=True, padding_side="left").to(device)
    real = [torch.ones_like(row) for row in rows]
    attention = pad_sequence(real, batch_first=True, padding_side="left").to(device)
    inputs = {"input_ids": ids, "attention_mask": attention}
    if "position_ids" in inspect.signature(network.forward).parameters:
        inputs["position_ids"] = (attention.cumsum(dim=1) - 1).clamp(min=0)
    try:
        logits = network(**inputs, use_cache=False).logits
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"plain transformers fails on {len(rendered)} rows of up to {longest} tokens: {first_line(error)}",
            hint="lower --max-length if it is the memory",
        ) from error
    sums = []
    for number, row in enumerate(rendered):
        start = longest - len(row.ids)
        losses = torch.nn.functional.cross_entropy(
            logits[number, start:-1].float(), ids[number, start + 1 :], reduction="none"
        )
        sums.append(losses.cpu().double().numpy()[row.mask[1:]].sum())
    return np.array(sums)
