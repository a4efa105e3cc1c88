"""Was a benchmark trained on? What the log-probabilities of the orders of an item's options say, of an item and of a set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isnan, nan
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.experiments.statistics import FEWEST_ITEMS, difference, interval
from learnable.packages import needed

TESTS = 2
"""Tests of a set: of its level, and of its rate of hits; each is made at half of the error allowed."""
AT = 0.05
"""Level at which an item of the scenario ``shuffled`` is a hit, before any correction."""
FOREST_THRESHOLDS = (-0.2, -0.17, -0.15)
"""Of the paper's code; an item is said to be leaked below them."""
FARTHEST = 8.0
"""Standard deviations beyond which no residual is taken to lie."""
CHANCE = "chance, uncorrected for the natural order of options"
"""What a set is compared with where nothing else is given."""
_DRAWS = 20_000
_BOOTSTRAPS = 1_000

Values = NDArray[np.float64]


class OrderStatistics(NamedTuple):
    """What the m orders of one item say; NaN where it is not defined.

    ``rank`` of the original order, 1 for the likeliest, behind all that it ties with; ``p`` is the rank over m; ``z`` how
    many standard deviations it lies above the mean of all orders; ``gap`` between the likeliest and the second, in nats;
    ``top`` by how many standard deviations of the others the likeliest lies above their mean.
    """

    rank: float
    p: float
    z: float
    gap: float
    top: float


UNDEFINED = OrderStatistics(nan, nan, nan, nan, nan)


def order_statistics(sums: Values) -> OrderStatistics:
    """Return what summed log-probabilities of an item's orders say, (m,), the original order first.

    Source: scenario a of 2409.01790 says leaked where the original is the likeliest, which is rank 1 here. What differs: the
        rank, z and p are ours; and ``top`` takes the place of a forest on m numbers, see ``forest_scores``.
    """
    if len(sums) < 2 or not np.isfinite(sums).all():
        return UNDEFINED
    ordered = np.sort(sums)  # so that no figure depends on the names of the orders
    rank = 1 + int((sums[1:] >= sums[0]).sum())
    spread, others = float(ordered.std(ddof=1)), ordered[:-1]
    beside = float(others.std(ddof=1)) if len(others) > 1 else 0.0
    return OrderStatistics(
        rank=float(rank),
        p=rank / len(sums),
        z=float(sums[0] - ordered.mean()) / spread if spread else nan,
        gap=float(ordered[-1] - ordered[-2]),
        top=float(ordered[-1] - others.mean()) / beside if beside else nan,
    )


def residuals(sums: Sequence[Values]) -> Values:
    """Return how far each order of all items lies from the other orders of its item, as normal numbers.

    That is over the standard deviation of the others, and such residuals of normal numbers are t-distributed; they are put
    where normal numbers lie. Residuals from a mean that an order is part of would be too small, above all the largest.
    """
    found = [np.empty(0)]
    for each in sums:
        count = len(each)
        if count < 3 or not np.isfinite(each).all() or not each.std():
            continue
        off = each - each.mean()
        rest = np.maximum(
            (off**2).sum() - off**2 * count / (count - 1), 0.0
        )  # squares of the others, about their mean
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = off * np.sqrt(count / (count - 1)) / np.sqrt(rest / (count - 2))
        normal = np.where(
            apart > 0,
            scipy.stats.norm.isf(scipy.stats.t.sf(apart, count - 2)),
            scipy.stats.norm.ppf(scipy.stats.t.cdf(apart, count - 2)),
        )
        found.append(np.clip(normal, -FARTHEST, FARTHEST))
    return np.concatenate(found)


def top_probabilities(
    tops: Values, orders: NDArray[np.int64], *, pool: Values | None = None, seed: int = 0
) -> Values:
    """Return how probable it is that ``top`` is as large where all orders are alike, (n,), by simulation.

    Args:
        tops: ``top`` of each item, (n,), NaN where it is not defined.
        orders: Of each item, (n,).
        pool: What orders are drawn from, see ``residuals``; normal numbers when not given.
        seed: Of the draws.
    """
    found = np.full(len(tops), nan)
    rng = np.random.default_rng(seed)
    for count in np.unique(orders[np.isfinite(tops)]).tolist():
        shape = (_DRAWS, count)
        drawn = rng.standard_normal(shape) if pool is None or not len(pool) else rng.choice(pool, shape)
        drawn.sort(axis=1)
        others = drawn[:, :-1]
        null = np.sort((drawn[:, -1] - others.mean(axis=1)) / np.maximum(others.std(axis=1, ddof=1), 1e-12))
        mine = np.flatnonzero((orders == count) & np.isfinite(tops))
        above = len(null) - np.searchsorted(null, tops[mine], side="left")
        found[mine] = (1 + above) / (len(null) + 1)
    return found


