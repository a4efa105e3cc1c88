"""Evaluations: evaluators with their data, read; and the grades that a model gets on all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from learnable.errors import UsageError
from learnable.evaluators.kinds import GRADES, EvaluatedModel, Evaluator
from learnable.evaluators.running import evaluate
from learnable.evaluators.table import Specification, build_evaluator, parse
from learnable.runs.identity import fingerprint
from learnable.runs.store import Store
from learnable.types import Example


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluator with its data, read."""

    label: str
    evaluator: Evaluator
    examples: list[Example]

    @property
    def identity(self) -> str:
        """Fingerprint of the evaluator's settings and of the examples."""
        return fingerprint(
            [self.label, fingerprint(self.evaluator), [example.id for example in self.examples]]
        )


def wants_heldout(written: Sequence[str]) -> bool:
    """Tell whether an evaluation is on the rows that the data itself sets aside: ``heldout`` without a file."""
    return any(_is_heldout(parse(text)) for text in written)


def _is_heldout(specification: Specification) -> bool:
    return specification.name == "heldout" and specification.path is None


def check_place(asked: Sequence[Specification], on: str | None) -> None:
    """Say which evaluation is not known, or cannot be done where the model runs; no data is read.

    Raises:
        UsageError: If there is no such evaluator, it does not know a setting, or it takes the model into its own hands
            and the model is on a cluster.
    """
    for specification in asked:
        if build_evaluator(specification).kind == "harness" and on is not None:
            raise UsageError(
                f"{specification.label} runs the model itself, and with --on {on} there is none here",
                hint=f"evaluate {specification.name} by itself, without --on",
            )


def evaluations_of(written: Sequence[str], *, heldout: Path | None = None) -> list[Evaluation]:
    """Return the evaluations that were asked for, their data read; ``heldout`` are the rows that were set aside.

    Raises:
        UsageError: If one is not known.
        DataError: If its data cannot be read.
    """
    specifications = {text: parse(text) for text in dict.fromkeys(written)}
    labels = [specification.label for specification in specifications.values()]
    found = []
    for text, specification in specifications.items():
        # Files of one name in two folders are told apart by their paths.
        label = specification.label if labels.count(specification.label) == 1 else text
        if heldout is not None and _is_heldout(specification):
            settings = {"source_column": "source", **specification.settings}
            specification = replace(specification, path=str(heldout), settings=settings)
        evaluator = build_evaluator(specification)
        examples = evaluator.read(specification.path)
        found.append(Evaluation(label=label, evaluator=evaluator, examples=examples))
    return found


def graded_all(
    model: EvaluatedModel,
    evaluations: Sequence[Evaluation],
    *,
    store: Store,
    max_length: int,
    what: str = "",
) -> pl.DataFrame:
    """Return the grades of all evaluations of one model, as it is now (its adapter on or off).

    Returns:
        ``evaluation``, and the columns of ``evaluate``.
    """
    nothing: dict[str, Any] = {"evaluation": pl.String, **GRADES}
    grades = [pl.DataFrame(schema=nothing)]
    for each in evaluations:
        frame = evaluate(
            model,
            each.evaluator,
            each.examples,
            store=store,
            max_length=max_length,
            label=f"{each.label}{what}",
        )
        grades.append(frame.select(pl.lit(each.label).alias("evaluation"), pl.all()))
    return pl.concat(grades)
