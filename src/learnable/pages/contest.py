"""What the pages of a comparison and of a lesson share: values beside a baseline, and how they are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any, Literal

import polars as pl
from markupsafe import Markup

from learnable.experiments import FEWEST_ITEMS, FOR_THIS_SEED
from learnable.pages.html import cell, remark
from learnable.pages.words import NOTHING, count, decimal, duration, enumeration, finite, plural, probability

JUDGED = ("better", "worse", "no difference seen")
"""Outcomes with an interval that says something."""
MUTE = ("not graded", "too few", "all alike")
"""Of these nothing can be said; ``all alike``: all pairs differ by the same, so that nothing tells how they vary."""
ALWAYS_THE_SAME = "always the same"
"""It is "no difference seen" without any spread, from which nothing follows."""
Asked = Literal["unseen", "seen", "general", "elsewhere"]
"""How an evaluation asks: in wordings that no training saw, in that of the task, something else than the task, or on
rows of its own."""
ASKED: Mapping[Asked, str] = {
    "unseen": "unseen wordings",
    "seen": "the wording of the task",
    "general": "general rows",
    "elsewhere": "",
}
"""The same in words, in the order of the page."""

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


_FINDINGS = {
    "better": "better than {}",
    "worse": "worse than {}",
    "no difference seen": "no difference seen",
    ALWAYS_THE_SAME: "graded as {}, item by item, from which nothing follows",
    "not graded": "could not be graded",
    "too few": "too few items to say",
    "all alike": "all pairs differ alike, so there is no interval",
}
"""What is said of each outcome beside the baseline, in this order."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm on an evaluation: a line of ``learnable.experiments``'s tables, with None for whatever is not finite.

    ``outcome`` is its verdict, ``baseline``, or why there is none; ``by_seed`` are the means of its items, seed by seed.
    What does not compete gives the scale only: the untuned model, and the full pool of a comparison.
    """

    arm: str
    outcome: str
    competes: bool
    by_seed: Sequence[float] = ()
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


def line_of(row: Mapping[str, Any], *, baseline: str, competes: bool) -> Line:
    """Read a line of a table."""
    row = {name: finite(value) if isinstance(value, float) else value for name, value in row.items()}
    there = [each for each in fields(Line) if each.name in row]
    known = {
        each.name: row[each.name] for each in there if row[each.name] is not None or each.default is MISSING
    }
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
    return Line(outcome=outcome, competes=competes, **known)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """All lines of one evaluation.

    ``name`` is its label without what all of its kind share and without how it asks, ``setting`` only without the latter.
    """

    label: str
    lines: tuple[Line, ...]
    unit: str
    higher_is_better: bool
    name: str = ""
    setting: str = ""
    asked: Asked = "elsewhere"

    @cached_property
    def compared(self) -> tuple[Line, ...]:
        """The lines that stand against the baseline."""
        return tuple(line for line in self.lines if line.competes and line.outcome != "baseline")

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
        words = ASKED[self.asked]
        return f"{self.name} {'on' if self.is_general else 'in'} {words}" if words else self.label

    @property
    def theme(self) -> str:
        """What was asked, whatever the wording."""
        return self.title if self.is_general else self.name

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
        """What the others are compared with; at the largest budget, where there are several."""
        lines = [line for line in self.lines if line.outcome == "baseline"]
        return max(lines, key=lambda line: line.budget_tokens or 0)

    @property
    def beside(self) -> list[Line]:
        """What gives the scale only: the untuned model (several where new tokens begin in several ways), the full pool."""
        return [line for line in self.lines if not line.competes]

    def of(self, arm: str, budget: int | None = None) -> Line | None:
        """Return the line of an arm (at a budget)."""
        return next((line for line in self.lines if (line.arm, line.budget_tokens) == (arm, budget)), None)

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

    def value_cell(self, line: Line) -> Markup:
        """A value, and its interval in small print."""
        return cell(self.figure(line.value), self.between(line.value_low, line.value_high))

    def difference_cell(self, line: Line) -> Markup:
        """A difference, and its interval in small print."""
        words = NOTHING if line.outcome == "baseline" else self.signed(line.difference)
        return cell(words, self.between(line.low, line.high, signed=True))

    def name_of(self, line: Line) -> str:
        """Return the arm of a line, with its budget where there are several."""
        budget = f" at {count(line.budget_tokens)} tokens"
        return line.arm + (budget if line.budget_tokens and len(self.budgets) > 1 else "")

    @property
    def no_picture(self) -> str:
        """Why there is no picture of it."""
        alike = any(line.low is not None for line in self.compared)
        why = "every arm is graded alike on every item" if alike else "no difference has an interval"
        return f"No picture: {why}."


@dataclass(frozen=True, kw_only=True)
class ContestFacts:
    """What a report says about arms that were trained alike; the tables are those that the command writes.

    Args:
        title: Heading of the page.
        command: Command that repeats the report.
        model: Display name of the model.
        confidence: Of all differences of an evaluation together, and of each value.
        settings: How every arm was trained, shown as a table.
        table: One line per evaluation, arm and budget.
        results: One line per graded item.
        arms: One line per training.
        baseline: The arm that the others are compared with.
        arm_word: What an arm is called, also in the tables.
        question: What the page answers.
        fair: What makes the arms comparable; the page says that arms stand against the baseline where empty.
        answer: What the run itself found first, for the headline.
        findings: What the run itself found, beside differences to the baseline.
        asked_of: What the items stand for, in words.
        computed: Tokens that were computed in the last run.
        seconds: That this run took.
        read: Rows that were read.
        avoided: Of them left out, because they stand in an evaluation file; None where none was named.
        onward: What there is now and what can be done next, each with a path or a command.
    """

    title: str
    command: str
    model: str
    confidence: float
    settings: Mapping[str, Any]
    table: pl.DataFrame
    results: pl.DataFrame
    arms: pl.DataFrame
    baseline: str
    arm_word: str = "arm"
    asked_of: str
    question: str = ""
    fair: str = ""
    answer: str = ""
    findings: Sequence[str] = ()
    computed: int = 0
    seconds: float = 0.0
    read: int = 0
    avoided: int | None = None
    onward: Sequence[tuple[str, str]] = ()

    def competes(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a line of the table does more than give the scale."""
        raise NotImplementedError

    def described(self, label: str) -> dict[str, Any]:
        """Return what is known of an evaluation beside its lines."""
        return {}

    @property
    def standard(self) -> str:
        """What the others are compared with, in a sentence."""
        return self.baseline

    @cached_property
    def evaluated(self) -> tuple[Evaluated, ...]:
        """The evaluations, in the order of the table."""
        found = []
        keys, value = ("evaluation", "arm", "budget_tokens"), pl.col("value").cast(pl.Float64)
        means = self.items.filter(value.is_finite()).group_by(*keys, "seed").agg(value.mean()).sort("seed")
        by_seed = means.group_by(keys, maintain_order=True).agg(by_seed="value")
        table = self.table.rename({self.arm_word: "arm"})
        table = table.join(by_seed, on=keys, how="left", nulls_equal=True, maintain_order="left")
        for part in table.partition_by("evaluation", maintain_order=True):
            rows = part.to_dicts()
            lines = [line_of(row, baseline=self.baseline, competes=self.competes(row)) for row in rows]
            known = {name: rows[0][name] for name in ("unit", "higher_is_better")}
            label = rows[0]["evaluation"]
            found.append(Evaluated(label=label, lines=tuple(lines), **known, **self.described(label)))
        return tuple(found)

    @cached_property
    def items(self) -> pl.DataFrame:
        """The results, with columns ``arm`` and ``budget_tokens``."""
        frame = self.results.rename({self.arm_word: "arm"})
        none = pl.lit(None, pl.Int64).alias("budget_tokens")
        return frame if "budget_tokens" in frame.columns else frame.with_columns(none)

    @cached_property
    def trainings(self) -> int:
        """Of each arm, one for each seed."""
        return max(1, self.arms["seed"].n_unique())

    def headed(self, compared: str) -> str:
        """Return the answer in one line: what the run itself found first, and what was seen on all evaluations."""
        return f"{self.answer}. {compared}" if self.answer else compared

    @property
    def tiles(self) -> list[tuple[str, str, str]]:
        """The last of the first figures of the page."""
        models = self.arms.filter(pl.col("tokens") > 0).drop_nulls("model").unique("model")
        tokens = plural(int(models["tokens"].sum()), "token")
        of_each = f" of each {self.arm_word}" if any(each.compared for each in self.evaluated) else ""
        seeds = (
            "seeds",
            count(self.trainings),
            ("training" if self.trainings == 1 else "trainings") + of_each,
        )
        return [seeds, ("models trained", count(models.height), f"on {tokens}")]

    @property
    def took(self) -> list[Markup]:
        """What all of it took, where that is known."""
        words = (
            f"All of it took {duration(self.seconds)} and {plural(self.computed, 'token')} in its last run; what was "
            "stored before is not in these figures."
        )
        return [remark(words)] if self.seconds else []

    def seen_on(self, each: Evaluated) -> list[tuple[str, str, str]]:
        """Say what was seen on one evaluation: outcome, what it means, and of which arms."""
        found = []
        for outcome, what in _FINDINGS.items():
            lines = [line for line in each.compared if line.outcome == outcome]
            ranked = sorted(lines, key=lambda line: -abs(line.difference or 0.0))
            who = _who(each, lines)
            if outcome in ("better", "worse"):
                who = enumeration([f"{each.name_of(line)} by {each.size(line)}" for line in ranked])
            elif outcome == "no difference seen":
                who += _would_have_been_seen(each, lines)
            if lines:
                found.append((outcome, what.format(self.standard), who))
        return found

    def context_of(self, each: Evaluated) -> str:
        """Say what training itself did; nothing where the baseline has no value."""
        base = each.baseline
        if base.value is None:
            return ""
        values = [f"{each.name_of(base)} {each.figure(base.value)}"]
        for line in each.beside:
            said = f" ({_FINDINGS.get(line.outcome, '').format(self.standard)})"
            seen = said if line.outcome in (*JUDGED, ALWAYS_THE_SAME) else ""
            name = f"{line.arm} ({count(line.tokens)} tokens)" if line.tokens else line.arm
            values.append(f"{name} {each.figure(line.value)}{seen}")
        return f"For scale: {', '.join(values)}."


