"""Scores of rows: the passes that the formulas need, and the formulas."""

import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from learnable import measures
from learnable.deferred import models, training
from learnable.errors import UsageError
from learnable.objects.aiming import Against
from learnable.objects.given import Compared, compared_with, length_limit
from learnable.objects.gradients import warm_up_of
from learnable.objects.measuring import Measuring, Vectors, twin_of
from learnable.objects.model import Model, as_model, output_folder
from learnable.objects.passes import Passes
from learnable.objects.results import SCORES, ReferenceModel, ScoreTable, write_beside
from learnable.objects.rows import as_rows
from learnable.pages.selection_facts import spearman
from learnable.runs.files import writing_frames
from learnable.runs.price import Cost, peak_memory_bytes
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.scorers import END_OF_TURN_SHARE, SCORERS, end_of_turn_share
from learnable.settings import Aim
from learnable.spec import build
from learnable.types import ModelRef, Scorer

WITH_REFERENCE, WITHOUT_REFERENCE = ("learnability", "difference", "length_matched"), ("loss",)
BESIDE: Mapping[str, tuple[Set[measures.Role], str, str]] = {
    "reference": (
        {"reference"},
        "compares with a reference model, and none is given",
        "make one with `learnable train DATA -o reference`, then give --reference reference",
    ),
    "null": (
        {"null"},
        "compares with a reference that was trained on answers alone, and none is given",
        "make one with `learnable train DATA --prompt none -o null`, then give --null null",
    ),
    "target": (
        measures.AIMED,
        "measures against a target, and no rows of one are given",
        "give a file with a few rows of your task, answers included: --target task.jsonl",
    ),
    "warmup": (
        {"gradient"},
        "takes gradients at the epochs of a warm-up, and none is given",
        "make one with `learnable train DATA --fraction 0.05 --epochs 4 --keep-epochs --layers attention -o warmup`, "
        "then give --warmup warmup",
    ),
}
"""What scorers may need beside a model: for which roles, what such a scorer does without it, and where it comes from."""


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
    output: str | os.PathLike[str] | None = None,
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
        output: Folder for the table of scores; it is there as long as what is returned when not given.

    Raises:
        UsageError: If something of another type is given, or a scorer needs what is not measured.
        ModelError: If the reference belongs to another model, or the model refuses too many rows.
    """
    known, base, started = as_rows(rows), as_model(model), time.monotonic()
    ref, methods = base.ref, methods_of(scorers, has_reference=reference is not None)
    compared = None if reference is None else against(reference, ref)
    given = {"reference": reference, "null": null, "target": target, "warmup": warmup}
    kept_losses = compared is not None and compared.models.last_epoch is not None
    needs = needs_of(methods, given, keeps_losses=kept_losses)
    kept = base.store if store is None else store if isinstance(store, Store) else Store(Path(store))
    asked = compared if "reference" in measures.roles_of(needs) else None
    passes = passes_by(base, ref, reference, asked, max_length=length_limit(ref, max_length), store=kept)
    if passes.renderer.uses_default_template:
        say(f"{base.name} brings no chat template: the default one is used (### Instruction / ### Response)")
    measuring = Measuring(
        rows=known,
        passes=passes,
        needs=needs,
        vectors=vectors,
        null=twin_of(compared, against(null, ref)) if "null" in measures.roles_of(needs) else None,
        aimed=_aimed(target, warmup, aim=aim, base=base),
    )
    folder, scratch = output_folder(output)
    _write_scores(file := folder / SCORES, measuring, methods)
    facts = _facts(pl.scan_parquet(file), base.name, ref, methods, measuring)
    seconds = time.monotonic() - started
    return ScoreTable(
        rows=known,
        model=base,
        reference=reference,
        file=file,
        facts=facts,
        target=None if target is None else as_rows(target),
        settings={"kind": "none"} if compared is None else compared.settings,
        costs=_costs(compared, passes.tokens, facts["tokens"], seconds=seconds),
        scratch=scratch,
    )


def _aimed(target: Any, warmup: Any, *, aim: Aim, base: Model) -> Callable[..., Against] | None:
    """Return what measures rows against a target, where one is given."""
    if target is None:
        return None
    warm_up = None if warmup is None else warm_up_of(_folder_of(warmup), base.ref)
    return partial(Against, target=as_rows(target), aim=aim, base=base, warm_up=warm_up)


def _costs(compared: Compared | None, tokens: int, pool_tokens: int, *, seconds: float) -> dict[str, Cost]:
    """Return what a table cost, and the training that it compares with."""
    cost = Cost(
        tokens=tokens,
        passes=tokens / max(pool_tokens, 1),
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(),
    )
    trained = None if compared is None else compared.step
    return ({} if trained is None else {"train": trained.cost}) | {"score": cost}


def _write_scores(path: Path, measuring: Measuring, methods: Mapping[str, Scorer]) -> None:
    """Measure the rows, and write what was measured with a column for each scorer, window by window.

    Beside it go the vectors, and what rows of a target say.
    """
    with writing_frames(path) as file:
        for frame in measuring.frames():
            file.add(frame)
        # A formula may look at all rows: at the columns that it needs alone.
        others = {name: method for name, method in methods.items() if not _is_by_row(method)}
        whole, done = {one.name: one for one in _scores(file.written(), measuring.against, others)}, 0

        def scored(frame: pl.DataFrame) -> pl.DataFrame:
            nonlocal done
            columns = [
                whole[name].slice(done, frame.height)
                if name in whole
                else pl.Series(name, method(frame.select(method.needs)), dtype=pl.Float32)
                for name, method in methods.items()
            ]
            frame, done = frame.hstack(columns), done + frame.height
            if measuring.against is not None:
                frame = measuring.against.without_own(frame, list(methods))
            # What is known of each token stays in the store; a table of scores has one number in each cell.
            return frame.drop(measures.LISTS, strict=False)

        file.rewrite(scored)
    says = {} if measuring.against is None else measuring.against.said(methods)
    write_beside(path, measuring.found_vectors(), says)


def _is_by_row(method: Scorer) -> bool:
    """Return whether a formula may be asked window by window; gradients are taken of all rows at once."""
    return getattr(method, "by_row", False) and "gradient" not in measures.roles_of(method.needs)


def _scores(
    measured: pl.LazyFrame, against_target: Against | None, methods: Mapping[str, Scorer]
) -> list[pl.Series]:
    """Return a column for each scorer, of all rows."""
    columns = []
    for name, method in methods.items():
        aimed = against_target if "gradient" in measures.roles_of(method.needs) else None
        # A column for each method alone: each may take gradients in another way.
        own = [] if aimed is None else [aimed.gradients(name, method)]
        seen = measured.select(
            each for each in method.needs if each not in {one.name for one in own}
        ).collect()
        column = pl.Series(name, method(pl.DataFrame([*seen, *own])), dtype=pl.Float32)
        if aimed is not None:
            lengths = measured.select("response_tokens").collect()
            rho, _ = spearman(lengths.with_columns(column), name, "response_tokens")
            aimed.facts[f"{name}: rank correlation with answer tokens"] = rho and round(rho, 3)
        columns.append(column)
    return columns


def passes_by(
    base: Model, ref: ModelRef, reference: Any, compared: Compared | None, *, max_length: int, store: Store
) -> Passes:
    """Return the passes of a model, which has this identity now, and of what it is compared with, if anything."""

    def load(wanted: ModelRef) -> "models.LanguageModel":
        if isinstance(reference, Model) and compared is not None and wanted == compared.ref:
            return reference.opened()
        return base.opened() if wanted == ref else base.beside(wanted)

    models, whole = (None, None) if compared is None else (compared.models, compared.ref)
    return Passes(ref, models, max_length=max_length, store=store, load=load, whole=whole)


def _facts(
    scores: pl.LazyFrame,
    name: str,
    ref: ModelRef,
    methods: Mapping[str, Scorer],
    measuring: Measuring,
) -> dict[str, Any]:
    cut, columns = str(measuring.rendering.left_out), set(scores.collect_schema())
    counts = scores.select(
        examples=pl.len(),
        tokens=pl.col("tokens").sum(),
        truncated=pl.col("truncated").sum().cast(pl.Int64),
        undefined=pl.col("undefined").count().cast(pl.Int64),
    )
    return {
        **counts.collect(engine="streaming").row(0, named=True),
        "model": name,
        "dtype": ref.dtype,
        "scorers": list(methods),
        **(_learning_to_stop(scores) if {"loss_before", "end_nll_after"} <= columns else {}),
        **rules_of(methods),
        **({"left out": cut} if cut else {}),
        **({"chat template": ref.chat_template} if ref.chat_template else {}),
        "max_length": measuring.passes.max_length,
        "vectors": measuring.vectors,
        **({} if measuring.against is None else measuring.against.finish()),
    }


def _learning_to_stop(scores: pl.LazyFrame) -> dict[str, Any]:
    """Return as a fact which share of the fall of the loss is that of the end of turns, and say when it is large."""
    looked_at = ("loss_before", "loss_after", "response_tokens", "end_nll_before", "end_nll_after")
    there = scores.collect_schema()
    share = end_of_turn_share(scores.select(name for name in looked_at if name in there).collect())
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


def needs_of(methods: Mapping[str, Scorer], given: Mapping[str, Any], *, keeps_losses: bool) -> set[str]:
    """Return the columns that scorers need, with what is ``given`` by the names in ``BESIDE``, where None is not given.

    A reference may have kept the losses of its last epoch (``keeps_losses``).

    Raises:
        UsageError: If a column is not measured, or not without what is not given, or not with this reference.
    """
    for name, (roles, lacking, hint) in BESIDE.items():
        wanting = sorted(each for each, method in methods.items() if roles & measures.roles_of(method.needs))
        if wanting and given.get(name) is None:
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
        own = reference.ref
        one = training.References(parts=(training.Part(name=own.name, kind="model"),))
        settings = {"kind": "given", "model": reference.name}
        return Compared(models=one, identity=models.identify(own), settings=settings, ref=own)
    if not isinstance(reference, str | os.PathLike | ReferenceModel):
        raise UsageError(
            f"a reference is what train gave, a Model or a name, got {type(reference).__name__}",
            hint="make one: after = learnable.train(rows, model)",
        )
    return compared_with(_folder_of(reference), ref)


def _folder_of(trained: ReferenceModel | str | os.PathLike[str]) -> str:
    return os.fspath(trained.folder if isinstance(trained, ReferenceModel) else trained)
