"""``learnable compare``: the same model on equal token budgets chosen by different methods, and what came of it."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable import data as rows
from learnable.atomic import write_frame
from learnable.comparing import (
    Arm,
    Measured,
    Method,
    SelectionCost,
    arms_of,
    contamination,
    overview,
    parse_methods,
)
from learnable.errors import UsageError
from learnable.fingerprint import fingerprint
from learnable.progress import say
from learnable.steps import Outcome, Step, read_json
from learnable.store import Store
from learnable.types import Budget, Example, Loading, ModelRef, Pool, Reading, Reference, Rendered, Tuning
from learnable.verbs.evaluate import Evaluation, evaluations_of, graded_all
from learnable.verbs.inputs import length_limit, pool_of
from learnable.verbs.options import Flat, Output, Several
from learnable.verbs.score import score, vectors_of
from learnable.verbs.train import train

BY = ("learnability", "ifd", "longest")


def compare(
    data: list[str],
    *,
    evaluate: Annotated[list[str], Several],
    model: str = "starter",
    by: Annotated[list[str] | None, Several] = None,
    budget: Annotated[list[str] | None, Several] = None,
    seeds: int = 3,
    reference: Reference = Reference(),
    tuning: Tuning = Tuning(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: int | None = None,
    vectors: Literal["model", "wordllama"] = "model",
    confidence: float = 0.95,
    store: str = "runs/store",
    dry_run: bool = False,
    output: Output = "comparison",
) -> Outcome:
    """Train on equal token budgets chosen by different methods, and say with intervals what helped and what it cost.

    Every method gets the same tokens, steps, schedule and seeds. The untuned model and a random draw always stand
    beside the others; differences are to the random draw.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        evaluate: Evaluations, each NAME:PATH@key=value, such as heldout:eval.jsonl (see `learnable list`).
        model: Folder, hub id, GGUF file, or `starter`.
        by: Methods, each NAME@key=value/SELECTOR: a score, a selector, longest, shortest, full, or a column of
            booleans in the data; such as learnability@folds=2 or ifd/diverse_top_k. Learnability, IFD and the longest
            answers when not given.
        budget: 15% (of the tokens of the pool) or 50000tokens, one or several; also as --budget.tokens 10000 30000.
        seeds: Trainings of each method.
        reference: How to fine-tune the reference of scores that need one.
        tuning: How to fine-tune on each selection.
        loading: How to load the model.
        reading: How to read rows.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        vectors: Vectors for the selectors that need them: of the model, or of `wordllama`.
        confidence: Of all intervals of an evaluation together.
        store: Folder of measurements, references and trainings; what is in it is never done twice.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    from learnable.model.source import identify, is_here

    started = time.monotonic()
    if seeds < 1 or not 0 < confidence < 1:
        raise UsageError(
            f"seeds must be at least 1 and confidence between 0 and 1, got {seeds} and {confidence}"
        )
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    pool, loaded = pool_of(data, reading, output)
    names = list(by or BY)
    flags = rows.boolean_columns(pool) if _may_be_columns(names, reference) else pool.examples.select("id")
    methods = parse_methods(names, reference=reference, columns=flags.columns[1:])
    evaluations = evaluations_of(evaluate)
    budgets = [Budget.parse(text) for text in budget or ["15%"]]
    if any(each.examples is not None for each in budgets):
        raise UsageError(
            "a comparison needs equal tokens, not equal numbers of examples", hint="write 15% or 50000tokens"
        )
    if dry_run and not is_here(ref):
        return Outcome.planned("compare", [f"fetch or convert {model}"])
    settings = {
        "methods": {method.label: fingerprint(method) for method in methods},
        "budgets": [str(each) for each in budgets],
        "seeds": seeds,
        "tuning": fingerprint(tuning),
        "max_length": longest,
        "vectors": vectors,
        "confidence": confidence,
    }
    inputs = {"pool": loaded.identity, "base": identify(ref)} | {
        each.label: each.identity for each in evaluations
    }
    step = Step(verb="compare", parameters=settings, inputs=inputs)
    folder = step.folder(output)
    if dry_run:
        return Outcome.planned("compare", _price(methods, budgets, seeds, len(pool), evaluations))
    links = {"pool": loaded.folder}
    if done := step.begin(folder, links=links):
        return done
    work = _Work(ref=ref, loading=loading, longest=longest, store=Path(store), loaded=loaded, vectors=vectors)
    scored = work.score(methods, flags)
    tokens = int(scored.lengths["tokens"].sum())
    arms = arms_of(
        methods,
        lambda method, most, seed: method.select(
            scored.frames[method.label], tokens=most, vectors=scored.vectors, seed=seed
        ),
        scored.lengths,
        budgets=[each.tokens or max(1, round(tokens * (each.fraction or 0))) for each in budgets],
        seeds=seeds,
        batch_size=tuning.batch_size,
    )
    folders = work.train(arms, pool, tuning)
    results = work.evaluate(arms, folders, evaluations)
    trained = _arm_table(arms, folders)
    table = overview(
        results,
        trained,
        evaluations=[
            Measured(
                label=each.label, unit=each.evaluator.unit, higher_is_better=each.evaluator.higher_is_better
            )
            for each in evaluations
        ],
        costs=scored.costs,
        confidence=confidence,
    )
    overlap = _overlap(pool, evaluations)
    write_frame(scored.wide(methods), folder / "scores.parquet")
    write_frame(table, folder / "table.parquet")
    write_frame(results, folder / "results.parquet")
    write_frame(trained, folder / "arms.parquet")
    write_frame(_selections(arms), folder / "selections.parquet")
    write_frame(overlap, folder / "overlap.parquet")
    facts = {
        "model": model,
        "pool": len(pool),
        "pool_tokens": tokens,
        "methods": [method.label for method in methods],
        "evaluations": [each.label for each in evaluations],
        "seeds": seeds,
        "confidence": confidence,
        "trainings": len(set(folders)),
        "in both": overlap["item"].n_unique(),
    }
    spent = work.tokens + int(trained["tokens"].sum())
    return step.finish(
        folder, facts=facts, started=started, links=links, tokens=spent, passes=spent / max(tokens, 1)
    )


