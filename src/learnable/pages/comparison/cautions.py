"""What to distrust in a comparison: plain sentences with the figure seen and what follows from it.

| warning | fires when |
|---|---|
| models that did not move | at a budget, every trained model is graded as the untuned one, item by item |
| evaluation that cannot tell | no method differs from the random draw on a single item |
| training that shows no effect | between the untuned model and the random draw no difference was seen |
| items in the pool | evaluation items share a prompt or 13 words in a row with the pool |
| ungraded answers | an answer could not be graded |
| few items | an evaluation has fewer than `FEW_ITEMS` graded items |
| few seeds | fewer than `FEW_SEEDS` trainings of each method |
| training noise only | a method makes one selection for all seeds |
| missed budget | a selection has over `MISSED_BUDGET` more or fewer tokens than asked |
| other answer lengths | a selection has over `ANSWER_RATIO` times the response tokens of the random draw, or under its inverse |
| same selection twice | two methods chose the same examples |
| no score | more than `UNDEFINED_SHARE` of the pool could not be scored |
| one evaluation set | there is only one |
| only losses | all evaluations are losses |
"""

import numpy as np
import polars as pl

from learnable.experiments import RANDOM
from learnable.pages.checks import Cautions, Check, checked
from learnable.pages.comparison.facts import Comparison, ComparisonFacts, Line, comparison_of
from learnable.pages.words import count, decimal, listing, plural, share

FEW_SEEDS = 5
FEW_ITEMS = 30
MISSED_BUDGET = 0.05
ANSWER_RATIO = 1.5
UNDEFINED_SHARE = 0.05
SAME = 1e-5
"""Of the largest value: what batches and adapters that do nothing change by rounding."""
NAMED = 8


def warnings_of(facts: ComparisonFacts) -> list[str]:
    """Say what to distrust in a comparison, most damaging first.

    Args:
        facts: What the report is made from.

    Returns:
        Plain sentences; the module's table lists what is looked for.
    """
    return list(cautions_of(comparison_of(facts)).warnings)


def cautions_of(comparison: Comparison) -> Cautions:
    """Make every check."""
    return checked(CHECKS, comparison)


def _did_not_move(comparison: Comparison) -> list[str]:
    found = []
    results = comparison.facts.results.filter(pl.col("value").is_finite())
    untuned = results.filter(pl.col("method") == "untuned").select("evaluation", "id", base="value")
    pairs = results.join(untuned, on=["evaluation", "id"])
    for budget in comparison.budgets:
        here = pairs.filter(pl.col("budget_tokens") == budget)
        value, base = here["value"].to_numpy(), here["base"].to_numpy()
        if here.height and np.abs(value - base).max() <= SAME * np.abs(base).max():
            steps = max((line.steps for each in comparison.evaluated for line in each.at(budget)), default=0)
            found.append(
                f"At {count(budget)} tokens every trained model is graded exactly as the untuned one, on every item: "
                f"{plural(round(steps), 'optimizer step')} changed nothing that can be seen, so nothing about the "
                "methods follows from this budget. Take a larger one, a smaller batch or more epochs."
            )
    return found


def _cannot_tell(comparison: Comparison) -> list[str]:
    return [
        f"On {each.label} no method differs from the random draw on a single item"
        + _one_value([line for line in each.lines if line.value is not None])
        + ": it cannot tell the methods apart, and “no difference seen” says nothing there. Take one that is easier "
        "or harder for this model, or has more items."
        for each in comparison.evaluated
        if each.compared and all(line.outcome == "always the same" for line in each.compared)
    ]


def _one_value(lines: list[Line]) -> str:
    values = {line.value for line in lines}
    return f" (every value is {decimal(values.pop(), 2)})" if len(values) == 1 else ""


def _no_effect(comparison: Comparison) -> list[str]:
    found = []
    for each in comparison.evaluated:
        untuned, random = each.one("untuned"), each.random(comparison.budget)
        if untuned is not None and random is not None and untuned.outcome == "no difference seen":
            found.append(
                f"On {each.label} no difference was seen between the untuned model ({each.figure(untuned.value)}) and "
                f"a random draw of {count(random.budget)} tokens ({each.figure(random.value)}): where training itself "
                "shows no effect, the choice of its data can hardly show one. Take larger budgets, a higher learning "
                "rate or another evaluation."
            )
    return found


