"""Scores of rows: the passes that the formulas need, and the formulas."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable import measures
from learnable.errors import UsageError
from learnable.objects.aiming import Against
from learnable.objects.given import Compared, compared_with, length_limit
from learnable.objects.gradients import warm_up_of
from learnable.objects.model import Model, as_model
from learnable.objects.passes import Passes
from learnable.objects.results import ReferenceModel, ScoreTable, as_array
from learnable.objects.rows import as_rows
from learnable.pages.selection_facts import spearman
from learnable.runs.price import Cost, peak_memory_bytes
from learnable.runs.progress import say
from learnable.runs.records import DONE, read_json
from learnable.runs.store import Store
from learnable.scorers import END_OF_TURN_SHARE, SCORERS, end_of_turn_share
from learnable.settings import Aim
from learnable.spec import build
from learnable.types import Example, ModelRef, Rendered, Scorer

if TYPE_CHECKING:
    from learnable.models.language_model import LanguageModel

Vectors = Literal["none", "model", "wordllama"]
WITH_REFERENCE, WITHOUT_REFERENCE = ("learnability", "difference", "length_matched"), ("loss",)


def score(
    rows: Any,
    model: Any,
    *,
    reference: "ReferenceModel | Model | str | os.PathLike[str] | None" = None,
    scorers: Sequence[Any] | Mapping[str, Any] | None = None,
    target: Any = None,
    null: "ReferenceModel | str | os.PathLike[str] | None" = None,
    warmup: "ReferenceModel | str | os.PathLike[str] | None" = None,
    aim: Aim = Aim(),
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
        target: A few rows of the task, answers included, as ``read`` takes them, for scorers that need it.
        null: A reference that was trained on answers alone (``train(..., prompt="none")``), for V-information.
        warmup: A training whose epochs were kept (``train(..., keep_epochs=True)``), for scorers that take gradients.
        aim: How to measure against the target.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        vectors: Vectors of the examples, which some selectors need: of the ``model``, or of ``wordllama``.
        store: Where measurements are kept; as long as ``model`` is there when not given.

    Raises:
        UsageError: If something of another type is given, or a scorer needs what is not measured.
        ModelError: If the reference belongs to another model, or the model refuses too many rows.
    """
    known, base, started = as_rows(rows), as_model(model), time.monotonic()
    ref = base.ref
    methods = methods_of(scorers, has_reference=reference is not None)
    compared = None if reference is None else against(reference, ref)
    keeps_losses = compared is not None and compared.models.last_epoch is not None
    needs = needs_of(methods, reference, null, target, warmup, keeps_losses=keeps_losses)
    longest = length_limit(ref, max_length)
    kept = base.store if store is None else store if isinstance(store, Store) else Store(Path(store))
    asked = compared if "reference" in measures.roles_of(needs) else None
    passes = passes_by(base, ref, reference, asked, max_length=longest, store=kept)
    rendered = known.rendered(passes.renderer, max_length=longest)
    if passes.renderer.uses_default_template:
        say(f"{base.name} brings no chat template: the default one is used (### Instruction / ### Response)")
    frame = _measured(passes, known.frame.select("id", "source"), rendered, needs)
    if "null" in measures.roles_of(needs):
        frame = frame.with_columns(_without_question(passes, null, compared, rendered, frame))
    against_target = None
    if target is not None:
        against_target = Against(
            target=as_rows(target),
            aim=aim,
            base=base,
            passes=passes,
            rows=known,
            frame=frame,
            warm_up=None if warmup is None else warm_up_of(_folder_of(warmup), ref),
        )
        frame = frame.with_columns(against_target.columns(rendered, measures.roles_of(needs)))
    frame = _scored(methods, frame, rendered, against_target)
    found = _vectors(passes, vectors, known.examples, rendered, frame)
    # What is known of each token stays in the store; a table of scores has one number in each cell.
    frame = frame.drop(measures.LISTS, strict=False)
    facts = _facts(frame, base.name, ref, rendered, methods) | {"max_length": longest, "vectors": vectors}
    facts |= {} if against_target is None else against_target.finish()
    cost = Cost(
        tokens=passes.tokens,
        passes=passes.tokens / max(facts["tokens"], 1),
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory_bytes(),
    )
    trained = None if compared is None else compared.step
    return ScoreTable(
        rows=known,
        model=base,
        reference=reference,
        frame=frame,
        facts=facts,
        vectors=found,
        target=None if against_target is None else against_target.target,
        says={} if against_target is None else against_target.said(methods),
        settings={"kind": "none"} if compared is None else compared.settings,
        costs=({} if trained is None else {"train": trained.cost}) | {"score": cost},
    )


