"""Federated fine-tuning in rounds: what a client trains, what the server begins a stage with, and the model of the end."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from learnable.errors import UsageError
from learnable.federation import (
    FULL,
    LORA,
    SCALE,
    SLORA,
    SPARSE,
    Arrays,
    Factors,
    FederatedArm,
    Floats,
    StageKind,
    Task,
    Update,
    begun_factor,
    decompose,
    digest,
    equal_density,
    masked,
)
from learnable.models.loading import load_network, load_tokenizer
from learnable.models.network import without_dropout
from learnable.models.source import concrete_dtype
from learnable.models.weights import quiet
from learnable.runs.files import disk_errors, write_frame
from learnable.runs.progress import bar
from learnable.runs.step import note
from learnable.settings import Tuning
from learnable.training.checkpoints import Checkpoints
from learnable.training.fine_tuning import CHECKPOINTS, Trained, trained_before
from learnable.training.loop import Loop
from learnable.training.moved import Moved, added, factors, linear_weights, put, sparse, taken
from learnable.training.samplers import length_grouped
from learnable.types import ModelRef, Rendered

ROUNDS, ENERGY = "rounds.parquet", "energy.parquet"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What server and clients know before the first round.

    Args:
        arm: What is trained.
        rounds: Of stage 1 and of stage 2; arms of one stage have as many as both.
        tuning: Of a client in a round: epochs, batch size, rates and rank, and the common seed.
        density: Share of the linear weights that sparse rounds move; so that they send as much as LoRA when None.
        full_rate: Learning rate where all linear weights move.
    """

    arm: FederatedArm
    rounds: tuple[int, int]
    tuning: Tuning
    density: float | None = None
    full_rate: float = 2e-5

    @property
    def stages(self) -> list[tuple[StageKind, int]]:
        """What moves in each stage, and for how many rounds."""
        first, second = self.rounds
        if self.arm.name == SLORA:
            return [("sparse", first), ("lora", second)]
        if self.arm.name == LORA:
            return [("lora", first + second)]
        return [("sparse" if self.arm.name == SPARSE else "full", first + second)]

    def of_client(self, stage: StageKind, *, number: int, client: int) -> Tuning:
        """Return how a client trains in a round: in an order of its own, with a new optimizer."""
        order = (self.tuning.seed * 10_000 + number) * 10_000 + client
        rate = self.full_rate if stage == FULL else self.tuning.learning_rate
        return replace(self.tuning, order_seed=order, learning_rate=rate)


