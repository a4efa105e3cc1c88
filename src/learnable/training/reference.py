"""The reference model: the base fine-tuned on the pool, in-sample as in the paper or cross-fitted in folds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from learnable.atomic import write_frame, write_json
from learnable.errors import TrainError
from learnable.fingerprint import fingerprint
from learnable.training.sft import fine_tune
from learnable.types import ModelRef, Reference, Rendered


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
        How many tokens were trained on in this run, over all epochs and models.

    Raises:
        TrainError: If there are fewer examples than folds.
    """
    ids = [example.id for example in rendered]
    if len(ids) < max(reference.folds, 1) * 2:
        raise TrainError(
            f"{len(ids)} examples are too few for {reference.folds} folds",
            hint="give more data, or fewer folds",
        )
    drawn = sorted(
        range(len(ids)), key=lambda position: fingerprint(["fraction", reference.seed, ids[position]])
    )
    used = set(drawn[: max(1, round(reference.fraction * len(ids)))])
    fold = assign_folds(ids, sources, folds=max(reference.folds, 1), seed=reference.seed)
    parts, tokens = [], 0
    for number in range(max(reference.folds, 1)):
        inside = [i for i in range(len(ids)) if i in used and (not reference.folds or fold[i] != number)]
        label = "training the reference" + (
            f", fold {number + 1} of {reference.folds}" if reference.folds else ""
        )
        name = f"part-{number}"
        trained = fine_tune(ref, [rendered[i] for i in inside], folder / name, tuning=reference, label=label)
        tokens += trained.tokens if trained.ran else 0
        parts.append({"name": name, "kind": "adapter" if reference.method == "lora" else "model"})
    write_frame(pl.DataFrame({"id": ids, "part": fold}), folder / "assignment.parquet")
    write_json(folder / "reference.json", {"parts": parts})
    return tokens


def no_assignment() -> pl.DataFrame:
    """Return the assignment of a reference that trained on none of the examples, as far as is known."""
    return pl.DataFrame(schema={"id": pl.String, "part": pl.Int64})


def given_reference(name: str, kind: Literal["adapter", "model"], folder: Path) -> None:
    """Write down a model that is trained already as the reference of ``folder``."""
    write_frame(no_assignment(), folder / "assignment.parquet")
    write_json(folder / "reference.json", {"parts": [{"name": name, "kind": kind}]})


def read_reference(folder: Path) -> References:
    """Return the models of a reference folder.

    Raises:
        TrainError: If the folder holds no finished reference.
    """
    try:
        known = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        assignment = pl.read_parquet(folder / "assignment.parquet")
    except FileNotFoundError as error:
        raise TrainError(
            f"{folder} holds no finished reference", hint="make one with `learnable train DATA -o FOLDER`"
        ) from error
    parts = []
    for part in known["parts"]:
        inside = folder / part["name"]
        parts.append(Part(name=str(inside) if inside.exists() else part["name"], kind=part["kind"]))
    return References(parts=tuple(parts), assignment=assignment)
