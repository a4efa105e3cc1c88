"""Who has which rows in a federation that is played through, and the trainings of its arms."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import polars as pl

from learnable.commands.experiment import Experiment
from learnable.commands.options import Confidence, Listed
from learnable.deferred import training
from learnable.errors import DataError, UsageError
from learnable.experiments import UNTUNED, Arm, check_settings
from learnable.experiments.run import train_arms
from learnable.federation import (
    ARMS,
    CENTRAL,
    FULL,
    LORA,
    SLORA,
    Aggregate,
    FederatedArm,
    Mask,
    Places,
    Residual,
    check_split,
    dirichlet_split,
    label_distance,
)
from learnable.measures import lengths
from learnable.objects.passes import Passes
from learnable.objects.results import as_array
from learnable.objects.rows import Rows
from learnable.runs.identity import fingerprint
from learnable.runs.locks import locked
from learnable.runs.store import Store
from learnable.selectors.vectors import clusters_of
from learnable.settings import Tuning
from learnable.types import Rendered

SOURCE, CLUSTER = "source", "cluster"
"""What ``--by`` takes beside the name of a column."""


@dataclass(frozen=True, kw_only=True)
class ClientTuning(Tuning):
    """How a client trains in one round, and how the central training does; see ``Tuning`` for the fields."""

    learning_rate: float | None = 5e-4
    rank: int = 4
    warmup: float = 0.0
    schedule: Literal["cosine", "constant"] = "constant"


@dataclass(frozen=True, kw_only=True)
class Federating:
    """Who has which rows, what is trained, and for how long.

    Args:
        clients: In how many parts the rows lie.
        alpha: How alike the parts are: 0.1 gives each client few kinds of rows, 10 nearly all alike (Dirichlet).
        by: What tells the kinds apart: a column of the rows, `source`, or `cluster` (k-means on the model's vectors).
        rounds: Rounds of SLoRA's sparse stage and of its LoRA stage; the other arms have as many as both.
        arms: Each lora, slora, sparse or full, with settings such as slora@residual=drop. Differences are to central, one
            training on all rows, which is always there, as the untuned model. The model of the first is kept.
        density: Share of the linear weights that move in sparse rounds; as many as LoRA sends when not given. The paper
            takes 0.01.
        residual: What the decomposition leaves over: keep it in the frozen weights, or drop it (the paper).
        aggregate: What the server averages: factors (the paper), freeze_A (B alone), or product.
        mask: Weights of sparse rounds: random (the paper), or whole rows.
        full_rate: Learning rate of the arm full.
        min_rows: Fewest rows of a client.
        evaluate: `heldout` for the rows that --holdout sets aside, or heldout:FILE, multiple_choice:FILE ...
        seeds: Trainings of each arm, each with a partition of its own.
    """

    clients: int = 8
    alpha: float = 0.1
    by: str = SOURCE
    rounds: tuple[int, int] = (2, 4)
    arms: Annotated[Sequence[str], Listed] = (SLORA, LORA, "sparse", FULL)
    density: float | None = None
    residual: Residual = "keep"
    aggregate: Aggregate = "factors"
    mask: Mask = "random"
    full_rate: float = 2e-5
    min_rows: int = 4
    evaluate: Annotated[Sequence[str], Listed] = ("heldout",)
    seeds: int = 1
    confidence: Confidence = 0.95

    def federated(self, tuning: Tuning) -> list[FederatedArm]:
        """Return the arms.

        Raises:
            UsageError: If an arm is not known or there twice, or a setting is one that no federation can have.
        """
        check_settings(tuning, seeds=self.seeds, confidence=self.confidence)
        if tuning.method != "lora":
            raise UsageError(
                "what moves is the arm's own: --tuning.method has no effect", hint="give --arms full"
            )
        if min(self.rounds) < 1:
            raise UsageError(
                f"rounds are of a sparse stage and of a LoRA stage, got {self.rounds[0]} and {self.rounds[1]}",
                hint="without the first it is the arm lora, without the second the arm sparse: give --arms",
            )
        if self.density is not None and not 0 < self.density <= 1:
            raise UsageError(
                f"density is a share above 0 and at most 1, got {self.density}", hint="0.01 is 1%"
            )
        if not self.full_rate > 0:
            raise UsageError(f"full_rate must be above 0, got {self.full_rate}")
        check_split(
            self.clients * self.min_rows, clients=self.clients, alpha=self.alpha, min_rows=self.min_rows
        )
        usual = FederatedArm(name=SLORA, residual=self.residual, aggregate=self.aggregate, mask=self.mask)
        found = [FederatedArm.parse(text, usual=usual) for text in self.arms]
        if not found or len(set(found)) < len(found):
            raise UsageError(
                f"arms are one or more, each once, got {', '.join(self.arms) or 'none'}",
                hint=f"known: {', '.join(ARMS)}",
            )
        return found

    @property
    def all_rounds(self) -> int:
        """Of both stages."""
        return sum(self.rounds)


@dataclass(frozen=True, kw_only=True)
class FederatedTrainings:
    """The trainings of all arms and seeds, and what was seen of them."""

    experiment: Experiment
    federating: Federating
    arms: Sequence[FederatedArm]

    @cached_property
    def rendered(self) -> list[Rendered]:
        """The rows of all clients that can be trained on, as the model sees them."""
        seen = self.experiment.network.rendered(self.experiment.data.rows)
        return [row for row in seen if row.mask.any()]

    @cached_property
    def labels(self) -> list[str]:
        """The kind of each row that can be trained on, (n,)."""
        by = self.federating.by
        if by != CLUSTER:
            known = self.experiment.data.rows
            own = dict(zip(known.frame["id"], labels_of(known, by), strict=True))
            return [own[row.id] for row in self.rendered]
        ref, longest = self.experiment.network.ref, self.experiment.network.longest
        passes = Passes(ref, None, max_length=longest, store=Store(self.experiment.store))
        vectors = as_array(passes.vectors(self.rendered, lengths(self.rendered)))
        return [str(each) for each in clusters_of(vectors, clusters=self.federating.clients, seed=0)]

    def split(self, seed: int) -> list[Places]:
        """Return the positions of the rows of each client."""
        how = self.federating
        return dirichlet_split(
            self.labels, clients=how.clients, alpha=how.alpha, seed=seed, min_rows=how.min_rows
        )

    def partition(self) -> pl.DataFrame:
        """Return ``seed``, ``client``, ``rows``, ``labels`` and ``distance`` of each client."""
        lines = []
        for seed in range(self.federating.seeds):
            split = self.split(seed)
            distances = label_distance(self.labels, split)
            for client, (own, distance) in enumerate(zip(split, distances, strict=True)):
                kinds = len({self.labels[place] for place in own})
                lines.append((seed, client, len(own), kinds, distance))
        return pl.DataFrame(lines, schema=["seed", "client", "rows", "labels", "distance"], orient="row")

    def trained(self) -> tuple[list[Arm], list[pl.DataFrame], list[pl.DataFrame], int]:
        """Train what is not trained yet; return the arms, the lines of rounds and of energy, and the tokens of this run."""
        # Graded in float32: a change that is less than half a unit of bfloat16 would be lost.
        exact = replace(self.experiment.network.ref, dtype="float32")
        tuning, rounds, energy = self.experiment.tuning, list[pl.DataFrame](), list[pl.DataFrame]()
        central = [
            Arm(
                label=CENTRAL,
                seed=seed,
                base=self.experiment.network.ref,
                stages=(tuple(self.rendered),),
                tuning=replace(tuning, seed=seed, epochs=tuning.epochs * self.federating.all_rounds),
            )
            for seed in range(self.federating.seeds)
        ]
        done, tokens = train_arms(
            central, max_length=self.experiment.network.longest, store=self.experiment.store
        )
        arms = [Arm(label=UNTUNED, seed=0, base=exact, stages=(), tuning=tuning)]
        arms += [replace(arm, base=exact, given=each) for arm, each in zip(central, done, strict=True)]
        for seed, label, trained in self._federations():
            arm = next(each for each in self.arms if each.label == label)
            own = replace(central[seed].tuning, method="full" if training.federated.is_whole(arm) else "lora")
            arms.append(replace(central[seed], label=label, base=exact, tuning=own, given=trained))
            tokens += trained.tokens if trained.ran else 0
            names = [pl.lit(label).alias("arm"), pl.lit(seed).alias("seed"), pl.all()]
            rounds.append(pl.read_parquet(trained.folder / training.federated.ROUNDS).select(names))
            energy.append(pl.read_parquet(trained.folder / training.federated.ENERGY).select(names))
        return arms, rounds, energy, tokens

    def _federations(self) -> "Sequence[tuple[int, str, training.Trained]]":
        network = self.experiment.network
        ref, longest = network.ref, network.longest
        identity = [network.identity, network.renderer.key, longest, ref.dtype]
        place, local = self.experiment.store / "federated", None
        found = list[tuple[int, str, training.Trained]]()
        for seed in range(self.federating.seeds):
            clients = [[self.rendered[number] for number in own] for own in self.split(seed)]
            for number, arm in enumerate(self.arms, start=1):
                agreement = training.federated.Agreement(
                    arm=replace(arm, label=""),
                    rounds=self.federating.rounds,
                    tuning=replace(self.experiment.tuning, seed=seed),
                    density=self.federating.density,
                    full_rate=self.federating.full_rate,
                )
                ids = [sorted(row.id for row in own) for own in clients]
                name = fingerprint([*identity, asdict(agreement), ids])[:16]
                local = local or training.federated.LocalTraining(ref)
                label = f"federation {number} of {len(self.arms)}: {arm.label}, seed {seed}"
                with locked(place / f"{name}.lock"):
                    done = training.federated.federate_rounds(
                        local, clients, agreement, place / name, label=label
                    )
                found.append((seed, arm.label, done))
        return found


def labels_of(known: Rows, by: str) -> list[str]:
    """Return what tells the kinds of rows apart, of each row, (n,).

    Raises:
        DataError: If a row has no such column.
    """
    if by == SOURCE:
        return [str(each) for each in known.frame["source"]]
    values = known.column(by)
    if lacking := sum(value is None for value in values):
        every = lacking == len(values)
        raise DataError(
            f"no row has a column {by!r}"
            if every
            else f"{lacking:,} of {len(values):,} rows have nothing in {by!r}",
            hint="name a column with --by, or take --by source or --by cluster"
            if every
            else "leave these rows out, or take --by source or --by cluster",
        )
    return [str(value) for value in values]


def counted(rounds: pl.DataFrame) -> pl.DataFrame:
    """Return by arm what a client sent and received in all rounds, in bytes, means over clients and seeds; and failures."""
    clients = rounds.group_by("arm", "seed", "client", maintain_order=True).agg(
        pl.col("sent_bytes", "received_bytes", "tokens").sum(), pl.col("why").count().alias("failures")
    )
    return clients.group_by("arm", maintain_order=True).agg(
        pl.col("sent_bytes", "received_bytes").mean().round().cast(pl.Int64),
        pl.col("sent_bytes").max().alias("most_sent"),
        pl.col("tokens").mean().round().cast(pl.Int64),
        pl.col("failures").sum(),
    )
