"""Passes of LESS: gradients of a target's rows, and how those of other rows agree with them, at one checkpoint."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.models.language_model import LanguageModel
from learnable.models.packing import Layout
from learnable.training.epochs import Adam, AdamAdjusted, Moments
from learnable.training.gradients import (
    GRADIENT_TOKENS,
    Consumer,
    CountSketch,
    Products,
    Squares,
    WeightedSums,
    checked,
    take_gradients,
)
from learnable.types import Awaited, Rendered


def gradient_tokens(model: LanguageModel) -> int:
    """Return how many tokens, padding included, a pass with gradients takes at once."""
    usual = GRADIENT_TOKENS.get(model.network.device.type, GRADIENT_TOKENS["cpu"])
    return model.ref.batch_tokens or usual


def batch_cosines(
    network: Any,
    rendered: Sequence[Rendered],
    layout: Layout,
    *,
    moments: Moments,
    adam: Adam,
    vectors: Mapping[str, torch.Tensor],
) -> Awaited:
    """Begin to compute the products of each example's adjusted gradient, at length 1, with J vectors, float32 (n, J).

    The network and Adam's moments are those of a checkpoint. ``vectors`` are by name of the parameter, float32 (J, P).
    """
    products, squares = Products(vectors), Squares()
    adjusted = AdamAdjusted(moments.on(network.device), adam, [products, squares])
    take_gradients(network, rendered, layout, [adjusted])
    cosines = products.found / squares.found.sqrt()[:, None]
    return lambda: checked(cosines, rendered)


def batch_sketches(
    network: Any,
    rendered: Sequence[Rendered],
    layout: Layout,
    *,
    moments: Moments | None,
    adam: Adam,
    dimensions: int,
    seed: int,
) -> Awaited:
    """Begin to compute the sketch of each example's gradient, at length 1, float32 (n, d).

    The network and Adam's moments are those of a checkpoint; without moments gradients are as they are, such as a target's.
    Only sketches of one seed are comparable.
    """
    sketch = CountSketch(dimensions=dimensions, seed=seed)
    consumer: Consumer = sketch
    if moments is not None:
        consumer = AdamAdjusted(moments.on(network.device), adam, [sketch])
    take_gradients(network, rendered, layout, [consumer])
    lengths = torch.linalg.vector_norm(sketch.found, dim=1, keepdim=True)
    return lambda: checked(sketch.found / lengths, rendered)


def target_vectors(
    model: LanguageModel,
    rendered: Sequence[Rendered],
    subtasks: Sequence[str],
    *,
    batches: Sequence[Sequence[int]],
) -> dict[str, torch.Tensor]:
    """Return the mean of the gradients of each subtask's rows, each at length 1, by name of the parameter, (J, P).

    It takes two passes over the target, for lengths and for sums, as no gradient is kept whole.

    Args:
        model: At a checkpoint of the warm-up.
        rendered: t rows of a target, each with a response token; a row may stand there several times.
        subtasks: The subtask of each, (t,); J are different. Their rows are in sorted order.
        batches: Positions of rows that are computed together.
    """
    first = {row.id: place for place, row in reversed(list(enumerate(rendered)))}
    once = ([place for place in batch if first[rendered[place].id] == place] for batch in batches)
    groups = [[rendered[place] for place in batch] for batch in once if batch]
    lengths: dict[str, float] = {}
    for number, values in model.measure(_batch_lengths, groups):
        lengths |= zip([row.id for row in groups[number]], np.asarray(values).tolist(), strict=True)
    weights = _weights([row.id for row in rendered], subtasks, lengths)
    sums = WeightedSums()
    for _ in model.measure(partial(_batch_sums, weights=weights, sums=sums), groups):
        pass
    return sums.found


def _weights(
    ids: Sequence[str], subtasks: Sequence[str], lengths: Mapping[str, float]
) -> dict[str, NDArray[np.float32]]:
    """Return the share of each row in the vector of each subtask, over its length, (J,) by id."""
    names = sorted(set(subtasks))
    weights: dict[str, NDArray[np.float32]] = defaultdict(lambda: np.zeros(len(names), dtype=np.float32))
    for name, subtask in zip(ids, subtasks, strict=True):
        if lengths[name] > 0:
            weights[name][names.index(subtask)] += 1 / (subtasks.count(subtask) * lengths[name])
    return weights


def _batch_lengths(network: Any, rendered: Sequence[Rendered], layout: Layout) -> Awaited:
    squares = Squares()
    take_gradients(network, rendered, layout, [squares])
    return lambda: checked(squares.found.sqrt(), rendered)


def _batch_sums(
    network: Any,
    rendered: Sequence[Rendered],
    layout: Layout,
    *,
    weights: Mapping[str, NDArray[np.float32]],
    sums: WeightedSums,
) -> Awaited:
    sums.weights = torch.from_numpy(np.stack([weights[row.id] for row in rendered], axis=1))
    take_gradients(network, rendered, layout, [sums])
    return lambda: np.zeros(len(rendered))
