"""What a table says of a value beside its baseline, and how both are written: shared by the pages that compare."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from learnable.experiments import FEWEST_ITEMS, FOR_THIS_SEED
from learnable.pages.words import decimal

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
class Judged:
    """A value with its interval, and its difference to the baseline; None for whatever is not finite."""

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


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An evaluation's values: what they are, and with how many digits they are written."""

    label: str
    unit: str
    higher_is_better: bool
    digits: int

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

    def size(self, line: Judged) -> str:
        """Write how far a line is from the baseline, with its interval and p."""
        low, high = sorted((abs(line.low or 0), abs(line.high or 0)))
        distance = self.figure(abs(line.difference or 0))
        return f"{distance} ({self.between(low, high)}; p {probability(line.p)}){line.of_one_seed}"

    def least_seen(self, lines: Sequence[Judged]) -> str:
        """Write how far lines would have had to be from the baseline for a difference to be seen; "" if not known."""
        halves = sorted(line.half for line in lines if line.half)
        ends = list(dict.fromkeys(map(self.figure, halves[:1] + halves[-1:])))
        return " to ".join(ends)


def judged(row: Mapping[str, Any], *, baseline: bool) -> dict[str, Any]:
    """Return the fields of ``Judged`` from a line of a table.

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


def digits_of(lines: Sequence[Judged]) -> int:
    """Return how many digits say something: two of half an interval."""
    halves = sorted(line.half for line in lines if line.half)
    if not halves:
        return 3
    return min(max(1 - math.floor(math.log10(halves[len(halves) // 2])), 1), _MOST_DIGITS)


def finite(value: Any) -> float | None:
    """Return a number, None where it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def probability(p: float | None) -> str:
    """``= 0.029`` or ``< 0.001``."""
    if p is None:
        return "not known"
    return "< 0.001" if p < 0.001 else f"= {decimal(p)}"
