"""``learnable compare``: the same model on equal token budgets chosen by different methods, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl

from learnable import data as rows
from learnable import experiments
from learnable.commands.experiment import Experiment, items_said, selections, write_frames
from learnable.commands.inputs import Loaded, heldout_of, look_up, pool_of, trusted_of
from learnable.commands.load import HELDOUT
from learnable.commands.method_scores import score_methods
from learnable.commands.network import GRADIENT_EPOCHS, Network, gradient_epochs, passes_said
from learnable.commands.options import Confidence, Data, DryRun, Flat, MaxLength, ModelName, Output, Several
from learnable.commands.score import passes_of
from learnable.data.overlap import contamination, spoken
from learnable.errors import SelectionError, UsageError
from learnable.evaluators import Evaluation, check_place, parse, wants_heldout
from learnable.measures import COLUMNS, Role, answers_alone, roles_of
from learnable.objects.measuring import Vectors
from learnable.objects.training import check_warmup
from learnable.pools import Pool
from learnable.runs.identity import fingerprint
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.scorers import SCORERS
from learnable.settings import Aim, Loading, Reading, Reference, Tuning, WarmUp
from learnable.types import Budget

BY = ("learnability", "ifd", "longest")
BY_TARGET = ("relevance/round_robin", "dsir", "target_learnability", "longest")
RESERVED = ("source", "truncated", "undefined", *COLUMNS, *SCORERS)
"""Columns that a table of scores has anyway: no selection of somebody else can go by these names."""
HOLDOUT_SHARE = 0.1
"""Of the pool, for `--evaluate heldout` without a file."""
OF_TARGET = "target, held back"
"""What the evaluation on held-back rows of a target is called."""
TARGET_HELD_BACK = 0.3
"""Of a target, to judge on where no evaluation is given."""


def compare(
    data: Data,
    *,
    model: ModelName = "starter",
    target: str | None = None,
    by: Annotated[list[str] | None, Several] = None,
    evaluate: Annotated[list[str] | None, Several] = None,
    budget: Annotated[list[str] | None, Several] = None,
    seeds: int = 3,
    reference: Reference = Reference(),
    aim: Aim = Aim(),
    warmup: WarmUp = WarmUp(),
    tuning: Tuning = Tuning(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: MaxLength = None,
    vectors: Literal["model", "wordllama"] = "model",
    confidence: Confidence = 0.95,
    on: str | None = None,
    store: str = "runs/store",
    dry_run: DryRun = False,
    output: Output = "comparison",
) -> Outcome:
    """Train on equal token budgets chosen by different methods, and say with intervals what helped and what it cost.

    Every method gets the same tokens, steps, schedule and seeds. The untuned model and a random draw always stand
    beside the others; differences are to the random draw.

    Args:
        target: File with a few rows of your task, answers included, for methods that choose towards it. With no
            evaluation given, a part of it is held back to judge on, beside a tenth of the data.
        by: Methods, each NAME@key=value/SELECTOR: a score, a selector, longest, shortest, full, or a column of
            booleans in the data; such as learnability@folds=2 or ifd/diverse_top_k. Learnability, IFD and the longest
            answers when not given; with a target relevance/round_robin, dsir, target_learnability and the longest.
        evaluate: Evaluations, each NAME:PATH@key=value, such as heldout:eval.jsonl (see `learnable list`). `heldout`
            alone, which holds when none is given, sets a tenth of the data aside.
        budget: 15% (of the tokens of the pool) or 50000tokens, one or several; also as --budget.tokens 10000 30000.
        seeds: Trainings of each method.
        vectors: Vectors for the selectors that need them: of the model, or of `wordllama`.
        on: Where the model is measured: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
            Trainings are here.
        store: Folder of measurements, references and trainings; what is in it is never done twice.
    """
    experiments.check_settings(tuning, seeds=seeds, confidence=confidence)
    aimed, held_back = _target_of(target, output, hold_back=not evaluate, dry_run=dry_run)
    asked = [*(evaluate or [*held_back, "heldout"])]
    check_place([parse(text) for text in asked], on)
    network = Network.of(model, loading, max_length=max_length, on=on, dry_run=dry_run)
    look_up(reference.model, loading, reference=True)
    holdout = HOLDOUT_SHARE if wants_heldout(asked) else 0.0
    loaded = pool_of(data, reading, output, holdout=holdout, dry_run=dry_run)
    methods, flags = _methods(list(by or (BY if aimed is None else BY_TARGET)), loaded.pool, reference)
    evaluations = _evaluations(asked, aimed, loaded.evaluations(asked))
    how: dict[str, Any] = {"network": network, "tuning": tuning, "seeds": seeds, "confidence": confidence}
    comparison = _Comparison(
        experiment=Experiment(**how, store=Path(store), loaded=loaded, evaluations=evaluations),
        methods=methods,
        flags=flags,
        trusted=_trusted(methods, output, dry_run=dry_run),
        target=aimed,
        aim=aim,
        warmup=_needed(warmup, methods),
        budgets=_budgets(budget or ["15%"]),
        vectors=vectors if any(method.needs_vectors for method in methods) else "none",
    )
    return run(comparison.step(vectors), output, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    experiment: Experiment
    methods: Sequence[experiments.Method]
    flags: pl.DataFrame
    budgets: Sequence[str]
    vectors: Vectors
    trusted: Mapping[str, Loaded]
    target: Outcome | None
    aim: Aim
    warmup: Reference | None

    def step(self, vectors: Vectors) -> Step:
        """Return the step that does it, with the vectors that were asked for, also where no method needs them."""
        aimed = {} if self.target is None else {"target": self.target}
        trusted = {f"trusted rows {place}": each.step for place, each in enumerate(self.trusted.values(), 1)}
        return self.experiment.step(
            "compare",
            self,
            parameters={
                "methods": {method.label: fingerprint(method) for method in self.methods},
                "budgets": self.budgets,
                "vectors": vectors,
                **({} if self.target is None else {"aim": fingerprint(self.aim)}),
                **({} if self.warmup is None else {"warmup": fingerprint(self.warmup)}),
            },
            inputs={name: each.identity for name, each in (aimed | trusted).items()},
            sources={method.label: method.source for method in self.methods},
            links={name: each.folder for name, each in aimed.items()},
        )

    @property
    def pool(self) -> Pool:
        """What is chosen from."""
        return self.experiment.data.pool

    @property
    def references(self) -> dict[str, Reference]:
        """The references to train, each once."""
        return {fingerprint(each.reference): each.reference for each in self.methods if each.needs_reference}

    @property
    def trainings(self) -> tuple[int, int]:
        """How many trainings see a budget, and how many the whole pool; arms that see the same rows share one."""
        chosen = sum(method.kind not in experiments.WITHOUT_BUDGET for method in self.methods)
        whole = any(method.kind == experiments.FULL for method in self.methods)
        return chosen * len(self.budgets) * self.experiment.seeds, whole * self.experiment.seeds

    @property
    def passes(self) -> list[Role]:
        """The passes over the pool that methods choose by."""
        scorers = [each.scorer for each in self.methods if each.scorer is not None]
        return passes_of(roles_of({column for scorer in scorers for column in scorer.needs}), self.vectors)

    @property
    def gradient_epochs(self) -> int:
        """At how many epochs gradients are taken."""
        kept = GRADIENT_EPOCHS if self.warmup is None else round(self.warmup.epochs)
        return gradient_epochs((method.scorer for method in self.methods), kept)

    @property
    def says(self) -> list[str]:
        over, (chosen, whole) = f"over {len(self.pool):,} examples", self.trainings
        says = passes_said(self.passes, self.aim, self.gradient_epochs, rows=len(self.pool))
        if passes := sum(map(self._passes, self.references.values())):
            says.insert(0, f"{passes:g} reference training {'pass' if passes == 1 else 'passes'} {over}")
        if self.warmup is not None:
            passes = self.warmup.passes_over(len(self.pool), keep_epochs=True)
            says.insert(0, f"{passes:g} warm-up passes {over}")
        says.append(f"at most {chosen} trainings of {', '.join(self.budgets)}")
        if whole:
            says.append(f"{whole} trainings on all {len(self.pool):,} examples")
        return [*says, items_said(self.experiment.evaluations)]

    def _passes(self, reference: Reference) -> float:
        """Return the training cost of a reference in passes over the pool."""
        taught = self.trusted.get(reference.rows, self.experiment.data)
        return reference.passes * len(taught.pool) / max(len(self.pool), 1)

    def price(self) -> Price:
        network = self.experiment.network
        examples = list(self.pool.iter_examples())
        seeds, tuning = self.experiment.seeds, self.experiment.tuning
        price = network.scoring(
            self.pool,
            self.passes,
            aim=self.aim,
            target=0 if self.target is None else self.target.facts["examples"],
            epochs=self.gradient_epochs,
        )
        for reference in self.references.values():
            price += network.reference(self.pool, reference, passes=self._passes(reference))
        if self.warmup is not None:
            passes = self.warmup.passes_over(len(self.pool), keep_epochs=True)
            price += network.reference(self.pool, self.warmup, passes=passes)
        budgets, tokens = [Budget.parse(text) for text in self.budgets], network.tokens(examples)
        shares = [min(each.fraction or (each.tokens or 0) / max(tokens, 1), 1.0) for each in budgets]
        chosen, whole = self.trainings
        for share in [*shares * (chosen // seeds // len(shares)), *[1.0] * (whole // seeds)]:
            passes = seeds * tuning.epochs
            price += network.training(examples, tuning, passes=passes, share=share, models=seeds)
        return sum([network.evaluations(self.experiment.evaluations)] * (1 + chosen + whole), price)

    def work(self, folder: Path) -> Finished:
        network = self.experiment.network
        rendered = network.rendered(self.experiment.data.rows)
        alone = answers_alone(rendered, header=network.renderer.answer_header)
        pool_tokens = sum(len(each.ids) for each in rendered)
        budgets = [_in_tokens(Budget.parse(text), pool_tokens) for text in self.budgets]
        scored = score_methods(
            self.methods,
            self.flags,
            experiment=self.experiment,
            target=self.target,
            aim=self.aim,
            warmup=self.warmup or WarmUp(),
            alone_tokens=sum(len(each.ids) for each in alone),
            vectors=self.vectors,
        )
        arms = experiments.arms_of(
            self.methods,
            scored.select,
            {each.id: each for each in rendered},
            base=network.ref,
            tuning=self.experiment.tuning,
            budgets=budgets,
            seeds=self.experiment.seeds,
        )
        _say_unequal(arms)
        ran, facts = self.experiment.run(arms, baseline=experiments.RANDOM, costs=scored.costs)
        overlap = _overlap(self.pool, self.experiment.evaluations)
        others = {"scores": scored.wide(self.methods), "overlap": overlap}
        others["selections"] = selections((arm.label, arm.budget_tokens, arm.seed, arm.ids) for arm in arms)
        write_frames(ran.frames | others, folder, arm="method")
        facts |= {
            "pool": len(self.pool),
            "pool_tokens": pool_tokens,
            "methods": [method.label for method in self.methods],
            "budgets": self.budgets,
            "trainings": ran.frames["arms"]["model"].drop_nulls().n_unique(),
            "in both": overlap.select("evaluation", "item").unique().height,
        }
        return Finished(facts=facts, tokens=scored.tokens + ran.tokens, pool_tokens=pool_tokens)


def _target_of(
    target: str | None, output: str, *, hold_back: bool, dry_run: bool
) -> tuple[Outcome | None, list[str]]:
    """Return the loaded rows of a target, and the evaluation on what is held back of them, if anything is."""
    if target is None:
        return None, []
    held = TARGET_HELD_BACK if hold_back else 0.0
    loaded = pool_of([target], Reading(), f"{output}-target", holdout=held, dry_run=dry_run)
    if not hold_back:
        return loaded.step, []
    path = heldout_of(loaded.step)
    back = len(path.read_text(encoding="utf-8").splitlines())
    say(held_back_words(back, of=len(loaded.pool) + back))
    return loaded.step, [f"heldout:{path}"] if back else []


def _needed(warmup: WarmUp, methods: Sequence[experiments.Method]) -> WarmUp | None:
    """Return the warm-up, refused where it is no such training; None where no method takes gradients."""
    if not any("gradient" in method.roles for method in methods):
        return None
    check_warmup(warmup)
    return warmup


def _evaluations(
    asked: Sequence[str], target: Outcome | None, evaluations: list[Evaluation]
) -> list[Evaluation]:
    """Return what is asked; what is held back of a target has a label of its own, see ``apart``."""
    if target is None:
        return evaluations
    own = f"heldout:{target.folder / HELDOUT}"
    named = zip(asked, evaluations, strict=True)
    labelled = [replace(each, label=OF_TARGET) if text == own else each for text, each in named]
    return apart(target, asked, labelled)


def _trusted(methods: Sequence[experiments.Method], output: str, *, dry_run: bool) -> dict[str, Loaded]:
    """Return the trusted rows that references of methods name, loaded."""
    by_rows = {each.reference.rows: each.reference for each in methods if each.needs_reference}
    loaded = {rows: trusted_of(each, output, dry_run=dry_run) for rows, each in by_rows.items()}
    return {rows: found for rows, found in loaded.items() if found is not None}


def held_back_words(back: int, *, of: int) -> str:
    """Say what can be told from so many rows that are held back ``of`` all rows of a target."""
    if back >= experiments.FEWEST_ITEMS:
        return f"{back} of {of} rows of the target are held back to judge on: few rows, wide intervals"
    return (
        f"{back} of {of} rows of the target are held back to judge on, too few for a verdict: give "
        f"{ceil(experiments.FEWEST_ITEMS / TARGET_HELD_BACK)} rows or more, or others to judge on"
    )


def apart(target: Outcome, asked: Sequence[str], evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return evaluations that have no row that the choice is aimed at; a UsageError where one has some.

    What is held out of the data is judged on without them.
    """
    own, found = set(rows.load_pool(target.folder).examples["id"]), []
    for text, each in zip(dict.fromkeys(asked), evaluations, strict=True):
        others = [item for item in each.examples if item.id not in own]
        inside = len(each.examples) - len(others)
        if inside and not (others and wants_heldout([text])):
            raise UsageError(
                f"{each.label} has rows of the target: it would be judged on what the choice is aimed at",
                hint="give other rows of the task to one of them",
            )
        if inside:
            say(
                f"{inside} of {len(each.examples)} rows held out of the data are rows of the target: not judged on"
            )
        found.append(replace(each, examples=others))
    return found


