"""Which examples each step of a training takes."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from learnable.settings import Tuning
from learnable.types import Rendered


class Sampler(Protocol):
    """Says which examples each of ``steps`` takes; it is asked before each, in every process alike."""

    steps: int

    def batch(self, step: int) -> Sequence[int]:
        """Return the positions of the examples that a step takes; ``step`` counts from 0."""


@runtime_checkable
class AdaptiveSampler(Sampler, Protocol):
    """A sampler whose batches depend on the losses that were met; a training that goes on calls ``load``."""

    def observe(self, step: int, examples: Sequence[int], nll: NDArray[np.float32]) -> None:
        """Take note of a step that was done.

        ``examples`` is what ``batch`` returned, (n,); ``nll`` that of each answer before the step, float32 (n, m).
        """

    def state(self) -> dict[str, Any]:
        """Return all that later batches depend on, as numbers, texts, lists and tensors."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""


@runtime_checkable
class ProbingSampler(AdaptiveSampler, Protocol):
    """An adaptive sampler that also looks at losses of examples that it does not train on."""

    def probe(self, step: int) -> Sequence[int]:
        """Return the positions of the examples whose nll is wanted after a step that was observed; mostly none."""

    def probed(self, step: int, nll: NDArray[np.float32]) -> None:
        """Take note of the nll of each answer of these examples, float32 (n, m)."""


class LengthGroupedBatches:
    """Batches of examples of about one length, shuffled; each epoch takes every example once.

    Little padding, and no drift of length over the epoch: examples are shuffled, sorted by length within windows of
    ``window`` batches, cut into batches, and these are shuffled. A last batch that is not full has all lengths, and
    stays last, where the learning rate is lowest.

    Args:
        lengths: Tokens of each example, (n,).
        batch_size: Examples per batch; the last one may have fewer.
        seed: Seeds the order, together with the epoch.
        epochs: How often the examples are taken; the last epoch may be a part.
        steps_per_epoch: Make this many batches instead, their sizes as even as can be.
        window: Batches per window.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        epochs: float = 1.0,
        steps_per_epoch: int | None = None,
        window: int = 16,
    ) -> None:
        count = len(lengths)
        self._lengths, self._seed = np.asarray(lengths), seed
        if steps_per_epoch is None:
            self._borders = np.append(np.arange(0, count, batch_size), count)
        else:
            self._borders = np.round(np.linspace(0, count, min(steps_per_epoch, count) + 1)).astype(np.int64)
        self._batches = len(self._borders) - 1
        self._full = self._batches - (steps_per_epoch is None and count % batch_size > 0)
        self._windows = np.unique([*self._borders[:-1:window], self._borders[self._full], count])
        self._planned: tuple[int, list[list[int]]] = (-1, [])
        self.steps = math.ceil(epochs * self._batches)

    def batch(self, step: int) -> list[int]:
        """Return the positions of the examples that a step takes."""
        epoch, place = divmod(step, self._batches)
        if self._planned[0] != epoch:
            self._planned = (epoch, self.epoch(epoch))
        return self._planned[1][place]

    def epoch(self, number: int) -> list[list[int]]:
        """Return all batches of an epoch, counted from 0."""
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(len(self._lengths))
        windows = [order[start:end] for start, end in pairwise(self._windows)]
        grouped = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in windows])
        batches: list[list[int]] = [grouped[start:end].tolist() for start, end in pairwise(self._borders)]
        # One that is not full stays last: the learning rate is lowest where the gradient is noisiest.
        batches[: self._full] = [batches[position] for position in rng.permutation(self._full)]
        return batches


def length_grouped(examples: Sequence[tuple[Rendered, ...]], tuning: Tuning) -> LengthGroupedBatches:
    """Return batches of examples of about one length, of the size, number and seed of a training."""
    return LengthGroupedBatches(
        [sum(len(answer.ids) for answer in example) for example in examples],
        batch_size=tuning.batch_size,
        seed=tuning.seed_of_order,
        epochs=tuning.epochs,
        steps_per_epoch=tuning.steps,
    )


def places_of(
    sampler: Sampler, examples: int, *, epochs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where in the first and in the last epoch a training takes each of n examples, (n,) each.

    A place is the number of the batch over the number of batches of an epoch, in (0, 1]; NaN of what is not taken.
    """
    length = sampler.steps / epochs
    places = np.full((2, examples), np.nan)
    for row, first in ((0, 0), (1, sampler.steps - round(length))):
        for step in range(first, first + round(length)):
            places[row, list(sampler.batch(step))] = (step - first + 1) / length
    return places[0], places[1]
