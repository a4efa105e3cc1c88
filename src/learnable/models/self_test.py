"""Whether the losses of a model can be trusted, on a few rows: batches, order, padding, dtype, adapters.

Every check compares what the loss engine says with the same rows computed in another way, and says how far apart the
two are, what is allowed, and what to do where it is more.
"""

import gc
import inspect
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from learnable.errors import ModelError
from learnable.models.batching import Batching
from learnable.models.cache import recalled, remember
from learnable.models.conversations import CONVERSATIONS
from learnable.models.language_model import LanguageModel
from learnable.models.loading import load_network, loading_errors
from learnable.models.rendering import Renderer
from learnable.models.source import identity, locate, resolved_device, resolved_dtype
from learnable.runs.progress import say
from learnable.types import ModelRef, Rendered

FROM_FLOAT32_NATS = {"float32": 1e-4, "bfloat16": 0.15}
"""How far rounding may move the loss per token of a row away from plain transformers in float32.

What the tests hold the starter model to on its own rows. In bfloat16 only answers of one or two tokens come near it:
long ones average rounding out.
"""
APART_NATS = {"float32": 1e-4, "bfloat16": 0.3}
"""How far two ways to compute a row in one dtype may be apart: in bfloat16, either is off by its own rounding."""
GIB = 1 << 30
TRIED_TOKENS = 256
FLOAT32_HINT = "use --dtype float32"


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check says.

    Args:
        name: What is checked.
        verdict: ``ok``; ``warning``, for what costs something but leaves the numbers right, or could not be checked;
            ``wrong``.
        found: The figure and its bound, in words.
        remedy: What to do; empty where all is well.
        difference_nats: Largest difference of a row's loss per token; None where losses are not compared.
        bound_nats: How much of it is allowed.
    """

    name: str
    verdict: Literal["ok", "warning", "wrong"]
    found: str
    remedy: str = ""
    difference_nats: float | None = None
    bound_nats: float | None = None


def guarded(name: str, checks: Iterable[Check]) -> list[Check]:
    """Return what checks say, one after the other; a model that fails in one of them is wrong, and ends them."""
    done: list[Check] = []
    try:
        for check in checks:
            done.append(check)  # noqa: PERF402  those before a failure are kept
    except ModelError as error:
        done.append(Check(name=name, verdict="wrong", found=error.message, remedy=error.hint or ""))
    return done


def machine_facts(ref: ModelRef) -> dict[str, str]:
    """Return what the numbers are computed with: torch, threads, device, dtype and why, memory."""
    device, dtype = resolved_device(ref), resolved_dtype(ref)
    if ref.dtype != "auto":
        why = "asked for"
    elif dtype == "bfloat16":
        why = f"{device} computes in it"
    else:
        why = f"{device} does not compute in bfloat16"
    free, total = free_and_total_bytes(device)
    name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
    return {
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads on {_cores()} cores",
        "device": device + name,
        "dtype": f"{dtype}, because {why}" if ref.dtype == "auto" else f"{dtype}, {why}",
        "memory": f"{free / GIB:.1f} of {total / GIB:.1f} GiB free",
    }


def free_and_total_bytes(device: str) -> tuple[int, int]:
    """Return the memory of a device that is free, and all of it."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def _cores() -> int:
    """Return how many cores this process may use; two threads of one core are one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def threads_check() -> Check:
    """Check that torch computes with as many threads as there are cores."""
    threads, cores = torch.get_num_threads(), _cores()
    verdict: Literal["ok", "warning"] = "ok" if threads == cores else "warning"
    remedy = "" if threads == cores else f"set OMP_NUM_THREADS={cores}, unless other work needs the cores"
    return Check(name="threads", verdict=verdict, found=f"{threads} on {cores} cores", remedy=remedy)


def loss_checks(model: LanguageModel, rendered: Sequence[Rendered]) -> Iterator[Check]:
    """Check that a row has the same loss however it is computed, in the dtype of the model.

    Args:
        model: The model, without adapter.
        rendered: At least two rows, each with a response token.

    Yields:
        batches, batch size, order, shared prefix, plain loop, padding side.

    Raises:
        ModelError: If a token of the model sees later ones.
    """
    yield batches_check(model, rendered)
    alone = np.concatenate([model.nll([row]) for row in rendered])
    together = model.nll(rendered)
    dtype = model.dtype

    def compared(
        name: str, found: NDArray[np.float64], expected: NDArray[np.float64], what: str, remedy: str
    ) -> Check:
        bound = APART_NATS[dtype]
        return _compared(
            name, per_token(found, rendered), per_token(expected, rendered), bound, dtype, what, remedy
        )

    yield compared(
        "batch size", together, alone, f"all {len(rendered)} rows together against one by one",
        "rows see each other or the padding, and losses cannot be used: report it, with the model's name",
    )  # fmt: skip
    yield compared(
        "order", model.nll(rendered[::-1])[::-1], together, "the batch against the batch turned around",
        "a row depends on its place in the batch: report it, with the model's name",
    )  # fmt: skip
    yield _prefix_check(model, rendered, alone)
    one_by_one = np.concatenate([plain_nll(model.network, [row]) for row in rendered])
    yield compared(
        "plain loop", alone, one_by_one, "the loss engine against plain transformers, row by row",
        "this architecture is not computed right here: report it, with the model's name",
    )  # fmt: skip
    yield compared(
        "padding side", _padded_left(model.network, rendered), together,
        "plain transformers, padded on the left with a mask, against the loss engine",
        "if the plain loop is ok, only left padding is wrong in this model: its losses can be used, answers that it "
        "generates in batches cannot",
    )  # fmt: skip


def batches_check(model: LanguageModel, rendered: Sequence[Rendered]) -> Check:
    """Try how rows of these lengths may lie in a batch of this model, whatever the cache says.

    Raises:
        ModelError: If a token of the model sees later ones.
    """
    batching = Batching(model.network, position_limit=model.position_limit)
    verdicts = [
        batching.verdict([rendered[position] for position in group]) for group in batching.groups(rendered)
    ]
    ways = {
        "packed": "rows lie one after the other, without padding",
        "padded": "rows are padded, which is slower",
        "alone": "rows are computed one at a time, which is slow",
    }
    found = {ways[how] + (f": {why}" if why else ""): how for how, why in verdicts}
    return Check(
        name="batches",
        verdict="warning" if "alone" in found.values() else "ok",
        found="; ".join(found),
        remedy="losses are right; another model is faster" if "alone" in found.values() else "",
    )


def per_token(nll: NDArray[np.float64], rendered: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return the loss per response token from the summed nll, (n,)."""
    counts = np.array([row.mask.sum() for row in rendered], dtype=np.float64)
    return np.asarray(nll / counts, dtype=np.float64)