def _in_pool(comparison: Comparison) -> list[str]:
    found = []
    for each in comparison.evaluated:
        here = comparison.facts.overlap.filter(pl.col("evaluation") == each.label)
        if here.is_empty():
            continue
        whole = comparison.facts.results.filter(pl.col("evaluation") == each.label)["id"].n_unique()
        kinds = [f"{number:,} {kind}" for kind, number in here["kind"].value_counts(sort=True).iter_rows()]
        found.append(
            f"{plural(here.height, 'item')} of {each.label} ({share(here.height, whole)} of {whole:,}) "
            f"{'stands' if here.height == 1 else 'stand'} in the pool, in full or in part ({listing(kinds)}): a method "
            "that chooses them is rewarded for memory. "
            f"{'It is' if here.height == 1 else 'They are'} listed below; take them out of the pool and compare again."
        )
    return found


def _ungraded(comparison: Comparison) -> list[str]:
    found = []
    for each in comparison.evaluated:
        lines = [line for line in each.lines if line.ungraded]
        if not lines:
            continue
        if all(line.value is None for line in each.lines):
            found.append(
                f"Nothing of {each.label} could be graded: there is no answer from it. See `why` in results.parquet."
            )
            continue
        found.append(_partly_graded(comparison, each.label))
    return found


def _partly_graded(comparison: Comparison, label: str) -> str:
    rows = comparison.facts.results.filter(pl.col("evaluation") == label).select(
        "method", missing=pl.col("value").is_finite().fill_null(value=False).not_()
    )
    shares = rows.group_by("method").agg(pl.col("missing").mean())["missing"].to_numpy()
    least, most = share(shares.min(), 1), share(shares.max(), 1)
    spread = "the same share for every method" if least == most else f"{least} to {most} by method"
    return (
        f"{plural(int(rows['missing'].sum()), 'answer')} of {rows.height:,} on {label} could not be graded ({spread}) "
        "and are left out of the means, not counted as wrong."
        + ("" if least == most else " So the means of the methods are over different items.")
    )


def _few_items(comparison: Comparison) -> list[str]:
    few = [
        f"{each.label} ({most:,})"
        for each in comparison.evaluated
        if 0 < (most := max((line.items for line in each.lines), default=0)) < FEW_ITEMS
    ]
    if not few:
        return []
    return [
        f"Fewer than {FEW_ITEMS} graded items: {listing(few, NAMED)}. The intervals allow for it, but so few items "
        "hardly stand for what the model will be asked."
    ]


def _few_seeds(comparison: Comparison) -> list[str]:
    seeds = comparison.seeds
    if seeds >= FEW_SEEDS:
        return []
    if seeds == 1:
        return [
            "Only one training of each method: the noise of training is not in the intervals at all, so a difference "
            f"may be the luck of one seed. Use --seeds {FEW_SEEDS}."
        ]
    return [
        f"Only {seeds:,} trainings of each method: the intervals are honest about it, but wide, so “no difference "
        f"seen” often means “not enough seeds”. With --seeds {FEW_SEEDS} they become much narrower; what is trained "
        "already is kept."
    ]


def _one_selection(comparison: Comparison) -> list[str]:
    if comparison.seeds < 2:
        return []
    fixed = [
        method
        for method in comparison.methods
        if method != RANDOM
        and all(
            len({frozenset(ids) for ids in picks}) == 1
            for (name, _), picks in comparison.chosen.items()
            if name == method
        )
    ]
    if not fixed:
        return []
    verb = "makes" if len(fixed) == 1 else "make"
    return [
        f"{listing(fixed, NAMED)} {verb} one selection for all seeds: the seeds show the noise of training, not how "
        "the choice would change with other data of this kind. The random draw has both in it."
    ]


