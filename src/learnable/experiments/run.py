"""The engine of experiments: arms become models, models get grades; what was done once is taken from the store.

An experiment says three things, and has the rest from here:

- which arms there are: ``Arm``, with its rows rendered; ``methods.arms_of`` makes those of selections, and
  `learnable teach` those of mixtures. Two data orders, a merge's copies, two samplers or two losses are arms as well:
  whatever a training depends on goes into ``Arm`` and its ``names``;
- what they are graded on: ``Evaluation``, an evaluator with its items, by ``evaluations_of``; and which arm is the
  baseline, that judges compare answers with and differences are to;
- what else is looked at in each model while it is open: ``looks``.

The third of its kind is one short file: ``arms = [...]``, ``ran = run_arms(arms, evaluations, ...)``, and its
``ran.frames`` written to a folder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl

from learnable.evaluators import Completion, Evaluation, JudgeEvaluator, completions, graded_all, judged
from learnable.experiments.arms import Arm
from learnable.experiments.table import Measured, SelectionCost, arm_table
from learnable.runs.locks import waiting_lock
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.types import ModelRef

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.training import Trained

Look = Callable[["LanguageModel", pl.DataFrame], pl.DataFrame]
"""Takes a model and its grades, and returns a frame; arms of one model share it."""


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """Arms, trained and graded.

    Args:
        trained: The training of each arm, None for a model as it is; of several stages, the last with the cost of all.
        arms: ``arm``, ``budget_tokens``, ``seed``, ``examples``, the arms' own columns, ``tokens``,
            ``response_tokens``, ``steps``, ``seconds``, ``model``; a line for each arm.
        results: ``arm``, ``budget_tokens``, ``seed``, ``evaluation``, ``id``, ``source``, ``value``, ``answer``,
            ``why``; a line for each arm and item.
        table: As of ``arm_table``.
        looks: What was looked at, by name, each with ``arm``, ``budget_tokens`` and ``seed`` before its columns.
        tokens: That were trained on in this run.
    """

    trained: "Sequence[Trained | None]"
    arms: pl.DataFrame
    results: pl.DataFrame
    table: pl.DataFrame
    looks: Mapping[str, pl.DataFrame]
    tokens: int

    @property
    def frames(self) -> dict[str, pl.DataFrame]:
        """All frames, by the name of their file."""
        return {"arms": self.arms, "results": self.results, "table": self.table, **self.looks}


def run_arms(
    arms: Sequence[Arm],
    evaluations: Sequence[Evaluation],
    *,
    max_length: int,
    store: Path,
    open_model: "Callable[[ModelRef], LanguageModel]",
    baseline: str,
    confidence: float,
    costs: Mapping[str, SelectionCost] | None = None,
    looks: Mapping[str, Look] | None = None,
) -> ArmRun:
    """Train all arms in their order, and grade their models; a killed run goes on where it was.

    Args:
        arms: One or more.
        evaluations: What every model is asked.
        max_length: Longest example in tokens.
        store: Folder of measurements and trainings; what is in it is never done twice.
        open_model: Loads a model, here or on a cluster; one is in memory at a time.
        baseline: Label of the arm that the others are compared with, by judges too.
        confidence: Of the intervals of an evaluation together.
        costs: What arms cost before any training, see ``arm_table``.
        looks: What else to take from each model, by name.
    """
    trained, tokens = _train(arms, max_length=max_length, store=store)
    say(f"evaluating {len(arms)} arms on {', '.join(each.label for each in evaluations)}")
    judges = [each for each in evaluations if each.evaluator.kind == "judge"]
    alone = [each for each in evaluations if each.evaluator.kind != "judge"]
    kept = Store(store)
    loaded: dict[ModelRef, LanguageModel] = {}
    found: dict[tuple[ModelRef, Path | None], _Found] = {}
    keys = [_place(arm, done) for arm, done in zip(arms, trained, strict=True)]
    # Models of one base one after the other, so that each base is loaded once.
    for number, key in enumerate(sorted(dict.fromkeys(keys), key=lambda key: key[0].name), start=1):
        arm = arms[keys.index(key)]
        what = f", model {number} of {len(set(keys))}: {arm.label}, seed {arm.seed}"
        with _opened(*key, loaded, open_model) as model:
            grades = graded_all(model, alone, store=kept, max_length=max_length, what=what)
            found[key] = _Found(
                grades=grades,
                looks={name: look(model, grades) for name, look in (looks or {}).items()},
                answers=_answers(model, judges, store=kept, what=what),
            )
    results = list[pl.DataFrame]()
    for arm, key in zip(arms, keys, strict=True):
        results.append(_named(arm, found[key].grades))
        for each in judges:
            ones, others = (
                found[place].answers[each.label] for place in (key, keys[_beside(arm, arms, baseline)])
            )
            verdicts = judged(cast("JudgeEvaluator", each.evaluator), each.examples, ones, others, store=kept)
            results.append(_named(arm, verdicts.select(pl.lit(each.label).alias("evaluation"), pl.all())))
    frame = _arm_frame(arms, trained)
    measured = [
        Measured(label=each.label, unit=each.evaluator.unit, higher_is_better=each.evaluator.higher_is_better)
        for each in evaluations
    ]
    graded = pl.concat(results)
    return ArmRun(
        trained=trained,
        arms=frame,
        results=graded,
        table=arm_table(
            graded, frame, evaluations=measured, baseline=baseline, costs=costs, confidence=confidence
        ),
        looks={
            name: pl.concat(_named(arm, found[key].looks[name]) for arm, key in zip(arms, keys, strict=True))
            for name in looks or {}
        },
        tokens=tokens,
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What came of one model: its grades, what was looked at, and its answers by evaluation of a judge."""

    grades: pl.DataFrame
    looks: Mapping[str, pl.DataFrame]
    answers: Mapping[str, list[Completion]]


