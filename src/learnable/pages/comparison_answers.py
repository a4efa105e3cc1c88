"""What a comparison says in words: which methods differ from a random draw, what would have been seen, what pays back."""

from collections.abc import Sequence

from learnable.experiments import FOR_THIS_SEED, RANDOM
from learnable.pages.comparison_facts import ByBudget, Comparison, MethodLine
from learnable.pages.contest import MUTE, counted, probability
from learnable.pages.words import count, enumeration, plural

KINDS = {
    "better": "Better than random",
    "worse": "Worse than random",
    "no difference seen": "No difference seen",
    "always the same": "No difference seen, every item graded as with random",
    "not graded": "Could not be graded",
    "too few": "Too few items to say",
    "all alike": "All pairs differ alike, so there is no interval",
}
"""What is said of each outcome, in this order."""


def headline(comparison: Comparison) -> str:
    """The answer to "does it help?" in one line, over all evaluations and budgets."""
    lines = [line for each in comparison.evaluated for line in each.compared]
    outcomes = {line.outcome for line in lines}
    one_seed = FOR_THIS_SEED if comparison.trainings == 1 else ""
    if not lines:
        return "Nothing was compared with a random draw"
    if outcomes == {"not graded"}:
        return "Nothing could be graded"
    if not outcomes & {"better", "worse", "no difference seen"}:
        return "Nothing that was graded can tell the methods apart"
    if not outcomes & {"better", "worse"}:
        return f"No difference to a random draw was seen{one_seed}"
    return f"{plural(len(lines), 'comparison')} with a random draw{one_seed}: {counted(lines)}"


def findings(each: ByBudget) -> dict[str, str]:
    """Say what was seen on one evaluation, by outcome."""
    found = {}
    for outcome in KINDS:
        lines = [line for line in each.compared if line.outcome == outcome]
        if not lines:
            continue
        said = f"{_who(each, lines)}."
        if outcome in ("better", "worse"):
            ranked = sorted(lines, key=lambda line: -abs(line.difference or 0.0))
            said = "; ".join(_seen(each, line) for line in ranked)
        elif outcome == "no difference seen":
            said += f" {_would_have_been_seen(each, lines)}"
        elif outcome == "always the same":
            said += " From that nothing follows: see what to distrust."
        found[outcome] = said
    return found


def _seen(each: ByBudget, line: MethodLine) -> str:
    where = f" at {count(line.budget)} tokens" if len(each.budgets) > 1 else ""
    return f"{line.arm}{where} by {each.size(line)}"


def _who(each: ByBudget, lines: Sequence[MethodLine]) -> str:
    """Name methods, those with the same budgets together; budgets are named where these are not all."""
    budgets: dict[str, list[int]] = {}
    for line in lines:
        budgets.setdefault(line.arm, []).append(line.budget or 0)
    groups: dict[tuple[int, ...], list[str]] = {}
    for method, chosen in budgets.items():
        groups.setdefault(tuple(sorted(chosen)), []).append(method)
    named = []
    for at, methods in sorted(groups.items(), key=lambda group: -len(group[0])):
        where = f" (at {enumeration([count(budget) for budget in at])} tokens)"
        named.append(enumeration(methods) + (where if len(at) < len(each.budgets) else ""))
    return "; ".join(named)


def _would_have_been_seen(each: ByBudget, lines: Sequence[MethodLine]) -> str:
    size = each.least_seen(lines)
    if not size:
        return ""
    who = "it" if len(lines) == 1 else "each"
    return (
        f"To be seen, {who} would have had to differ by {size} ({each.unit}; half the width of the "
        f"interval{'s' if ' to ' in size else ''}); smaller effects, good or bad, may be there."
    )


def context_of(each: ByBudget) -> str:
    """Say what training itself did: the untuned model, the random draw, the full pool."""
    untuned, full = each.one("untuned"), each.one("full")
    random = each.random(each.budgets[-1]) if each.budgets else None
    if untuned is None or random is None or random.value is None:
        return ""
    said = f"For scale: untuned model {each.figure(untuned.value)}, random draw of {count(random.budget)} tokens {each.figure(random.value)}"
    if full is not None:
        said += f", full pool ({count(full.tokens)} tokens) {each.figure(full.value)}"
    words = {
        "better": "The untuned model is better than the one trained on the random draw.",
        "worse": "Training on the random draw was better than not training.",
        "no difference seen": "Between not training and training on the random draw no difference was seen.",
        "always the same": "The untuned model and the one trained on the random draw are graded alike, item by item.",
    }
    return f"{said}. {words.get(untuned.outcome, '')}".strip()


def gain_of(each: ByBudget, method: str, budget: int) -> str:
    """Say what came of a method at a budget, in a few words."""
    line = next((line for line in each.at(budget) if line.arm == method), None)
    if line is None or method == RANDOM:
        return "the baseline" if method == RANDOM else "not measured"
    if line.outcome in ("better", "worse"):
        size = each.figure(abs(line.difference or 0))
        return f"{line.outcome} by {size} (p {probability(line.p)}){line.of_one_seed}"
    return line.words


def paybacks(comparison: Comparison) -> list[str]:
    """Say when a method pays for itself, only where it was seen to be better; and why the others do not."""
    found = []
    seen: dict[str, set[str]] = {name: set() for name in comparison.methods if name != RANDOM}
    for each in comparison.evaluated:
        several = f" on {each.label}" if len(comparison.evaluated) > 1 else ""
        for line in each.compared:
            seen.setdefault(line.arm, set()).add(line.outcome)
            if line.outcome == "better" and line.payback:
                found.append(f"{line.arm} at {count(line.budget)} tokens{several}: {line.payback}.")
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
