"""The reference model: the base fine-tuned on the pool, in-sample as in the paper or cross-fitted in folds."""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from learnable.errors import TrainError
from learnable.proportions import Proportions
from learnable.runs.files import write_frame, write_json
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say
from learnable.settings import WARMUP_STEPS, Reference
from learnable.training.fine_tuning import LAST_EPOCH, Trained, fine_tune
from learnable.training.mixtures import Mixed
from learnable.types import ModelRef, Rendered

Kind = Literal["adapter", "model"]
FEW_STEPS, FEW_ROWS = 20, 100
_ASSIGNMENT = pl.Schema({"id": pl.String, "part": pl.Int64})


@dataclass(frozen=True, kw_only=True)
class Part:
    """One trained model of a reference: where it is, and whether it is an adapter on the base or a whole model."""

    name: str
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class References:
    """The models that score, and which of them scores which example.

    ``assignment`` has ``id`` and ``part`` (position in ``parts``); an example that is not in it is scored by the first.
    ``last_epoch`` has ``id``, ``nll`` and ``response_tokens`` as the last epoch met them; None where not asked for.
    """

    parts: tuple[Part, ...]
    assignment: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_ASSIGNMENT))
    last_epoch: pl.DataFrame | None = None

    def members(self, ids: Sequence[str]) -> list[tuple[Part, list[int]]]:
        """Return each part with the positions in ``ids`` of the examples that it scores."""
        asked = pl.DataFrame({"id": ids}, schema={"id": pl.String})
        known = self.assignment.cast(_ASSIGNMENT)
        parts = asked.join(known, on="id", how="left", maintain_order="left")["part"].fill_null(0)
        return [(part, (parts == number).arg_true().to_list()) for number, part in enumerate(self.parts)]

    def last_epoch_loss(self, frame: pl.DataFrame) -> pl.Series:
        """Return the loss per response token of the last epoch in nats, float32 (n,), NaN where it is undefined.

        ``frame`` has n rows with ``id`` and ``response_tokens``. What was not trained on to this length is an error.
        """
        assert self.last_epoch is not None
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


def assign_folds(prompts: Sequence[str], sources: Sequence[str], *, folds: int) -> np.ndarray:
    """Return the fold of each example, int64 (n,): all answers to one prompt in one, each source as even as can be.

    Prompts are taken by size, then by key, and each goes where the fewest examples of its sources are. The order of
    the examples does not matter. Another seed gives other keys of prompts (``data.prompt_key``), hence other folds.
    """
    members: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(position)
    counts = {source: np.zeros(folds, dtype=np.int64) for source in set(sources)}
    total = np.zeros(folds, dtype=np.int64)
    assigned = np.empty(len(prompts), dtype=np.int64)
    for prompt in sorted(members, key=lambda prompt: (-len(members[prompt]), prompt)):
        there = np.sum([counts[sources[position]] for position in members[prompt]], axis=0)
        fold = int(np.lexsort((total, there))[0])
        for position in members[prompt]:
            assigned[position] = fold
            counts[sources[position]][fold] += 1
        total[fold] += len(members[prompt])
    return assigned