def _missed_budget(comparison: Comparison) -> list[str]:
    off = []
    for budget in comparison.budgets:
        for method in comparison.methods:
            line = comparison.arm(method, budget)
            if line is not None and abs(line.tokens / budget - 1) > MISSED_BUDGET:
                off.append(
                    f"{method} {count(line.tokens)} of {count(budget)} ({_percent(line.tokens / budget - 1)})"
                )
    if not off:
        return []
    return [
        f"Tokens that miss the budget by more than {MISSED_BUDGET:.0%}: {listing(off, NAMED)}. These methods trained on "
        "less (or more) than the others, which is a difference of its own."
    ]


def _percent(value: float) -> str:
    return f"{value:+.0%}".replace("-", "\N{MINUS SIGN}")


def _answer_length(comparison: Comparison) -> list[str]:
    found = []
    for budget in comparison.budgets:
        random = comparison.arm(RANDOM, budget)
        if random is None or not random.response_tokens:
            continue
        for method in comparison.methods:
            line = comparison.arm(method, budget)
            ratio = line.response_tokens / random.response_tokens if line is not None else 1.0
            if not 1 / ANSWER_RATIO <= ratio <= ANSWER_RATIO:
                found.append(f"{method} at {count(budget)} ({decimal(ratio, 2)} times)")
    if not found:
        return []
    return [
        "At the same total tokens, selections with far more or fewer response tokens than the random draw: "
        f"{listing(found, NAMED)}. The loss counts response tokens only, so the length of answers may explain what "
        "is seen; longest, or a score that is matched for length, beside them shows how much."
    ]


def _same_selection(comparison: Comparison) -> list[str]:
    found = []
    for budget in comparison.budgets:
        groups: dict[frozenset[str], list[str]] = {}
        for method, ids in comparison.first(budget).items():
            groups.setdefault(frozenset(ids), []).append(method)
        found += [
            f"{' and '.join(names)} at {count(budget)} tokens" for names in groups.values() if len(names) > 1
        ]
    if not found:
        return []
    return [
        f"The same examples under two names: {listing(found, NAMED)}. That is one method, counted twice; all "
        "intervals are wider for it."
    ]


def _undefined(comparison: Comparison) -> list[str]:
    scores = comparison.facts.scores
    missing = scores["undefined"].count() if "undefined" in scores.columns else 0
    if missing <= UNDEFINED_SHARE * scores.height:
        return []
    return [
        f"{share(missing, scores.height)} of the pool ({missing:,} of {scores.height:,} examples) could not be scored "
        "and was never chosen, by no method. Repair the data or raise the length limit."
    ]


def _one_evaluation(comparison: Comparison) -> list[str]:
    if len(comparison.evaluated) != 1:
        return []
    return [
        f"Only one evaluation set, {comparison.evaluated[0].label}: what helps there may harm elsewhere. Add one "
        "of another kind, such as exact answers or rules beside a held-out loss."
    ]


def _only_losses(comparison: Comparison) -> list[str]:
    units = {each.unit for each in comparison.evaluated}
    if units != {"nats per token"}:
        return []
    return [
        "All evaluations are losses: they say how likely the model finds given answers, not whether what it writes is "
        "right. Add one that reads its answers."
    ]


CHECKS = (
    Check(name="models that did not move", find=_did_not_move),
    Check(name="evaluations that cannot tell methods apart", find=_cannot_tell),
    Check(name="training that shows no effect", find=_no_effect),
    Check(name="evaluation items in the pool", find=_in_pool),
    Check(name="ungraded answers", find=_ungraded),
    Check(name="few evaluation items", find=_few_items),
    Check(name="few seeds", find=_few_seeds),
    Check(name="one selection for all seeds", find=_one_selection),
    Check(name="missed budgets", find=_missed_budget),
    Check(name="other answer lengths than random", find=_answer_length),
    Check(name="the same selection twice", find=_same_selection),
    Check(name="examples without a score", find=_undefined),
    Check(name="one evaluation set only", find=_one_evaluation),
    Check(name="losses only", find=_only_losses),
)
