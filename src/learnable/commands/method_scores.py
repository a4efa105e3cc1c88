"""What methods choose by: their references and scores, each kept in the store, and what they cost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.commands.score import score, vectors_of
from learnable.commands.train import train
from learnable.experiments import Method, SelectionCost
from learnable.measures import roles_of
from learnable.objects.scoring import Vectors
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome
from learnable.settings import Loading
from learnable.types import ModelRef


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """What the methods choose by.

    Args:
        lengths: ``id``, ``source``, ``tokens``, ``response_tokens``, ``undefined`` of the pool.
        frames: Table of scores by label of method; several share one.
        vectors: (n, d), None where no method needs them.
        costs: By label of method.
        tokens: That were computed in this run.
    """

    lengths: pl.DataFrame
    frames: Mapping[str, pl.DataFrame]
    vectors: NDArray[np.float32] | None
    costs: Mapping[str, SelectionCost]
    tokens: int

    def select(self, method: Method, tokens: int, seed: int) -> list[str]:
        """Return the ids that a method chooses."""
        return method.select(self.frames[method.label], tokens=tokens, vectors=self.vectors, seed=seed)

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


def score_methods(
    methods: Sequence[Method],
    flags: pl.DataFrame,
    *,
    ref: ModelRef,
    longest: int,
    store: Path,
    loaded: Outcome,
    alone_tokens: int,
    vectors: Vectors,
    on: str | None,
) -> MethodScores:
    """Return the scores of all methods; methods with the same reference share its training and its pass.

    Args:
        methods: What is compared.
        flags: ``id``, and the columns of booleans that methods name.
        ref: The model.
        longest: Longest example in tokens.
        store: Folder of measurements, references and scores.
        loaded: The pool.
        alone_tokens: Tokens of a pass over its answers alone.
        vectors: Which vectors selectors look at.
        on: Where the model is measured, see ``inputs.opened``.
    """
    groups: dict[str, list[Method]] = {"": [m for m in methods if not m.needs_reference]}
    for method in methods:
        if method.needs_reference:
            groups.setdefault(fingerprint(method.reference), []).append(method)
    vectors = vectors if any(method.needs_vectors for method in methods) else "none"
    trained: dict[str, Outcome] = {}
    scored: dict[str, Outcome] = {}
    loading = Loading(**{field.name: getattr(ref, field.name) for field in fields(Loading)})
    usual: dict[str, Any] = {"model": ref.name, "loading": loading, "max_length": longest}
    for key, group in groups.items():
        if key:
            folder = str(store / "reference-{fingerprint}")
            trained[key] = train([loaded.path], reference=group[0].reference, output=folder, **usual)
        names = {method.score for method in group if method.scorer is not None}
        scored[key] = score(
            [loaded.path],
            reference=trained[key].path if key else None,
            scorers=sorted(names | {"length"}),
            vectors="none" if key else vectors,
            on=on,
            store=str(store),
            output=str(store / "scores-{fingerprint}"),
            **usual,
        )
    tables = {
        key: pl.read_parquet(each.folder / "scores.parquet").join(
            flags, on="id", how="left", maintain_order="left"
        )
        for key, each in scored.items()
    }
    lengths = tables[""].select("id", "source", "tokens", "response_tokens", "undefined")
    whole = int(lengths["tokens"].sum())
    return MethodScores(
        lengths=lengths,
        frames={method.label: tables[key] for key, group in groups.items() for method in group},
        vectors=None if vectors == "none" else vectors_of(scored[""].folder),
        costs={
            method.label: _cost(
                method, trained.get(key), scored.values(), whole=whole, alone=alone_tokens, vectors=vectors
            )
            for key, group in groups.items()
            for method in group
        },
        tokens=sum(each.cost.tokens for each in (*trained.values(), *scored.values()) if each.ran),
    )


def _cost(
    method: Method,
    reference: Outcome | None,
    scored: Collection[Outcome],
    *,
    whole: int,
    alone: int,
    vectors: Vectors,
) -> SelectionCost:
    """Return what a method costs alone, at the speed that was seen here; passes are over ``whole`` or ``alone`` tokens."""
    if method.scorer is None:
        return SelectionCost()
    tokens = sum(alone if role == "alone" else whole for role in roles_of(method.scorer.needs))
    tokens += whole * (method.needs_vectors and vectors == "model")
    cost = SelectionCost(score_tokens=tokens, score_s=tokens and tokens * _pace(scored))
    if reference is None:
        return cost
    trained = round(whole * method.reference.passes)
    return replace(cost, reference_tokens=trained, reference_s=trained * _pace([reference]))


def _pace(outcomes: Collection[Outcome]) -> float:
    """Return seconds per token of the step that measured most, NaN where all was stored before."""
    most = max((outcome.cost for outcome in outcomes), key=lambda cost: cost.tokens)
    return most.seconds / most.tokens if most.tokens else float("nan")
