"""The arms of an imitation: a model trained against its own answers, beside plain fine-tuning on as many tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import polars as pl

from learnable.commands.experiment import Experiment
from learnable.commands.options import Several
from learnable.commands.own_answers import Stages, train_from
from learnable.errors import UsageError
from learnable.experiments import UNTUNED, Arm
from learnable.experiments.run import Place, place_of
from learnable.objectives import PREFERENCES, LinearMargin, Objective
from learnable.objects.given import render_rows
from learnable.runs.identity import fingerprint
from learnable.settings import Sampling, Tuning
from learnable.types import Example

if TYPE_CHECKING:
    from learnable.training import Trained

Loss = Literal["sigmoid", "hinge", "linear"]
SFT, CONTINUED, SPIN, IRFT = "sft", "sft continued", "spin", "irft"
FASTEST_LINEAR = 1e-4
"""Highest learning rate of LoRA at which the linear loss may go without an end."""


@dataclass(frozen=True, kw_only=True)
class StageTuning(Tuning):
    """How to train in each stage; see ``Tuning`` for the fields."""

    learning_rate: float | None = 5e-5


@dataclass(frozen=True, kw_only=True)
class Imitating:
    """How a reward is learned from demonstrations, and what that is compared with.

    Args:
        stages: Of the training, each with fresh answers of the model itself; 1 is SPIN.
        loss: Of the margin h of a demonstration above the model's own answer: sigmoid (as DPO), hinge or linear.
        beta: How dear it is to leave the model as a stage began, above 0.
        max_h: A linear stage ends after the first batch whose mean h is above it; 5 when not given, inf for no end.
        new_tokens: Most tokens of an own answer; one that is cut off is no pair.
        temperature: Of own answers; 1 is what the model itself would say.
        slices: Each stage takes a slice of the rows; without, every stage takes all.
        tuned: The model was fine-tuned on such rows already: it is not fine-tuned before the first stage.
        evaluate: Evaluations, each NAME:PATH@key=value; the loss of held-out rows when not given, and exact match where their
            answers are one line each.
        seeds: Trainings of each arm.
        confidence: Of all intervals of an evaluation together.
    """

    stages: int = 3
    loss: Loss = "sigmoid"
    beta: float = 0.1
    max_h: float | None = None
    new_tokens: int = 64
    temperature: float = 1.0
    slices: bool = True
    tuned: bool = False
    evaluate: Annotated[Sequence[str], Several] = ()
    seeds: int = 3
    confidence: float = 0.95

    @property
    def sampling(self) -> Sampling:
        """How own answers are drawn."""
        return Sampling(temperature=self.temperature, top_p=1.0, max_new_tokens=self.new_tokens)

    def objective(self, tuning: Tuning) -> Objective:
        """Return the loss of pairs.

        Raises:
            UsageError: If a number is none, or a setting has no effect.
        """
        if self.stages < 1:
            raise UsageError(f"stages must be at least 1, got {self.stages}", hint="1 is SPIN")
        if not self.temperature > 0:
            raise UsageError(
                f"temperature must be above 0, got {self.temperature}",
                hint="a greedy answer is not drawn from the model; 1 is",
            )
        if self.max_h is not None and self.loss != "linear":
            raise UsageError(
                f"max_h ends linear stages, and the loss is {self.loss}", hint="leave --max-h out"
            )
        if self.loss != "linear":
            return PREFERENCES[self.loss](beta=self.beta)
        objective = LinearMargin(beta=self.beta, **({} if self.max_h is None else {"max_h": self.max_h}))
        endless = objective.max_h == float("inf") and tuning.method == "lora"
        if endless and tuning.peak_learning_rate > FASTEST_LINEAR:
            raise UsageError(
                f"the linear loss has no least value: at a learning rate of {tuning.peak_learning_rate:g} it needs an end",
                hint=f"give --max-h 5, or --tuning.learning-rate {FASTEST_LINEAR:g} or lower",
            )
        return objective


@dataclass(frozen=True, kw_only=True)
class SeedArms:
    """The arms of a seed, the model that their stages start from, the frames of these stages, and the tokens computed."""

    arms: Sequence[Arm]
    start: Place
    stages: Sequence[pl.DataFrame]
    dropped: Sequence[pl.DataFrame]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class ImitationArms:
    """Makes the arms of an imitation, seed by seed; without ``sft`` the model is tuned already."""

    experiment: Experiment
    imitating: Imitating
    objective: Objective
    sft: Tuning | None
    taught: Sequence[Example]

    @property
    def labels(self) -> list[str]:
        """The arms, in the order of the table."""
        staged = [SPIN, IRFT] if self.imitating.stages > 1 else [SPIN]
        return [UNTUNED, *([] if self.sft is None else [SFT]), CONTINUED, *staged]

    def of(self, seed: int) -> "SeedArms":
        """Train all arms of a seed: the start, the stages, and plain fine-tuning on as many tokens."""
        from learnable.models.rendering import Renderer

        experiment, imitating = self.experiment, self.imitating
        network, tuning = experiment.network, replace(experiment.tuning, seed=seed)
        taught = render_rows(
            Renderer.of(network.ref), self.taught, max_length=network.longest, most_refused=0.0
        )
        plain = partial(train_from, network=network, store=experiment.store)
        arm = partial(Arm, seed=seed, base=network.ref, tuning=tuning)
        start: Place = (network.ref, None)
        tokens = 0
        arms = [] if seed else [arm(label=UNTUNED, stages=(), columns=_counts())]
        if self.sft is not None:
            how = replace(self.sft, seed=seed)
            begun = plain(start, taught, tuning=how, label=f"{SFT}, seed {seed}")
            start = place_of(network.ref, begun, method=how.method)
            tokens += begun.tokens if begun.ran else 0
            arms.append(arm(label=SFT, stages=(tuple(taught),), given=begun, columns=_counts(begun)))
        stages = Stages(
            network=network,
            objective=self.objective,
            sampling=imitating.sampling,
            tuning=tuning,
            store=experiment.store,
        )
        ordered = sorted(self.taught, key=lambda each: fingerprint(["slices", seed, each.id]))
        parts = [
            ordered[first :: imitating.stages] if imitating.slices else ordered
            for first in range(imitating.stages)
        ]
        last = self.labels[-1]
        walked = {last: stages.walk(parts, start, seed=seed, label=last)}
        equal = walked[last].trained.tokens
        if last != SPIN:
            walked = {SPIN: stages.walk([ordered], start, seed=seed, label=SPIN, tokens=equal), **walked}
        how = replace(tuning, epochs=equal / sum(len(each.ids) for each in taught))
        continued = plain(start, taught, tuning=how, label=f"{CONTINUED}, seed {seed}")
        tokens += continued.tokens if continued.ran else 0
        arms.append(
            arm(label=CONTINUED, stages=(tuple(taught),), given=continued, columns=_counts(continued))
        )
        for label, each in walked.items():
            contrasted = partial(arm, objective=self.objective, columns=_counts(each.trained, each.figures))
            arms.append(contrasted(label=label, stages=each.rows, given=each.trained))
        return SeedArms(
            arms=arms,
            start=start,
            stages=[
                each.figures.select(pl.lit(label).alias("arm"), pl.all()) for label, each in walked.items()
            ],
            dropped=[
                each.dropped.select(pl.lit(label).alias("arm"), pl.lit(seed).alias("seed"), pl.all())
                for label, each in walked.items()
            ],
            tokens=tokens + sum(each.tokens for each in walked.values()),
        )


def _counts(trained: "Trained | None" = None, stages: pl.DataFrame | None = None) -> dict[str, int]:
    """Return the columns of an arm: tokens that it was trained on and that it generated for that, and its stages."""
    return {
        "trained_tokens": trained.tokens if trained else 0,
        "generated_tokens": 0 if stages is None else int(stages["generated_tokens"].sum()),
        "stages": 0 if stages is None else stages.height,
    }
