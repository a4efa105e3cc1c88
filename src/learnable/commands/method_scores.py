"""What methods choose by: their references and scores, each kept in the store, and what they cost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.commands.experiment import Experiment
from learnable.commands.prices import passes_for
from learnable.commands.score import said_by_target, score, vectors_of
from learnable.commands.train import train
from learnable.experiments import Method, SelectionCost
from learnable.measures import roles_of
from learnable.objects.choosing import in_turns
from learnable.objects.scoring import Vectors
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome
from learnable.settings import Aim, Loading

LENGTHS = ["id", "source", "tokens", "response_tokens", "undefined"]


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """What the methods choose by, by label; ``vectors`` (n, d) are None where no method needs them.

    ``turns`` are what each turn of a target's rows says of each example, (n, turns), of methods that look at that.
    ``lengths`` are the columns ``LENGTHS`` of the pool, ``tokens`` those that were computed in this run.
    """

    lengths: pl.DataFrame
    frames: Mapping[str, pl.DataFrame]
    turns: Mapping[str, NDArray[np.float32]]
    vectors: NDArray[np.float32] | None
    costs: Mapping[str, SelectionCost]
    tokens: int

    def select(self, method: Method, tokens: int, seed: int) -> list[str]:
        """Return the ids that a method chooses."""
        vectors = self.turns.get(method.label, self.vectors)
        return method.select(self.frames[method.label], tokens=tokens, vectors=vectors, seed=seed)

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
    experiment: Experiment,
    loaded: Outcome,
    target: Outcome | None,
    aim: Aim,
    alone_tokens: int,
    vectors: Vectors,
) -> MethodScores:
    """Return the scores of all methods; methods with the same reference share its training and its pass.

    ``flags`` has ``id``, and the columns of booleans that methods name; ``alone_tokens`` are those of a pass over the
    answers of the pool (``loaded``) alone.
    """
    groups: dict[str, list[Method]] = {"": []}
    for method in methods:
        key = fingerprint(method.reference) if method.needs_reference else ""
        groups.setdefault(key, []).append(method)
    ref, store = experiment.network.ref, experiment.store
    loading = Loading(**{field.name: getattr(ref, field.name) for field in fields(Loading)})
    aimed: dict[str, Any] = {} if target is None else {"target": target.path, "aim": aim}
    usual: dict[str, Any] = {"model": ref.name, "loading": loading, "max_length": experiment.network.longest}
    trained, scored, frames = dict[str, Outcome](), dict[str, Outcome](), dict[str, pl.DataFrame]()
    turns: dict[str, NDArray[np.float32]] = {}
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
            on=experiment.network.on,
            store=str(store),
            output=str(store / "scores-{fingerprint}"),
            **usual,
            **aimed,
        )
        frame = pl.read_parquet(scored[key].folder / "scores.parquet")
        frame = frame.join(flags, on="id", how="left", maintain_order="left")
        frames |= {method.label: frame for method in group}
        turns |= {method.label: _turns(scored[key], method) for method in group if method.by_target}
    lengths = pl.read_parquet(scored[""].folder / "scores.parquet", columns=LENGTHS)
    tokens = {"base": int(lengths["tokens"].sum()), "alone": alone_tokens}
    pace, costs = _pace(scored.values()), dict[str, SelectionCost]()
    for key, group in groups.items():
        for method in group:
            roles = roles_of(method.scorer.needs) if method.scorer is not None else ()
            passed = round(
                sum(tokens["alone" if role == "alone" else "base"] * passes_for(role, aim) for role in roles)
            )
            passed += tokens["base"] * (method.needs_vectors and vectors == "model")
            taught = round(tokens["base"] * method.reference.passes) if key else 0
            costs[method.label] = SelectionCost(
                score_tokens=passed,
                score_s=passed and passed * pace,
                reference_tokens=taught,
                reference_s=taught * _pace([trained[key]]) if key else 0.0,
            )
    return MethodScores(
        lengths=lengths,
        frames=frames,
        turns=turns,
        vectors=None if vectors == "none" else vectors_of(scored[""].folder),
        costs=costs,
        tokens=sum(each.cost.tokens for each in (*trained.values(), *scored.values()) if each.ran),
    )


def _turns(scored: Outcome, method: Method) -> NDArray[np.float32]:
    said = said_by_target(scored.folder, method.score)
    return in_turns(said, scored.facts.get("subtasks", ()), by=method.score, alike=method.needs_vectors)


def _pace(outcomes: Collection[Outcome]) -> float:
    """Return seconds per token of the step that measured most, NaN where all was stored before."""
    most = max((outcome.cost for outcome in outcomes), key=lambda cost: cost.tokens)
    return most.seconds / most.tokens if most.tokens else float("nan")