def _train(arms: Sequence[Arm], *, max_length: int, store: Path) -> "tuple[list[Trained | None], int]":
    """Return the training of each arm, and on how many tokens this run trained; equal arms share a training."""
    from learnable.models import Renderer
    from learnable.models.source import identify
    from learnable.training import Trained, fine_tune

    @cache
    def identities(base: ModelRef) -> dict[str, str]:
        return {"base": identify(base), "rendering": Renderer.of(base).key}

    trainings, tokens = list[Trained | None](), 0
    for number, arm in enumerate(arms, start=1):
        label = f"training {number} of {len(arms)}: {arm.label}, seed {arm.seed}"
        names = arm.names(**identities(arm.base), max_length=max_length) if arm.stages else []
        stages = list[Trained]()
        for name, rows in zip(names, arm.stages, strict=True):
            start = stages[-1].folder if stages else None
            whole = start is not None and arm.tuning.method == "full"
            # Two experiments may share a store, and an arm.
            with waiting_lock(store / "arms" / f"{name}.lock"):
                trained = fine_tune(
                    replace(arm.base, name=str(start)) if whole else arm.base,
                    rows,
                    store / "arms" / name,
                    tuning=arm.tuning,
                    label=label + (f", stage {len(stages) + 1}" if len(names) > 1 else ""),
                    token_ids=arm.token_ids,
                    start=None if whole else start,
                )
            tokens += trained.tokens if trained.ran else 0
            stages.append(trained)
        trainings.append(_together(stages) if stages else None)
    return trainings, tokens


def _together(stages: "Sequence[Trained]") -> "Trained":
    """Return a training of several stages as one: the model of the last, the cost of all."""
    return replace(
        stages[-1],
        tokens=sum(each.tokens for each in stages),
        steps=sum(each.steps for each in stages),
        seconds=sum(each.seconds for each in stages),
        ran=any(each.ran for each in stages),
    )


def _place(arm: Arm, trained: "Trained | None") -> tuple[ModelRef, Path | None]:
    """Return which model an arm has come to: what is loaded, and the adapter on it."""
    if trained is None:
        return arm.base, None
    if arm.tuning.method == "full":
        return replace(arm.base, name=str(trained.folder)), None
    return arm.base, trained.folder


@contextmanager
def _opened(
    ref: ModelRef,
    adapter: Path | None,
    loaded: "dict[ModelRef, LanguageModel]",
    open_model: "Callable[[ModelRef], LanguageModel]",
) -> "Iterator[LanguageModel]":
    """Give a model, with its adapter on within the block."""
    if ref not in loaded:
        loaded.clear()
        loaded[ref] = open_model(ref)
    with loaded[ref].adapter(adapter) if adapter is not None else nullcontext():
        yield loaded[ref]


def _answers(
    model: "LanguageModel", judges: Sequence[Evaluation], *, store: Store, what: str
) -> dict[str, list[Completion]]:
    """Return a model's answers to what judges compare, by evaluation."""
    return {
        each.label: completions(
            model, cast("JudgeEvaluator", each.evaluator), each.examples, store=store, label=each.label + what
        )
        for each in judges
    }


def _beside(arm: Arm, arms: Sequence[Arm], baseline: str) -> int:
    """Return the position of the baseline that an arm is compared with: of its seed, at its budget or the largest."""
    places = [
        (position, other.budget_tokens or 0)
        for position, other in enumerate(arms)
        if (other.label, other.seed) == (baseline, arm.seed)
        and arm.budget_tokens in (None, other.budget_tokens)
    ]
    return max(places, key=lambda place: place[1])[0]


def _named(arm: Arm, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame of one arm with the columns that say which arm."""
    return frame.select(
        pl.lit(arm.label).alias("arm"),
        pl.lit(arm.budget_tokens, dtype=pl.Int64).alias("budget_tokens"),
        pl.lit(arm.seed).alias("seed"),
        pl.all(),
    )


def _arm_frame(arms: Sequence[Arm], trained: "Sequence[Trained | None]") -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "arm": arm.label,
                "budget_tokens": arm.budget_tokens,
                "seed": arm.seed,
                "examples": len(arm.rows),
                **arm.columns,
                "tokens": arm.tokens,
                "response_tokens": arm.response_tokens,
                "steps": done.steps if done else 0,
                "seconds": done.seconds if done else 0.0,
                "model": done.folder.name if done else None,
            }
            for arm, done in zip(arms, trained, strict=True)
        ],
        schema_overrides={"budget_tokens": pl.Int64, "model": pl.String},
    )
