"""Whether the losses of a model can be trusted, on a few rows: batches, order, padding, dtype, adapters.

Every check compares what the loss engine says with the same rows computed in another way.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.diagnosis.checks import CheckResult, ok, warning, wrong
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
FLOAT32_HINT, REPORT = "use --dtype float32", "report it, with the model's name"


def loss_checks(model: LanguageModel, rendered: Sequence[Rendered]) -> Iterator[CheckResult]:
    """Check that at least two rows have the same losses however they are computed, in the dtype of the model.

    Yields:
        batches, batch size, order, shared prefix, plain loop, padding side.

    Raises:
        ModelError: If a token of the model sees later ones.
    """
    yield batches_check(model, rendered)
    alone = np.concatenate([model.nll([row]) for row in rendered])
    together, dtype = model.nll(rendered), model.dtype
    yield _compared(
        "batch size", together, alone, rendered, dtype, f"all {len(rendered)} rows together against one by one",
        f"rows see each other or the padding, and losses cannot be used: {REPORT}",
    )  # fmt: skip
    yield _compared(
        "order", model.nll(rendered[::-1])[::-1], together, rendered, dtype,
        "the batch against the batch turned around", f"a row depends on its place in the batch: {REPORT}",
    )  # fmt: skip
    yield _prefix_check(model, rendered, alone)
    one_by_one = np.concatenate([plain_nll(model.network, [row]) for row in rendered])
    yield _compared(
        "plain loop", alone, one_by_one, rendered, dtype, "the loss engine against plain transformers, row by row",
        f"this architecture is not computed right here: {REPORT}",
    )  # fmt: skip
    yield _compared(
        "padding side", _padded_left(model.network, rendered), together, rendered, dtype,
        "plain transformers, padded on the left with a mask, against the loss engine",
        "if the plain loop is ok, only left padding is wrong in this model: its losses can be used, answers that it "
        "generates in batches cannot",
    )  # fmt: skip


def batches_check(model: LanguageModel, rendered: Sequence[Rendered]) -> CheckResult:
    """Try how rows of these lengths may lie in a batch of this model, whatever the cache says."""
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
    if "alone" in found.values():
        return warning("batches", "; ".join(found), "losses are right; another model is faster")
    return ok("batches", "; ".join(found))


def _compared(
    name: str,
    found: NDArray[np.float64],
    expected: NDArray[np.float64],
    rendered: Sequence[Rendered],
    dtype: str,
    what: str,
    remedy: str = "",
    bounds: Mapping[str, float] = APART_NATS,
) -> CheckResult:
    """Compare two ways to compute the summed nll of rows, (n,) each."""
    largest, bound = _apart(found, expected, rendered), bounds[dtype]
    within = largest <= bound  # a NaN is not
    if dtype != "float32":  # it may be rounding
        remedy = f"{FLOAT32_HINT}; where it is wrong there too: {remedy}" if remedy else FLOAT32_HINT
    return CheckResult(
        name=name,
        verdict="ok" if within else "wrong",
        found=f"{what}: at most {largest:.2g} nats per token, {largest / bound:.0%} of the {bound:g} for {dtype}",
        remedy="" if within else remedy,
        difference_nats=largest,
        bound_nats=bound,
    )


def _apart(one: NDArray[np.float64], other: NDArray[np.float64], rendered: Sequence[Rendered]) -> float:
    """Return the largest difference of two summed losses, in nats per token."""
    return float(np.abs(per_token(one, rendered) - per_token(other, rendered)).max())


def _prefix_check(
    model: LanguageModel, rendered: Sequence[Rendered], alone: NDArray[np.float64]
) -> CheckResult:
    """Check that computing the first tokens once for all rows that share them changes nothing."""
    shared, members = longest_shared_prefix(rendered)
    if not shared:
        found = "not checked: no two rows begin with the same tokens before their answers"
        return warning("shared prefix", found, "give rows with the same system turn, if you have such")
    rows = [rendered[member] for member in members]
    what = f"{len(members)} rows that begin with the same {shared} tokens, together against one by one"
    remedy = f"what follows a shared beginning is computed wrong for this architecture: {REPORT}"
    return _compared("shared prefix", model.nll(rows), alone[members], rows, model.dtype, what, remedy)


def longest_shared_prefix(rendered: Sequence[Rendered]) -> tuple[int, list[int]]:
    """Return how many tokens some rows share at their beginning, as many as can be, and their positions; or ``(0, [])``.

    The prefix ends before the token that predicts the first response token.
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
    """Return the summed nll, (n,), in pairs of a short and a long row: all logits at once take too much memory."""
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
    """Check how far a dtype moves the summed losses ``nll`` (n,): against plain transformers in float32, row by row.

    Loads the model again in float32; the one that was measured must be gone.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    dtype = concrete_dtype(ref)
    needed, free = float32_bytes(ref), free_and_total_bytes(resolved_device(ref))[0]
    if needed > free:
        found = (
            f"not checked: float32 takes {needed / GIB:.1f} GiB of weights, and {free / GIB:.1f} GiB are free"
        )
        remedy = (
            f"how far {dtype} is from float32 is not known here; run the doctor on a machine with more memory"
        )
        yield warning("dtype", found, remedy)
        return
    network = load_network(replace(ref, dtype="float32"))
    full = np.concatenate([plain_nll(network, [row]) for row in rendered])
    spread = float(np.sqrt(np.mean((per_token(nll, rendered) - per_token(full, rendered)) ** 2)))
    what = f"{dtype} against float32, row by row in plain transformers (root mean square {spread:.2g})"
    yield _compared("dtype", nll, full, rendered, dtype, what, bounds=FROM_FLOAT32_NATS)


def adapter_check(model: LanguageModel, rendered: Sequence[Rendered], folder: Path, name: str) -> CheckResult:
    """Check that an adapter fits, changes losses, and leaves the bits of the base alone when it is off again."""
    before = model.nll(rendered)
    with model.adapter(folder):
        worn = model.nll(rendered)
    if not np.array_equal(model.nll(rendered), before):
        found = f"the adapter {folder} is taken off, and the base does not give the same bits as before"
        return wrong(
            name, found, f"{REPORT}; until then give a whole model as the reference (merge the adapter)"
        )
    what = "fits; off again, the base gives the same bits"
    return _changed(name, before, worn, rendered, model.dtype, what)


def whole_model_check(
    ref: ModelRef, vocabulary: str, before: NDArray[np.float64], rendered: Sequence[Rendered], name: str
) -> CheckResult:
    """Check that a whole reference model has the tokenizer of the base, and other losses than ``before``, (n,)."""
    Renderer.of(ref).check_same_tokens(vocabulary, name=ref.name)
    model = LanguageModel(ref)
    what = "a model with the same tokenizer"
    return _changed(name, before, model.nll(rendered), rendered, model.dtype, what)


def _changed(
    name: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    rendered: Sequence[Rendered],
    dtype: str,
    what: str,
) -> CheckResult:
    largest = _apart(after, before, rendered)
    found = f"{what}; it changes losses by up to {largest:.2g} nats per token"
    if largest == 0:
        said = wrong(name, "it changes no loss at all", "was it trained, and on layers that this model has?")
    elif largest <= FROM_FLOAT32_NATS[dtype]:
        remedy = f"{FLOAT32_HINT}, or train longer: differences this small can be mostly rounding"
        said = warning(name, f"{found}, no more than {dtype} rounds", remedy)
    else:
        said = ok(name, found)
    return replace(said, difference_nats=largest)