def train_reference(
    ref: ModelRef,
    rendered: Sequence[Rendered] | Sequence[tuple[Rendered, ...]],
    sources: Sequence[str],
    folder: Path,
    *,
    prompts: Sequence[str],
    reference: Reference,
    keep_epochs: bool = False,
    mixture: Proportions | None = None,
    only: Collection[str] | None = None,
    **options: Any,
) -> list[Trained]:
    """Train the models of a reference into ``folder``; what is finished there is not repeated.

    Args:
        ref: The base model.
        rendered: n examples, each one answer or as many as the objective takes.
        sources: Their sources, for folds that hold equally many of each.
        folder: Gets a folder for each model, and ``reference.json`` and ``assignment.parquet``.
        prompts: The keys of their prompts: no prompt is in two folds, see ``assign_folds``.
        reference: How.
        keep_epochs: As for ``fine_tune``; then an epoch has at least ``WARMUP_STEPS`` steps, whatever the fraction.
        mixture: What share of the tokens each source has; all examples, each once an epoch, when not given.
        only: Ids of the examples that are trained on; a draw of ``reference.fraction`` when not given. Folds are cut
            over all n either way.
        options: As for ``fine_tune``.

    Returns:
        What each training did, in this run or before.

    Raises:
        TrainError: If there are too few examples, or prompts, for so many folds.
    """
    examples = [(each,) if isinstance(each, Rendered) else each for each in rendered]
    ids, folds = ["+".join(answer.id for answer in example) for example in examples], reference.folds
    fold = _folds(prompts, sources, folds=folds)
    used = _used(ids, reference, only, keep_epochs=keep_epochs)
    mixed = Mixed(proportions=mixture, sources=dict(zip(ids, sources, strict=True))) if mixture else None
    names, trainings = [f"part-{number}" for number in range(max(folds, 1))], []
    for number, name in enumerate(names):
        trained = fine_tune(
            ref,
            [examples[i] for i in range(len(ids)) if i in used and (not folds or fold[i] != number)],
            folder / name,
            tuning=reference,
            label="training the reference" + (f", fold {number + 1} of {folds}" if folds else ""),
            keep_losses=reference.last_epoch_loss,
            keep_epochs=keep_epochs,
            sampler=mixed,
            **options,
        )
        trainings.append(trained)
    kind: Kind = "adapter" if reference.method == "lora" else "model"
    # An answer of two pairs is in one fold: they have one prompt.
    parts = {
        answer.id: part for example, part in zip(examples, fold.tolist(), strict=True) for answer in example
    }
    _write(folder, pl.DataFrame({"id": list(parts), "part": list(parts.values())}), names, kind)
    return trainings


def _used(
    ids: Sequence[str], reference: Reference, only: Collection[str] | None, *, keep_epochs: bool
) -> set[int]:
    """Return the places of the examples that are trained on: of these ids only, or drawn."""
    if only is not None:
        return {place for place, identity in enumerate(ids) if identity in only}
    drawn = sorted(range(len(ids)), key=lambda place: fingerprint(["fraction", reference.seed, ids[place]]))
    return set(drawn[: _drawn_rows(len(ids), reference, keep_epochs=keep_epochs)])


def _drawn_rows(rows: int, reference: Reference, *, keep_epochs: bool) -> int:
    """Return how many rows are trained on; of a warm-up with few steps that is said."""
    share = max(1, round(reference.fraction * rows))
    if not keep_epochs:
        return share
    drawn = reference.drawn(rows)
    if drawn > share:
        say(
            f"the warm-up takes {drawn:,} rows instead of {share:,}, so that an epoch has {WARMUP_STEPS} steps"
            + (": all that there are" if drawn == rows else "")
        )
    if rows < FEW_ROWS:
        say(f"warning: a warm-up on a pool of {rows} rows says little; {FEW_ROWS} are few")
    steps = math.ceil(drawn / reference.batch_size) * reference.epochs
    if steps < FEW_STEPS:
        say(f"warning: a warm-up of {steps:g} steps leaves Adam's moments noisy; {FEW_STEPS} are few")
    return drawn


def _folds(prompts: Sequence[str], sources: Sequence[str], *, folds: int) -> np.ndarray:
    examples, different = len(prompts), len(set(prompts))
    if examples < max(folds, 1) * 2:
        raise TrainError(
            f"{examples} examples are too few for {folds} folds", hint="give more data, or fewer folds"
        )
    if different < folds:
        raise TrainError(
            f"{different} different prompts are too few for {folds} folds: all answers to one are in one fold",
            hint="give more data, fewer folds, or `--folds 0`",
        )
    return assign_folds(prompts, sources, folds=folds) if folds else np.zeros(len(prompts), dtype=np.int64)


def given_reference(name: str, kind: Kind, folder: Path) -> None:
    """Write down a model that is trained already as the reference of ``folder``."""
    _write(folder, References(parts=()).assignment, [name], kind)


def _write(folder: Path, assignment: pl.DataFrame, names: Sequence[str], kind: Kind) -> None:
    write_frame(assignment, folder / "assignment.parquet")
    write_json(folder / "reference.json", {"parts": [{"name": name, "kind": kind} for name in names]})


def read_reference(folder: Path) -> References:
    """Return the models of a reference folder; a TrainError says that it holds none."""
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
