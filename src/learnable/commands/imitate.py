"""What ``learnable run irft`` does: rewards learned from demonstrations, beside plain fine-tuning at equal tokens."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl

from learnable.commands.experiment import Begun, Experiment, keep_model, write_frames
from learnable.commands.inputs import heldout_of
from learnable.commands.network import Network
from learnable.commands.options import Confidence, Several
from learnable.commands.own_answers import (
    Stages,
    Walked,
    demonstrations,
    held_out,
    room_for,
    train_from,
    uneven,
    warnings_of,
)
from learnable.commands.preferred import PREFERRED, Preferred, distances, far, preferences
from learnable.deferred import models, training
from learnable.errors import UsageError
from learnable.evaluators import Evaluation, evaluations_of
from learnable.experiments import UNTUNED, Arm, arm_table, check_settings, measured_by
from learnable.experiments.run import Place, place_of
from learnable.objectives import PREFERENCES, LinearMargin, Objective
from learnable.objects.given import render_rows
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.price import Price
from learnable.runs.step import Finished, Step
from learnable.settings import Sampling, Tuning
from learnable.types import Example

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
        new_tokens: Most tokens of an own answer, and one that is cut off is no pair; room for 95 % of the demonstrations,
            at most 512, when not given.
        temperature: Of own answers; 1 is what the model itself would say.
        slices: Each stage takes a slice of the rows; without, every stage takes all.
        tuned: The model was fine-tuned on such rows already: it is not fine-tuned before the first stage.
        evaluate: Evaluations, each NAME:PATH@key=value; the loss of held-out rows when not given, and exact match where their
            answers are one line each.
        seeds: Trainings of each arm.
    """

    stages: int = 3
    loss: Loss = "sigmoid"
    beta: float = 0.1
    max_h: float | None = None
    new_tokens: int | None = None
    temperature: float = 1.0
    slices: bool = True
    tuned: bool = False
    evaluate: Annotated[Sequence[str], Several] = ()
    seeds: int = 3
    confidence: Confidence = 0.95

    @property
    def sampling(self) -> Sampling:
        """How own answers are drawn, once their most tokens are known."""
        assert self.new_tokens is not None
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


def imitate(begun: Begun, *, imitating: Imitating, sft: Tuning, tuning: Tuning) -> Step:
    """Train a model on demonstrations against its own answers, stage by stage, and compare with plain fine-tuning."""
    objective = imitating.objective(tuning)
    for each in (sft, tuning):
        check_settings(each, seeds=imitating.seeds, confidence=imitating.confidence)
    if sft.method != tuning.method:
        raise UsageError(
            f"the stages train with {tuning.method} what was tuned with {sft.method}",
            hint="give the same method to both",
        )
    network, loaded = begun.network, begun.loaded.step
    if not network.awaits:
        _check_template(network)
    taught = demonstrations(begun.loaded.rows.examples)
    if imitating.stages > len(taught):
        raise UsageError(
            f"{imitating.stages:,} stages are more than there are rows, {len(taught):,}",
            hint="lower --stages",
        )
    heldout = held_out(loaded)
    room = room_for(taught, heldout, network, new_tokens=imitating.new_tokens)
    imitating = replace(imitating, new_tokens=room)
    asked = _evaluations(imitating, heldout, heldout_of(loaded))
    experiment = begun.experiment(tuning, imitating, asked)
    trial = _Imitation(
        experiment=experiment,
        imitating=imitating,
        objective=objective,
        sft=None if imitating.tuned else sft,
        taught=taught,
        heldout=heldout,
    )
    return experiment.step(
        "run irft",
        trial,
        parameters={
            "imitating": fingerprint(asdict(imitating) | {"evaluate": None}),
            "sft": None if trial.sft is None else fingerprint(sft),
        },
        inputs={"heldout": fingerprint([each.id for each in heldout])},
        sources={"objective": source_of(objective)},
    )


def _check_template(network: Network) -> None:
    if network.renderer.uses_default_template:
        raise UsageError(
            f"{network.ref.name} brings no chat template: where its own answers end would be a guess",
            hint=models.templates.template_hint(),
        )


