"""The reference model: the base fine-tuned on the pool, in-sample as in the paper or cross-fitted in folds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from learnable.errors import TrainError, UsageError
from learnable.fingerprint import fingerprint
from learnable.train.sft import Tuning, fine_tune
from learnable.types import ModelRef, Rendered


@dataclass(frozen=True, kw_only=True)
class Reference(Tuning):
    """How to get a reference model; see ``Tuning`` for the other fields.

    Args:
        folds: 0: one model trained on all examples, which then scores the very examples it has trained on (the
            paper); K >= 2: K models, each trained on the examples outside one fold and scoring that fold, so that no
            example is scored by a model that has seen it. Two folds cost what one in-sample epoch costs.
        fraction: Train on this share of the examples only, drawn at random.
        model: A model or LoRA adapter that is trained already (folder or hub id); nothing is trained then.
    """

    folds: int = 0
    fraction: float = 1.0
    model: str | None = None

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"reference.folds must be 0 or at least 2, got {self.folds}", hint="0 is in-sample, 2 is cross-fitted")
        if not 0 < self.fraction <= 1:
            raise UsageError(f"reference.fraction must be above 0 and at most 1, got {self.fraction}")
        if self.epochs <= 0 or self.batch_size <= 0 or self.rank <= 0:
            raise UsageError("reference.epochs, reference.batch_size and reference.rank must be above 0")

    @property
    def passes(self) -> float:
        """Training cost in passes over the whole pool."""
        if self.model is not None:
            return 0.0
        return self.epochs * self.fraction * max(self.folds - 1, 1)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One trained model of a reference: where it is, and whether it is an adapter on the base or a whole model."""

    name: str
    kind: Literal["adapter", "model"]


@dataclass(frozen=True, kw_only=True)
class References:
    """The models that score, and which of them scores which example.

    ``assignment`` has ``id`` and ``part`` (position in ``parts``); an example that is not in it was trained on by none
    of them and is scored by the first.
    """

    parts: tuple[Part, ...]
    assignment: pl.DataFrame


def assign_folds(ids: Sequence[str], sources: Sequence[str], *, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each example, int64 (n,): by a hash of id and seed, and equally many of each source in each.

    The order of the examples does not matter.
    """
    keys = [fingerprint([seed, example]) for example in ids]
    order = sorted(range(len(ids)), key=lambda position: (sources[position], keys[position]))
    assigned = np.empty(len(ids), dtype=np.int64)
    assigned[order] = np.arange(len(ids)) % folds
    return assigned


def train_reference(
    ref: ModelRef, rendered: Sequence[Rendered], sources: Sequence[str], folder: Path, *, reference: Reference
) -> int:
    """Train the models of a reference into ``folder``; what is finished there is not repeated.

    Args:
        ref: The base model.
        rendered: n examples.
        sources: Their sources, for folds that hold equally many of each.
        folder: Gets a folder for each model, and ``reference.json`` and ``assignment.parquet``.
        reference: How.

    Returns:
        How many tokens were trained on, over all epochs and models.

    Raises:
        TrainError: If there are fewer examples than folds.
    """
    ids = [example.id for example in rendered]
    if len(ids) < max(reference.folds, 1) * 2:
        raise TrainError(
            f"{len(ids)} examples are too few for {reference.folds} folds", hint="give more data, or fewer folds"
        )
    drawn = sorted(range(len(ids)), key=lambda position: fingerprint(["fraction", reference.seed, ids[position]]))
    used = set(drawn[: max(1, round(reference.fraction * len(ids)))])
    fold = assign_folds(ids, sources, folds=max(reference.folds, 1), seed=reference.seed)
    parts, tokens = [], 0
    for number in range(max(reference.folds, 1)):
        inside = [i for i in range(len(ids)) if i in used and (not reference.folds or fold[i] != number)]
        label = "training the reference" + (f", fold {number + 1} of {reference.folds}" if reference.folds else "")
        name = f"part-{number}"
        trained = fine_tune(ref, [rendered[i] for i in inside], folder / name, tuning=reference, label=label)
        tokens += trained.tokens
        parts.append({"name": name, "kind": "adapter" if reference.method == "lora" else "model"})
    pl.DataFrame({"id": ids, "part": fold}).write_parquet(folder / "assignment.parquet")
    (folder / "reference.json").write_text(json.dumps({"parts": parts}, indent=2), encoding="utf-8")
    return tokens


def given_reference(name: str, kind: Literal["adapter", "model"], folder: Path) -> None:
    """Write down a model that is trained already as the reference of ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(schema={"id": pl.String, "part": pl.Int64}).write_parquet(folder / "assignment.parquet")
    parts = [{"name": name, "kind": kind}]
    (folder / "reference.json").write_text(json.dumps({"parts": parts}, indent=2), encoding="utf-8")


def read_reference(folder: Path) -> References:
    """Return the models of a reference folder.

    Raises:
        TrainError: If the folder holds no finished reference.
    """
    try:
        known = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        assignment = pl.read_parquet(folder / "assignment.parquet")
    except FileNotFoundError as error:
        raise TrainError(f"{folder} holds no finished reference", hint="make one with `learnable train DATA -o FOLDER`") from error
    parts = []
    for part in known["parts"]:
        inside = folder / part["name"]
        parts.append(Part(name=str(inside) if inside.exists() else part["name"], kind=part["kind"]))
    return References(parts=tuple(parts), assignment=assignment)