def _scored(
    methods: Mapping[str, Scorer],
    frame: pl.DataFrame,
    rendered: Sequence[Rendered],
    against_target: Against | None,
) -> pl.DataFrame:
    """Return a frame with a column for each scorer; rows of the target have no score."""
    columns = []
    for name, method in methods.items():
        seen = frame
        if against_target is not None and "gradient" in measures.roles_of(method.needs):
            # A column for each method alone: each may take gradients in another way.
            seen = frame.with_columns(against_target.gradients(name, method, rendered))
        columns.append(pl.Series(name, method(seen), dtype=pl.Float32))
        if seen is not frame and against_target is not None:
            rho, _ = spearman(frame.with_columns(columns[-1]), name, "response_tokens")
            against_target.facts[f"{name}: rank correlation with answer tokens"] = rho and round(rho, 3)
    scored = frame.with_columns(columns)
    return scored if against_target is None else against_target.without_own(scored, list(methods))


def passes_by(
    base: Model, ref: ModelRef, reference: Any, compared: Compared | None, *, max_length: int, store: Store
) -> Passes:
    """Return the passes of a model, which has this identity now, and of what it is compared with, if anything."""

    def load(wanted: ModelRef) -> "LanguageModel":
        if isinstance(reference, Model) and compared is not None and wanted == compared.ref:
            return reference.opened()
        return base.opened() if wanted == ref else base.beside(wanted)

    models, whole = (None, None) if compared is None else (compared.models, compared.ref)
    return Passes(ref, models, max_length=max_length, store=store, load=load, whole=whole)


def _measured(
    passes: Passes, ids: pl.DataFrame, rendered: Sequence[Rendered], needs: set[str]
) -> pl.DataFrame:
    """Return what is measured of n examples, beside ``id`` and ``source``."""
    renderer, references, roles = passes.renderer, passes.references, measures.roles_of(needs)
    frame = pl.concat([ids, measures.lengths(rendered).drop("id")], how="horizontal")
    # What a model learns about stopping is known at no cost wherever a pass is made to compare.
    ends = renderer.end_ids if references is not None else frozenset[int]()
    columns = passes.columns("base", needs, rendered, frame, ends=ends).get_columns()
    if ends:
        counts = [int(measures.end_of_turn(example, ends).sum()) for example in rendered]
        columns.append(pl.Series("end_tokens", counts, dtype=pl.Int64))
    if "alone" in roles:
        answers = measures.answers_alone(rendered, header=renderer.answer_header)
        columns += passes.columns("alone", needs, answers, frame, ends=ends).get_columns()
    if references is not None and references.last_epoch is not None:
        say("reference loss: as the last epoch of its training met it, no pass")
        unknown = pl.Series("end_nll_after", [float("nan")] * frame.height, dtype=pl.Float32)
        columns += [references.last_epoch_loss(frame).alias("loss_after"), unknown]
    elif references is not None:
        columns += passes.columns("reference", needs, rendered, frame, ends=ends).get_columns()
    return frame.with_columns(columns)