def _may_be_columns(names: Sequence[str], reference: Reference) -> bool:
    """Tell whether a method is not known without looking into the rows; reading them again takes time."""
    try:
        parse_methods(names, reference=reference)
    except UsageError:
        return True
    return False


def _price(
    methods: Sequence[Method],
    budgets: Sequence[Budget],
    seeds: int,
    examples: int,
    evaluations: Sequence[Evaluation],
) -> list[str]:
    chosen = [method for method in methods if method.kind not in ("full", "untuned")]
    references = {fingerprint(m.reference): m.reference.passes for m in methods if m.needs_reference}
    trainings = len(chosen) * len(budgets) * seeds
    price = (
        [f"{sum(references.values()):g} reference training passes over {examples:,} examples"]
        if references
        else []
    )
    price.append(f"at most {trainings} trainings of {', '.join(map(str, budgets))}")
    if any(method.kind == "full" for method in methods):
        price.append(f"{seeds} trainings on all {examples:,} examples")
    items = sum(len(each.examples) for each in evaluations)
    return [*price, f"{items:,} evaluation items for each model"]


@dataclass(frozen=True, kw_only=True)
class _Scored:
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
class _Work:
    """What costs model passes: references, scores, trainings and evaluations, each kept in the store.

    ``tokens`` counts those of references and scores in this run.
    """

    ref: ModelRef
    loading: Loading
    longest: int
    store: Path
    loaded: Outcome
    vectors: Literal["model", "wordllama"]
    tokens: int = 0

    def score(self, methods: Sequence[Method], flags: pl.DataFrame) -> _Scored:
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
        return _Scored(lengths=lengths, frames=frames, vectors=vectors, costs=costs)

    def _cost(
        self, method: Method, lengths: pl.DataFrame, reference: Outcome | None, scored: Collection[Outcome]
    ) -> SelectionCost:
        """Return what a method costs alone, at the speed that was seen here."""
        if method.scorer is None:
            return SelectionCost()
        whole, needs = int(lengths["tokens"].sum()), set(method.scorer.needs)
        alone = int(lengths["response_tokens"].sum()) + lengths.height
        tokens = whole * len(needs & {"loss_before", "loss_after", "token_losses_before"})
        tokens += alone * len(needs & {"loss_alone", "token_losses_alone"})
        tokens += whole * (method.needs_vectors and self.vectors == "model")
        cost = SelectionCost(score_tokens=tokens, score_s=tokens * _pace(scored))
        if reference is None:
            return cost
        trained = round(whole * method.reference.passes)
        return replace(cost, reference_tokens=trained, reference_s=trained * _pace([reference]))

    def train(self, arms: Sequence[Arm], pool: Pool, tuning: Tuning) -> list[Path | None]:
        """Return the folder of each arm's model, None for the untuned one; equal arms share a folder."""
        from learnable.model import Renderer
        from learnable.model.source import identify
        from learnable.training import fine_tune

        renderer = Renderer.of(self.ref)
        skip = self.loaded.facts["on_error"] == "skip"
        rendered = {
            each.id: each
            for each in renderer.render(
                list(pool.iter_examples()), max_length=self.longest, skip_refused=skip
            )
        }
        base, folders = identify(self.ref), list[Path | None]()
        for number, arm in enumerate(arms):
            if not arm.ids:
                folders.append(None)
                continue
            how = replace(tuning, seed=arm.seed, steps=arm.steps)
            name = arm.name(base=base, rendering=renderer.key, max_length=self.longest, tuning=how)
            folders.append(self.store / "arms" / name)
            label = f"training {number + 1} of {len(arms)}: {arm.method}, seed {arm.seed}"
            chosen: list[Rendered] = [rendered[example] for example in arm.ids]
            fine_tune(self.ref, chosen, self.store / "arms" / name, tuning=how, label=label)
        return folders

    def evaluate(
        self, arms: Sequence[Arm], folders: Sequence[Path | None], evaluations: Sequence[Evaluation]
    ) -> pl.DataFrame:
        """Return the grades of every arm; those of a judge are against the random draw of the same seed."""
        from learnable.model import LanguageModel
        from learnable.model.source import is_adapter

        say(f"evaluating {len(set(folders))} models on {', '.join(each.label for each in evaluations)}")
        network, store = LanguageModel(self.ref), Store(self.store)
        known: dict[Path | None, pl.DataFrame] = {}
        graded = []
        for number, (arm, folder) in enumerate(zip(arms, folders, strict=True)):
            if folder not in known:
                what = f", model {number + 1} of {len(arms)}: {arm.method}, seed {arm.seed}"
                adapter = folder if folder is not None and is_adapter(folder) else None
                whole = folder is not None and adapter is None
                judged = (
                    LanguageModel(ModelRef(name=str(folder), **asdict(self.loading))) if whole else network
                )
                known[folder] = graded_all(
                    judged, evaluations, adapter, store=store, max_length=self.longest, what=what
                )
            graded.append(
                known[folder].select(
                    pl.lit(arm.method).alias("method"),
                    pl.lit(arm.budget_tokens, dtype=pl.Int64).alias("budget_tokens"),
                    pl.lit(arm.seed).alias("seed"),
                    pl.all(),
                )
            )
        return pl.concat(graded)


