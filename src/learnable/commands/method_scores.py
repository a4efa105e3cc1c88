"""What methods choose by: their references and scores, each kept in the store, and what they cost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.commands.experiment import Experiment
from learnable.commands.network import gradient_epochs, passes_for
from learnable.commands.score import score
from learnable.commands.train import train
from learnable.experiments import Method, SelectionCost
from learnable.measures import Role
from learnable.objects.choosing import in_turns
from learnable.objects.measuring import Vectors
from learnable.objects.results import said_by_target, vectors_of
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome
from learnable.settings import Aim, Loading, Reference

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
    target: Outcome | None,
    aim: Aim,
    warmup: Reference,
    alone_tokens: int,
    vectors: Vectors,
) -> MethodScores:
    """Return the scores of all methods; methods with the same reference share its training and its pass.

    ``flags`` has ``id``, and the columns of booleans that methods name; ``alone_tokens`` are those of a pass over the
    answers of the pool alone.
    """
    groups: dict[str, list[Method]] = {"": []}
    for method in methods:
        key = fingerprint(method.reference) if method.needs_reference else ""
        groups.setdefault(key, []).append(method)
    ref, store, loaded = experiment.network.ref, experiment.store, experiment.data.step
    loading = Loading(**{field.name: getattr(ref, field.name) for field in fields(Loading)})
    aimed: dict[str, Any] = {} if target is None else {"target": target.path, "aim": aim}
    usual: dict[str, Any] = {"model": ref.name, "loading": loading, "max_length": experiment.network.longest}
    trained, scored, frames = dict[str, dict[str, Outcome]](), dict[str, Outcome](), dict[str, pl.DataFrame]()
    turns: dict[str, NDArray[np.float32]] = {}
    for key, group in groups.items():
        needed = {role for method in group for role in method.roles}
        models = _models(needed, group[0].reference, warmup, loaded, target, store, usual)
        trained[key] = models
        paths: dict[str, Any] = {option: model.path for option, model in models.items()}
        names = {method.score for method in group if method.scorer is not None}
        scored[key] = score(
            [loaded.path],
            **paths,
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
    counts = {"rows": lengths.height, "target": 0 if target is None else target.facts["examples"]}
    pace = _pace(scored.values())
    costs = {
        method.label: _cost(method, tokens, counts, aim, warmup, pace, trained[key], vectors=vectors)
        for key, group in groups.items()
        for method in group
    }
    return MethodScores(
        lengths=lengths,
        frames=frames,
        turns=turns,
        vectors=None if vectors == "none" else vectors_of(scored[""].folder),
        costs=costs,
        tokens=sum(
            each.cost.tokens
            for each in chain(*(each.values() for each in trained.values()), scored.values())
            if each.ran
        ),
    )


def _cost(
    method: Method,
    tokens: Mapping[str, int],
    counts: Mapping[str, int],
    aim: Aim,
    warmup: Reference,
    pace: float,
    models: Mapping[str, Outcome],
    *,
    vectors: Vectors,
) -> SelectionCost:
    """Return what a method alone costs, at this pace; ``tokens`` are the pool's, whole and of answers alone, ``counts`` the rows."""
    per_role = {role: tokens["alone" if role in ("alone", "null") else "base"] for role in method.roles}
    epochs = gradient_epochs([method.scorer], round(warmup.epochs))
    passed = sum(count * passes_for(role, aim, epochs, **counts) for role, count in per_role.items())
    passed += tokens["base"] * (method.needs_vectors and vectors == "model")
    # The base pass that chooses rows is the one that the score takes; each reference that chooses takes its own.
    passed += tokens["base"] * method.reference.choosing_passes[1] * method.needs_reference
    taught = 0.0
    for role, own in (("reference", tokens["base"]), ("null", tokens["alone"])):
        if role in per_role:
            taught += models[role].facts.get("trusted tokens", own) * method.reference.passes
    warmed_up = warmup.passes_over(counts["rows"], keep_epochs=True) if "gradient" in per_role else 0.0
    taught += tokens["base"] * warmed_up
    return SelectionCost(
        score_tokens=round(passed),
        score_s=passed and passed * pace,
        reference_tokens=round(taught),
        reference_s=taught * _pace(models.values()) if taught else 0.0,
    )


def _models(
    roles: Collection[Role],
    reference: Reference,
    warmup: Reference,
    loaded: Outcome,
    target: Outcome | None,
    store: Path,
    usual: Mapping[str, Any],
) -> dict[str, Outcome]:
    """Return the models that some roles need beside the base, trained on the pool, by the option of ``score``."""
    kept: dict[str, Any] = {"keep_epochs": True, "layers": "attention"}
    kept |= {} if target is None else {"target": target.path}
    found = {}
    for option, role, more in (
        ("reference", "reference", {"reference": reference}),
        ("null", "null", {"reference": replace(reference, prompt="none")}),
        ("warmup", "gradient", {"reference": warmup} | kept),
    ):
        if role in roles:
            output = str(store / f"{option}-{{fingerprint}}")
            found[option] = train([loaded.path], output=output, store=str(store), **more, **usual)
    return found


def _turns(scored: Outcome, method: Method) -> NDArray[np.float32]:
    said = said_by_target(scored.folder, method.score)
    return in_turns(said, scored.facts.get("subtasks", ()), by=method.score, alike=method.needs_vectors)


def _pace(outcomes: Collection[Outcome]) -> float:
    """Return seconds per token of the step that measured most, NaN where all was stored before."""
    most = max((outcome.cost for outcome in outcomes), key=lambda cost: cost.tokens)
    return most.seconds / most.tokens if most.tokens else float("nan")