def _evaluations(imitating: Imitating, heldout: Sequence[Example], path: Path) -> list[Evaluation]:
    """Return what the models are asked, beside whether demonstrations are preferred."""
    if imitating.evaluate:
        return evaluations_of(imitating.evaluate, heldout=path)
    found = evaluations_of(["heldout"], heldout=path)
    if all("\n" not in each.messages[-1].content.strip() for each in heldout):
        written = f"exact_match:{path}@extract=text,max_new_tokens={imitating.sampling.max_new_tokens},source_column=source"
        found += [replace(each, label="exact match, heldout") for each in evaluations_of([written])]
    return found


@dataclass(frozen=True, kw_only=True)
class SeedArms:
    """The arms of a seed, the model that their stages start from, what these came to, and the tokens computed."""

    arms: Sequence[Arm]
    start: Place
    walked: Sequence[Walked]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class _Imitation:
    """Arms of the ``taught`` demonstrations; without ``sft`` the model is tuned already. Judged on those ``heldout``."""

    experiment: Experiment
    imitating: Imitating
    objective: Objective
    sft: Tuning | None
    taught: Sequence[Example]
    heldout: Sequence[Example]

    @property
    def says(self) -> list[str]:
        seeds, says = self.experiment.seeds, list[str]()
        many = {IRFT: f" in {self.imitating.stages} stages", SPIN: " in 1 stage"}
        for label in self.labels[1:]:
            says.append(f"{seeds} trainings of {label}{many.get(label, '')}")
        answers = f"{len(self.taught):,} own answers of at most {self.imitating.sampling.max_new_tokens:,} tokens for each of these"
        return [*says, answers, f"{len(self.heldout):,} held-out rows for each model"]

    def price(self) -> Price:
        """Return what it will cost, own answers counted with the most tokens they may have."""
        pricing = self.experiment.network
        experiment, imitating, taught = self.experiment, self.imitating, self.taught
        seeds, tuning = experiment.seeds, experiment.tuning
        every = imitating.stages if not imitating.slices else 1
        staged = len(self.labels) - self.labels.index(CONTINUED)
        # Pairs have two answers; the other arms get as many tokens.
        passes = 2 * every * tuning.epochs * staged * seeds
        price = pricing.training(taught, tuning, passes=passes, models=seeds * staged)
        if self.sft is not None:
            price += pricing.training(taught, self.sft, passes=self.sft.epochs * seeds, models=seeds)
        prompts = [each.messages[:-1] for each in taught]
        written = pricing.writing(len(taught), new_tokens=imitating.sampling.max_new_tokens, prompts=prompts)
        judged = [each.messages[:-1] for each in self.heldout]
        asked = pricing.writing(len(judged), new_tokens=imitating.sampling.max_new_tokens, prompts=judged)
        stage = written + pricing.measuring(taught, passes=2)
        models = 1 + seeds * (len(self.labels) - 1)
        prices = [price, *[stage] * (every * (staged - 1) * seeds)]
        return sum([*prices, *[pricing.evaluations(experiment.evaluations) + asked] * models], Price())

    def work(self, folder: Path) -> Finished:
        experiment, imitating = self.experiment, self.imitating
        made = [self.of(seed) for seed in range(experiment.seeds)]
        arms = [arm for each in made for arm in each.arms]
        preferred = Preferred(
            network=experiment.network,
            heldout=self.heldout,
            sampling=replace(imitating.sampling, temperature=1.0),
            store=experiment.store,
        )
        ran, facts = experiment.run(arms, baseline=CONTINUED, looks={"own": preferred.look})
        starts = {seed: each.start for seed, each in enumerate(made)}
        trained = ran.frames["arms"].with_columns(tokens="trained_tokens").drop("trained_tokens")
        own, computed = preferred.since(ran.frames["own"], starts, beta=imitating.beta)
        results = pl.concat([ran.frames["results"], preferences(own)])
        measured = measured_by(experiment.evaluations)
        table = arm_table(
            results,
            trained,
            evaluations=[*measured, PREFERRED],
            baseline=CONTINUED,
            confidence=experiment.confidence,
        )
        named = ("examples", "stages", "steps", "tokens", "generated_tokens", "seconds")
        costs = trained.group_by("arm", maintain_order=True).agg(pl.col(*named).mean())
        frames = ran.frames | {"results": results, "table": table, "own": own, "distance": distances(own)}
        frames |= {"arms": trained, "cost": costs}
        walked = [each for of_seed in made for each in of_seed.walked]
        frames["stages"] = pl.concat(each.figures for each in walked)
        frames["dropped"] = pl.concat(each.dropped for each in walked)
        write_frames(frames, folder)
        after = self.labels[self.labels.index(CONTINUED) :]
        further, evenly = (frames[name].filter(pl.col("arm").is_in(after)) for name in ("distance", "cost"))
        said = [*warnings_of(frames["stages"]), *uneven(evenly), *far(further)]
        last = next(arm for arm in arms if arm.label == self.labels[-1])
        assert last.given is not None
        keep_model(last, last.given.folder, folder / "model")
        facts |= {
            "evaluations": [*facts["evaluations"], PREFERRED.label],
            "arms": self.labels,
            "baseline": CONTINUED,
            "notes": [],
            "kept model": self.labels[-1],
            "demonstrations": len(self.taught),
            "held out": len(self.heldout),
            "trial": self.trial(facts["model"], said=said),
        }
        return Finished(facts=facts, tokens=ran.tokens + computed + sum(each.tokens for each in made))

    def trial(self, model: str, *, said: Sequence[str]) -> dict[str, Any]:
        """Return what the page of it says, by the names of ``TrialFacts``; ``said`` is what is to be distrusted."""
        imitating = self.imitating
        stages = f"{imitating.stages} stages, each with answers of its own start"
        about = {
            UNTUNED: "the model as it is" + (", from which all others start" if self.sft is None else ""),
            SFT: "fine-tuned on the demonstrations; all others below start from it",
            CONTINUED: "fine-tuned on the demonstrations with as many tokens as the last arm, in whole steps",
            SPIN: f"against its own answers ({imitating.loss}), in one stage",
            IRFT: f"against its own answers ({imitating.loss}), in {stages}",
        }
        settings = (
            f"beta {imitating.beta:g}, own answers of at most {imitating.sampling.max_new_tokens:,} tokens"
        )
        *others, last = self.labels[self.labels.index(CONTINUED) :]
        return {
            "question": "Do the same rows give more?",
            "lead": f"{model} was trained on {len(self.taught):,} demonstrations, plainly and against its own answers.",
            "about": {label: about[label] for label in self.labels},
            "baseline": CONTINUED,
            "beside": self.labels[: self.labels.index(CONTINUED)],
            "alike": f"{' and '.join(others)} {'are' if len(others) > 1 else 'is'} trained on as many tokens as {last}, rounded "
            "up to whole optimizer steps, or fewer where a linear stage ends sooner; “Figures and cost” has the tokens.",
            "asked_of": "what the demonstrations teach",
            "tables": {
                "Tokens and time, by arm (means over seeds; the start is not counted)": "cost",
                "How far each model went from the start: KL in nats per token of its own answers": "distance",
                "The stages": "stages",
            },
            "said": said,
            "notes": [
                f"Pairs are a demonstration and an own answer drawn at temperature {imitating.temperature:g}; {settings}.",
                "An own answer that is cut off, empty or the demonstration itself is no pair: dropped.parquet lists them.",
                f"“{PREFERRED.label}” asks on held-out rows whether the demonstration gained more likelihood since the "
                "start than a fresh answer of the model itself, drawn at temperature 1; a tie counts half.",
                "Tokens are all that a training computed, the start's not counted in those that begin from it.",
                "Loss on held-out rows can rise while what the model writes gets better, and the other way around.",
            ],
        }

    @property
    def labels(self) -> list[str]:
        """The arms, in the order of the table."""
        staged = [SPIN, IRFT] if self.imitating.stages > 1 else [SPIN]
        return [UNTUNED, *([] if self.sft is None else [SFT]), CONTINUED, *staged]

    def of(self, seed: int) -> SeedArms:
        """Train all arms of a seed: the start, the stages, and plain fine-tuning on as many tokens."""
        experiment, imitating = self.experiment, self.imitating
        network, tuning = experiment.network, replace(experiment.tuning, seed=seed)
        taught = render_rows(network.renderer, self.taught, max_length=network.longest, most_refused=0.0)
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
            walked=list(walked.values()),
            tokens=tokens + sum(each.tokens for each in walked.values()),
        )


def _counts(trained: "training.Trained | None" = None, stages: pl.DataFrame | None = None) -> dict[str, int]:
    """Return the columns of an arm: tokens that it was trained on and that it generated for that, and its stages."""
    return {
        "trained_tokens": trained.tokens if trained else 0,
        "generated_tokens": 0 if stages is None else int(stages["generated_tokens"].sum()),
        "stages": 0 if stages is None else stages.height,
    }
