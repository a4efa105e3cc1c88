"""Train, score, select and report on objects: what the commands of these names do, from the same engine."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learnable.data import names_of, pool_identity, readable
from learnable.errors import UsageError, did_you_mean
from learnable.objects.choosing import ruled, selection_facts
from learnable.objects.given import (
    finished,
    is_step,
    length_limit,
    reference_identity,
    reference_models,
    render_rows,
)
from learnable.objects.model import Model, Scratch, as_model
from learnable.objects.results import Picked, ReferenceModel, ScoreTable
from learnable.objects.rows import as_rows
from learnable.objects.scoring import (
    WITH_REFERENCE,
    WITHOUT_REFERENCE,
    Vectors,
    as_array,
    needs_of,
    score_rows,
)
from learnable.objects.token_losses import TokenLosses
from learnable.objects.training import ReferenceTraining
from learnable.runs.files import replacing
from learnable.runs.price import Cost, peak_memory_bytes
from learnable.runs.progress import say
from learnable.runs.step import Step, run
from learnable.runs.store import Store
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS, PerSource, Thresholds, choose
from learnable.settings import Reference
from learnable.spec import build
from learnable.types import Budget, ModelRef, Scorer, Selector

if TYPE_CHECKING:
    from learnable.models import LanguageModel
    from learnable.pages.tokens import TokenView
    from learnable.training import References

TOKEN_EXAMPLES = 4
"""Examples of a report with the losses of their tokens, where no other number is asked for."""


def score(
    rows: Any,
    model: Any,
    *,
    reference: "ReferenceModel | Model | str | os.PathLike[str] | None" = None,
    scorers: Sequence[Any] | Mapping[str, Any] | None = None,
    max_length: int | None = None,
    vectors: Vectors = "none",
    store: Store | str | os.PathLike[str] | None = None,
) -> ScoreTable:
    """Measure the losses of rows, and score every example by formulas over them.

    Args:
        rows: What ``read`` gave, or takes.
        model: A ``Model``, or its name.
        reference: What ``train`` gave; or a fine-tuned model or adapter of your own, as a ``Model`` or by name.
        scorers: Names, or scorers of your own (named after their class; a mapping gives other names); learnability,
            difference and length_matched with a reference, else loss.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        vectors: Vectors of the examples, which some selectors need: of the ``model``, or of ``wordllama``.
        store: Where measurements are kept; as long as ``model`` is there when not given.

    Raises:
        UsageError: If something of another type is given, or a scorer needs what is not measured.
        ModelError: If the reference belongs to another model, or the model refuses too many rows.
    """
    known, base = as_rows(rows), as_model(model)
    methods = _methods(scorers or (WITHOUT_REFERENCE if reference is None else WITH_REFERENCE))
    ref = base.ref
    references, settings, costs = (
        (None, {"kind": "none"}, {}) if reference is None else _compared(reference, base, ref)
    )
    keeps = references is not None and references.last_epoch is not None
    needs_of(methods, has_reference=references is not None, keeps_losses=keeps)
    longest, network = length_limit(ref, max_length), base.opened()
    rendered = render_rows(
        network.renderer, known.examples, max_length=longest, most_refused=known.reading.most_bad
    )
    started = time.monotonic()
    scored = score_rows(
        network,
        known.pool,
        rendered,
        methods,
        references=references,
        whole=lambda name: _whole(reference, name, ref),
        store=base.store if store is None else store if isinstance(store, Store) else Store(Path(store)),
        max_length=longest,
        vectors=vectors,
    )
    return ScoreTable(
        rows=known,
        model=base,
        reference=reference,
        frame=scored.frame,
        facts=scored.facts | {"model": base.name},
        vectors=None if scored.vectors is None else as_array(scored.vectors),
        settings=settings,
        costs=costs
        | {"score": _cost(started, scored.tokens, passes=scored.tokens / max(scored.facts["tokens"], 1))},
    )


def _methods(scorers: Sequence[Any] | Mapping[str, Any]) -> dict[str, Scorer]:
    """Return scorers by name.

    Raises:
        UsageError: If one is no scorer, or two have the same name.
    """
    if isinstance(scorers, str):
        scorers = [scorers]
    pairs = scorers.items() if isinstance(scorers, Mapping) else [(_name_of(each), each) for each in scorers]
    methods: dict[str, Scorer] = {}
    for name, given in pairs:
        if name in methods:
            raise UsageError(f"two scorers are called {name!r}", hint="give a mapping of names to scorers")
        method = build("scorer", given, SCORERS) if isinstance(given, str) else given
        if isinstance(method, type) or not callable(method) or not hasattr(method, "needs"):
            raise UsageError(
                f"a scorer is a name or an object with needs and __call__, got {given!r}",
                hint="give an object of the class: MyScorer(), not MyScorer",
            )
        methods[name] = method
    return methods


def _name_of(scorer: Any) -> str:
    return scorer if isinstance(scorer, str) else type(scorer).__name__


def _compared(
    reference: Any, base: Model, ref: ModelRef
) -> "tuple[References, dict[str, Any], dict[str, Cost]]":
    """Return the models to compare a base with, their settings, and what they cost.

    Raises:
        ModelError: If they were trained from another model.
        UsageError: If it is no reference.
    """
    from learnable.models.source import identify
    from learnable.training import Part, References, no_assignment

    if isinstance(reference, Model):
        part = Part(name=reference.ref.name, kind="model")
        given = {"kind": "given", "model": reference.name}
        return References(parts=(part,), assignment=no_assignment()), given, {}
    if not isinstance(reference, str | os.PathLike | ReferenceModel):
        raise UsageError(
            f"a reference is what train gave, a Model or a name, got {type(reference).__name__}",
            hint="make one: after = learnable.train(rows, model)",
        )
    name = os.fspath(reference.folder if isinstance(reference, ReferenceModel) else reference)
    loading = replace(base.loading, dtype=ref.dtype)
    reference_identity(name, loading, identify(ref))
    references = reference_models(name, loading)
    if not is_step(name):
        return references, {"kind": "given", "model": name}, {}
    trained = finished(name, "train")
    return references, dict(trained.facts), {"train": trained.cost}


def _whole(reference: Any, name: str, ref: ModelRef) -> "LanguageModel":
    """Return a reference that is a whole model, loaded as the base is where only its name was given."""
    from learnable.models import LanguageModel

    if isinstance(reference, Model):
        return reference.opened()
    return LanguageModel(replace(ref, name=name, revision=None))


def _cost(started: float, tokens: int, *, passes: float) -> Cost:
    seconds = time.monotonic() - started
    return Cost(tokens=tokens, passes=passes, seconds=seconds, peak_memory_bytes=peak_memory_bytes())


def train(
    rows: Any,
    model: Any,
    *,
    output: str | os.PathLike[str] | None = None,
    max_length: int | None = None,
    **settings: Any,
) -> ReferenceModel:
    """Fine-tune a model on rows, as a reference to compare it with; the model itself stays as it is.

    Args:
        rows: What ``read`` gave, or takes.
        model: A ``Model``, or its name.
        output: Folder to keep the result in, as ``learnable train`` does; when not given, the result is there as long
            as the object is.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        settings: Fields of ``Reference``: ``folds``, ``epochs``, ``method``, ``learning_rate``, ``seed`` ...

    Raises:
        UsageError: If a setting is not known.
        TrainError: If there is nothing to train on, or the loss is not finite.
        StoreError: If the folder holds something else.
    """
    from learnable.models.source import identify

    known, base = as_rows(rows), as_model(model)
    reference = Reference(**_settings(settings, Reference, without=("model",)))
    scratch = Scratch() if output is None else None
    ref, _held = base.for_training(moves_weights=reference.method == "full")
    training = ReferenceTraining(
        name=base.name,
        ref=ref,
        pool=known.pool,
        reference=reference,
        longest=length_limit(ref, max_length),
    )
    step = Step(
        verb="train",
        parameters=training.parameters,
        inputs={"pool": pool_identity(known.pool), "base": identify(ref)},
        says=[training.words],
        work=partial(training.work, most_refused=known.reading.most_bad),
    )
    return ReferenceModel(trained=run(step, scratch.folder if scratch else output or ""), scratch=scratch)


def _settings(given: Mapping[str, Any], kind: Any, *, without: Sequence[str] = ()) -> Mapping[str, Any]:
    """Return settings, each of which is a field of a class.

    Raises:
        UsageError: If one is none.
    """
    names = {each.name for each in fields(kind)} - set(without)
    if unknown := sorted(set(given) - names):
        raise UsageError(f"there is no setting {unknown[0]!r}", hint=did_you_mean(unknown[0], names))
    return given


def select(
    scores: ScoreTable,
    budget: float | str | Budget = "6%",
    *,
    by: str | None = None,
    selector: str | Selector = "top_k",
    per_source: PerSource = "none",
    per_cluster: PerSource = "none",
    clusters: int = 100,
    max_similarity: float | None = None,
    where: str | None = None,
    lowest: bool = False,
    seed: int = 0,
    pin: Sequence[str] = (),
    ban: Sequence[str] = (),
    **thresholds: Any,
) -> Picked:
    """Choose examples within a budget.

    Args:
        scores: What ``score`` gave.
        budget: 0.06 or "6%" (of the examples), 500 (examples) or "50000tokens"; or a ``Budget``.
        by: Score to choose by; ``learnability`` where it is there, else the first score, when not given.
        selector: Name of a method, or one of your own.
        per_source: Share of each source: ``none`` (all compete), ``equal``, or ``proportional`` to its size.
        per_cluster: The same for clusters of similar examples; needs vectors.
        clusters: How many clusters.
        max_similarity: Drop near-duplicates with a larger cosine to an example with a better score; needs vectors.
        where: Condition in SQL over the columns of the scores.
        lowest: Choose the lowest scores.
        seed: For methods that draw.
        pin: Ids to choose first; they count against the budget.
        ban: Ids never to choose.
        thresholds: Fields of ``Thresholds``: ``min_loss_before``, ``max_loss_after``, ``min_score``, ``max_score``.

    Raises:
        UsageError: If something of another type is given, or a setting is not known.
        SelectionError: If the scores cannot satisfy the budget or the conditions.
    """
    if not isinstance(scores, ScoreTable):
        raise UsageError(
            f"rows are chosen from what score gave, got {type(scores).__name__}",
            hint="scores = learnable.score(rows, model); of a folder, use learnable.commands.select",
        )
    names = scores.facts["scorers"]
    by = by or ("learnability" if "learnability" in names else names[0])
    asked = _budget(budget)
    method = build("selector", selector, SELECTORS) if isinstance(selector, str) else selector
    limits = Thresholds(**_settings(thresholds, Thresholds))
    rules = ruled(scores.facts, by, lowest=lowest, thresholds=limits)
    if rules.note:
        say(rules.note)
    alike = per_cluster != "none" or max_similarity is not None or getattr(method, "needs_vectors", False)
    selection = choose(
        scores.frame,
        by=by,
        budget=asked,
        selector=method,
        lowest=rules.lowest,
        per_source=per_source,
        per_cluster=per_cluster,
        clusters=clusters,
        vectors=scores.vectors if alike else None,
        max_similarity=max_similarity,
        where=where,
        thresholds=rules.thresholds,
        seed=seed,
        pins={"pin": list(pin)} if pin else None,
        bans={"ban": list(ban)} if ban else None,
    )
    facts = selection_facts(scores.frame.lazy(), selection.kept, asked, by)
    return Picked(scores=scores, selection=selection, lowest=rules.lowest, facts=facts)


def _budget(given: Any) -> Budget:
    if isinstance(given, Budget):
        return given
    if isinstance(given, str):
        return Budget.parse(given)
    if isinstance(given, float):
        return Budget(fraction=given)
    if isinstance(given, int) and not isinstance(given, bool):
        return Budget(examples=given)
    raise UsageError(
        f"a budget is a share, a number of examples or a text, got {given!r}",
        hint='write 0.06, 500, "6%" or "50000tokens"',
    )


def report(
    picked: Picked,
    path: str | os.PathLike[str] = "report.html",
    *,
    title: str = "selection",
    tokens: int = TOKEN_EXAMPLES,
) -> Path:
    """Write one HTML page about a selection; it opens offline.

    Args:
        picked: What ``select`` gave.
        path: The file to write.
        title: Heading of the page.
        tokens: Examples to show with the losses of their tokens, which are measured now; 0 for none.

    Raises:
        UsageError: If something of another type is given.
        DiskError: If the file cannot be written.
    """
    if not isinstance(picked, Picked):
        raise UsageError(
            f"a report is about what select gave, got {type(picked).__name__}",
            hint="picked = learnable.select(scores); of a folder, use learnable.commands.report",
        )
    from learnable.pages import CostRow, SelectionFacts, examples_to_spell, view_of
    from learnable.pages.selection import render_selection

    scores, page = picked.scores, Path(path)
    pool = scores.rows.pool
    facts = SelectionFacts(
        title=title,
        command=f"learnable.report(picked, {os.fspath(path)!r})",
        model=f"{scores.facts['model']} ({scores.facts['dtype']})",
        reference=scores.settings,
        by=picked.selection.by,
        higher_is_better=not picked.lowest,
        budget=str(picked.selection.budget),
        examples=readable(pool.examples),
        rows=pool.rows,
        files=names_of(pool.files),
        scores=scores.frame,
        scorers=scores.facts["scorers"],
        kept=picked.kept,
        dropped=picked.dropped,
        steps=[CostRow(name=name, **asdict(cost)) for name, cost in scores.costs.items()],
        shortfall=picked.facts["shortfall"],
        left_out=scores.facts.get("left out"),
    )
    if ids := examples_to_spell(view_of(facts), tokens):
        facts = replace(facts, tokens=_token_views(scores, ids))
    with replacing(page) as part:
        part.write_text(render_selection(facts), encoding="utf-8")
    return page


def _token_views(scores: ScoreTable, ids: Sequence[str]) -> "list[TokenView]":
    """Return examples with the losses of their tokens, by the model and the reference that they were scored with.

    Raises:
        ModelError: If either is not what it was.
    """
    network = scores.model.opened()
    references = None
    if scores.reference is not None:
        references, *_ = _compared(scores.reference, scores.model, network.ref)
    losses = TokenLosses(
        network.ref,
        references,
        max_length=scores.facts["max_length"],
        store=scores.model.store,
        base=network,
    )
    known = {example.id: example for example in scores.rows.examples}
    return losses.views([known[id] for id in ids])
