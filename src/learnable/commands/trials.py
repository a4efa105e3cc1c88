"""What a comparison costs model passes for: references, scores, trainings and evaluations, each kept in the store."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.commands.evaluate import Evaluation, graded_all
from learnable.commands.inputs import opened
from learnable.commands.score import score, vectors_of
from learnable.commands.train import train
from learnable.evaluators import Completion, JudgeEvaluator, completions, judged
from learnable.experiments import RANDOM, Arm, Method, SelectionCost
from learnable.runs.identity import fingerprint
from learnable.runs.locks import waiting_lock
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.runs.store import Store
from learnable.settings import Loading, Tuning
from learnable.types import ModelRef, Rendered

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.training import Trained


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the methods choose by.

    Args:
        lengths: ``id``, ``source``, ``tokens``, ``response_tokens``, ``undefined`` of the pool.
        frames: Table of scores by label of method; several share one.
        vectors: (n, d), None where no method needs them.
        costs: By label of method.
    """

    lengths: pl.DataFrame
    frames: Mapping[str, pl.DataFrame]
    vectors: NDArray[np.float32] | None
    costs: Mapping[str, SelectionCost]

    def wide(self, methods: Sequence[Method]) -> pl.DataFrame:
        """Return one table with a column for each method, named by its label."""
        columns = [
            self.frames[method.label][method.score].cast(pl.Float32).alias(method.label)
            for method in methods
            if method.kind == "column" or (method.kind == "chosen" and method.takes_score)
        ]
        losses: dict[str, pl.Series] = {}
        for frame in self.frames.values():
            losses |= {name: frame[name] for name in ("loss_before", "loss_alone") if name in frame.columns}
        return self.lengths.with_columns(**losses).with_columns(columns)


