"""What the page of a comparison is made from, and what that says in words: what differs from a random draw, what pays back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from learnable.experiments import FOR_THIS_SEED, FULL, RANDOM, UNTUNED
from learnable.pages import contest_warnings as shared
from learnable.pages.contest import (
    JUDGED,
    MUTE,
    ContestFacts,
    Evaluated,
    Line,
    counted,
)
from learnable.pages.contest_warnings import NAMED
from learnable.pages.warnings import Found
from learnable.pages.words import count, decimal, enumeration, listing, plural, probability, share


@dataclass(frozen=True, kw_only=True)
class ComparisonFacts(ContestFacts):
    """All that a report says about one comparison; the baseline is a random draw, whatever its name.

    Args:
        methods: Labels, in the order asked for.
        selections: ``method``, ``budget_tokens``, ``seed``, ``rank``, ``id``.
        scores: The pool: ``id``, ``source``, ``tokens``, ``response_tokens``, ``undefined``; ``loss_before`` if known.
        overlap: Evaluation items that stand in the pool.
        examples: Columns ``id``, ``source``, ``messages``; None when there are no texts.
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
    notes: Sequence[str] = ()

    @property
    def draw(self) -> str:
        """The baseline in a sentence: its own name where it has one."""
        return "a random draw" if self.baseline == RANDOM else self.baseline

    @property
    def standard(self) -> str:
        """The baseline in a sentence, once it was named."""
        return "the random draw" if self.baseline == RANDOM else self.baseline

    def competes(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a line of the table has a budget."""
        return row["budget_tokens"] is not None

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
        cell = ["method", "budget_tokens"]
        by_seed = picks.group_by(*cell, "seed", maintain_order=True).agg("id")
        chosen = by_seed.group_by(cell, maintain_order=True).agg("id")
        return {(method, budget): ids for method, budget, ids in chosen.iter_rows()}

    def first(self, budget: int) -> dict[str, list[str]]:
        """Return what each method chose at a budget, with the first seed."""
        found = {method: self.chosen.get((method, budget)) for method in self.contestants}
        return {method: seeds[0] for method, seeds in found.items() if seeds}

    def arms_at(self, budget: int) -> list[Line]:
        """Return the lines of a budget, in the order asked for, of one evaluation: for figures that all of them share."""
        lines = [each.of(method, budget) for each in self.evaluated[:1] for method in self.contestants]
        return [line for line in lines if line is not None]


def headline(comparison: ComparisonFacts) -> str:
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


MISSED_BUDGET = 0.05
ANSWER_RATIO = 1.5
UNDEFINED_SHARE = 0.05


def _in_pool(comparison: ComparisonFacts) -> Found:
    """Evaluation items share a prompt or 13 words in a row with the pool."""
    found = []
    for each in comparison.evaluated:
        here = comparison.overlap.filter(pl.col("evaluation") == each.label)
        if here.is_empty():
            continue
        whole = comparison.results.filter(pl.col("evaluation") == each.label)["id"].n_unique()
        kinds = [f"{number:,} {kind}" for kind, number in here["kind"].value_counts(sort=True).iter_rows()]
        stand, they_are = ("stands", "It is") if here.height == 1 else ("stand", "They are")
        found.append(
            f"{plural(here.height, 'item')} of {each.label} ({share(here.height, whole)} of {whole:,}) {stand} in the pool, "
            f"in full or in part ({listing(kinds)}): a method that chooses them is rewarded for memory. {they_are} listed "
            "below; leave the rows out with --avoid, and compare again."
        )
    return found


def _one_selection(comparison: ComparisonFacts) -> Found:
    """A method makes one selection for all seeds."""
    draws: dict[str, set[int]] = {}
    for (method, _), picks in comparison.chosen.items():
        draws.setdefault(method, set()).add(len({frozenset(ids) for ids in picks}))
    fixed = [method for method in comparison.contestants[1:] if draws.get(method) == {1}]
    if comparison.trainings < 2 or not fixed:
        return ""
    return (
        f"{listing(fixed, NAMED)} {'makes' if len(fixed) == 1 else 'make'} one selection for all seeds: the seeds show the "
        "noise of training, not how the choice would change with other data of this kind. The random draw has both in it."
    )


def _missed_budget(comparison: ComparisonFacts) -> Found:
    """A selection has over `MISSED_BUDGET` more or fewer tokens than asked."""
    off = []
    for budget in comparison.budgets:
        for line in comparison.arms_at(budget):
            miss = line.tokens / budget - 1
            if abs(miss) > MISSED_BUDGET:
                percent = f"{miss:+.0%}".replace("-", "\N{MINUS SIGN}")
                off.append(f"{line.arm} {count(line.tokens)} of {count(budget)} ({percent})")
    if not off:
        return ""
    return (
        f"Tokens that miss the budget by more than {MISSED_BUDGET:.0%}: {listing(off, NAMED)}. These methods trained on "
        "less (or more) than the others, which is a difference of its own."
    )


def _answer_length(comparison: ComparisonFacts) -> Found:
    """A selection has over `ANSWER_RATIO` times the response tokens of the random draw, or under its inverse."""
    found = []
    for budget in comparison.budgets:
        lines = comparison.arms_at(budget)
        random = sum(line.response_tokens for line in lines if line.arm == comparison.baseline)
        ratios = {line.arm: line.response_tokens / random for line in lines if random}
        off = {
            method: ratio for method, ratio in ratios.items() if not 1 / ANSWER_RATIO <= ratio <= ANSWER_RATIO
        }
        found += [f"{method} at {count(budget)} ({decimal(ratio, 2)} times)" for method, ratio in off.items()]
    if not found:
        return ""
    return (
        "At the same total tokens, selections with far more or fewer response tokens than the random draw: "
        f"{listing(found, NAMED)}. The loss counts response tokens only, so the length of answers may explain what "
        "is seen; longest, or a score that is matched for length, beside them shows how much."
    )


def _same_selection(comparison: ComparisonFacts) -> Found:
    """Two methods chose the same examples."""
    found = []
    for budget in comparison.budgets:
        groups: dict[frozenset[str], list[str]] = {}
        for method, ids in comparison.first(budget).items():
            groups.setdefault(frozenset(ids), []).append(method)
        same = [names for names in groups.values() if len(names) > 1]
        found += [f"{' and '.join(names)} at {count(budget)} tokens" for names in same]
    if not found:
        return ""
    return (
        f"The same examples under two names: {listing(found, NAMED)}. That is one method, counted twice; all "
        "intervals are wider for it."
    )


def _without_score(comparison: ComparisonFacts) -> Found:
    """More than `UNDEFINED_SHARE` of the pool could not be scored."""
    scores = comparison.scores
    missing = scores["undefined"].count() if "undefined" in scores.columns else 0
    if missing <= UNDEFINED_SHARE * scores.height:
        return ""
    return (
        f"{share(missing, scores.height)} of the pool ({missing:,} of {scores.height:,} examples) could not be scored "
        "and was never chosen, by no method. Repair the data or raise the length limit."
    )


def _one_evaluation(comparison: ComparisonFacts) -> Found:
    """There is only one evaluation set."""
    if len(comparison.evaluated) != 1:
        return ""
    return (
        f"Only one evaluation set, {comparison.evaluated[0].label}: what helps there may harm elsewhere. Add one "
        "of another kind, such as exact answers or rules beside a held-out loss."
    )


COMPARISON_CHECKS: dict[str, Callable[[ComparisonFacts], Found]] = {
    "models that did not move": shared.did_not_move,
    "evaluations that cannot tell methods apart": shared.cannot_tell,
    "training that shows no effect": shared.no_effect,
    "rows and settings that mislead": lambda comparison: list(comparison.notes),
    "evaluation items in the pool": _in_pool,
    "rows of the evaluation": shared.many_avoided,
    "ungraded answers": shared.ungraded,
    "few evaluation items": shared.few_items,
    "few seeds": shared.few_seeds,
    "one selection for all seeds": _one_selection,
    "missed budgets": _missed_budget,
    "other answer lengths than random": _answer_length,
    "the same selection twice": _same_selection,
    "examples without a score": _without_score,
    "one evaluation set only": _one_evaluation,
    "losses only": shared.only_losses,
}
