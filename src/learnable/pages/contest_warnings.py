"""What to distrust in a comparison as in a lesson: each check says when it speaks."""

import numpy as np
import polars as pl

from learnable.experiments import UNTUNED
from learnable.pages.contest import ALWAYS_THE_SAME, Contest
from learnable.pages.warnings import Found, much_avoided
from learnable.pages.words import count, decimal, listing, plural, share

FEW_SEEDS = 5
FEW_ITEMS = 30
SAME = 1e-5
"""Of the largest value: what batches and adapters that do nothing change by rounding."""
NAMED = 8
"""Names in a sentence."""


def did_not_move(contest: Contest) -> Found:
    """At a budget, every trained model is graded as the untuned one, item by item."""
    results = contest.results.filter(pl.col("value").is_finite())
    is_untuned = pl.col("arm").str.split("@").list.first() == UNTUNED
    untuned = results.filter(is_untuned).select("evaluation", "id", base="value")
    if untuned.is_empty():
        return None
    pairs, found = results.filter(~is_untuned).join(untuned, on=["evaluation", "id"]), []
    budgets: list[int | None] = [*contest.evaluated[0].budgets]
    for budget in budgets or [None]:
        here = pairs.filter(pl.col("budget_tokens").eq_missing(budget))
        value, base = here["value"].to_numpy(), here["base"].to_numpy()
        if here.height and np.abs(value - base).max() <= SAME * np.abs(base).max():
            lines = [line for each in contest.evaluated for line in each.lines]
            steps = max(line.steps for line in lines if line.budget_tokens == budget)
            at = f"At {count(budget)} tokens every" if budget else "Every"
            found.append(
                f"{at} trained model is graded exactly as the untuned one, on every item: "
                f"{plural(round(steps), 'optimizer step')} changed nothing that can be seen, so nothing about the "
                f"{contest.arm_word}s follows from it. Take more data or epochs, smaller batches, or a higher learning rate."
            )
    return found


def no_effect(contest: Contest) -> Found:
    """Between the untuned model and the baseline no difference was seen."""
    found, is_known = [], False
    for each in contest.evaluated:
        untuned = next((line for line in each.beside if line.arm.partition("@")[0] == UNTUNED), None)
        is_known |= untuned is not None
        if untuned and untuned.outcome == "no difference seen" and not each.is_general:
            base = f"{each.name_of(each.baseline)} ({each.figure(each.baseline.value)})"
            found.append(
                f"On {each.title} no difference was seen between {untuned.arm} ({each.figure(untuned.value)}) and {base}: where "
                f"training itself shows no effect, {contest.arm_word}s can hardly show one. Take more data, a higher learning "
                "rate or another evaluation."
            )
    return found if is_known else None


def ungraded(contest: Contest) -> Found:
    """An answer could not be graded."""
    arm, found = contest.arm_word, []
    for each in contest.evaluated:
        if not any(line.ungraded for line in each.lines):
            continue
        answers = contest.results.filter(pl.col("evaluation") == each.label)
        sizes = dict(answers.group_by("arm", maintain_order=True).len().iter_rows())
        missing = {name: sum(line.ungraded for line in each.lines if line.arm == name) for name in sizes}
        shares = [missing[name] / size for name, size in sizes.items()]
        least, most = share(min(shares), 1), share(max(shares), 1)
        named = listing([f"{name} {number:,}" for name, number in missing.items() if number], NAMED)
        uneven = f" So the means of the {arm}s are over different items." if least != most else ""
        spread = f"{least} to {most} by {arm}: {named}" if uneven else f"the same share for every {arm}"
        if all(line.value is None for line in each.lines):
            said = f"Nothing of {each.title} could be graded: there is no answer from it. See `why` in results.parquet."
        else:
            said = (
                f"{plural(sum(missing.values()), 'answer')} of {answers.height:,} on {each.title} could not be graded ({spread}) "
                f"and are left out of the means, not counted as wrong.{uneven}"
            )
        found.append(said)
    return found


def cannot_tell(contest: Contest) -> Found:
    """No arm differs from the baseline on a single item."""
    arm, found = contest.arm_word, []
    for each in contest.evaluated:
        if not each.compared or any(line.outcome != ALWAYS_THE_SAME for line in each.compared):
            continue
        values = {decimal(line.value, 2) for line in each.compared}
        every = f" (every value is {values.pop()})" if len(values) == 1 else ""
        found.append(
            f"On {each.title} no {arm} differs from {contest.baseline} on a single item{every}: it cannot tell the {arm}s "
            "apart, and “no difference seen” says nothing there. Take one that is easier or harder for this model, or has "
            "more items."
        )
    return found


def few_items(contest: Contest) -> Found:
    """An evaluation has fewer than `FEW_ITEMS` graded items."""
    few = [f"{each.title} ({each.items:,})" for each in contest.evaluated if 0 < each.items < FEW_ITEMS]
    if not few:
        return ""
    return (
        f"Fewer than {FEW_ITEMS} graded items: {listing(few, NAMED)}. The intervals allow for it, but so few items "
        f"hardly stand for {contest.asked_of}."
    )


def many_avoided(contest: Contest) -> Found:
    """More than `MUCH_AVOIDED` of the rows read stand in the evaluation files to avoid."""
    return None if contest.facts.avoided is None else much_avoided(contest.facts.avoided, contest.facts.read)


def few_seeds(contest: Contest) -> Found:
    """Fewer than `FEW_SEEDS` trainings of each arm."""
    if contest.trainings >= FEW_SEEDS:
        return ""
    if contest.trainings == 1:
        return (
            f"Only one training of each {contest.arm_word}: the noise of training is not in the intervals at all, so a "
            f"difference may be the luck of one seed. Use --seeds {FEW_SEEDS}."
        )
    return (
        f"Only {contest.trainings:,} trainings of each {contest.arm_word}: the intervals are honest about it, but wide, so "
        f"“no difference seen” often means “not enough seeds”. With --seeds {FEW_SEEDS} they become much narrower; what is "
        "trained already is kept."
    )


def only_losses(contest: Contest) -> Found:
    """All evaluations are losses, but for what was forgotten."""
    if {each.unit for each in contest.evaluated if not each.is_general} != {"nats per token"}:
        return ""
    return (
        f"Only losses stand for {contest.asked_of}: they say how likely the model finds given answers, not whether what it "
        "writes is right. Add an evaluation that reads its answers, such as format or exact_match."
    )
