"""The engine of experiments: arms become models, models get grades; what was done once is taken from the store.

An experiment says which arms there are (whatever a training depends on goes into ``Arm`` and its ``names``), what they
are graded on (``Evaluation``), which arm is the baseline that judges and differences compare with, and what else is
looked at in each model while it is open (``looks``). The third of its kind is one short file:
``ran = run_arms(arms, evaluations, ...)``, and its ``ran.frames`` written to a folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import polars as pl

from learnable.deferred import models, training
from learnable.evaluators import Completion, Evaluation, completions, graded_all, judged
from learnable.experiments.arms import Arm
from learnable.experiments.table import Measured, SelectionCost, arm_table
from learnable.runs.locks import locked
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.types import ModelRef

Look = Callable[["models.LanguageModel", pl.DataFrame], pl.DataFrame]
"""Takes a model and its grades, and returns a frame; arms of one model share it."""


Place = tuple[ModelRef, Path | None]
"""A model that is loaded, and the adapter on it."""


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """Arms, trained and graded.

    Args:
        trained: The training of each arm, None for a model as it is; of several stages, the last with the cost of all.
        frames: By the name of their file. ``arms``: ``arm``, ``budget_tokens``, ``seed``, ``examples``, the arms' own
            columns, ``tokens``, ``response_tokens``, ``steps``, ``seconds``, ``model``; a line for each arm. Where a
            sampler draws from the examples, ``tokens`` are those that it drew, and ``response_tokens`` are null.
            ``results``: ``arm``, ``budget_tokens``, ``seed``, ``evaluation``, ``id``, ``source``, ``value``,
            ``answer``, ``why``; a line for each arm and item. ``table``: as of ``arm_table``. And what was looked at,
            each with ``arm``, ``budget_tokens`` and ``seed`` before its columns.
        tokens: That were trained on in this run.
    """

    trained: "Sequence[training.Trained | None]"
    frames: dict[str, pl.DataFrame]
    tokens: int


def run_arms(
    arms: Sequence[Arm],
    evaluations: Sequence[Evaluation],
    *,
    max_length: int,
    store: Path,
    open_model: "Callable[[ModelRef], models.LanguageModel]",
    baseline: str,
    confidence: float,
    costs: Mapping[str, SelectionCost] | None = None,
    looks: Mapping[str, Look] | None = None,
) -> ArmRun:
    """Train all arms in their order, and grade their models; a killed run goes on where it was.

    What is in the ``store`` is never done twice. ``open_model`` loads a model, here or on a cluster; one is in memory at a
    time. Judges compare with the ``baseline`` too; ``looks`` are what else to take from each model, by name.
    """
    trained, tokens = train_arms(arms, max_length=max_length, store=store)
    say(f"evaluating {len(arms)} arms on {', '.join(each.label for each in evaluations)}")
    judges = [each for each in evaluations if each.evaluator.kind == "judge"]
    alone = [each for each in evaluations if each.evaluator.kind != "judge"]
    kept, looks = Store(store), looks or {}
    loaded: dict[ModelRef, models.LanguageModel] = {}  # one at a time
    grades, answers = dict[Place, pl.DataFrame](), dict[tuple[Place, str], list[Completion]]()
    looked = dict[tuple[Place, str], pl.DataFrame]()
    places = [
        place_of(arm.base, done, method=arm.tuning.method) for arm, done in zip(arms, trained, strict=True)
    ]
    # Models of one base one after the other, so that each base is loaded once.
    for number, place in enumerate(sorted(dict.fromkeys(places), key=lambda place: place[0].name), start=1):
        arm = arms[places.index(place)]
        what = f", model {number} of {len(set(places))}: {arm.label}, seed {arm.seed}"
        ref, adapter = place
        if ref not in loaded:
            loaded.clear()
            loaded[ref] = open_model(ref)
        model = loaded[ref]
        with model.adapter(adapter):
            grades[place] = graded_all(model, alone, store=kept, max_length=max_length, what=what)
            looked |= {(place, name): look(model, grades[place]) for name, look in looks.items()}
            for each in judges:
                judge, label = each.evaluator, each.label + what
                answers[place, each.label] = completions(model, judge, each.examples, store=kept, label=label)
    results = list[pl.DataFrame]()
    for arm, place in zip(arms, places, strict=True):
        results.append(_named(arm, grades[place]))
        beside = places[_beside(arm, arms, baseline)] if judges else place
        for each in judges:
            ones, others = answers[place, each.label], answers[beside, each.label]
            verdicts = judged(each.evaluator, each.examples, ones, others, store=kept)
            results.append(_named(arm, verdicts.select(pl.lit(each.label).alias("evaluation"), pl.all())))
    frame, graded = _arm_frame(arms, trained), pl.concat(results)
    measured = measured_by(evaluations)
    table = arm_table(
        graded, frame, evaluations=measured, baseline=baseline, costs=costs, confidence=confidence
    )
    frames = {"arms": frame, "results": graded, "table": table} | {
        name: pl.concat(_named(arm, looked[place, name]) for arm, place in zip(arms, places, strict=True))
        for name in looks
    }
    return ArmRun(trained=trained, frames=frames, tokens=tokens)


def train_arms(
    arms: Sequence[Arm], *, max_length: int, store: Path
) -> "tuple[list[training.Trained | None], int]":
    """Return the training of each arm, None for a model as it is, and on how many tokens this run trained.

    Equal arms share a training, and what the store has is not trained again; ``run_arms`` does this first.
    """

    @cache
    def identities(base: ModelRef) -> dict[str, str]:
        return {"base": models.identify(base), "rendering": models.Renderer.of(base).key}

    trainings, tokens = list[training.Trained | None](), 0
    for number, arm in enumerate(arms, start=1):
        label = f"training {number} of {len(arms)}: {arm.label}, seed {arm.seed}"
        if arm.given is not None or not arm.stages:
            trainings.append(arm.given)
            continue
        names = arm.names(**identities(arm.base), max_length=max_length)
        stages = list[training.Trained]()
        for name, examples in zip(names, arm.examples_by_stage, strict=True):
            start = stages[-1].folder if stages else None
            whole = start is not None and arm.tuning.method == "full"
            # Two experiments may share a store, and an arm.
            with locked(store / "arms" / f"{name}.lock"):
                trained = training.fine_tune(
                    replace(arm.base, name=str(start)) if whole else arm.base,
                    examples,
                    store / "arms" / name,
                    tuning=arm.tuning,
                    label=label + (f", stage {len(stages) + 1}" if len(names) > 1 else ""),
                    objective=arm.objective,
                    columns=arm.stored,
                    sampler=arm.sampler,
                    token_ids=arm.token_ids,
                    token_rate=arm.token_rate,
                    start=None if whole else start,
                )
            tokens += trained.tokens if trained.ran else 0
            stages.append(trained)
        trainings.append(training.Trained.together(stages))
    return trainings, tokens


def place_of(base: ModelRef, trained: "training.Trained | None", *, method: Literal["lora", "full"]) -> Place:
    """Return which model a training has come to: what is loaded, and the adapter on it."""
    if trained is None:
        return base, None
    if method == "full":
        return replace(base, name=str(trained.folder)), None
    return base, trained.folder


def _beside(arm: Arm, arms: Sequence[Arm], baseline: str) -> int:
    """Return the position of the baseline that an arm is compared with: of its seed, at its budget or the largest."""
    places = [
        (other.budget_tokens or 0, -position)
        for position, other in enumerate(arms)
        if (other.label, other.seed) == (baseline, arm.seed)
        and arm.budget_tokens in (None, other.budget_tokens)
    ]
    return -max(places)[1]


def measured_by(evaluations: Sequence[Evaluation]) -> list[Measured]:
    """Return what evaluations measure, with the unit and the better side of each."""
    return [
        Measured(label=each.label, unit=each.evaluator.unit, higher_is_better=each.evaluator.higher_is_better)
        for each in evaluations
    ]


def _named(arm: Arm, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame of one arm with the columns that say which arm."""
    budget = pl.lit(arm.budget_tokens, dtype=pl.Int64)
    return frame.select(
        pl.lit(arm.label).alias("arm"),
        budget.alias("budget_tokens"),
        pl.lit(arm.seed).alias("seed"),
        pl.all(),
    )


def _arm_frame(arms: Sequence[Arm], trained: "Sequence[training.Trained | None]") -> pl.DataFrame:
    def tokens(arm: Arm, done: "training.Trained | None") -> dict[str, int | None]:
        if done is not None and arm.sampler is not None:
            return {"tokens": done.tokens, "response_tokens": None}
        return {"tokens": arm.tokens, "response_tokens": arm.response_tokens}

    lines = [
        {
            "arm": arm.label,
            "budget_tokens": arm.budget_tokens,
            "seed": arm.seed,
            "examples": sum(map(len, arm.examples_by_stage)),
            **arm.columns,
            **tokens(arm, done),
            "steps": done.steps if done else 0,
            "seconds": done.seconds if done else 0.0,
            "model": done.folder.name if done else None,
        }
        for arm, done in zip(arms, trained, strict=True)
    ]
    return pl.DataFrame(lines, schema_overrides={"budget_tokens": pl.Int64, "model": pl.String})
