"""What the pages of arms say at their end: what to distrust, where each check says when it speaks, and how they were made."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from learnable.experiments import UNTUNED
from learnable.pages.contest import ALWAYS_THE_SAME, ContestFacts
from learnable.pages.html import bullets, settings_table
from learnable.pages.page import Section
from learnable.pages.warnings import Found, kept_apart, much_avoided
from learnable.pages.words import count, decimal, enumeration, listing, plural, share

FEW_SEEDS = 5
FEW_ITEMS = 30
SAME = 1e-5
"""Of the largest value: what batches and adapters that do nothing change by rounding."""
NAMED = 8
"""Names in a sentence."""


def did_not_move(contest: ContestFacts) -> Found:
    """At a budget, every trained model is graded as the untuned one, item by item."""
    results = contest.items.filter(pl.col("value").is_finite())
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


def no_effect(contest: ContestFacts) -> Found:
    """Between the untuned model and the baseline no difference was seen."""
    seen, is_known = [], False
    for each in contest.evaluated:
        line = next((line for line in each.beside if line.arm.partition("@")[0] == UNTUNED), None)
        is_known |= line is not None
        if line and line.outcome == "no difference seen" and not each.is_general:
            seen.append((each, line))
    if not seen:
        return "" if is_known else None
    first, model = seen[0]
    untuned, base = model.arm, first.name_of(first.baseline)
    values = [(each, each.figure(line.value), each.figure(each.baseline.value)) for each, line in seen]
    where = listing([f"{each.title} ({one} and {other})" for each, one, other in values], NAMED)
    if len(seen) == 1:
        where, untuned, base = first.title, f"{untuned} ({values[0][1]})", f"{base} ({values[0][2]})"
    return (
        f"On {where} no difference was seen between {untuned} and {base}: where training itself shows no effect, "
        f"{contest.arm_word}s can hardly show one. Take more data, a higher learning rate or another evaluation."
    )


def ungraded(contest: ContestFacts) -> Found:
    """An answer could not be graded; evaluations without any value for the same reason are named together."""
    arm, found, reasons = contest.arm_word, list[str](), dict[str, list[str]]()
    for each in contest.evaluated:
        answers = contest.items.filter(pl.col("evaluation") == each.label)
        if all(line.value is None for line in each.lines):
            why = answers["why"].drop_nulls().unique().to_list()
            reasons.setdefault(why[0] if len(why) == 1 else "", []).append(each.title)
            continue
        if not any(line.ungraded for line in each.lines):
            continue
        sizes = dict(answers.group_by("arm", maintain_order=True).len().iter_rows())
        missing = {name: sum(line.ungraded for line in each.lines if line.arm == name) for name in sizes}
        shares = [missing[name] / size for name, size in sizes.items()]
        least, most = share(min(shares), 1), share(max(shares), 1)
        named = listing([f"{name} {number:,}" for name, number in missing.items() if number], NAMED)
        uneven = f" So the means of the {arm}s are over different items." if least != most else ""
        spread = f"{least} to {most} by {arm}: {named}" if uneven else f"the same share for every {arm}"
        found.append(
            f"{plural(sum(missing.values()), 'answer')} of {answers.height:,} on {each.title} could not be graded ({spread}) "
            f"and are left out of the means, not counted as wrong.{uneven}"
        )
    unknown = "no item could be graded; column why of results.parquet has the reasons"
    nothing = [
        f"There is no value of {enumeration(titles)}: {why or unknown}." for why, titles in reasons.items()
    ]
    return [*nothing, *found]


def cannot_tell(contest: ContestFacts) -> Found:
    """No arm differs from the baseline on a single item; not looked at where no model moved."""
    if did_not_move(contest):
        return None
    arm, named = contest.arm_word, []
    for each in contest.evaluated:
        if not each.compared or any(line.outcome != ALWAYS_THE_SAME for line in each.compared):
            continue
        values = {decimal(line.value, 2) for line in each.compared}
        named.append(each.title + (f" (every value is {values.pop()})" if len(values) == 1 else ""))
    if not named:
        return ""
    these, they = ("it", "Take one that is") if len(named) == 1 else ("they", "Take some that are")
    has = "has" if len(named) == 1 else "have"
    return (
        f"On {enumeration(named)} no {arm} differs from {contest.standard} on a single item: {these} cannot tell the {arm}s "
        f"apart, and “no difference seen” says nothing there. {they} easier or harder for this model, or {has} more items."
    )


def few_items(contest: ContestFacts) -> Found:
    """An evaluation has fewer than `FEW_ITEMS` graded items."""
    few = [f"{each.title} ({each.items:,})" for each in contest.evaluated if 0 < each.items < FEW_ITEMS]
    if not few:
        return ""
    return (
        f"Fewer than {FEW_ITEMS} graded items: {listing(few, NAMED)}. The intervals allow for it, but so few items "
        f"hardly stand for {contest.asked_of}."
    )


def many_avoided(contest: ContestFacts) -> Found:
    """More than `MUCH_AVOIDED` of the rows read stand in the evaluation files to avoid."""
    return None if contest.avoided is None else much_avoided(contest.avoided, contest.read)


def few_seeds(contest: ContestFacts) -> Found:
    """Fewer than `FEW_SEEDS` trainings of each arm."""
    if contest.trainings >= FEW_SEEDS:
        return ""
    of_each = f" of each {contest.arm_word}" if any(each.compared for each in contest.evaluated) else ""
    if contest.trainings == 1:
        return (
            f"Only one training{of_each}: the noise of training is not in the intervals at all, so a "
            f"difference may be the luck of one seed. Use --seeds {FEW_SEEDS}."
        )
    return (
        f"Only {contest.trainings:,} trainings{of_each}: the intervals are honest about it, but wide, so "
        f"“no difference seen” often means “not enough seeds”. With --seeds {FEW_SEEDS} they become much narrower; what is "
        "trained already is kept."
    )


def only_losses(contest: ContestFacts) -> Found:
    """All evaluations are losses, but for what was forgotten."""
    if {each.unit for each in contest.evaluated if not each.is_general} != {"nats per token"}:
        return ""
    return (
        f"Only losses stand for {contest.asked_of}: they say how likely the model finds given answers, not whether what it "
        "writes is right. Add an evaluation that reads its answers, such as format or exact_match."
    )


def method_section(
    contest: ContestFacts,
    *,
    first: str,
    widened_for: str,
    alone: str = "",
    last: Sequence[str],
) -> Section:
    """Return how differences are made and what they cannot say, between what only one kind of page has to say."""
    notes = [
        first,
        "A difference is paired: the same items, the same seeds. Its interval holds the chance of the items and of the training, "
        f"and is widened for the number of {widened_for}, so that with {100 * contest.confidence:g}% confidence all differences of one "
        "evaluation are inside together; p is corrected likewise. Several evaluations are not corrected for each "
        f"other{alone}.",
        f"The interval of a value stands for that value alone. Do not compare {contest.arm_word}s by whether these overlap; the "
        "differences are for that.",
        "“No difference seen” is no proof that there is none. It says that a difference smaller than half the interval cannot "
        "be told from chance here.",
        *([] if contest.avoided is None else [kept_apart(contest.avoided, contest.read)]),
        *last,
    ]
    shown = settings_table("Settings of every training", contest.settings, label="Training")
    title = "How this was made, and what it cannot say"
    return Section(id="method", nav="method", title=title, parts=[bullets(notes), *shown])