class LocalTraining:
    """One network that trains on the rows of one client after the other, as tasks come in.

    Weights are float32; where the model is bfloat16, products are computed in it, as in full fine-tuning elsewhere.
    What a stage adds to the network stays until another stage is asked for, or ``close``.
    """

    def __init__(self, ref: ModelRef) -> None:
        self.ref, self.mixed = replace(ref, dtype="float32"), concrete_dtype(ref) == "bfloat16"
        self.network = load_network(self.ref)
        self.network.requires_grad_(requires_grad=False)
        self._attention = self.network.config._attn_implementation
        self.shapes = {
            name: (weight.shape[0], weight.shape[1]) for name, weight in linear_weights(self.network).items()
        }
        self.advance: Callable[[int], None] = lambda _: None
        self._open: tuple[Any, ...] = ()
        self._stage = ExitStack()
        self._wearing: Any = self.network
        self._moved: Moved = {}
        self._begun: tuple[tuple[Any, ...], dict[str, Factors]] = ((), {})

    def check(self, agreement: Agreement) -> None:
        """Refuse what this network cannot have, before anything is trained.

        Raises:
            UsageError: If the rank is more than the smallest weight has where changes are decomposed, or the density
                leaves no scalar of a weight.
        """
        small = min(self.shapes, key=lambda name: min(self.shapes[name]))
        rank, decomposed = agreement.tuning.rank, agreement.arm.aggregate == "product"
        if (decomposed or agreement.arm.name == SLORA) and rank > min(self.shapes[small]):
            raise UsageError(
                f"rank {rank} is more than a change of {small} can have, {min(self.shapes[small])}",
                hint="lower --tuning.rank",
            )
        if agreement.arm.name in (SLORA, SPARSE):
            self.places("sparse", agreement)

    def train(self, task: Task, rows: Sequence[Rendered], agreement: Agreement, *, client: int) -> Update:
        """Train on the rows of a client, from the values of a task, and return where that ended."""
        self._enter(task.stage, agreement, start=task.start)
        put(self._moved, task.arrays)
        ordered = sorted(rows, key=lambda row: row.id)
        tuning = agreement.of_client(task.stage, number=task.round, client=client)
        loop = Loop(
            self._wearing,
            ordered,
            sampler=length_grouped([(row,) for row in ordered], tuning),
            tuning=tuning,
            mixed=self.mixed,
            advance=self.advance,
        )
        try:
            with without_dropout(self.network):
                while loop.done < loop.steps:
                    loop.step()
        finally:
            self._as_before()
        return Update(
            arrays=taken(self._moved),
            rows=len(rows),
            tokens=loop.tokens,
            steps=loop.done,
            loss=float(loop.loss) / loop.done,
        )

    def initial(
        self, stage: StageKind, agreement: Agreement, *, start: Arrays | None = None
    ) -> dict[str, Floats]:
        """Return what the server sends in the first round of a stage."""
        if stage != LORA:
            return {
                name: np.zeros(math.prod(self.shapes[name]) if own is None else len(own), dtype=np.float32)
                for name, own in self.places(stage, agreement).items()
            }
        found, only_b = dict[str, Floats](), agreement.arm.aggregate == "freeze_A"
        for name, own in self.begun(agreement, start=start).items():
            found |= {} if only_b else {f"{name}.A": own.A}
            found[f"{name}.B"] = own.B
        return found

    def begun(self, agreement: Agreement, *, start: Arrays | None) -> dict[str, Factors]:
        """Return the factors that LoRA begins with, by layer: fresh ones, or of the change that stage 1 made."""
        rank, seed = agreement.tuning.rank, agreement.tuning.seed
        if self._begun[0] == (made := (agreement, digest(start))):
            return self._begun[1]
        if start is None:
            found = {
                name: Factors(
                    begun_factor(shape, rank=rank, seed=seed, name=name),
                    np.zeros((shape[0], rank), dtype=np.float32),
                    float("nan"),
                )
                for name, shape in self.shapes.items()
            }
        else:
            changes = self.changes("sparse", agreement, start)
            found = {name: decompose(each, rank=rank) for name, each in changes}
        self._begun = (made, found)
        return found

    def places(self, stage: StageKind, agreement: Agreement) -> dict[str, Any]:
        """Return which scalars of each layer move, None for all."""
        arm, tuning = agreement.arm, agreement.tuning
        density = 1.0 if stage == FULL else agreement.density
        if density is None:
            shapes = list(self.shapes.values())
            density = equal_density(shapes, rank=tuning.rank, aggregate=arm.aggregate)
        how: dict[str, Any] = {"density": density, "seed": tuning.seed, "mask": arm.mask}
        return {name: masked(shape, name=name, **how) for name, shape in self.shapes.items()}

    def changes(self, stage: StageKind, agreement: Agreement, values: Arrays) -> Iterator[tuple[str, Floats]]:
        """Yield the change of each weight that values at places make, (d_out, d_in)."""
        for name, own in self.places(stage, agreement).items():
            change = np.zeros(math.prod(self.shapes[name]), dtype=np.float32)
            change[slice(None) if own is None else own] = values[name]
            yield name, change.reshape(self.shapes[name])

    def residual(self, agreement: Agreement, start: Arrays | None) -> dict[str, Floats]:
        """Return what the factors of stage 2 leave over of stage 1, by layer; nothing where that is dropped."""
        if start is None or agreement.arm.residual == "drop":
            return {}
        begun = self.begun(agreement, start=start)
        return {name: each - begun[name].change for name, each in self.changes("sparse", agreement, start)}

    def close(self) -> None:
        """Leave the stage: the network is as it was loaded."""
        self._stage.close()
        self._open = ()

    def _as_before(self) -> None:
        """Undo what a loop does to a network: the next client's wraps it anew, and chooses attention.

        Accelerate leaves a network alone that it has prepared before, and would compute in float32 then.
        """
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            vars(self._wearing).pop(name, None)
        if self.network.config._attn_implementation != self._attention:
            self.network.set_attn_implementation(self._attention)

    def _enter(self, stage: StageKind, agreement: Agreement, *, start: Arrays | None) -> None:
        kind = (stage, agreement, digest(start))
        if self._open == kind:
            return
        self.close()
        if stage == LORA:
            self._stage.enter_context(added(self.network, self.residual(agreement, start)))
            frozen = agreement.arm.aggregate == "freeze_A"
            worn = factors(self.network, rank=agreement.tuning.rank, freeze_A=frozen)
            self._wearing, self._moved = self._stage.enter_context(worn)
            if frozen:
                begun = self.begun(agreement, start=start)
                put(self._moved, {f"{name}.A": each.A for name, each in begun.items()})
            for module in self._wearing.modules():
                if hasattr(module, "cast_input_dtype_enabled"):
                    module.cast_input_dtype_enabled = not self.mixed
        else:
            self._wearing = self.network
            self._moved = self._stage.enter_context(sparse(self.network, self.places(stage, agreement)))
        self._open = kind