def _without_question(
    passes: Passes, null: Any, compared: Compared | None, rendered: Sequence[Rendered], frame: pl.DataFrame
) -> pl.Series:
    """Return the loss of each answer under a reference that was trained on answers alone, the twin of the other, (n,)."""
    trained = against(null, passes.ref)
    settings = dict(trained.settings)
    if settings.pop("prompt", None) != "none":
        raise UsageError(
            "the null reference was trained with its questions",
            hint="make it with `learnable train POOL --prompt none`",
        )
    ours, theirs = _training_of(trained), {} if compared is None else _training_of(compared)
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if compared is not None and other != ["prompt"]:
        named = (
            "both on answers alone"
            if not other
            else ", ".join(
                f"{name} {ours.get(name)}, {theirs.get(name)}" for name in other if name != "prompt"
            )
        )
        raise UsageError(
            f"the null reference was trained otherwise than the reference: {named}",
            hint="train both on the same pool with the same settings, but for --prompt none",
        )
    if not settings.get("folds"):
        raise UsageError(
            "both references have seen the rows that they judge, so that every PVI is too high",
            hint="train both with --folds 2",
        )
    answers = measures.answers_alone(rendered, header=passes.renderer.answer_header)
    return passes.columns("null", {"loss_null"}, answers, frame, references=trained.models).to_series()


def _training_of(compared: Compared) -> dict[str, Any]:
    if compared.step is None:
        return dict(compared.settings)
    parameters: dict[str, Any] = read_json(compared.step.folder / DONE)["parameters"]
    return parameters | {"pool": compared.step.inputs["pool"]}


def _vectors(
    passes: Passes,
    kind: Vectors,
    examples: Sequence[Example],
    rendered: Sequence[Rendered],
    frame: pl.DataFrame,
) -> NDArray[np.float32] | None:
    if kind == "none":
        return None
    if kind == "model":
        return as_array(passes.vectors(rendered, frame))
    from learnable.models.static_embedding import StaticEmbedder

    return np.asarray(StaticEmbedder().embed(examples), dtype=np.float32)


def _facts(
    frame: pl.DataFrame,
    name: str,
    ref: ModelRef,
    rendered: Sequence[Rendered],
    methods: Mapping[str, Scorer],
) -> dict[str, Any]:
    from learnable.models.answers import left_out

    return {
        "examples": frame.height,
        "tokens": int(frame["tokens"].sum()),
        "truncated": int(frame["truncated"].sum()),
        "undefined": frame["undefined"].drop_nulls().len(),
        "model": name,
        "dtype": ref.dtype,
        "scorers": list(methods),
        **(_learning_to_stop(frame) if {"loss_before", "end_nll_after"} <= set(frame.columns) else {}),
        **rules_of(methods),
        **({"left out": cut} if (cut := left_out(rendered)) else {}),
        **({"chat template": ref.chat_template} if ref.chat_template else {}),
    }


def _learning_to_stop(frame: pl.DataFrame) -> dict[str, Any]:
    """Return as a fact which share of the fall of the loss is that of the end of turns, and say when it is large."""
    share = end_of_turn_share(frame)
    if share is not None and share > END_OF_TURN_SHARE:
        say(
            f"{share:.0%} of the whole fall of the loss is learning to stop (the token that ends a turn): "
            "text_learnability leaves it out"
        )
    return {"end of turn": "not known" if share is None else round(share, 4)}


def rules_of(methods: Mapping[str, Scorer]) -> dict[str, Any]:
    """Return what a selection must know of the scorers beyond their numbers."""
    limits = {name: getattr(method, "max_score", None) for name, method in methods.items()}
    return {
        "lowest first": [name for name, method in methods.items() if not method.higher_is_better],
        "max score": {name: limit for name, limit in limits.items() if limit is not None},
    }