def _compared(
    name: str,
    found: NDArray[np.float64],
    expected: NDArray[np.float64],
    bound: float,
    dtype: str,
    what: str,
    remedy: str,
) -> Check:
    largest = float(np.abs(found - expected).max())
    within = largest <= bound  # a NaN is not
    return Check(
        name=name,
        verdict="ok" if within else "wrong",
        found=f"{what}: at most {largest:.2g} nats per token, {largest / bound:.0%} of the {bound:g} for {dtype}",
        remedy="" if within else remedy if dtype == "float32" else _in_float32(remedy),
        difference_nats=largest,
        bound_nats=bound,
    )


def _in_float32(remedy: str) -> str:
    """Return what to do where it may be rounding."""
    return f"{FLOAT32_HINT}; where it is wrong there too: {remedy}" if remedy else FLOAT32_HINT


def _prefix_check(model: LanguageModel, rendered: Sequence[Rendered], alone: NDArray[np.float64]) -> Check:
    """Check that computing the first tokens once for all rows that share them changes nothing."""
    shared, members = longest_shared_prefix(rendered)
    if not shared:
        return Check(
            name="shared prefix",
            verdict="warning",
            found="not checked: no two rows begin with the same tokens before their answers",
            remedy="give rows with the same system turn, if you have such",
        )
    rows = [rendered[member] for member in members]
    return _compared(
        "shared prefix",
        per_token(model.nll(rows), rows),
        per_token(alone[members], rows),
        APART_NATS[model.dtype],
        model.dtype,
        f"{len(members)} rows that begin with the same {shared} tokens, together against one by one",
        "what follows a shared beginning is computed wrong for this architecture: report it, with the model's name",
    )