def _who(each: Evaluated, lines: Sequence[Line]) -> str:
    """Name arms, those with the same budgets together; budgets are named where these are not all."""
    budgets: dict[str, list[int]] = {}
    for line in lines:
        budgets.setdefault(line.arm, []).append(line.budget_tokens or 0)
    groups: dict[tuple[int, ...], list[str]] = {}
    for arm, chosen in budgets.items():
        groups.setdefault(tuple(sorted(chosen)), []).append(arm)
    named = []
    for at, arms in sorted(groups.items(), key=lambda group: -len(group[0])):
        where = f" (at {enumeration([count(budget) for budget in at])} tokens)"
        named.append(enumeration(arms) + (where if len(at) < len(each.budgets) else ""))
    return "; ".join(named)


def _would_have_been_seen(each: Evaluated, lines: Sequence[Line]) -> str:
    """Say how large a difference would have been seen, and for which arms none could have been."""
    blind = [line.arm for line in lines if not each.could_be_seen(line)]
    halves = sorted(line.half for line in lines if line.half and each.could_be_seen(line))
    least = " to ".join(dict.fromkeys(map(each.figure, halves[:1] + halves[-1:])))
    said = [f"one of {least} or more, half the width of the interval, would have been"] if least else []
    if blind:
        whom = f"for {enumeration(blind)} " if said else ""
        said.append(f"{whom}the seeds differ too much for any to be")
    return f" ({'; '.join(said)})" if said else ""


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