def methods_of(
    scorers: Sequence[Any] | Mapping[str, Any] | None, *, has_reference: bool
) -> dict[str, Scorer]:
    """Return scorers by name; the usual ones where none are given."""
    scorers = scorers or (WITH_REFERENCE if has_reference else WITHOUT_REFERENCE)
    given = [scorers] if isinstance(scorers, str) else scorers
    pairs = [(each if isinstance(each, str) else type(each).__name__, each) for each in given]
    methods: dict[str, Scorer] = {}
    if isinstance(scorers, Mapping):
        pairs = list(scorers.items())
    for name, each in pairs:
        if name in methods:
            raise UsageError(f"two scorers are called {name!r}", hint="give a mapping of names to scorers")
        method = build("scorer", each, SCORERS) if isinstance(each, str) else each
        if isinstance(method, type) or not callable(method) or not hasattr(method, "needs"):
            raise UsageError(
                f"a scorer is a name or an object with needs and __call__, got {each!r}",
                hint="give an object of the class: MyScorer(), not MyScorer",
            )
        methods[name] = method
    return methods


def needs_of(
    methods: Mapping[str, Scorer],
    reference: Any,
    null: Any,
    target: Any,
    warmup: Any,
    *,
    keeps_losses: bool,
) -> set[str]:
    """Return the columns that scorers need; a reference may have kept the losses of its last epoch.

    What is None is not given: the ``reference``, the ``null`` one that was trained on answers alone, the ``target``,
    the ``warmup`` whose epochs were kept.

    Raises:
        UsageError: If a column is not measured, or not without what is not given, or not with this reference.
    """
    for given, roles, lacking, hint in (
        (
            reference,
            {"reference"},
            "compares with a reference model, and none is given",
            "make one with `learnable train DATA -o reference`, then give --reference reference",
        ),
        (
            null,
            {"null"},
            "compares with a reference that was trained on answers alone, and none is given",
            "make one with `learnable train DATA --prompt none -o null`, then give --null null",
        ),
        (
            target,
            measures.AIMED,
            "measures against a target, and no rows of one are given",
            "give a file with a few rows of your task, answers included: --target task.jsonl",
        ),
        (
            warmup,
            {"gradient"},
            "takes gradients at the epochs of a warm-up, and none is given",
            "make one with `learnable train DATA --fraction 0.05 --epochs 4 --keep-epochs --layers attention -o warmup`, "
            "then give --warmup warmup",
        ),
    ):
        wanting = sorted(name for name, method in methods.items() if roles & measures.roles_of(method.needs))
        if wanting and given is None:
            raise UsageError(f"{', '.join(wanting)} {lacking}", hint=hint)
    needs = {column for method in methods.values() for column in method.needs}
    if unknown := sorted(needs - set(measures.COLUMNS)):
        raise UsageError(
            f"a scorer needs {', '.join(unknown)}, which is not measured",
            hint=f"measured: {', '.join(sorted(measures.COLUMNS))}",
        )
    if keeps_losses and {kind.name for kind in measures.kinds_of(needs, "reference")} - {"nll"}:
        raise UsageError(
            "the losses of the last epoch are kept for whole answers, so the end of a turn cannot be left out",
            hint="train the reference without --last-epoch-loss",
        )
    return needs


def against(reference: Any, ref: ModelRef) -> Compared:
    """Return what a base is compared with, however it was given."""
    if isinstance(reference, Model):
        from learnable.models.source import identify
        from learnable.training import Part, References, no_assignment

        own = reference.ref
        models = References(parts=(Part(name=own.name, kind="model"),), assignment=no_assignment())
        settings = {"kind": "given", "model": reference.name}
        return Compared(models=models, identity=identify(own), settings=settings, ref=own)
    if not isinstance(reference, str | os.PathLike | ReferenceModel):
        raise UsageError(
            f"a reference is what train gave, a Model or a name, got {type(reference).__name__}",
            hint="make one: after = learnable.train(rows, model)",
        )
    return compared_with(_folder_of(reference), ref)


def _folder_of(trained: ReferenceModel | str | os.PathLike[str]) -> str:
    return os.fspath(trained.folder if isinstance(trained, ReferenceModel) else trained)