def _pace(outcomes: Collection[Outcome]) -> float:
    """Return seconds per token of the step that measured most, NaN where all was stored before."""
    most = max((outcome.cost for outcome in outcomes), key=lambda cost: cost.tokens)
    return most.seconds / most.tokens if most.tokens else float("nan")


def _arm_table(arms: Sequence[Arm], folders: Sequence[Path | None]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "method": arm.method,
                "budget_tokens": arm.budget_tokens,
                "seed": arm.seed,
                "examples": len(arm.ids),
                "tokens": arm.tokens,
                "response_tokens": arm.response_tokens,
                "steps": read_json(folder / "training.json")["steps"] if folder else 0,
                "seconds": float(read_json(folder / "training.json")["seconds"]) if folder else 0.0,
                "model": folder.name if folder else None,
            }
            for arm, folder in zip(arms, folders, strict=True)
        ],
        schema_overrides={"budget_tokens": pl.Int64, "model": pl.String},
    )


def _selections(arms: Sequence[Arm]) -> pl.DataFrame:
    lines = [
        (arm.method, arm.budget_tokens, arm.seed, rank, example)
        for arm in arms
        for rank, example in enumerate(arm.ids)
    ]
    schema = {
        "method": pl.String,
        "budget_tokens": pl.Int64,
        "seed": pl.Int64,
        "rank": pl.Int64,
        "id": pl.String,
    }
    return pl.DataFrame(lines, schema=schema, orient="row")


def _overlap(pool: Pool, evaluations: Sequence[Evaluation]) -> pl.DataFrame:
    """Return which evaluation items stand in the pool, with the evaluation that they belong to."""
    texts = pl.DataFrame([_texts(example) for example in pool.iter_examples()])
    found = [
        contamination(texts, pl.DataFrame([_texts(example) for example in each.examples])).select(
            pl.lit(each.label).alias("evaluation"), pl.all()
        )
        for each in evaluations
        if each.examples
    ]
    return (
        pl.concat(found)
        if found
        else contamination(texts, texts.head(0)).select(pl.lit("").alias("evaluation"), pl.all())
    )


def _texts(example: Example) -> dict[str, str]:
    said = {
        role: "\n".join(m.content for m in example.messages if m.role == role)
        for role in ("user", "assistant")
    }
    return {"id": example.id, "text": said["user"], "answer": said["assistant"]}
