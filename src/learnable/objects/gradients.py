"""How the gradients of rows agree with those of a target, at the epochs of a warm-up; see ``scorers.LESS``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.data.target import Target
from learnable.deferred import models, training
from learnable.errors import UsageError
from learnable.measures import column, lengths, planned, take
from learnable.objects.given import trained_from
from learnable.objects.passes import Passes
from learnable.objects.results import as_array
from learnable.runs.identity import fingerprint
from learnable.scorers import LESS
from learnable.types import Launch, Measure, ModelRef, Rendered

ROWS_AT_ONCE = 4_096
"""Sketches that are read at once."""
GRADIENT_PASSES = 3
"""What a pass with gradients counts for in what a score costs, in passes without."""


def warm_up_of(folder: str, ref: ModelRef) -> "tuple[Sequence[training.KeptEpoch], str | None]":
    """Return the epochs that `learnable train --keep-epochs` kept in a folder, of this model, its dtype resolved.

    Also the identity of the target whose rows it left out, if there was one.
    """
    trained = trained_from(ref, folder, what="warm-up")
    (part, *_) = training.read_reference(Path(folder)).parts
    return training.epochs.kept_epochs(Path(part.name)), trained.inputs.get("target")


class GradientPasses:
    """Takes the passes of LESS that are not stored yet, at the epochs of a warm-up, against the rows of a target."""

    def __init__(
        self,
        passes: Passes,
        epochs: "Sequence[training.KeptEpoch]",
        target: Target,
        rendered: Sequence[Rendered],
    ) -> None:
        self._passes, self._epochs, self._target, self._rows = passes, epochs, target, rendered
        self.small_share = 0.0

    def cosines(self, method: LESS, rendered: Sequence[Rendered], frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return for each example the mean over epochs of its cosine with each subtask, (n, J); NaN without an answer.

        ``frame`` has ``id`` and ``response_tokens`` of the n examples.
        """
        weights = self.weights(method)
        take_epoch = self._exactly if method.store == "cosines" else self._by_sketch
        total: Any = 0.0
        self.small_share = 0.0
        for number, (place, weight) in enumerate(weights.items(), start=1):
            at = _Checkpoint(self._passes, self._epochs[place], f", epoch {number} of {len(weights)}")
            total = total + weight * take_epoch(method, at, rendered, frame)
            self.small_share += at.moments.small_share / len(weights)
        return np.asarray(total, dtype=np.float32)

    def weights(self, method: LESS) -> dict[int, float]:
        """Return what each epoch counts for, by its position."""
        return method.weights([epoch.learning_rate for epoch in self._epochs])

    def _exactly(
        self, method: LESS, at: "_Checkpoint", rendered: Sequence[Rendered], frame: pl.DataFrame
    ) -> NDArray[np.float32]:
        """Return the cosines at one epoch by products of whole gradients, (n, J)."""
        target = fingerprint(sorted(map(list, zip(self._target.ids, self._target.subtasks, strict=True))))
        measure = at.measure("gradient_cosines", target=target, **at.adjusted(method.adam))
        if len(self._passes.store.missing(measure, frame.filter(pl.col("response_tokens") > 0)["id"])):
            at.take(measure, rendered, self._products(method, at), label="gradients")
        return at.read(measure, frame, width=len(set(self._target.subtasks)))

    def _products(self, method: LESS, at: "_Checkpoint") -> Launch:
        with at.model() as model:
            batches = planned(self._rows, batch_tokens=training.target_gradients.gradient_tokens(model))
            vectors = training.target_gradients.target_vectors(
                model, self._rows, self._target.subtasks, batches=batches
            )
        return partial(
            training.target_gradients.batch_cosines, moments=at.moments, adam=method.adam, vectors=vectors
        )

    def _by_sketch(
        self, method: LESS, at: "_Checkpoint", rendered: Sequence[Rendered], frame: pl.DataFrame
    ) -> NDArray[np.float32]:
        """Return the same by sketches, which are kept."""
        how = {
            "dimensions": method.dimensions,
            "seed": method.seed,
            "hash": training.gradients.SKETCH_VERSION,
        }
        sketches = training.target_gradients.batch_sketches
        launch = partial(sketches, adam=method.adam, dimensions=method.dimensions, seed=method.seed)
        measure = at.measure("gradient_sketch", **how, **at.adjusted(method.adam))
        of_target = at.measure("gradient_sketch", **how, adam="none")
        at.take(of_target, self._rows, partial(launch, moments=None), label="gradients of the target")
        at.take(measure, rendered, partial(launch, moments=at.moments), label="gradients")
        own = at.read(of_target, lengths(self._rows), width=method.dimensions)
        subtasks = np.array(self._target.subtasks)
        means = np.stack([own[subtasks == name].mean(axis=0) for name in sorted(set(subtasks))])
        parts = [
            at.read(measure, some, width=method.dimensions) @ means.T
            for some in frame.iter_slices(ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(means)), dtype=np.float32)


class _Checkpoint:
    """The model as an epoch of the warm-up left it."""

    def __init__(self, passes: Passes, epoch: "training.KeptEpoch", label: str) -> None:
        self._passes, self._epoch, self._label = passes, epoch, label
        self._part = training.Part(name=str(epoch.folder), kind="adapter")

    @cached_property
    def moments(self) -> Any:
        """Adam's."""
        return training.epochs.Moments.of(self._epoch)

    @contextmanager
    def model(self) -> "Iterator[models.LanguageModel]":
        """Give the model; a UsageError says that it runs elsewhere."""
        with self._passes.opened(self._part) as model:
            if not isinstance(model, models.LanguageModel):
                raise UsageError("gradients are taken on this machine", hint="leave --on out")
            yield model

    def adjusted(self, adam: str) -> dict[str, str]:
        """Return what adjusted gradients depend on."""
        return {"adam": adam, "moments": self._epoch.moments_digest}

    def measure(self, kind: str, **parameters: Any) -> Measure:
        """Return the identity of a pass."""
        return self._passes.measure(self._passes.key(self._part), kind, **parameters)

    def take(self, measure: Measure, rendered: Sequence[Rendered], launch: Launch, *, label: str) -> None:
        """Measure what is missing."""
        self._passes.tokens += GRADIENT_PASSES * take(
            self.model,
            [measure],
            rendered,
            store=self._passes.store,
            label=label + self._label,
            launch=launch,
            batch_tokens=training.target_gradients.gradient_tokens,
        )

    def read(self, measure: Measure, frame: pl.DataFrame, *, width: int) -> NDArray[np.float32]:
        """Return what is stored, (n, width), NaN where nothing is."""
        return as_array(column(measure, frame, store=self._passes.store), width=width)