def federate_rounds(
    local: LocalTraining,
    clients: Sequence[Sequence[Rendered]],
    agreement: Agreement,
    folder: Path,
    *,
    label: str,
) -> Trained:
    """Train a federation in this process, and write the model, or the adapter, that it comes to.

    Every round is a checkpoint: a killed run goes on with the round that it was in, to the same bits. Beside the model
    are ``rounds.parquet``, a line for each client and round, and ``energy.parquet``, what a decomposition kept.

    All ``clients`` train the network ``local``, one after the other, each on its rows. A finished result in the folder is
    not repeated.

    Raises:
        TrainError: If no client of a round sent what can be averaged.
        UsageError: If Flower is not installed, or the agreement does not fit the network.
    """
    if (trained := trained_before(folder)) is not None:
        return trained
    local.check(agreement)
    tokens = sum(len(row.ids) for rows in clients for row in rows) * sum(agreement.rounds)
    with disk_errors(folder):
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        run = _Server(local, clients, agreement, Checkpoints(folder / CHECKPOINTS))
        try:
            with bar(label, round(tokens * agreement.tuning.epochs), done=run.tokens) as progress:
                local.advance = progress.advance
                values, start = run.all_rounds()
        finally:
            local.close()
        energy = _write_model(local, agreement, values, start, folder)
        write_frame(energy, folder / ENERGY)
        write_frame(pl.DataFrame(run.lines, schema_overrides={"why": pl.String}), folder / ROUNDS)
        steps = sum(line["steps"] for line in run.lines)
        trained = Trained(folder=folder, tokens=run.tokens, steps=steps, seconds=run.seconds)
        trained.write()
        shutil.rmtree(folder / CHECKPOINTS)
    note(run.tokens)
    return trained


