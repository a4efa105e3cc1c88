"""Gradients of single examples at the beginning of a training: their lengths, and how sets of them add up."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import one_hot

from learnable.errors import TrainError, UsageError
from learnable.models.lengths import batches_within
from learnable.models.packing import padded
from learnable.models.source import concrete_dtype
from learnable.runs.progress import ProgressBar, bar, say
from learnable.settings import Tuning
from learnable.training.adapters import trainable
from learnable.training.gradients import (
    GRADIENT_TOKENS,
    Squares,
    WeightedSums,
    checked,
    take_gradients,
    takes_one,
)
from learnable.training.memory import free_bytes
from learnable.types import GradientSum, ModelRef, Rendered

PRODUCTS_AT_ONCE = 1 << 22
"""Elements of the sums that are multiplied in float64 at once."""
MEMORY_SHARE = 0.8
"""Of the memory that is free, what the gradients may take; the rest is left to the passes."""
OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator")
"""What torch's allocators say when memory is short."""


def gradient_sums(
    ref: ModelRef,
    sets: Mapping[str, Sequence[Rendered]],
    *,
    tuning: Tuning,
    label: str,
    token_ids: Sequence[int] = (),
    parts: int = 8,
) -> dict[str, GradientSum]:
    """Return lengths and dot products of per-example gradients, for the parameters that ``fine_tune`` would move.

    The gradient of an example is that of its mean loss per response token at the point where training begins, without
    dropout; all examples count alike, where a batch of training counts tokens alike. Only sums are kept: one vector
    for each part of each set.

    With LoRA, training begins with all products of the adapters at 0 (their second factor, B, is 0). The gradients of
    the first factor, A, are therefore 0 there, and what is measured is that of B, and of the rows of ``token_ids``.
    The gradient of B is the gradient of the full weight projected by A, which is random: about proportional, layer by
    layer, to what full fine-tuning would see, by few random directions (``Tuning.rank``).

    Examples without a response token are left out, which is said. Each set is split into ``parts``, at most one for each
    example: what an error by leaving out one part at a time needs. Memory beside the model is (parts x sets + 1) float32
    numbers for each parameter that is trained; where that is more than is free, there are fewer parts, which is said.

    Raises:
        UsageError: If ``parts`` is below 1.
        TrainError: If a set has no example with a response token, a gradient is not finite, or memory is short.
    """
    if parts < 1:
        raise UsageError(f"parts must be at least 1, got {parts}")
    useful = {name: _useful(name, examples) for name, examples in sets.items()}
    rng = np.random.default_rng(tuning.seed)
    tokens = sum(len(example.ids) for kept in useful.values() for example in kept)
    try:
        network = trainable(ref, tuning, token_ids=token_ids).eval()
        parts = _parts_that_fit(network, [len(kept) for kept in useful.values()], parts)
        split = {name: rng.permutation(len(kept)) % min(parts, len(kept)) for name, kept in useful.items()}
        half = concrete_dtype(ref) == "bfloat16"
        mixed = torch.autocast(network.device.type, torch.bfloat16, enabled=half, cache_enabled=False)
        with bar(label, tokens) as progress:
            added = {
                name: _added(network, useful[name], split[name], mixed=mixed, progress=progress)
                for name in useful
            }
        products = _products({name: sums for name, (_, sums) in added.items()})
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise TrainError(
            f"the gradients do not fit the memory ({parts} parts of {len(sets)} sets)", hint=_SMALLER
        ) from error
    return {
        name: GradientSum(
            lengths=added[name][0],
            part=split[name],
            products={other: products[name, other] for other in useful},
        )
        for name in useful
    }


_SMALLER = "leave them out with --gradients 0, or take --method lora, a smaller model or a lower --max-length"


def _parts_that_fit(network: Any, counts: Sequence[int], parts: int) -> int:
    """Return the number of parts, lowered until the sums over the parts of sets of these sizes fit the free memory."""
    vector = 4 * sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    free = free_bytes(network.device)
    for fewer in range(parts, 0, -1):
        needed = vector * (sum(min(fewer, count) for count in counts) + 1)
        if needed <= MEMORY_SHARE * free:
            if fewer < parts:
                say(
                    f"gradients: {fewer} parts of each set instead of {parts}, as {free / 1e9:.3g} GB are free"
                )
            return fewer
    raise TrainError(
        f"gradients of {vector // 4:,} parameters for {len(counts)} sets need {needed / 1e9:.3g} GB of memory, "
        f"and {free / 1e9:.3g} GB are free",
        hint=_SMALLER,
    )


def _useful(name: str, examples: Sequence[Rendered]) -> list[Rendered]:
    kept = [example for example in examples if example.mask.any()]
    if not kept:
        raise TrainError(
            f"no example of {name} has a response token, so there are no gradients",
            hint="raise max_length, or look at `learnable show`",
        )
    if len(kept) < len(examples):
        left_out = len(examples) - len(kept)
        say(f"{name}: {left_out:,} of {len(examples):,} examples have no response token and are left out")
    return kept


def _added(
    network: Any,
    examples: Sequence[Rendered],
    split: NDArray[np.int64],
    *,
    mixed: torch.autocast,
    progress: ProgressBar,
) -> tuple[NDArray[np.float64], dict[str, torch.Tensor]]:
    """Return the lengths of gradients (n,), and by parameter their sums over the parts, float32 (parts, P)."""
    sums, lengths = WeightedSums(), np.zeros(len(examples), dtype=np.float64)
    most = 0 if takes_one(network) else GRADIENT_TOKENS.get(network.device.type, GRADIENT_TOKENS["cpu"])
    for batch in batches_within([len(example.ids) for example in examples], most):
        rendered = [examples[position] for position in batch]
        squares = Squares()
        sums.weights = one_hot(torch.from_numpy(split[batch]), int(split.max()) + 1).T.float()
        with mixed:
            take_gradients(network, rendered, padded(rendered), [squares, sums])
        lengths[batch] = np.sqrt(checked(squares.found, rendered).astype(np.float64))
        progress.advance(sum(len(example.ids) for example in rendered))
    return lengths, sums.found


def _products(sums: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return the dot products of the rows of all pairs of sets, computed in float64."""
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for (one, left), (other, right) in product(sums.items(), repeat=2):
        for name in left:
            rows = len(left[name]) + len(right[name])
            parts = (
                torch.split(side[name], max(1, PRODUCTS_AT_ONCE // rows), dim=1) for side in (left, right)
            )
            for a, b in zip(*parts, strict=True):
                # On the CPU: not every device knows float64.
                added = (a.cpu().double() @ b.cpu().double().T).numpy()
                found[one, other] = found.get((one, other), 0.0) + added
    return found
