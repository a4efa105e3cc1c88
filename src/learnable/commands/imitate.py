"""What ``learnable run irft`` does: rewards learned from demonstrations, beside plain fine-tuning at equal tokens."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from learnable.commands.compare import heldout_of
from learnable.commands.experiment import Experiment, keep_model, write_frames
from learnable.commands.imitation_arms import (
    CONTINUED,
    IRFT,
    SFT,
    SPIN,
    Imitating,
    ImitationArms,
    StageTuning,
)
from learnable.commands.inputs import pool_of
from learnable.commands.network import Network
from learnable.commands.options import DryRun, MaxLength, ModelName, Output, StoreFolder
from learnable.commands.own_answers import demonstrations, held_out, warnings_of
from learnable.commands.preferred import PREFERRED, Preferred, distances, far, preferences
from learnable.errors import UsageError
from learnable.evaluators import Evaluation, evaluations_of
from learnable.experiments import UNTUNED, arm_table, check_settings, measured_by
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.price import Price
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, run
from learnable.settings import Loading, Reading, Tuning
from learnable.types import Example


def imitate(
    data: list[str],
    *,
    model: ModelName = "starter",
    imitating: Imitating = Imitating(),
    sft: Tuning = Tuning(),
    tuning: Tuning = StageTuning(),
    loading: Loading = Loading(),
    max_length: MaxLength = None,
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "imitation",
) -> Outcome:
    """Train a model on demonstrations against its own answers, stage by stage, and compare with plain fine-tuning.

    Args:
        data: A folder that `learnable load --holdout` wrote.
        imitating: How the reward is learned.
        sft: How to fine-tune before the first stage.
        tuning: How to train in each stage, and in plain fine-tuning beside.
    """
    objective = imitating.objective(tuning)
    for each in (sft, tuning):
        check_settings(each, seeds=imitating.seeds, confidence=imitating.confidence)
    if sft.method != tuning.method:
        raise UsageError(
            f"the stages train with {tuning.method} what was tuned with {sft.method}",
            hint="give the same method to both",
        )
    network = Network.of(model, loading, max_length=max_length, dry_run=dry_run)
    if not network.awaits:
        _check_template(network)
    pool, loaded = pool_of(data, Reading(), output, dry_run=dry_run)
    taught = demonstrations(list(pool.iter_examples()))
    if imitating.stages > len(taught):
        raise UsageError(
            f"{imitating.stages:,} stages are more than there are rows, {len(taught):,}",
            hint="lower --stages",
        )
    heldout = held_out(loaded)
    asked = _evaluations(imitating, heldout, heldout_of(loaded))
    experiment = Experiment.of(network, tuning, imitating, store, loaded=loaded, evaluations=asked)
    arms = ImitationArms(
        experiment=experiment,
        imitating=imitating,
        objective=objective,
        sft=None if imitating.tuned else sft,
        taught=taught,
    )
    step = experiment.step(
        "run irft",
        _Imitation(experiment=experiment, arms=arms, heldout=heldout),
        parameters={
            "imitating": fingerprint(asdict(imitating) | {"evaluate": None}),
            "sft": None if arms.sft is None else fingerprint(sft),
        },
        inputs={"heldout": fingerprint([each.id for each in heldout])},
        sources={"objective": source_of(objective)},
    )
    return run(step, output, dry_run=dry_run)


def _check_template(network: Network) -> None:
    from learnable.models.rendering import Renderer
    from learnable.models.templates import template_hint

    if Renderer.of(network.ref).uses_default_template:
        raise UsageError(
            f"{network.ref.name} brings no chat template: where its own answers end would be a guess",
            hint=template_hint(),
        )


def _evaluations(imitating: Imitating, heldout: Sequence[Example], path: Path) -> list[Evaluation]:
    """Return what the models are asked, beside whether demonstrations are preferred."""
    if imitating.evaluate:
        return evaluations_of(imitating.evaluate, heldout=path)
    found = evaluations_of(["heldout"], heldout=path)
    if all("\n" not in each.messages[-1].content.strip() for each in heldout):
        written = (
            f"exact_match:{path}@extract=text,max_new_tokens={imitating.new_tokens},source_column=source"
        )
        found += [replace(each, label="exact match, heldout") for each in evaluations_of([written])]
    return found


@dataclass(frozen=True, kw_only=True)
class _Imitation:
    """An imitation whose inputs are found: what it will do, and how it is done."""

    experiment: Experiment
    arms: ImitationArms
    heldout: Sequence[Example]

    @property
    def says(self) -> list[str]:
        seeds, says = self.experiment.seeds, list[str]()
        for label in self.arms.labels[1:]:
            many = (
                f"{self.arms.imitating.stages} stages"
                if label == IRFT
                else "1 stage"
                if label == SPIN
                else ""
            )
            says.append(f"{seeds} trainings of {label}{f' in {many}' if many else ''}")
        answers = f"{len(self.arms.taught):,} own answers of at most {self.arms.imitating.new_tokens:,} tokens for each of these"
        return [*says, answers, f"{len(self.heldout):,} held-out rows for each model"]

    def price(self) -> Price:
        """Return what it will cost, own answers counted with the most tokens they may have."""
        pricing = self.experiment.network
        experiment, imitating, taught = self.experiment, self.arms.imitating, list(self.arms.taught)
        seeds, tuning = experiment.seeds, experiment.tuning
        every = imitating.stages if not imitating.slices else 1
        staged = len(self.arms.labels) - self.arms.labels.index(CONTINUED)
        # Pairs have two answers; the other arms get as many tokens.
        passes = 2 * every * tuning.epochs * staged * seeds
        price = pricing.training(taught, tuning, passes=passes, models=seeds * staged)
        if self.arms.sft is not None:
            price += pricing.training(
                taught, self.arms.sft, passes=self.arms.sft.epochs * seeds, models=seeds
            )
        prompts = [each.messages[:-1] for each in taught]
        written = pricing.writing(len(taught), new_tokens=imitating.new_tokens, prompts=prompts)
        judged = [each.messages[:-1] for each in self.heldout]
        asked = pricing.writing(len(judged), new_tokens=imitating.new_tokens, prompts=judged)
        stage = written + pricing.measuring(taught, passes=2)
        models = 1 + seeds * (len(self.arms.labels) - 1)
        prices = [price, *[stage] * (every * (staged - 1) * seeds)]
        return sum([*prices, *[pricing.evaluations(experiment.evaluations) + asked] * models], Price())

    def work(self, folder: Path) -> Finished:
        """Train all arms, ask them, and write what came of it."""
        experiment, imitating = self.experiment, self.arms.imitating
        made = [self.arms.of(seed) for seed in range(experiment.seeds)]
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
        frames = ran.frames | {"results": results, "table": table, "own": own, "distance": distances(own)}
        frames |= {"arms": trained, "cost": _costs(trained)}
        for name in ("stages", "dropped"):
            frames[name] = pl.concat(frame for each in made for frame in getattr(each, name))
        write_frames(frames, folder)
        after = self.arms.labels[self.arms.labels.index(CONTINUED) :]
        further = frames["distance"].filter(pl.col("arm").is_in(after))
        last = next(arm for arm in arms if arm.label == self.arms.labels[-1])
        assert last.given is not None
        keep_model(last, last.given.folder, folder / "model")
        facts |= {
            "evaluations": [*facts["evaluations"], PREFERRED.label],
            "arms": self.arms.labels,
            "baseline": CONTINUED,
            "notes": [],
            "kept model": self.arms.labels[-1],
            "demonstrations": len(self.arms.taught),
            "held out": len(self.heldout),
            "trial": self.trial(facts["model"], said=[*warnings_of(frames["stages"]), *far(further)]),
        }
        return Finished(facts=facts, tokens=ran.tokens + computed + sum(each.tokens for each in made))

    def trial(self, model: str, *, said: Sequence[str]) -> dict[str, Any]:
        """Return what the page of it says, by the names of ``TrialFacts``; ``said`` is what is to be distrusted."""
        imitating = self.arms.imitating
        stages, tuned = (
            f"{imitating.stages} stages, each with answers of its own start",
            self.arms.sft is None,
        )
        about = {
            UNTUNED: "the model as it is" + (", from which all others start" if tuned else ""),
            SFT: "fine-tuned on the demonstrations; all others below start from it",
            CONTINUED: "fine-tuned on the demonstrations with as many tokens as the last arm",
            SPIN: f"against its own answers ({imitating.loss}), in one stage",
            IRFT: f"against its own answers ({imitating.loss}), in {stages}",
        }
        settings = f"beta {imitating.beta:g}, own answers of at most {imitating.new_tokens:,} tokens"
        return {
            "question": "Do the same rows give more?",
            "lead": f"{model} was trained on {len(self.arms.taught):,} demonstrations, plainly and against its own answers.",
            "about": {label: about[label] for label in self.arms.labels},
            "baseline": CONTINUED,
            "beside": self.arms.labels[: self.arms.labels.index(CONTINUED)],
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


def _costs(arms: pl.DataFrame) -> pl.DataFrame:
    """Return what each arm took, means over the seeds."""
    names = ("examples", "stages", "steps", "tokens", "generated_tokens", "seconds")
    return arms.group_by("arm", maintain_order=True).agg(pl.col(name).mean() for name in names)