def longest_shared_prefix(rendered: Sequence[Rendered]) -> tuple[int, list[int]]:
    """Return how many tokens some rows share at their beginning, as many as can be, and their positions.

    The prefix ends before the token that predicts the first response token; ``(0, [])`` where no two rows share any.
    """
    order = sorted(range(len(rendered)), key=lambda position: rendered[position].ids.tolist())
    best = 0, 0
    for one, other in pairwise(order):
        first, second = rendered[one], rendered[other]
        room = min(int(row.mask.argmax()) - 1 for row in (first, second))
        differs = np.flatnonzero(first.ids[:room] != second.ids[:room])
        best = max(best, (int(differs[0]) if len(differs) else max(room, 0), one))
    shared, row = best
    if not shared:
        return 0, []
    prefix = rendered[row].ids[:shared]
    return shared, [
        position
        for position, each in enumerate(rendered)
        if each.mask.argmax() > shared and np.array_equal(each.ids[:shared], prefix)
    ]


@torch.inference_mode()
def plain_nll(network: Any, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return the summed nll of the response tokens the obvious way, (n,): full logits, cross-entropy in float32.

    Rows of several lengths are padded on the left, with an attention mask and positions that begin at the first token.

    Raises:
        ModelError: If the network fails, as when the logits do not fit the memory.
    """
    longest = max(len(row.ids) for row in rendered)
    ids = torch.zeros((len(rendered), longest), dtype=torch.long)
    attention = torch.zeros_like(ids)
    for number, row in enumerate(rendered):
        ids[number, longest - len(row.ids) :] = torch.from_numpy(row.ids.astype(np.int64))
        attention[number, longest - len(row.ids) :] = 1
    device = next(network.parameters()).device
    inputs = {"input_ids": ids.to(device), "attention_mask": attention.to(device)}
    if "position_ids" in inspect.signature(network.forward).parameters:
        inputs["position_ids"] = (attention.cumsum(dim=1) - 1).clamp(min=0).to(device)
    try:
        logits = network(**inputs, use_cache=False).logits
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"plain transformers fails on {len(rendered)} rows of up to {longest} tokens: {str(error).splitlines()[0]}",
            hint="lower --max-length if it is the memory",
        ) from error
    sums = []
    for number, row in enumerate(rendered):
        start = longest - len(row.ids)
        losses = torch.nn.functional.cross_entropy(
            logits[number, start:-1].float(), inputs["input_ids"][number, start + 1 :], reduction="none"
        )
        sums.append(losses.cpu().double().numpy()[row.mask[1:]].sum())
    return np.array(sums)


def _padded_left(network: Any, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
    """Return the summed nll in pairs of a short row and a long one, (n,): full logits of all rows take too much memory."""
    order = np.argsort([len(row.ids) for row in rendered])
    half = len(order) // 2
    pairs = [order[[first, -1 - first]] for first in range(half)] + [order[half : len(order) - half]]
    nll = np.zeros(len(rendered))
    for pair in pairs:
        if len(pair):
            nll[pair] = plain_nll(network, [rendered[position] for position in pair])
    return nll


def dtype_check(ref: ModelRef, rendered: Sequence[Rendered], nll: NDArray[np.float64]) -> Iterator[Check]:
    """Check how far the dtype of a model moves its losses: against plain transformers in float32, row by row.

    Loads the model again in float32; the one that was measured must be gone.

    Args:
        ref: The model.
        rendered: n rows.
        nll: What was measured in the model's dtype, summed, (n,).

    Yields:
        dtype.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    dtype, device = resolved_dtype(ref), resolved_device(ref)
    needed, free = _float32_bytes(ref), free_and_total_bytes(device)[0]
    if needed > free:
        yield Check(
            name="dtype",
            verdict="warning",
            found=f"not checked: float32 takes {needed / GIB:.1f} GiB of weights, and {free / GIB:.1f} GiB are free",
            remedy=f"how far {dtype} is from float32 is not known here; run the doctor on a machine with more memory",
        )
        return
    network = load_network(replace(ref, dtype="float32"))
    full = np.concatenate([plain_nll(network, [row]) for row in rendered])
    found, expected = per_token(nll, rendered), per_token(full, rendered)
    spread = float(np.sqrt(np.mean((found - expected) ** 2)))
    what = f"{dtype} against float32, row by row in plain transformers (root mean square {spread:.2g})"
    yield _compared("dtype", found, expected, FROM_FLOAT32_NATS[dtype], dtype, what, "")


def bfloat16_is_near(ref: ModelRef) -> bool:
    """Return whether bfloat16 leaves the losses of a model near those in float32, on a few conversations.

    Tried once for each model and kept in the cache; said on standard error. A model that does not fit the memory in
    float32 is not tried, and computes in bfloat16.
    """
    key = identity(locate(ref), "bfloat16")
    if known := recalled("bfloat16", key):
        return bool(known["near"])
    half, full = (replace(ref, dtype=dtype, device="cpu") for dtype in ("bfloat16", "float32"))
    needed, free = _float32_bytes(full), free_and_total_bytes("cpu")[0]
    if needed > free:
        say(
            f"{ref.name}: bfloat16 is used untried, as float32 takes {needed / GIB:.1f} GiB and {free / GIB:.1f} are free"
        )
        return True
    rendered = Renderer.of(half).render(CONVERSATIONS, max_length=TRIED_TOKENS, skip_refused=True)
    rendered = [row for row in rendered if row.mask.any()]
    if not rendered:
        say(f"{ref.name}: bfloat16 is used untried, as its chat template takes none of our conversations")
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


def _float32_bytes(ref: ModelRef) -> int:
    """Return how much memory the weights of a model take in float32, without loading them."""
    with loading_errors(ref), torch.device("meta"):
        config = AutoConfig.from_pretrained(locate(ref), trust_remote_code=ref.trust_remote_code)
        network: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=ref.trust_remote_code
        )
    return 4 * sum(int(parameter.numel()) for parameter in network.parameters())


