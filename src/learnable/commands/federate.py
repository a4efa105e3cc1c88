"""What ``learnable run slora`` does: a federation played through on one machine, beside one training on all rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from learnable.commands.experiment import Begun, Experiment, items_said, keep_model, write_frames
from learnable.commands.federated_arms import CLUSTER, FederatedTrainings, Federating, counted, labels_of
from learnable.experiments import UNTUNED
from learnable.federation import CENTRAL, FULL, LORA, SLORA, FederatedArm, check_flower, dirichlet_split
from learnable.runs.identity import fingerprint
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.step import Finished, Step
from learnable.settings import Tuning

FEW_ROWS, LITTLE_ENERGY = 10, 0.3
_ABOUT = {
    LORA: "each client trains an adapter, and the server averages {average}",
    SLORA: "{first} sparse rounds, then {second} of LoRA from the decomposition of what they changed; what that leaves over is "
    "{residual}",
    "sparse": "all rounds move the same few weights, {mask}",
    FULL: "all weights of the linear layers move: a ceiling, at far more traffic",
}
_AVERAGE = {"factors": "A and B", "freeze_A": "B alone", "product": "the products B A"}


def federate(begun: Begun, *, federating: Federating, tuning: Tuning) -> Step:
    """Play a federation through, arm by arm, and say with intervals what each loses to one training on all rows."""
    check_flower(by="learnable run slora")
    arms = federating.federated(tuning)
    if federating.by != CLUSTER:  # what cannot be divided is said before anything is trained
        labels = labels_of(begun.loaded.rows, federating.by)
        how: dict[str, Any] = {name: getattr(federating, name) for name in ("clients", "alpha", "min_rows")}
        dirichlet_split(labels, seed=0, **how)
    experiment = begun.experiment(tuning, federating, begun.loaded.evaluations(federating.evaluate))
    trial = _FederatedTrial(experiment=experiment, federating=federating, arms=arms)
    parameters = {"federating": fingerprint(asdict(federating) | {"evaluate": None})}
    return experiment.step("run slora", trial, parameters=parameters)


@dataclass(frozen=True, kw_only=True)
class _FederatedTrial:
    experiment: Experiment
    federating: Federating
    arms: Sequence[FederatedArm]

    @property
    def says(self) -> list[str]:
        how = self.federating
        return [
            f"{how.seeds} central trainings on {len(self.experiment.data.pool):,} rows",
            *(
                f"{how.seeds} federations of {arm.label}: {how.clients} clients, {how.all_rounds} rounds"
                for arm in self.arms
            ),
            items_said(self.experiment.evaluations),
        ]

    def price(self) -> Price:
        network, tuning = self.experiment.network, self.experiment.tuning
        models = self.federating.seeds * (1 + len(self.arms))
        passes = models * tuning.epochs * self.federating.all_rounds
        price = network.training(self.experiment.data.rows.examples, tuning, passes=passes, models=models)
        return sum([network.evaluations(self.experiment.evaluations)] * (1 + models), price)

    def work(self, folder: Path) -> Finished:
        experiment = self.experiment
        trainings = FederatedTrainings(experiment=experiment, federating=self.federating, arms=self.arms)
        arms, rounds, energy, tokens = trainings.trained()
        ran, facts = experiment.run(arms, baseline=CENTRAL)
        costs = pl.Series([each.tokens if each else 0 for each in ran.trained], dtype=pl.Int64)
        trained = ran.frames["arms"].with_columns(tokens=costs)
        labels = [arm.label for arm in self.arms]
        plain = next((arm.label for arm in self.arms if arm.name == LORA), "")
        frames = ran.frames | experiment.tables(
            ran.frames["results"],
            trained,
            baseline=CENTRAL,
            among={"against_lora": (plain, labels)},
        )
        lines = pl.concat(rounds)
        frames |= {"partition": trainings.partition(), "rounds": lines, "energy": pl.concat(energy)}
        frames |= {"arms": trained, "traffic": counted(lines)}
        frames |= {"kept": _kept(frames["energy"]), "losses": _losses(lines)}
        write_frames(frames, folder)
        kept = next(arm for arm in arms if arm.label == self.arms[0].label)
        assert kept.given is not None
        keep_model(kept, kept.given.folder, folder / "model")
        for line in frames["kept"].iter_rows(named=True):
            say(
                f"{line['arm']}: the decomposition of {line['layer']} keeps {line['energy']:.0%} of its energy"
            )
        facts |= {
            "kept model": kept.label,
            "notes": [],
            "arms": [UNTUNED, CENTRAL, *labels],
            "baseline": CENTRAL,
            "clients": self.federating.clients,
            "trial": self._trial(facts["model"], frames),
        }
        return Finished(facts=facts, tokens=ran.tokens + tokens)

    def _trial(self, model: str, frames: dict[str, pl.DataFrame]) -> dict[str, Any]:
        """Return what the page of it says, by the names of ``TrialFacts``."""
        how = self.federating
        tables = {
            "Traffic: bytes that a client sent and received in all rounds, and tokens that it trained on (means)": "traffic",
            "Training loss of each round, as the clients met their own rows": "losses",
            "The clients: rows, kinds of rows, and how far their shares are from those of all (total variation)": "partition",
        }
        if "against_lora" in frames:
            tables = {"Beside federated LoRA": "against_lora"} | tables
        if frames["kept"].height:
            tables["Energy of stage 1 that the decomposition keeps, by kind of layer"] = "kept"
        return {
            "question": "What is lost where rows may not be pooled?",
            "lead": f"{model} was trained on {len(self.experiment.data.pool):,} rows of {how.clients} clients, divided by {how.by} "
            f"with alpha {how.alpha:g}, in {how.all_rounds} rounds.",
            "about": {
                UNTUNED: "the model as it is",
                CENTRAL: "one LoRA training on the rows of all clients, as if they were pooled",
            }
            | {arm.label: self._about(arm) for arm in self.arms},
            "baseline": CENTRAL,
            "beside": [UNTUNED],
            "asked_of": "what the model will be asked",
            "tables": tables,
            "alike": "All trained arms see the same rows as often. Sparse rounds and rounds of LoRA send "
            + (
                "about as many bytes."
                if how.density is None
                else f"what density {how.density:g} and the rank ask for."
            ),
            "said": self._warnings(frames),
            "notes": [
                "What leaves a client are values of weights, how many rows and tokens they are of, steps, and a mean loss. "
                "No row leaves it, and no text.",
                "Updates can tell of rows all the same: no privacy is promised. This federation was played through on one machine.",
                "Losses of rounds are those of the clients on their own rows, of several models: not the loss of the common one.",
                "A new optimizer begins in each round at each client.",
            ],
        }

    def _about(self, arm: FederatedArm) -> str:
        first, second = self.federating.rounds
        return _ABOUT[arm.name].format(
            average=_AVERAGE[arm.aggregate],
            first=first,
            second=second,
            residual="kept in the frozen weights" if arm.residual == "keep" else "dropped",
            mask="drawn one by one" if arm.mask == "random" else "whole rows",
        )

    def _warnings(self, frames: dict[str, pl.DataFrame]) -> list[str]:
        """Say what is to be distrusted."""
        said = []
        few = frames["partition"].filter(pl.col("rows") < FEW_ROWS)
        if few.height:
            said.append(
                f"{few.height} clients have fewer than {FEW_ROWS} rows: what they send is mostly noise."
            )
        for arm, mean in (
            frames["energy"].group_by("arm", maintain_order=True).agg(pl.col("energy").mean()).iter_rows()
        ):
            if mean < LITTLE_ENERGY:
                dropped = next(each for each in self.arms if each.label == arm).residual == "drop"
                so = "that much of stage 1 is lost" if dropped else "the rest stays in the frozen weights"
                said.append(f"{arm}: the decomposition keeps {mean:.0%} of the energy of stage 1; {so}.")
        sparse = frames["rounds"].filter(pl.col("stage") == "sparse", pl.col("why").is_null())
        means = sparse.group_by("arm", "seed", "round", maintain_order=True).agg(pl.col("loss").mean())
        ends = means.group_by("arm", maintain_order=True).agg(
            first=pl.col("loss").filter(pl.col("round") == pl.col("round").min()).mean(),
            last=pl.col("loss").filter(pl.col("round") == pl.col("round").max()).mean(),
        )
        said += [
            f"{arm}: the loss of sparse rounds rose from {first:.3f} to {last:.3f}: lower --tuning.learning-rate."
            for arm, first, last in ends.iter_rows()
            if last > first
        ]
        lost = frames["rounds"].filter(pl.col("why").is_not_null())
        said += [
            f"{arm}, seed {seed}: client {client} took no part in round {number}: {why}."
            for arm, seed, number, client, why in lost.select(
                "arm", "seed", "round", "client", "why"
            ).iter_rows()
        ]
        return said


def _kept(energy: pl.DataFrame) -> pl.DataFrame:
    """Return the energy by kind of layer: mean, least and most over layers and seeds."""
    kinds = energy.with_columns(pl.col("layer").str.split(".").list.last())
    return kinds.group_by("arm", "layer", maintain_order=True).agg(
        pl.col("energy").mean(), least=pl.col("energy").min(), most=pl.col("energy").max(), weights=pl.len()
    )


def _losses(rounds: pl.DataFrame) -> pl.DataFrame:
    """Return the mean loss of each round, weighted by rows, over clients that took part, and how many did not."""
    took = pl.col("why").is_null()
    weighted = (pl.col("loss") * pl.col("rows")).filter(took).sum() / pl.col("rows").filter(took).sum()
    return rounds.group_by("arm", "stage", "round", maintain_order=True).agg(
        loss=weighted, failures=pl.col("why").count()
    )
