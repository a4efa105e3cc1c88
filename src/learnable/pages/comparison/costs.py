"""Cost beside gain: what choosing took, what training took, and what came back."""

from dataclasses import dataclass

from learnable.experiments import RANDOM
from learnable.pages.comparison.facts import Comparison, Evaluated, Line
from learnable.pages.verdicts import MUTE, probability
from learnable.pages.words import count, enumeration


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method costs once, and its training at the largest budget; seconds are None where not timed.

    ``times`` is the time of choosing over that of one training; ``gains`` says what was seen, per evaluation.
    """

    method: str
    score_tokens: int
    score_s: float | None
    reference_tokens: int
    reference_s: float | None
    training_tokens: float
    training_s: float
    times: float | None
    gains: tuple[str, ...]


def costs(comparison: Comparison) -> list[Cost]:
    """One line per method, in the order asked for."""
    found = []
    for method in comparison.methods:
        line = comparison.arm(method, comparison.budget)
        if line is not None:
            found.append(_cost(comparison, line))
    return found


def _cost(comparison: Comparison, line: Line) -> Cost:
    choosing = None if line.score_s is None or line.reference_s is None else line.score_s + line.reference_s
    return Cost(
        method=line.method,
        score_tokens=line.score_tokens,
        score_s=line.score_s,
        reference_tokens=line.reference_tokens,
        reference_s=line.reference_s,
        training_tokens=line.tokens,
        training_s=line.training_s,
        times=choosing / line.training_s if choosing is not None and line.training_s else None,
        gains=tuple(_gain(each, line.method, comparison.budget) for each in comparison.evaluated),
    )


def _gain(each: Evaluated, method: str, budget: int) -> str:
    line = next((line for line in each.at(budget) if line.method == method), None)
    if line is None or method == RANDOM:
        return "the baseline" if method == RANDOM else "not measured"
    if line.outcome in ("better", "worse"):
        size = each.figure(abs(line.difference or 0))
        return f"{line.outcome} by {size} (p {probability(line.p)}){line.of_one_seed}"
    return line.words


def paybacks(comparison: Comparison) -> list[str]:
    """Say when a method pays for itself, and only where it was seen to be better."""
    found = []
    for each in comparison.evaluated:
        several = f" on {each.label}" if len(comparison.evaluated) > 1 else ""
        found += [
            f"{line.method} at {count(line.budget)} tokens{several}: {line.payback}."
            for line in each.compared
            if line.outcome == "better" and line.payback
        ]
    return found + _without_payback(comparison)


def _without_payback(comparison: Comparison) -> list[str]:
    """Say of all other methods why there is nothing to pay back."""
    seen: dict[str, set[str]] = {name: set() for name in comparison.methods if name != RANDOM}
    for each in comparison.evaluated:
        for line in each.compared:
            seen.setdefault(line.method, set()).add(line.outcome)
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
    return [f"{enumeration(names)}: {why}." for names, why in reasons if names]