def adapter_check(model: LanguageModel, rendered: Sequence[Rendered], folder: Path, name: str) -> Check:
    """Check that an adapter fits, changes losses, and leaves the bits of the base alone when it is off again."""
    before = model.nll(rendered)
    with model.adapter(folder):
        worn = model.nll(rendered)
    if not np.array_equal(model.nll(rendered), before):
        return Check(
            name=name,
            verdict="wrong",
            found=f"the adapter {folder} is taken off, and the base does not give the same bits as before",
            remedy="report it, with the model's name; until then give a whole model as the reference (merge the adapter)",
        )
    return _changed(
        name, before, worn, rendered, model.dtype, "fits; off again, the base gives the same bits"
    )


def whole_model_check(
    ref: ModelRef, vocabulary: str, before: NDArray[np.float64], rendered: Sequence[Rendered], name: str
) -> Check:
    """Check that a whole model given as reference has the tokenizer of the base, and other losses.

    Args:
        ref: The reference.
        vocabulary: Identity of the base's tokenizer.
        before: Summed nll under the base, (n,).
        rendered: n rows.
        name: Of the check.
    """
    if Renderer.of(ref).vocabulary != vocabulary:
        raise ModelError(
            f"{ref.name} has another tokenizer than the base model, so their losses cannot be compared",
            hint="give a reference that was fine-tuned from this base model",
        )
    model = LanguageModel(ref)
    return _changed(
        name, before, model.nll(rendered), rendered, model.dtype, "a model with the same tokenizer"
    )


def _changed(
    name: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    rendered: Sequence[Rendered],
    dtype: str,
    what: str,
) -> Check:
    largest = float(np.abs(per_token(after, rendered) - per_token(before, rendered)).max())
    if largest == 0:
        return Check(
            name=name,
            verdict="wrong",
            found="it changes no loss at all",
            remedy="was it trained, and on layers that this model has?",
            difference_nats=largest,
        )
    small = largest <= FROM_FLOAT32_NATS[dtype]
    aside = f", no more than {dtype} rounds" if small else ""
    return Check(
        name=name,
        verdict="warning" if small else "ok",
        found=f"{what}; it changes losses by up to {largest:.2g} nats per token{aside}",
        remedy=f"{FLOAT32_HINT}, or train longer: differences this small can be mostly rounding"
        if small
        else "",
        difference_nats=largest,
    )
