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
from learnable.training.sft import LAST_EPOCH, Trained, fine_tune
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
    of them and is scored by the first. ``last_epoch`` has ``id``, ``nll`` and ``response_tokens`` of each example as
    the last epoch met it; None where that was not asked for.
    """

    parts: tuple[Part, ...]
    assignment: pl.DataFrame
    last_epoch: pl.DataFrame | None = None

    def last_epoch_loss(self, frame: pl.DataFrame) -> pl.Series:
        """Return the loss per response token of the last epoch in nats, float32 (n,), NaN where it is undefined.

        Args:
            frame: n rows with ``id`` and ``response_tokens``.

        Raises:
            TrainError: If an example was not trained on, or was cut off elsewhere.
        """
        if self.last_epoch is None:
            raise TrainError("the losses of the last epoch were not kept", hint=_KEEP_OR_PASS)
        kept = self.last_epoch.rename({"response_tokens": "trained_tokens"})
        joined = frame.join(kept, on="id", how="left", maintain_order="left")
        other = joined.filter(
            (pl.col("response_tokens") > 0)
            & (pl.col("response_tokens") != pl.col("trained_tokens").fill_null(0))
        )
        if other.height:
            raise TrainError(
                f"{other.height:,} of {frame.height:,} examples were not trained on, or not to the same length, such as "
                f"{other['id'][0][:8]}: the last epoch knows no loss of theirs",
                hint=_KEEP_OR_PASS,
            )
        loss = (joined["nll"] / joined["response_tokens"]).fill_null(float("nan"))
        return loss.cast(pl.Float32).alias("loss")


_KEEP_OR_PASS = (
    "score the pool that the reference was trained on, with the same max_length, "
    "or train the reference without last_epoch_loss"
)


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
    ref: ModelRef,
    rendered: Sequence[Rendered],
    sources: Sequence[str],
    folder: Path,
    *,
    reference: Reference,
    processes: int = 1,
) -> list[Trained]:
    """Train the models of a reference into ``folder``; what is finished there is not repeated.

    Args:
        ref: The base model.
        rendered: n examples.
        sources: Their sources, for folds that hold equally many of each.
        folder: Gets a folder for each model, and ``reference.json`` and ``assignment.parquet``.
        reference: How.
        processes: As for ``fine_tune``.

    Returns:
        What each training did, in this run or before.

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
    parts, trainings = [], []
    for number in range(max(reference.folds, 1)):
        inside = [i for i in range(len(ids)) if i in used and (not reference.folds or fold[i] != number)]
        label = "training the reference" + (
            f", fold {number + 1} of {reference.folds}" if reference.folds else ""
        )
        name = f"part-{number}"
        trained = fine_tune(
            ref,
            [rendered[i] for i in inside],
            folder / name,
            tuning=reference,
            label=label,
            processes=processes,
            keep_losses=reference.last_epoch_loss,
        )
        trainings.append(trained)
        parts.append({"name": name, "kind": "adapter" if reference.method == "lora" else "model"})
    write_frame(pl.DataFrame({"id": ids, "part": fold}), folder / "assignment.parquet")
    write_json(folder / "reference.json", {"parts": parts})
    return trainings


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
    losses = folder / known["parts"][0]["name"] / LAST_EPOCH
    last_epoch = pl.read_parquet(losses) if losses.is_file() else None
    return References(parts=tuple(parts), assignment=assignment, last_epoch=last_epoch)