class _Server:
    """The rounds of a federation: where they are, and what was seen."""

    def __init__(
        self,
        local: LocalTraining,
        clients: Sequence[Sequence[Rendered]],
        agreement: Agreement,
        checkpoints: Checkpoints,
    ) -> None:
        self.local, self.clients, self.agreement, self._checkpoints = local, clients, agreement, checkpoints
        begun = dict[str, Any](stage=0, done=0, values=None, start=None, lines=[], seconds=0.0)
        self._at = checkpoints.read() or begun
        self.lines: list[dict[str, Any]] = self._at["lines"]
        self._began: float = time.monotonic() - self._at["seconds"]

    @property
    def tokens(self) -> int:
        """That were trained on."""
        return sum(line["tokens"] for line in self.lines)

    @property
    def seconds(self) -> float:
        """Of all attempts, up to each kill's last round."""
        return time.monotonic() - self._began

    def all_rounds(self) -> tuple[dict[str, Floats], dict[str, Floats] | None]:
        """Do what is left of all stages; return the last values, and where stage 1 ended if there is a stage 2."""
        stages, at = self.agreement.stages, self._at
        for number in range(at["stage"], len(stages)):
            self._one_stage(number, *stages[number])
            if number + 1 < len(stages):
                at |= {"stage": number + 1, "done": 0, "start": at["values"], "values": None}
                self._keep()
        return _arrays(at["values"]), at["start"] and _arrays(at["start"])

    def _one_stage(self, number: int, stage: StageKind, rounds: int) -> None:
        from learnable.flower import run_rounds

        agreement = self.agreement
        before = sum(rounds for _, rounds in agreement.stages[:number])
        # Beside the factors, some clients need to know in stage 2 where stage 1 ended.
        told = agreement.arm.residual == "keep" or agreement.arm.aggregate == "freeze_A"
        at, start = self._at, self._at["start"] and _arrays(self._at["start"])
        if at["values"] is None:
            at["values"] = _tensors(self.local.initial(stage, agreement, start=start))
        if at["done"] == rounds:
            return

        def train(task: Task, client: int) -> Update:
            return self.local.train(task, self.clients[client], agreement, client=client)

        def after(number: int, values: Arrays, lines: Sequence[Mapping[str, Any]]) -> None:
            at["done"], at["values"] = number - before, _tensors(values)
            self.lines += [{"stage": stage, "round": number, **line} for line in lines]
            self._keep()

        run_rounds(
            train,
            stage,
            clients=len(self.clients),
            values=_arrays(at["values"]),
            rounds=range(before + at["done"] + 1, before + rounds + 1),
            start=start if told else None,
            product=stage == LORA and agreement.arm.aggregate == "product",
            after=after,
        )

    def _keep(self) -> None:
        self._checkpoints.write(self._at | {"seconds": self.seconds})


def _tensors(values: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(each) for name, each in values.items()}


def _arrays(values: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
    return {name: each.numpy() for name, each in values.items()}


def _write_model(
    local: LocalTraining, agreement: Agreement, values: Arrays, start: Arrays | None, folder: Path
) -> pl.DataFrame:
    """Write the adapter, or the whole model in float32 where more moved; return the energy that a decomposition kept."""
    network, stage, changes = local.network, agreement.stages[-1][0], dict[str, Floats]()
    begun = local.begun(agreement, start=start) if stage == LORA else {}
    if stage == LORA:
        # Clients that freeze A know it without being told.
        values = {**{f"{name}.A": each.A for name, each in begun.items()}, **values}
        residual = local.residual(agreement, start)
        if not residual:
            worn = factors(network, rank=agreement.tuning.rank, freeze_A=False)
            with worn as (tuned, moved), quiet():
                put(moved, values)
                tuned.save_pretrained(folder)
        for name, each in residual.items():
            changes[name] = each + SCALE * (values[f"{name}.B"] @ values[f"{name}.A"])
    else:
        changes = dict(local.changes(stage, agreement, values))
    if changes:
        with added(network, changes), quiet():
            network.save_pretrained(folder)
        load_tokenizer(local.ref).save_pretrained(folder)
    energy = [(name, each.energy) for name, each in begun.items()] if start else []
    return pl.DataFrame(energy, schema={"layer": pl.String, "energy": pl.Float64}, orient="row")


def is_whole(arm: FederatedArm) -> bool:
    """Return whether an arm comes to a whole model, not to an adapter on its base."""
    return arm.name in (SPARSE, FULL) or (arm.name == SLORA and arm.residual == "keep")
