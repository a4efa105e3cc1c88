"""The answer in words: which methods differ from a random draw, and how large a difference would have been seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from learnable.experiments import FOR_THIS_SEED
from learnable.pages.comparison.facts import Comparison, Evaluated, Line, largest_first
from learnable.pages.verdicts import MUTE
from learnable.pages.words import count, enumeration, plural


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one evaluation says; ``findings`` are pairs of a kind (better, worse, unseen, mute) and a sentence."""

    label: str
    about: str
    findings: tuple[tuple[str, str], ...]
    context: str


def headline(comparison: Comparison) -> str:
    """The answer to "does it help?" in one line, over all evaluations and budgets."""
    outcomes = [line.outcome for each in comparison.evaluated for line in each.compared]
    better, worse = outcomes.count("better"), outcomes.count("worse")
    judged = better + worse + outcomes.count("no difference seen")
    if not outcomes:
        return "Nothing was compared with a random draw"
    if set(outcomes) == {"not graded"}:
        return "Nothing could be graded"
    if not judged:
        return "Nothing that was graded can tell the methods apart"
    if better + worse == 0:
        return f"No difference to a random draw was seen{_of_one_seed(comparison)}"
    mute = sum(map(outcomes.count, MUTE))
    unseen = len(outcomes) - better - worse - mute
    parts = (
        (better, "better"),
        (worse, "worse"),
        (unseen, "with no difference seen"),
        (mute, "that could not be judged"),
    )
    said = enumeration([f"{number:,} {what}" for number, what in parts if number])
    return f"{plural(len(outcomes), 'comparison')} with a random draw{_of_one_seed(comparison)}: {said}"


def _of_one_seed(comparison: Comparison) -> str:
    return FOR_THIS_SEED if comparison.seeds == 1 else ""


def answers(comparison: Comparison) -> list[Answer]:
    """Say for each evaluation what was seen."""
    return [
        Answer(
            label=each.label,
            about=_about(each),
            findings=tuple(_findings(each)),
            context=_context(each),
        )
        for each in comparison.evaluated
    ]


def _about(each: Evaluated) -> str:
    items = max((line.items for line in each.lines), default=0)
    seeds = max((line.seeds for line in each.compared), default=0)
    return f"{each.unit}, {each.side}; {plural(items, 'item')} graded, {plural(seeds, 'training')} of each method"


def _findings(each: Evaluated) -> list[tuple[str, str]]:
    found = []
    for kind in ("better", "worse"):
        lines = largest_first(line for line in each.compared if line.outcome == kind)
        if lines:
            found.append((kind, "; ".join(_seen(each, line) for line in lines)))
    unseen = [line for line in each.compared if line.outcome == "no difference seen"]
    if unseen:
        found.append(("unseen", f"{_who(each, unseen)}. {_would_have_been_seen(each, unseen)}"))
    same = [line for line in each.compared if line.outcome == "always the same"]
    if same:
        found.append(("same", f"{_who(each, same)}. From that nothing follows: see what to distrust."))
    for outcome in MUTE:
        mute = [line for line in each.compared if line.outcome == outcome]
        if mute:
            found.append((outcome, f"{_who(each, mute)}."))
    return found


def _seen(each: Evaluated, line: Line) -> str:
    where = f" at {count(line.budget)} tokens" if len(each.budgets) > 1 else ""
    return f"{line.method}{where} by {each.size(line)}"


def _who(each: Evaluated, lines: Sequence[Line]) -> str:
    """Name methods, those with the same budgets together; budgets are named where these are not all."""
    budgets: dict[str, list[int]] = {}
    for line in lines:
        budgets.setdefault(line.method, []).append(line.budget or 0)
    groups: dict[tuple[int, ...], list[str]] = {}
    for method, at in budgets.items():
        groups.setdefault(tuple(sorted(at)), []).append(method)
    return "; ".join(
        enumeration(methods)
        + (
            f" (at {enumeration([count(budget) for budget in at])} tokens)"
            if len(at) < len(each.budgets)
            else ""
        )
        for at, methods in sorted(groups.items(), key=lambda group: -len(group[0]))
    )


def _would_have_been_seen(each: Evaluated, lines: Sequence[Line]) -> str:
    size = each.least_seen(lines)
    if not size:
        return ""
    who = "it" if len(lines) == 1 else "each"
    return (
        f"To be seen, {who} would have had to differ by {size} ({each.unit}; half the width of the "
        f"interval{'s' if ' to ' in size else ''}); smaller effects, good or bad, may be there."
    )


def _context(each: Evaluated) -> str:
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
