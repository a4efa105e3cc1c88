"""What the pages of a comparison and of a lesson share: values beside a baseline, and how they are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
import polars as pl
from markupsafe import Markup

from learnable.experiments import FEWEST_ITEMS, FOR_THIS_SEED
from learnable.pages.page import cell, markup
from learnable.pages.warnings import Found
from learnable.pages.words import NOTHING, decimal, enumeration, finite, listing, plural

Outcome = Literal[
    "baseline",
    "better",
    "worse",
    "no difference seen",
    "always the same",
    "not graded",
    "too few",
    "all alike",
]
"""What a line says; ``always the same`` is "no difference seen" without any spread, from which nothing follows.

``all alike``: all pairs differ by the same, so that nothing tells how they vary.
"""
MUTE: tuple[Outcome, ...] = ("not graded", "too few", "all alike")
"""Of these nothing can be said."""

FEW_SEEDS = 5
FEW_ITEMS = 30
SAME = 1e-5
"""Of the largest value: what batches and adapters that do nothing change by rounding."""
NAMED = 8
"""Names in a sentence."""
_MOST_DIGITS = 5
_ROUNDING = 1e-6
"""Differences up to here come from the order of additions, not from another model."""
_BOUNDS = {
    "share correct": (0.0, 1.0),
    "share won": (0.0, 1.0),
    "points (0 to 1)": (0.0, 1.0),
    "points of 100": (0.0, 100.0),
}
_WORDS = {
    "always the same": "no difference seen",
    "too few": "too few items to say",
    "all alike": "all pairs differ alike: no interval",
    "baseline": "the baseline",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm on an evaluation: its value, and its difference to the baseline, with intervals; None is not finite."""

    arm: str
    is_compared: bool
    value: float | None
    value_low: float | None
    value_high: float | None
    items: int
    seeds: int
    ungraded: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    outcome: Outcome

    @property
    def half(self) -> float | None:
        """Half the width of the interval of the difference; None where there is none, or nothing differs."""
        if self.low is None or self.high is None or self.outcome == "always the same":
            return None
        return (self.high - self.low) / 2

    @property
    def words(self) -> str:
        """The outcome as it stands in the table."""
        return _WORDS.get(self.outcome, self.outcome) + self.of_one_seed

    @property
    def of_one_seed(self) -> str:
        """Ends a sentence about a difference of one training; empty for several."""
        judged = self.outcome in ("better", "worse", "no difference seen")
        return FOR_THIS_SEED if judged and self.seeds == 1 else ""


AnyLine = TypeVar("AnyLine", bound=Line)


@dataclass(frozen=True, kw_only=True)
class Evaluated(Generic[AnyLine]):
    """All lines of one evaluation: what its values are, and with how many digits they are written."""

    label: str
    unit: str
    higher_is_better: bool
    digits: int
    lines: tuple[AnyLine, ...]

    @cached_property
    def compared(self) -> tuple[AnyLine, ...]:
        """The lines that stand against the baseline."""
        return tuple(line for line in self.lines if line.is_compared)

    @property
    def title(self) -> str:
        """What was asked, to be read in a sentence."""
        return self.label

    @property
    def is_general(self) -> bool:
        """Whether it is about what was forgotten, and not about the task."""
        return False

    @property
    def items(self) -> int:
        """Items that were graded."""
        return max((line.items for line in self.lines), default=0)

    @property
    def side(self) -> str:
        """Which way is good."""
        return "higher is better" if self.higher_is_better else "lower is better"

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest value there can be; None where there is no end."""
        return _BOUNDS.get(self.unit)

    def figure(self, value: float | None) -> str:
        """Write a value."""
        return decimal(value, self.digits)

    def signed(self, value: float | None) -> str:
        """Write a difference."""
        text = self.figure(value)
        return f"+{text}" if value is not None and value > 0 and text.strip("0.,") else text

    def between(self, low: float | None, high: float | None, *, signed: bool = False) -> str:
        """Write an interval; nothing where there is none."""
        if low is None or high is None:
            return ""
        write = self.signed if signed else self.figure
        return f"{write(low)} to {write(high)}"

    def size(self, line: Line) -> str:
        """Write how far a line is from the baseline, with its interval and p."""
        low, high = sorted((abs(line.low or 0), abs(line.high or 0)))
        distance = self.figure(abs(line.difference or 0))
        return f"{distance} ({self.between(low, high)}; p {probability(line.p)}){line.of_one_seed}"

    def least_seen(self, lines: Sequence[Line]) -> str:
        """Write how far lines would have had to be from the baseline for a difference to be seen; "" if not known."""
        halves = sorted(line.half for line in lines if line.half)
        ends = list(dict.fromkeys(map(self.figure, halves[:1] + halves[-1:])))
        return " to ".join(ends)

    def value_cell(self, line: Line) -> Markup:
        """A value, and its interval in small print."""
        return cell(self.figure(line.value), self.between(line.value_low, line.value_high))

    def difference_cell(self, line: Line) -> Markup:
        """A difference, and its interval in small print."""
        words = NOTHING if line.outcome == "baseline" else self.signed(line.difference)
        return cell(words, self.between(line.low, line.high, signed=True))


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Evaluations of arms that were trained alike.

    Args:
        evaluated: In the order asked for.
        arm_word: What an arm is called.
        baseline: What the others are compared with, in words.
        asked_of: What the items stand for, in words.
        trainings: Of each arm, one for each seed.
    """

    evaluated: tuple[Evaluated[Any], ...]
    arm_word: str
    baseline: str
    asked_of: str
    trainings: int