def adjusted(p: Values) -> Values:
    """Return probabilities adjusted for as many tests, (n,): what is at most q holds among false discoveries a share of q.

    Source: Benjamini and Hochberg (1995).
    """
    found, defined = np.full(len(p), nan), np.isfinite(p)
    if defined.any():
        found[defined] = scipy.stats.false_discovery_control(p[defined])
    return found


def forest_scores(sums: Sequence[Values], *, seed: int = 42) -> Values:
    """Return the paper's score of the likeliest order of each item, (n,): low where a forest finds it far from the others.

    Raises:
        UsageError: If scikit-learn is not installed.

    Source: scenario b of 2409.01790: a forest of 100 trees on the m sums of one item as the only feature; its authors say
        leaked under -0.2, -0.17 or -0.15. On noise alone that says leaked of every fourth item and more.
    """
    ensemble = needed("sklearn.ensemble", by="the isolation forest", extra="forest")
    found = np.full(len(sums), nan)
    for place, each in enumerate(sums):
        if len(each) > 2 and np.isfinite(each).all():
            column = np.asarray(each)[:, None]
            forest = ensemble.IsolationForest(random_state=seed).fit(column)
            found[place] = float(forest.decision_function(column[[int(each.argmax())]])[0])
    return found


@cache
def forest_on_noise(orders: int, *, items: int = 100, seed: int = 0) -> Values:
    """Return the forest's scores of items whose orders are independent normal numbers: where nothing was leaked."""
    rng = np.random.default_rng(seed)
    return forest_scores(list(rng.standard_normal((items, orders))))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a detector found in the n items of a set.

    Args:
        levels: Higher where an item looks more as if it was trained on, (n,), NaN where it is not defined.
        hits: Whether the detector says leaked, 1.0 or 0.0, (n,), NaN likewise.
        chance: How often it says so by chance, (n,); NaN where that is not known without a comparison.
    """

    levels: Values
    hits: Values
    chance: Values

    def minus(self, other: "Seen") -> "Seen":
        """Return the differences to what was found of another model, item by item."""
        return Seen(levels=self.levels - other.levels, hits=self.hits - other.hits, chance=self.chance)

    def of(self, kept: NDArray[np.bool_]) -> "Seen":
        """Return what was found of some items."""
        return Seen(levels=self.levels[kept], hits=self.hits[kept], chance=self.chance[kept])


@dataclass(frozen=True, kw_only=True)
class SetTest:
    """A test of a set: what was compared, the figure with its interval, and how probable as much is without a leak.

    ``p`` is one-sided; ``counted`` says in words what the figure is made of; NaN where there is nothing to test.
    """

    name: str
    value: float
    low: float
    high: float
    p: float
    counted: str


@dataclass(frozen=True, kw_only=True)
class SetVerdict:
    """What the items of a set say together.

    Args:
        leaked: Whether one of the tests says so; None where none could be made.
        rate: Share of leaked items, with its interval: what hits there are beyond those without a leak.
        tests: Of the level and of the rate of hits.
        beside: What the set was compared with, in words.
        expected: How often the detector says leaked without a leak, measured or by chance.
    """

    leaked: bool | None
    rate: tuple[float, float, float]
    tests: tuple[SetTest, ...]
    beside: str
    expected: float

    @property
    def said(self) -> str:
        """The verdict in words."""
        if self.leaked and self.beside == CHANCE:
            return "a leak, or only a natural order of the options: give --reference BASE, or --clean FILE"
        return {True: "leaked", False: "no leak seen", None: "nothing to compare with"}[self.leaked]


def set_verdict(
    model: Seen,
    *,
    reference: Seen | None = None,
    clean: Seen | None = None,
    clean_reference: Seen | None = None,
    confidence: float = 0.95,
) -> SetVerdict:
    """Say whether a set was trained on, from what a detector found of its items.

    With a reference, items are paired: the mean difference of levels, and McNemar's test of the hits. With clean items the
    two sets are compared, of differences to the reference where there is one. With neither, the hits are held against
    chance, which the natural order of options alone can exceed.

    Args:
        model: Of the model in question, on the set.
        reference: Of a model that is known not to have been trained on it, on the same items.
        clean: Of the model in question, on items that it was not trained on.
        clean_reference: Of the reference on those.
        confidence: Of the verdict: how seldom it says leaked of a set that is not, both tests together.
    """
    rate_of = float(np.nanmean(model.hits)) if np.isfinite(model.hits).any() else nan
    level = 1 - (1 - confidence) / TESTS
    if clean is not None:
        ours = model if reference is None else model.minus(reference)
        theirs = clean if clean_reference is None else clean.minus(clean_reference)
        tests = _against_clean(ours, theirs, level)
        expected, beside = float(np.nanmean(clean.hits)), "items that the model was not trained on"
        beside += "" if reference is None else ", both less the reference"
    elif reference is not None:
        tests = _against_reference(model, reference, level)
        expected, beside = float(np.nanmean(reference.hits)), "the reference, item by item"
    else:
        tests = _against_chance(model, level)
        known = model.chance[np.isfinite(model.hits)]
        expected = float(known.mean()) if len(known) else nan
        beside = CHANCE
    made = [each for each in tests if not isnan(each.p)]
    leaked = any(each.p <= (1 - confidence) / TESTS and each.value > 0 for each in made) if made else None
    above = tests[-1]
    room = 1 - expected if expected < 1 else nan
    low, high = (float(np.clip(each / room, 0, 1)) for each in (above.low, above.high))
    share = (rate_of - expected) / room if reference is None or clean is None else above.value / room
    return SetVerdict(
        leaked=leaked,
        rate=(float(np.clip(share, 0, 1)), low, high),
        tests=tests,
        beside=beside,
        expected=expected,
    )


def _against_reference(model: Seen, reference: Seen, level: float) -> tuple[SetTest, ...]:
    levels, hits = (
        difference(one[None], other[None], higher_is_better=True, confidence=level, draws=_DRAWS)
        for one, other in ((model.levels, reference.levels), (model.hits, reference.hits))
    )
    both = np.isfinite(model.hits) & np.isfinite(reference.hits)
    only = int((model.hits[both] > reference.hits[both]).sum())
    other = int((model.hits[both] < reference.hits[both]).sum())
    p = (
        float(scipy.stats.binomtest(only, only + other, alternative="greater").pvalue)
        if only + other
        else 1.0
    )
    one_sided = levels.p / 2 if levels.mean > 0 else 1 - levels.p / 2
    return (
        SetTest(
            name="mean difference of levels",
            value=levels.mean,
            low=levels.low,
            high=levels.high,
            p=one_sided,
            counted=f"{levels.items:,} pairs",
        ),
        SetTest(
            name="difference of hit rates",
            value=hits.mean,
            low=hits.low if not isnan(hits.low) else hits.mean,
            high=hits.high if not isnan(hits.high) else hits.mean,
            p=p,
            counted=f"{only:,} hits of the model alone, {other:,} of the reference alone",
        ),
    )


def _against_clean(ours: Seen, theirs: Seen, level: float) -> tuple[SetTest, ...]:
    found = []
    for name, one, other in (
        ("difference of mean levels", ours.levels, theirs.levels),
        ("difference of hit rates", ours.hits, theirs.hits),
    ):
        a, b = one[np.isfinite(one)], other[np.isfinite(other)]
        value = low = high = p = nan
        if min(len(a), len(b)) >= FEWEST_ITEMS:
            value = float(a.mean() - b.mean())
            if one is ours.hits and {*a.tolist(), *b.tolist()} <= {0.0, 1.0}:
                counts = [[int(part.sum()), int(len(part) - part.sum())] for part in (a, b)]
                p = float(scipy.stats.fisher_exact(counts, alternative="greater").pvalue)
                low, high = _newcombe(counts, level)
            elif a.std() or b.std():
                test = scipy.stats.ttest_ind(a, b, equal_var=False, alternative="greater")
                both = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
                p, low, high = float(test.pvalue), float(both.low), float(both.high)
        found.append(
            SetTest(
                name=name, value=value, low=low, high=high, p=p, counted=f"{len(a):,} and {len(b):,} items"
            )
        )
    return tuple(found)


def _newcombe(counts: Sequence[Sequence[int]], level: float) -> tuple[float, float]:
    """Return the interval of a difference of two shares, from Wilson's intervals of both."""
    shares = [hits / (hits + rest) for hits, rest in counts]
    ends = [
        scipy.stats.binomtest(hits, hits + rest).proportion_ci(confidence_level=level, method="wilson")
        for hits, rest in counts
    ]
    value = shares[0] - shares[1]
    below = np.hypot(shares[0] - ends[0].low, ends[1].high - shares[1])
    above = np.hypot(ends[0].high - shares[0], shares[1] - ends[1].low)
    return float(value - below), float(value + above)


