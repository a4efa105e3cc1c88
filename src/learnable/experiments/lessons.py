"""Ways to train on one task, side by side: what was reached, and how that differs from common instruction tuning."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import polars as pl

from learnable.errors import UsageError, did_you_mean
from learnable.experiments.overview import UNTUNED, Measured, by_seed
from learnable.experiments.statistics import difference, interval

Init = Literal["random", "mean", "description"]
INITS: tuple[Init, ...] = ("random", "mean", "description")
_DIFFERENCE = {
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "verdict": pl.String,
}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One way to train: the name of a mixture (or ``untuned``), and how new tokens begin.

    ``label`` is what it is called in tables: what was written.
    """

    mixture: str
    init: Init
    label: str


def parse_lessons(written: Sequence[str], *, init: Init, known: Collection[str]) -> list[Lesson]:
    """Return the ways to train of ``NAME`` or ``NAME@init=mean``, distinct and in order.

    Args:
        written: As on the command line.
        init: How new tokens begin where an arm does not say.
        known: Names of mixtures.

    Raises:
        UsageError: If one cannot be read.
    """
    if init not in INITS:
        raise UsageError(f"init is random, mean or description, got {init!r}")
    lessons: dict[str, Lesson] = {}
    for text in written:
        name, at, setting = text.partition("@")
        key, _, value = setting.partition("=")
        if name not in (UNTUNED, *known):
            raise UsageError(f"no way to train called {name!r}", hint=did_you_mean(name, (UNTUNED, *known)))
        if at and (key != "init" or value not in INITS):
            raise UsageError(
                f"cannot read the arm {text!r}", hint=f"write {name}@init=random, mean or description"
            )
        lessons[text] = Lesson(mixture=name, init=cast("Init", value) if at else init, label=text)
    return list(lessons.values())


def lesson_table(
    results: pl.DataFrame,
    arms: pl.DataFrame,
    *,
    evaluations: Sequence[Measured],
    baseline: str,
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return one line per evaluation and arm.

    The difference is to the baseline, paired by item and by seed. Intervals hold for all trained arms of an evaluation
    together (Bonferroni).

    Args:
        results: ``arm``, ``seed``, ``evaluation``, ``id``, ``value`` (NaN = not graded).
        arms: ``arm``, ``seed``, ``examples``, ``task_examples``, ``tokens``, ``response_tokens``, ``steps``, ``seconds``.
        evaluations: In the order of the table.
        baseline: The arm that the others are compared with.
        confidence: Of the intervals.

    Returns:
        ``evaluation``, ``unit``, ``higher_is_better``, ``arm``; means over the seeds of ``examples``, ``task_examples``,
        ``tokens``, ``response_tokens``, ``steps``, ``training_s``; the ``value`` with ``value_low``, ``value_high``,
        ``items``, ``seeds``, ``ungraded``; the ``difference`` with ``low``, ``high``, ``p`` and ``verdict`` (null for
        the baseline itself).
    """
    costs = arms.group_by("arm", maintain_order=True).agg(
        *(
            pl.col(name).cast(pl.Float64).mean()
            for name in ("examples", "task_examples", "tokens", "response_tokens", "steps")
        ),
        training_s=pl.col("seconds").cast(pl.Float64).mean(),
    )
    names = costs["arm"].to_list()
    compared = max(1, sum(name != baseline and name.partition("@")[0] != UNTUNED for name in names))
    lines = []
    for evaluation in evaluations:
        graded = results.filter(pl.col("evaluation") == evaluation.label)
        items = graded.select("id").unique().sort("id")
        values = {name: by_seed(graded.filter(arm=name), items) for name in names}
        for name, cost in zip(names, costs.iter_rows(named=True), strict=True):
            alone = interval(values[name], confidence=confidence)
            line: dict[str, object] = {
                "evaluation": evaluation.label,
                "unit": evaluation.unit,
                "higher_is_better": evaluation.higher_is_better,
                **cost,
                **alone.value_columns,
                **dict.fromkeys(_DIFFERENCE),
            }
            if name != baseline:
                against = difference(
                    values[name],
                    values[baseline],
                    higher_is_better=evaluation.higher_is_better,
                    confidence=confidence,
                    comparisons=compared,
                )
                line |= against.difference_columns
            lines.append(line)
    return pl.DataFrame(lines, infer_schema_length=None, schema_overrides=_DIFFERENCE)
