"""What to distrust in a comparison: plain sentences with the figure seen and what follows from it."""

from collections.abc import Callable

import polars as pl

from learnable.pages import contest_warnings as shared
from learnable.pages.comparison_facts import ComparisonFacts
from learnable.pages.contest_warnings import NAMED
from learnable.pages.warnings import Found
from learnable.pages.words import count, decimal, listing, plural, share

MISSED_BUDGET = 0.05
ANSWER_RATIO = 1.5
UNDEFINED_SHARE = 0.05


def _noted(comparison: ComparisonFacts) -> Found:
    """What the run said of its rows and settings."""
    return list(comparison.notes)


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
    "rows and settings that mislead": _noted,
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