def _against_chance(model: Seen, level: float) -> tuple[SetTest, ...]:
    defined = np.isfinite(model.hits) & np.isfinite(model.chance)
    hits, chance = model.hits[defined], model.chance[defined]
    value = low = high = p = nan
    if len(hits):
        count, expected = int(hits.sum()), float(chance.mean())
        # Items of other numbers of options have other chances: their sum varies less than this binomial.
        p = float(scipy.stats.binomtest(count, len(hits), expected, alternative="greater").pvalue)
        share = scipy.stats.binomtest(count, len(hits)).proportion_ci(confidence_level=level, method="wilson")
        value, low, high = (float(each) - expected for each in (hits.mean(), share.low, share.high))
    counted = f"{int(hits.sum()):,} hits in {len(hits):,} items, {chance.sum():.1f} by chance"
    return (SetTest(name="hit rate above chance", value=value, low=low, high=high, p=p, counted=counted),)


@dataclass(frozen=True, kw_only=True)
class Roc:
    """How well levels tell leaked items from others: the area with its interval, and the curve.

    ``false_alarms`` and ``found`` are shares, one point for each threshold, from (0, 0) to (1, 1).
    """

    area: float
    low: float
    high: float
    false_alarms: Values
    found: Values


def roc(levels: Values, truth: NDArray[np.bool_], *, confidence: float = 0.95, seed: int = 0) -> Roc:
    """Return how well levels (n,) tell the items that were trained on from the others; ties count half.

    Raises:
        UsageError: If one of the kinds is missing.
    """
    defined = np.isfinite(levels)
    yes, no = levels[defined & truth], levels[defined & ~truth]
    if not len(yes) or not len(no):
        raise UsageError(
            f"a curve needs leaked items and others, and there are {len(yes)} and {len(no)}",
            hint="the column of the truth is true for items that were trained on",
        )
    rng = np.random.default_rng(seed)
    drawn = [_area(rng.choice(yes, len(yes)), rng.choice(no, len(no))) for _ in range(_BOOTSTRAPS)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    thresholds = np.unique(np.concatenate([yes, no]))[::-1]
    curve = [np.concatenate([[0.0], (part[None] >= thresholds[:, None]).mean(axis=1)]) for part in (no, yes)]
    return Roc(area=_area(yes, no), low=float(low), high=float(high), false_alarms=curve[0], found=curve[1])


def _area(yes: Values, no: Values) -> float:
    ranks = scipy.stats.rankdata(np.concatenate([yes, no]))[: len(yes)]
    return float((ranks.sum() - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def by_subject(frame: pl.DataFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """Return a line for each subject: its items, the share of hits, and the mean level or difference with its interval."""
    level = "difference" if "difference" in frame.columns else "level"
    lines = []
    for (subject,), part in frame.filter("counted").group_by("subject", maintain_order=True):
        values = part[level].drop_nulls().to_numpy()
        mean = interval(values[None], confidence=confidence, draws=10_000) if len(values) else None
        few = mean is None or len(values) < FEWEST_ITEMS
        line = {"subject": subject, "items": part.height, "hits": part["hit"].mean()}
        if "reference_hit" in part.columns:
            line["reference_hits"] = part["reference_hit"].mean()
        ends = (None, None) if mean is None or few else (mean.low, mean.high)
        lines.append(line | {level: None if mean is None else mean.mean, "low": ends[0], "high": ends[1]})
    numbers = {level: pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(lines, schema_overrides=numbers, infer_schema_length=None)