def counted(lines: Sequence[Line]) -> str:
    """Count outcomes: ``1 better and 2 with no difference seen``."""
    outcomes = [line.outcome for line in lines]
    mute = sum(map(outcomes.count, MUTE))
    better, worse = outcomes.count("better"), outcomes.count("worse")
    parts = (
        (better, "better"),
        (worse, "worse"),
        (len(outcomes) - better - worse - mute, "with no difference seen"),
        (mute, "that could not be judged"),
    )
    return enumeration([f"{number:,} {what}" for number, what in parts if number])


def distrust_link(warnings: Sequence[str]) -> Markup:
    """Return where the opening of a page sends the reader; nothing without warnings."""
    number = plural(len(warnings), "thing")
    return markup(
        ' <a class="whole" href="#cautions">{number} to distrust</a>.' if warnings else "", number=number
    )


def judged(row: Mapping[str, Any], *, baseline: bool) -> dict[str, Any]:
    """Return the fields of ``Line`` that a line of a table has.

    Args:
        row: With the columns of ``learnable.experiments``'s tables.
        baseline: Whether it is what the others are compared with.
    """
    numbers = ("value", "value_low", "value_high", "difference", "low", "high", "p")
    known: dict[str, Any] = {name: finite(row.get(name)) for name in numbers}
    counts = {name: int(row[name] or 0) for name in ("items", "seeds", "ungraded")}
    return (
        known
        | counts
        | {"outcome": "baseline" if baseline else _outcome(known, counts["items"], row["verdict"])}
    )


def _outcome(known: Mapping[str, float | None], items: int, verdict: str) -> Outcome:
    if known["difference"] is None:
        return "not graded"
    if known["low"] is None:
        return "too few" if items < FEWEST_ITEMS else "all alike"
    if all(abs(known[name] or 0.0) <= _ROUNDING for name in ("difference", "low", "high")):
        return "always the same"
    return cast("Outcome", verdict.removesuffix(FOR_THIS_SEED))


def digits_of(lines: Sequence[Line]) -> int:
    """Return how many digits say something: two of half an interval."""
    halves = sorted(line.half for line in lines if line.half)
    if not halves:
        return 3
    return min(max(1 - math.floor(math.log10(halves[len(halves) // 2])), 1), _MOST_DIGITS)


def probability(p: float | None) -> str:
    """``= 0.029`` or ``< 0.001``."""
    if p is None:
        return "not known"
    return "< 0.001" if p < 0.001 else f"= {decimal(p)}"


def all_alike(pairs: pl.DataFrame) -> bool:
    """Whether ``value`` and ``base`` differ by no more than rounding."""
    value, base = pairs["value"].to_numpy(), pairs["base"].to_numpy()
    return bool(pairs.height and np.abs(value - base).max() <= SAME * np.abs(base).max())


def cannot_tell(contest: Contest) -> Found:
    """No arm differs from the baseline on a single item."""
    arm, found = contest.arm_word, []
    for each in contest.evaluated:
        if not each.compared or any(line.outcome != "always the same" for line in each.compared):
            continue
        values = {decimal(line.value, 2) for line in each.compared}
        every = f" (every value is {values.pop()})" if len(values) == 1 else ""
        found.append(
            f"On {each.title} no {arm} differs from {contest.baseline} on a single item{every}: it cannot tell the {arm}s "
            "apart, and “no difference seen” says nothing there. Take one that is easier or harder for this model, or has "
            "more items."
        )
    return found


def nothing_graded(each: Evaluated[Any]) -> str:
    """Say that there is no answer from an evaluation; "" where something was graded."""
    if any(line.value is not None for line in each.lines):
        return ""
    return (
        f"Nothing of {each.title} could be graded: there is no answer from it. See `why` in results.parquet."
    )


def few_items(contest: Contest) -> Found:
    """An evaluation has fewer than `FEW_ITEMS` graded items."""
    few = [f"{each.title} ({each.items:,})" for each in contest.evaluated if 0 < each.items < FEW_ITEMS]
    if not few:
        return ""
    return (
        f"Fewer than {FEW_ITEMS} graded items: {listing(few, NAMED)}. The intervals allow for it, but so few items "
        f"hardly stand for {contest.asked_of}."
    )


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
