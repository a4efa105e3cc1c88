"""What the page of a comparison is made from, in the form that its parts read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import polars as pl

from learnable.experiments import FULL, RANDOM, UNTUNED
from learnable.pages.contest import Contest, Evaluated, Line, digits_of, judged
from learnable.pages.words import count, finite


@dataclass(frozen=True, kw_only=True)
class ComparisonFacts:
    """All that a report says about one comparison; the tables are those that `learnable compare` writes.

    Args:
        title: Heading of the page.
        command: Command that repeats the report.
        model: Display name of the model.
        confidence: Of all differences of an evaluation together, and of each value.
        settings: How every selection was trained, shown as a table.
        methods: Labels, in the order asked for.
        table: One line per evaluation, method and budget.
        results: One line per graded item.
        arms: One line per training.
        selections: ``method``, ``budget_tokens``, ``seed``, ``rank``, ``id``.
        scores: The pool: ``id``, ``source``, ``tokens``, ``response_tokens``, ``undefined``; ``loss_before`` if known.
        overlap: Evaluation items that stand in the pool.
        examples: Columns ``id``, ``source``, ``messages``; None when there are no texts.
        tokens: That the comparison computed when it ran.
        seconds: That it took when it ran.
    """

    title: str
    command: str
    model: str
    confidence: float
    settings: Mapping[str, Any]
    methods: Sequence[str]
    table: pl.DataFrame
    results: pl.DataFrame
    arms: pl.DataFrame
    selections: pl.DataFrame
    scores: pl.DataFrame
    overlap: pl.DataFrame
    examples: pl.DataFrame | None
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MethodLine(Line):
    """One line of the table.

    ``budget`` is None for the untuned model and the full pool, ``tokens`` those of the selection (mean over seeds).
    """

    budget: int | None
    examples: float
    tokens: float
    response_tokens: float
    steps: float
    training_s: float
    score_tokens: int
    score_s: float | None
    reference_tokens: int
    reference_s: float | None
    payback: str | None


@dataclass(frozen=True, kw_only=True)
class ByBudget(Evaluated[MethodLine]):
    """All lines of one evaluation."""

    @cached_property
    def budgets(self) -> list[int]:
        """Budgets in tokens, smallest first."""
        return sorted({line.budget for line in self.lines if line.budget is not None})

    @cached_property
    def outside(self) -> tuple[MethodLine, ...]:
        """The untuned model and the full pool: they have other budgets."""
        return tuple(line for line in self.lines if line.budget is None)

    def at(self, budget: int) -> list[MethodLine]:
        """Return the lines of a budget, best value first; what could not be graded comes last."""
        sign = -1 if self.higher_is_better else 1
        lines = [line for line in self.lines if line.budget == budget]
        return sorted(lines, key=lambda line: math.inf if line.value is None else sign * line.value)

    def random(self, budget: int) -> MethodLine | None:
        """Return the random draw of a budget."""
        return next((line for line in self.lines if (line.arm, line.budget) == (RANDOM, budget)), None)

    def one(self, method: Literal["untuned", "full"]) -> MethodLine | None:
        """Return the untuned model or the full pool."""
        return next((line for line in self.outside if line.arm == method), None)


@dataclass(frozen=True, kw_only=True)
class Comparison(Contest):
    """The facts, read: ``evaluated`` in the order asked for; ``budget`` is the largest one, for what is shown once."""

    facts: ComparisonFacts
    evaluated: tuple[ByBudget, ...]
    budgets: tuple[int, ...]

    @property
    def budget(self) -> int:
        """The largest budget, in tokens."""
        return self.budgets[-1]

    @cached_property
    def methods(self) -> list[str]:
        """The methods that choose, random first, the others in the order asked for."""
        others = [name for name in self.facts.methods if name not in (RANDOM, UNTUNED, FULL)]
        return [RANDOM, *others]

    @cached_property
    def chosen(self) -> dict[tuple[str, int], list[list[str]]]:
        """Ids by method and budget: one list for each seed, first seed first."""
        picks = self.facts.selections.filter(pl.col("budget_tokens").is_not_null()).sort(
            "seed", "rank", maintain_order=True
        )
        found: dict[tuple[str, int], list[list[str]]] = {}
        groups = picks.group_by("method", "budget_tokens", "seed", maintain_order=True)
        for (method, budget, _), part in groups:
            found.setdefault((str(method), int(str(budget))), []).append(part["id"].to_list())
        return found

    @property
    def at_largest(self) -> str:
        """Say which budget is meant where there is only one figure."""
        several = ", the largest budget" if len(self.budgets) > 1 else ""
        return f"at {count(self.budget)} tokens{several}"

    @cached_property
    def at_largest_budget(self) -> list[MethodLine]:
        """The lines of the largest budget, in the order asked for, of whichever evaluation: for what all of them share."""
        lines = (self.arm(method, self.budget) for method in self.methods)
        return [line for line in lines if line is not None]

    def first(self, budget: int) -> dict[str, list[str]]:
        """Return what each method chose at a budget, with the first seed."""
        return {
            method: self.chosen[method, budget][0]
            for method in self.methods
            if (method, budget) in self.chosen
        }

    def arm(self, method: str, budget: int) -> MethodLine | None:
        """Return a line of a method and budget, of whichever evaluation: for figures that all of them share."""
        lines = (line for each in self.evaluated for line in each.lines)
        return next((line for line in lines if (line.arm, line.budget) == (method, budget)), None)


def comparison_of(facts: ComparisonFacts) -> Comparison:
    """Sort the table by evaluation, with None for whatever is not finite."""
    evaluated = []
    for (label,), part in facts.table.group_by("evaluation", maintain_order=True):
        rows = part.to_dicts()
        lines = tuple(_line(row) for row in rows)
        evaluated.append(
            ByBudget(
                label=str(label),
                unit=rows[0]["unit"],
                higher_is_better=rows[0]["higher_is_better"],
                digits=digits_of([line for line in lines if line.is_compared]),
                lines=lines,
            )
        )
    budgets = facts.table["budget_tokens"].drop_nulls().unique().sort().to_list()
    return Comparison(
        facts=facts,
        evaluated=tuple(evaluated),
        budgets=tuple(budgets),
        arm_word="method",
        baseline="the random draw",
        asked_of="what the model will be asked",
        trainings=max(1, facts.arms["seed"].n_unique()),
    )


def _line(row: Mapping[str, Any]) -> MethodLine:
    counts = ("score_tokens", "reference_tokens")
    means = ("examples", "tokens", "response_tokens", "steps", "training_s")
    figures: dict[str, Any] = {name: int(row[name] or 0) for name in counts}
    figures |= {name: finite(row[name]) or 0.0 for name in means}
    figures |= {name: finite(row.get(name)) for name in ("score_s", "reference_s")}
    return MethodLine(
        arm=row["method"],
        budget=row["budget_tokens"],
        is_compared=row["budget_tokens"] is not None and row["method"] != RANDOM,
        payback=row.get("payback"),
        **judged(row, baseline=row["method"] == RANDOM),
        **figures,
    )
