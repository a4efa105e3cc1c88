"""What the pages of a comparison and of a lesson share: values beside a baseline, and how they are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from markupsafe import Markup

from learnable.experiments import FEWEST_ITEMS, FOR_THIS_SEED
from learnable.pages.html import bullets, cell, markup, settings_table
from learnable.pages.page import Section
from learnable.pages.warnings import Found
from learnable.pages.words import NOTHING, decimal, enumeration, finite, listing, plural

JUDGED = ("better", "worse", "no difference seen")
"""Outcomes with an interval that says something."""
MUTE = ("not graded", "too few", "all alike")
"""Of these nothing can be said; ``all alike``: all pairs differ by the same, so that nothing tells how they vary."""
ALWAYS_THE_SAME = "always the same"
"""It is "no difference seen" without any spread, from which nothing follows."""
Asked = Literal["unseen", "seen", "general", "elsewhere"]
"""How an evaluation asks: in wordings that no training saw, in that of the task, something else than the task, or on
rows of its own."""

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
    ALWAYS_THE_SAME: "no difference seen",
    "too few": "too few items to say",
    "all alike": "all pairs differ alike: no interval",
    "baseline": "the baseline",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm on an evaluation: a line of ``learnable.experiments``'s tables, with None for whatever is not finite.

    ``outcome`` is its verdict, ``baseline``, or why there is none; ``by_seed`` are the means of its items, seed by seed.
    What does not compete gives the scale only: the untuned model, and the full pool of a comparison.
    """

    arm: str
    outcome: str
    competes: bool
    by_seed: tuple[float, ...] = ()
    budget_tokens: int | None = None
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
    examples: float = 0.0
    tokens: float = 0.0
    response_tokens: float = 0.0
    steps: float = 0.0
    training_s: float | None = None
    score_tokens: int = 0
    score_s: float | None = None
    reference_tokens: int = 0
    reference_s: float | None = None
    payback: str | None = None

    @property
    def is_compared(self) -> bool:
        """Whether it stands against the baseline."""
        return self.competes and self.outcome != "baseline"

    @property
    def half(self) -> float | None:
        """Half the width of the interval of the difference; None where there is none, or nothing differs."""
        if self.low is None or self.high is None or self.outcome == ALWAYS_THE_SAME:
            return None
        return (self.high - self.low) / 2

    @property
    def words(self) -> str:
        """The outcome as it stands in the table."""
        return _WORDS.get(self.outcome, self.outcome) + self.of_one_seed

    @property
    def of_one_seed(self) -> str:
        """Ends a sentence about a difference of one training; empty for several."""
        return FOR_THIS_SEED if self.outcome in JUDGED and self.seeds == 1 else ""