def _methods(
    written: Sequence[str], pool: Pool, reference: Reference
) -> tuple[list[experiments.Method], pl.DataFrame]:
    """Return the methods, and the columns of booleans in the pool by ``id``."""
    # Reading the rows again takes time: only where a name can be nothing but a column.
    named = any(
        each.kind == "column"
        for each in experiments.parse_methods(written, reference=reference, columns=None)
    )
    flags = rows.boolean_columns(pool) if named else pool.examples.select("id")
    flags = flags.drop(RESERVED, strict=False)
    return experiments.parse_methods(written, reference=reference, columns=flags.columns[1:]), flags


def _budgets(written: Sequence[str]) -> list[str]:
    if any(Budget.parse(text).examples is not None for text in written):
        raise UsageError(
            "a comparison needs equal tokens, not equal numbers of examples", hint="write 15% or 50000tokens"
        )
    return list(dict.fromkeys(written))


def _in_tokens(budget: Budget, pool_tokens: int) -> int:
    tokens = budget.tokens or max(1, round(pool_tokens * (budget.fraction or 0)))
    if tokens > pool_tokens:
        raise SelectionError(
            f"the budget of {tokens:,} tokens is above the pool, which has {pool_tokens:,}",
            hint="lower the budget, or give more data",
        )
    return tokens


def _say_unequal(arms: Sequence[experiments.Arm]) -> None:
    for arm in arms:
        if arm.budget_tokens and arm.seed == 0 and arm.tokens < 0.95 * arm.budget_tokens:
            say(
                f"{arm.label} fills only {arm.tokens:,} of {arm.budget_tokens:,} tokens: not an equal comparison"
            )


def _overlap(pool: Pool, evaluations: Sequence[Evaluation]) -> pl.DataFrame:
    """Return which evaluation items stand in the pool, with the evaluation that they belong to."""
    texts = spoken((each.id, each.messages) for each in pool.iter_examples())
    return pl.concat(
        contamination(texts, spoken((item.id, item.messages) for item in each.examples)).select(
            pl.lit(each.label).alias("evaluation"), pl.all()
        )
        for each in evaluations
    )
