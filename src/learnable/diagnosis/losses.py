"""Whether the losses of a model can be trusted, on a few rows: batches, order, padding, dtype, adapters.

Every check compares what the loss engine says with the same rows computed in another way, and says how far apart the
two are, what is allowed, and what to do where it is more.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.diagnosis.checks import CheckResult
from learnable.models.batching import Batching
from learnable.models.dtype import (
    FROM_FLOAT32_NATS,
    GIB,
    float32_bytes,
    free_and_total_bytes,
    per_token,
    plain_nll,
)
from learnable.models.language_model import LanguageModel
from learnable.models.loading import load_network, resolved_device
from learnable.models.rendering import Renderer
from learnable.models.source import concrete_dtype
from learnable.types import ModelRef, Rendered

APART_NATS = {"float32": 1e-4, "bfloat16": 0.3}
"""How far two ways to compute a row in one dtype may be apart: in bfloat16, either is off by its own rounding."""
FLOAT32_HINT = "use --dtype float32"


def loss_checks(model: LanguageModel, rendered: Sequence[Rendered]) -> Iterator[CheckResult]:
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
    ) -> CheckResult:
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


def batches_check(model: LanguageModel, rendered: Sequence[Rendered]) -> CheckResult:
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
    return CheckResult(
        name="batches",
        verdict="warning" if "alone" in found.values() else "ok",
        found="; ".join(found),
        remedy="losses are right; another model is faster" if "alone" in found.values() else "",
    )


def _compared(
    name: str,
    found: NDArray[np.float64],
    expected: NDArray[np.float64],
    bound: float,
    dtype: str,
    what: str,
    remedy: str,
) -> CheckResult:
    largest = float(np.abs(found - expected).max())
    within = largest <= bound  # a NaN is not
    return CheckResult(
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


def _prefix_check(
    model: LanguageModel, rendered: Sequence[Rendered], alone: NDArray[np.float64]
) -> CheckResult:
    """Check that computing the first tokens once for all rows that share them changes nothing."""
    shared, members = longest_shared_prefix(rendered)
    if not shared:
        return CheckResult(
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


def dtype_check(
    ref: ModelRef, rendered: Sequence[Rendered], nll: NDArray[np.float64]
) -> Iterator[CheckResult]:
    """Check how far the dtype of a model moves its losses: against plain transformers in float32, row by row.

    Loads the model again in float32; the one that was measured must be gone.

    Args:
        ref: The model, its dtype resolved.
        rendered: n rows.
        nll: What was measured in the model's dtype, summed, (n,).

    Yields:
        dtype.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    dtype = concrete_dtype(ref)
    needed, free = float32_bytes(ref), free_and_total_bytes(resolved_device(ref))[0]
    if needed > free:
        yield CheckResult(
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


def adapter_check(model: LanguageModel, rendered: Sequence[Rendered], folder: Path, name: str) -> CheckResult:
    """Check that an adapter fits, changes losses, and leaves the bits of the base alone when it is off again."""
    before = model.nll(rendered)
    with model.adapter(folder):
        worn = model.nll(rendered)
    if not np.array_equal(model.nll(rendered), before):
        return CheckResult(
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
) -> CheckResult:
    """Check that a whole model given as reference has the tokenizer of the base, and other losses.

    Args:
        ref: The reference.
        vocabulary: Identity of the base's tokenizer.
        before: Summed nll under the base, (n,).
        rendered: n rows.
        name: Of the check.
    """
    Renderer.of(ref).check_same_tokens(vocabulary, name=ref.name)
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
) -> CheckResult:
    largest = float(np.abs(per_token(after, rendered) - per_token(before, rendered)).max())
    if largest == 0:
        return CheckResult(
            name=name,
            verdict="wrong",
            found="it changes no loss at all",
            remedy="was it trained, and on layers that this model has?",
            difference_nats=largest,
        )
    small = largest <= FROM_FLOAT32_NATS[dtype]
    aside = f", no more than {dtype} rounds" if small else ""
    return CheckResult(
        name=name,
        verdict="warning" if small else "ok",
        found=f"{what}; it changes losses by up to {largest:.2g} nats per token{aside}",
        remedy=f"{FLOAT32_HINT}, or train longer: differences this small can be mostly rounding"
        if small
        else "",
        difference_nats=largest,
    )
