"""What the page of a comparison is made from, and what that says in words: what differs from a random draw, what pays back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from learnable.experiments import FOR_THIS_SEED, FULL, RANDOM, UNTUNED
from learnable.pages.contest import (
    JUDGED,
    MUTE,
    ContestFacts,
    Evaluated,
    Line,
    counted,
    line_of,
    probability,
)
from learnable.pages.words import count, enumeration, plural


@dataclass(frozen=True, kw_only=True)
class ComparisonFacts(ContestFacts):
    """All that a report says about one comparison; the baseline is a random draw, whatever its name.

    Args:
        methods: Labels, in the order asked for.
        selections: ``method``, ``budget_tokens``, ``seed``, ``rank``, ``id``.
        scores: The pool: ``id``, ``source``, ``tokens``, ``response_tokens``, ``undefined``; ``loss_before`` if known.
        overlap: Evaluation items that stand in the pool.
        examples: Columns ``id``, ``source``, ``messages``; None when there are no texts.
        question: What the page answers.
        fair: What makes the arms comparable.
        answer: What the run itself found first, for the headline.
        findings: What the run itself found, beside differences to a random draw.
        notes: What the run itself says is to be distrusted.
    """

    methods: Sequence[str]
    selections: pl.DataFrame
    scores: pl.DataFrame
    overlap: pl.DataFrame
    examples: pl.DataFrame | None
    baseline: str = RANDOM
    arm_word: str = "method"
    asked_of: str = "what the model will be asked"
    question: str = "Does choosing help?"
    fair: str = (
        "Every method stands against a random draw of the same number of tokens, trained in the same way."
    )
    answer: str = ""
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def draw(self) -> str:
        """The baseline in a sentence: its own name where it has one."""
        return "a random draw" if self.baseline == RANDOM else self.baseline

    @property
    def standard(self) -> str:
        """The baseline in a sentence, once it was named."""
        return "the random draw" if self.baseline == RANDOM else self.baseline

    def read_line(self, row: Mapping[str, Any]) -> Line:
        """Read a line of the table; what has no budget gives the scale only."""
        return line_of(row, baseline=self.baseline, competes=row["budget_tokens"] is not None)

    @cached_property
    def budgets(self) -> list[int]:
        """Budgets in tokens, smallest first."""
        return self.table["budget_tokens"].drop_nulls().unique().sort().to_list()

    @property
    def budget(self) -> int:
        """The largest budget, in tokens, for what is shown once."""
        return self.budgets[-1]

    @property
    def at_largest(self) -> str:
        """Say which budget is meant where there is only one figure."""
        several = ", the largest budget" if len(self.budgets) > 1 else ""
        return f"at {count(self.budget)} tokens{several}"

    @cached_property
    def contestants(self) -> list[str]:
        """The methods that choose, the baseline first, the others in the order asked for."""
        first = self.baseline
        return [first, *(name for name in self.methods if name not in (first, UNTUNED, FULL))]

    @property
    def is_contest(self) -> bool:
        """Whether anything stands against the baseline."""
        return len(self.contestants) > 1

    @cached_property
    def chosen(self) -> dict[tuple[str, int], list[list[str]]]:
        """Ids by method and budget: one list for each seed, first seed first."""
        picks = self.selections.drop_nulls("budget_tokens").sort("seed", "rank", maintain_order=True)
        found: dict[tuple[str, int], list[list[str]]] = {}
        for (method, budget, _), part in picks.group_by(
            "method", "budget_tokens", "seed", maintain_order=True
        ):
            found.setdefault((str(method), int(str(budget))), []).append(part["id"].to_list())
        return found

    def first(self, budget: int) -> dict[str, list[str]]:
        """Return what each method chose at a budget, with the first seed."""
        found = {method: self.chosen.get((method, budget)) for method in self.contestants}
        return {method: seeds[0] for method, seeds in found.items() if seeds}

    def arms_at(self, budget: int) -> list[Line]:
        """Return the lines of a budget, in the order asked for, of one evaluation: for figures that all of them share."""
        lines = [each.of(method, budget) for each in self.evaluated[:1] for method in self.contestants]
        return [line for line in lines if line is not None]


def headline(comparison: ComparisonFacts) -> str:
    """The answer in one line: what the run itself found first, and whether a method helps."""
    said = _helped(comparison)
    return f"{comparison.answer}. {said}" if comparison.answer else said


def _helped(comparison: ComparisonFacts) -> str:
    """The answer to "does it help?" in one line, over all evaluations and budgets."""
    lines = [line for each in comparison.evaluated for line in each.compared]
    outcomes = {line.outcome for line in lines}
    one_seed = FOR_THIS_SEED if comparison.trainings == 1 else ""
    if not lines:
        asked = comparison.question if comparison.findings else ""
        return asked or f"Nothing was compared with {comparison.draw}"
    if outcomes == {"not graded"}:
        return "Nothing could be graded"
    if not outcomes & set(JUDGED):
        return "Nothing that was graded can tell the methods apart"
    if not outcomes & {"better", "worse"}:
        seen = f"No difference to {comparison.draw} was seen"
        mute = [
            each.label
            for each in comparison.evaluated
            if {line.outcome for line in each.compared} <= set(MUTE)
        ]
        told = [each.label for each in comparison.evaluated if each.label not in mute]
        where = f" on {enumeration(told)}; {enumeration(mute)} could not be judged" if mute else ""
        return f"{seen}{where}{one_seed if not mute else ''}"
    return f"{plural(len(lines), 'comparison')} with {comparison.draw}{one_seed}: {counted(lines)}"


def gain_of(each: Evaluated, method: str, budget: int) -> str:
    """Say what came of a method at a budget, in a few words."""
    line = each.of(method, budget)
    if line is None:
        return "not measured"
    if line.outcome in ("better", "worse"):
        size = each.figure(abs(line.difference or 0))
        return f"{line.outcome} by {size} (p {probability(line.p)}){line.of_one_seed}"
    return line.words


def paybacks(comparison: ComparisonFacts) -> list[str]:
    """Say when a method pays for itself, only where it was seen to be better; and why the others do not."""
    found = []
    seen: dict[str, set[str]] = {name: set() for name in comparison.contestants[1:]}
    for each in comparison.evaluated:
        several = f" on {each.label}" if len(comparison.evaluated) > 1 else ""
        for line in each.compared:
            seen.setdefault(line.arm, set()).add(line.outcome)
            if line.outcome == "better" and line.payback:
                found.append(f"{line.arm} at {count(line.budget_tokens)} tokens{several}: {line.payback}.")
    worse = [name for name, outcomes in seen.items() if "worse" in outcomes and "better" not in outcomes]
    mute = [name for name, outcomes in seen.items() if outcomes <= set(MUTE)]
    rest = [
        name for name, outcomes in seen.items() if not outcomes & {"better", "worse"} and name not in mute
    ]
    reasons = (
        (worse, "seen to be worse, never to be better, so nothing pays back"),
        (rest, "no difference seen, so nothing to pay back"),
        (mute, "could not be judged, so no payback is known"),
    )
    return found + [f"{enumeration(names)}: {why}." for names, why in reasons if names]