@dataclass(kw_only=True)
class Trials:
    """The model passes of a comparison.

    Args:
        ref: The model.
        loading: How it is loaded.
        longest: Longest example in tokens.
        store: Folder of measurements, references, scores and trainings.
        loaded: The pool.
        rendering: Identity of what made the tokens.
        rendered: The pool as the model sees it, by id.
        alone_tokens: Tokens of a pass over its answers alone.
        vectors: Which vectors selectors look at.
        on: Where the model is measured, see ``inputs.opened``.
        tokens: Of references, scores and trainings in this run.
    """

    ref: ModelRef
    loading: Loading
    longest: int
    store: Path
    loaded: Outcome
    rendering: str
    rendered: Mapping[str, Rendered]
    alone_tokens: int
    vectors: Literal["model", "wordllama"]
    on: str | None = None
    tokens: int = 0

    def score(self, methods: Sequence[Method], flags: pl.DataFrame) -> Scored:
        """Return the scores of all methods; methods with the same reference share its training and its pass."""
        groups: dict[str, list[Method]] = {"": [m for m in methods if not m.needs_reference]}
        for method in methods:
            if method.needs_reference:
                groups.setdefault(fingerprint(method.reference), []).append(method)
        wants_vectors = any(method.needs_vectors for method in methods)
        trained: dict[str, Outcome] = {}
        scored: dict[str, Outcome] = {}
        for key, group in groups.items():
            if key:
                trained[key] = train(
                    [self.loaded.path],
                    reference=group[0].reference,
                    output=str(self.store / "reference-{fingerprint}"),
                    model=self.ref.name,
                    loading=self.loading,
                    max_length=self.longest,
                )
            names = {method.score for method in group if method.scorer is not None}
            scored[key] = score(
                [self.loaded.path],
                reference=trained[key].path if key else None,
                scorers=sorted(names | {"length"}),
                vectors=self.vectors if wants_vectors and not key else "none",
                on=self.on,
                store=str(self.store),
                output=str(self.store / "scores-{fingerprint}"),
                model=self.ref.name,
                loading=self.loading,
                max_length=self.longest,
            )
        self.tokens += sum(o.cost.tokens for o in (*trained.values(), *scored.values()) if o.ran)
        tables = {
            key: pl.read_parquet(o.folder / "scores.parquet").join(
                flags, on="id", how="left", maintain_order="left"
            )
            for key, o in scored.items()
        }
        frames = {method.label: tables[key] for key, group in groups.items() for method in group}
        vectors = vectors_of(scored[""].folder) if wants_vectors else None
        lengths = tables[""].select("id", "source", "tokens", "response_tokens", "undefined")
        costs = {
            method.label: self._cost(method, lengths, trained.get(key), scored.values())
            for key, group in groups.items()
            for method in group
        }
        return Scored(lengths=lengths, frames=frames, vectors=vectors, costs=costs)

    def _cost(
        self, method: Method, lengths: pl.DataFrame, reference: Outcome | None, scored: Collection[Outcome]
    ) -> SelectionCost:
        """Return what a method costs alone, at the speed that was seen here."""
        if method.scorer is None:
            return SelectionCost()
        whole, needs = int(lengths["tokens"].sum()), set(method.scorer.needs)
        tokens = whole * len(needs & {"loss_before", "loss_after", "token_losses_before"})
        tokens += self.alone_tokens * len(needs & {"loss_alone", "token_losses_alone"})
        tokens += whole * (method.needs_vectors and self.vectors == "model")
        cost = SelectionCost(score_tokens=tokens, score_s=tokens and tokens * _pace(scored))
        if reference is None:
            return cost
        trained = round(whole * method.reference.passes)
        return replace(cost, reference_tokens=trained, reference_s=trained * _pace([reference]))

    def train(self, arms: Sequence[Arm], tuning: Tuning) -> "list[Trained | None]":
        """Return the training of each arm, None for the untuned model; equal arms share one."""
        from learnable.models.source import identify
        from learnable.training import Trained, fine_tune

        base, trainings = identify(self.ref), list[Trained | None]()
        for number, arm in enumerate(arms):
            if not arm.ids:
                trainings.append(None)
                continue
            how = replace(tuning, seed=arm.seed, steps=arm.steps)
            name = arm.name(base=base, rendering=self.rendering, max_length=self.longest, tuning=how)
            label = f"training {number + 1} of {len(arms)}: {arm.method}, seed {arm.seed}"
            chosen = [self.rendered[example] for example in arm.ids]
            # Two comparisons may share a store, and an arm.
            with waiting_lock(self.store / "arms" / f"{name}.lock"):
                trained = fine_tune(self.ref, chosen, self.store / "arms" / name, tuning=how, label=label)
            self.tokens += trained.tokens if trained.ran else 0
            trainings.append(trained)
        return trainings

    def evaluate(
        self, arms: Sequence[Arm], folders: Sequence[Path | None], evaluations: Sequence[Evaluation]
    ) -> pl.DataFrame:
        """Return the grades of every arm; those of a judge are against the random draw of the same seed."""
        say(f"evaluating {len(set(folders))} models on {', '.join(each.label for each in evaluations)}")
        alone = [each for each in evaluations if each.evaluator.kind != "judge"]
        by_judge = [each for each in evaluations if each.evaluator.kind == "judge"]
        known = self._of_each_model(arms, folders, alone, by_judge)
        graded = []
        for arm, folder in zip(arms, folders, strict=True):
            grades, answers = known[folder]
            if by_judge:
                _, against = known[folders[_beside(arm, arms)]]
                verdicts = [
                    self._verdicts(each, answers[each.label], against[each.label]) for each in by_judge
                ]
                grades = pl.concat([grades, *verdicts])
            budget = pl.lit(arm.budget_tokens, dtype=pl.Int64).alias("budget_tokens")
            graded.append(
                grades.select(
                    pl.lit(arm.method).alias("method"), budget, pl.lit(arm.seed).alias("seed"), pl.all()
                )
            )
        return pl.concat(graded)

    def _of_each_model(
        self,
        arms: Sequence[Arm],
        folders: Sequence[Path | None],
        alone: Sequence[Evaluation],
        by_judge: Sequence[Evaluation],
    ) -> dict[Path | None, tuple[pl.DataFrame, dict[str, list[Completion]]]]:
        """Return for each model its grades, and its answers by evaluation of a judge."""
        from learnable.models.source import is_adapter

        base, store = opened(self.ref, on=self.on), Store(self.store)
        known: dict[Path | None, tuple[pl.DataFrame, dict[str, list[Completion]]]] = {}
        for number, (arm, folder) in enumerate(zip(arms, folders, strict=True)):
            if folder in known:
                continue
            what = f", model {number + 1} of {len(arms)}: {arm.method}, seed {arm.seed}"
            adapter = folder if folder is not None and is_adapter(folder) else None
            network = base
            if folder is not None and adapter is None:
                network = opened(ModelRef(name=str(folder), **asdict(self.loading)), on=self.on)
            with network.adapter(adapter) if adapter is not None else nullcontext():
                grades = graded_all(network, alone, store=store, max_length=self.longest, what=what)
                answers = _answers(network, by_judge, store=store, what=what)
            known[folder] = grades, answers
        return known

    def _verdicts(
        self, evaluation: Evaluation, ones: Sequence[Completion], others: Sequence[Completion]
    ) -> pl.DataFrame:
        """Return a judge's verdicts; two equal answers are a tie without asking."""
        evaluator = cast("JudgeEvaluator", evaluation.evaluator)
        frame = judged(evaluator, evaluation.examples, ones, others, store=Store(self.store))
        return frame.select(pl.lit(evaluation.label).alias("evaluation"), pl.all())


def _answers(
    network: "LanguageModel", by_judge: Sequence[Evaluation], *, store: Store, what: str
) -> dict[str, list[Completion]]:
    """Return a model's answers to what judges compare, by evaluation."""
    answers = {}
    for each in by_judge:
        evaluator = cast("JudgeEvaluator", each.evaluator)
        answers[each.label] = completions(
            network, evaluator, each.examples, store=store, label=each.label + what
        )
    return answers


def _beside(arm: Arm, arms: Sequence[Arm]) -> int:
    """Return the position of the random draw that an arm is compared with: its seed, its budget or the largest one."""
    draws = [
        (position, other)
        for position, other in enumerate(arms)
        if other.method == RANDOM
        and other.seed == arm.seed
        and arm.budget_tokens in (None, other.budget_tokens)
    ]
    return max(draws, key=lambda draw: draw[1].budget_tokens or 0)[0]


def _pace(outcomes: Collection[Outcome]) -> float:
    """Return seconds per token of the step that measured most, NaN where all was stored before."""
    most = max((outcome.cost for outcome in outcomes), key=lambda cost: cost.tokens)
    return most.seconds / most.tokens if most.tokens else float("nan")