def line_of(
    row: Mapping[str, Any], *, baseline: str, competes: bool, by_seed: tuple[float, ...] = ()
) -> Line:
    """Read a line of a table."""
    known = {each.name: row[each.name] for each in fields(Line) if each.name in row}
    known = {name: finite(value) if isinstance(value, float) else value for name, value in known.items()}
    if row["arm"] == baseline:
        outcome = "baseline"
    elif known["difference"] is None:
        outcome = "not graded"
    elif known["low"] is None:
        outcome = "too few" if known["items"] < FEWEST_ITEMS else "all alike"
    elif all(abs(known[name] or 0.0) <= _ROUNDING for name in ("difference", "low", "high")):
        outcome = ALWAYS_THE_SAME
    else:
        outcome = str(row["verdict"]).removesuffix(FOR_THIS_SEED)
    return Line(outcome=outcome, competes=competes, by_seed=by_seed, **known)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """All lines of one evaluation.

    ``name`` is its label without what all of its kind share and without how it asks, ``setting`` only without the latter;
    ``equal_tokens`` is DELIA's line against as many tokens.
    """

    label: str
    lines: tuple[Line, ...]
    unit: str
    higher_is_better: bool
    name: str = ""
    setting: str = ""
    asked: Asked = "elsewhere"
    equal_tokens: Line | None = None

    @cached_property
    def compared(self) -> tuple[Line, ...]:
        """The lines that stand against the baseline."""
        return tuple(line for line in self.lines if line.is_compared)

    @cached_property
    def digits(self) -> int:
        """How many digits of a value say something: two of half an interval."""
        halves = sorted(line.half for line in self.compared if line.half)
        if not halves:
            return 3
        return min(max(1 - math.floor(math.log10(halves[len(halves) // 2])), 1), _MOST_DIGITS)

    @cached_property
    def budgets(self) -> list[int]:
        """Budgets in tokens, smallest first."""
        return sorted({line.budget_tokens for line in self.lines if line.budget_tokens is not None})

    @property
    def title(self) -> str:
        """What was asked, and how, to be read in a sentence."""
        words = asked_words(self.asked)
        return f"{self.name} {'on' if self.is_general else 'in'} {words}" if words else self.label

    @property
    def is_general(self) -> bool:
        """Whether it is about what was forgotten, and not about the task."""
        return self.asked == "general"

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

    @property
    def baseline(self) -> Line:
        """What the others are compared with; where there are several budgets, at the first."""
        return next(line for line in self.lines if line.outcome == "baseline")

    @property
    def untuned(self) -> tuple[Line, ...]:
        """What was not trained; several where new tokens begin in several ways."""
        return tuple(line for line in self.lines if not line.competes)

    def of(self, arm: str, budget: int | None = None) -> Line | None:
        """Return the line of an arm (at a budget)."""
        return next((line for line in self.lines if (line.arm, line.budget_tokens) == (arm, budget)), None)

    def at(self, budget: int | None) -> list[Line]:
        """Return the lines of a budget, best value first; what could not be graded comes last."""
        sign = -1 if self.higher_is_better else 1
        lines = [line for line in self.lines if line.budget_tokens == budget]
        return sorted(lines, key=lambda line: math.inf if line.value is None else sign * line.value)

    def could_be_seen(self, line: Line) -> bool:
        """Whether the largest difference to the baseline that there can be would have been seen."""
        if self.bounds is None or line.half is None or self.baseline.value is None:
            return True
        low, high = self.bounds
        return line.half < max(self.baseline.value - low, high - self.baseline.value)

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
        return " to ".join(dict.fromkeys(map(self.figure, halves[:1] + halves[-1:])))

    def value_cell(self, line: Line) -> Markup:
        """A value, and its interval in small print."""
        return cell(self.figure(line.value), self.between(line.value_low, line.value_high))

    def difference_cell(self, line: Line) -> Markup:
        """A difference, and its interval in small print."""
        words = NOTHING if line.outcome == "baseline" else self.signed(line.difference)
        return cell(words, self.between(line.low, line.high, signed=True))

    @property
    def no_picture(self) -> str:
        """Why there is no picture of it."""
        alike = any(line.low is not None for line in self.compared)
        why = "every arm is graded alike on every item" if alike else "no difference has an interval"
        return f"No picture: {why}."


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

    evaluated: tuple[Evaluated, ...]
    arm_word: str
    baseline: str
    asked_of: str
    trainings: int


def asked_words(asked: Asked) -> str:
    """Return how an evaluation asks, in words; "" for rows of its own."""
    words = {"unseen": "unseen wordings", "seen": "the wording of the task", "general": "general rows"}
    return words.get(asked, "")


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


def probability(p: float | None) -> str:
    """``= 0.029`` or ``< 0.001``."""
    if p is None:
        return "not known"
    return "< 0.001" if p < 0.001 else f"= {decimal(p)}"


def method_section(
    contest: Contest,
    settings: Mapping[str, Any],
    *,
    confidence: float,
    first: str,
    widened_for: str,
    alone: str = "",
    last: Sequence[str],
) -> Section:
    """Return how differences are made and what they cannot say, between what only one kind of page has to say."""
    notes = [
        first,
        "A difference is paired: the same items, the same seeds. Its interval holds the chance of the items and of the training, "
        f"and is widened for the number of {widened_for}, so that with {100 * confidence:g}% confidence all differences of one "
        "evaluation are inside together; p is corrected likewise. Several evaluations are not corrected for each "
        f"other{alone}.",
        f"The interval of a value stands for that value alone. Do not compare {contest.arm_word}s by whether these overlap; the "
        "differences are for that.",
        "“No difference seen” is no proof that there is none. It says that a difference smaller than half the interval cannot "
        "be told from chance here.",
        *last,
    ]
    shown = settings_table("Settings of every training", settings, label="Training")
    title = "How this was made, and what it cannot say"
    return Section(id="method", nav="method", title=title, parts=[bullets(notes), *shown])


def all_alike(pairs: pl.DataFrame) -> bool:
    """Whether ``value`` and ``base`` differ by no more than rounding."""
    value, base = pairs["value"].to_numpy(), pairs["base"].to_numpy()
    return bool(pairs.height and np.abs(value - base).max() <= SAME * np.abs(base).max())


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


def nothing_graded(each: Evaluated) -> str:
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
