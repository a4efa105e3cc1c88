"""Do the intervals of a comparison hold? How often several kinds of 95 % intervals cover a known mean, and their widths.

Two simulations, each prints one table. In the first, differences of 60 items by 3 or 5 seeds, as item + seed + residual, all
random and normal. In the second, few items of one training, normal and skewed. No model, no data.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py
"""

import argparse
import math
import os
import platform
import time
from collections.abc import Callable
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from learnable.experiments import interval
from learnable.runs.progress import say

ITEMS, SEEDS, LEVEL = 60, (3, 5), 0.05
DRAWS_OF_OURS, DRAWS_OF_BOOTSTRAP = 2_000, 1_000
# Standard deviations of items, seeds and residual; the mean's variance is the sum of their squares over n, S and n S.
DESIGNS = {
    "items dominate": (1.0, 0.02, 0.3),
    "seeds dominate": (0.3, 1.0, 0.3),
    "items and seeds matter alike": (1.0, 0.2, 0.3),
    "seeds and residual matter alike": (0.0, 0.2, 1.0),
    "only residual": (0.0, 0.0, 1.0),
}
FEW = (5, 10, 20, 30, 60)
Drawing = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
SHAPES: dict[str, tuple[Drawing, float]] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "difference of two lognormals": (lambda rng, shape: np.subtract(*rng.lognormal(size=(2, *shape))), 0.0),
    "-1, 0 or 1": (lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=shape), 0.2),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "lognormal, sigma 1": (lambda rng, shape: rng.lognormal(size=shape), math.exp(0.5)),
    "lognormal, sigma 1.5": (lambda rng, shape: rng.lognormal(sigma=1.5, size=shape), math.exp(1.125)),
}
"""How items are drawn, and their mean."""
SATTERTHWAITE, STUDENT, OURS = "Satterthwaite's t", "Student's t", "ours"
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def simulate(
    rng: np.random.Generator, design: tuple[float, float, float], *, seeds: int, count: int
) -> NDArray[np.float64]:
    """Return tables of the two-way random model around 0, (count, S, n)."""
    item, seed, residual = design
    return (
        item * rng.standard_normal((count, 1, ITEMS))
        + seed * rng.standard_normal((count, seeds, 1))
        + residual * rng.standard_normal((count, seeds, ITEMS))
    )


def ours(tables: NDArray[np.float64]) -> Bounds:
    """Return the bounds of our intervals for tables (count, S, n)."""
    found = [interval(table, draws=DRAWS_OF_OURS, seed=number) for number, table in enumerate(tables)]
    return np.array([each.low for each in found]), np.array([each.high for each in found])


def satterthwaite(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return half the width of Student's t by the mean squares of each table, and the quantile of t in it, (count,)."""
    _, seeds, items = values.shape
    mean = values.mean(axis=(1, 2), keepdims=True)
    by_item, by_seed = values.mean(axis=1, keepdims=True), values.mean(axis=2, keepdims=True)
    degrees = np.array([items - 1, seeds - 1, (items - 1) * (seeds - 1)])
    squares = [
        seeds * (by_item - mean) ** 2,
        items * (by_seed - mean) ** 2,
        (values - by_item - by_seed + mean) ** 2,
    ]
    means = np.stack([each.sum(axis=(1, 2)) for each in squares], axis=1) / degrees  # (count, 3)
    variance, residual = means[:, 0] + means[:, 1] - means[:, 2], means[:, 2]
    freedom = variance**2 / (means**2 / degrees).sum(axis=1)
    # The floor of ours, too: where the estimates of items and seeds are negative together, what is left remains.
    freedom = np.where(variance > residual, freedom, degrees[2])
    quantile = t.ppf(1 - LEVEL / 2, freedom)
    return quantile * np.sqrt(np.maximum(variance, residual) / (items * seeds)), quantile


def bootstrap(
    rng: np.random.Generator, values: NDArray[np.float64], *, draws_of_seeds: int
) -> NDArray[np.float64]:
    """Return half the width of the crossed bootstrap (Owen 2007): the quantile of how far its means lie off, (count,).

    Seeds and items are drawn with replacement, each independently of the other; all tables share the draws.
    """
    _, seeds, items = values.shape
    of_seeds = rng.multinomial(draws_of_seeds, np.full(seeds, 1 / seeds), DRAWS_OF_BOOTSTRAP) / draws_of_seeds
    of_items = rng.multinomial(items, np.full(items, 1 / items), DRAWS_OF_BOOTSTRAP) / items
    off = [((of_seeds @ table) * of_items).sum(axis=1) - table.mean() for table in values]
    half: NDArray[np.float64] = np.quantile(np.abs(off), 1 - LEVEL, axis=1)
    return half


def of_tables(rng: np.random.Generator, values: NDArray[np.float64]) -> dict[str, Bounds]:
    """Return the bounds of every kind of interval for tables of several seeds, (count,) each."""
    seeds, mean = values.shape[1], values.mean(axis=(1, 2))
    of_t, quantile = satterthwaite(values)
    # With S - 1 draws the variance between seeds is right in the mean; t for z widens by what is not known of it.
    corrected = bootstrap(rng, values, draws_of_seeds=seeds - 1) * quantile / norm.ppf(1 - LEVEL / 2)
    halves = {
        "bootstrap": bootstrap(rng, values, draws_of_seeds=seeds),
        "bootstrap, S - 1 draws, t": corrected,
        SATTERTHWAITE: of_t,
    }
    return {name: (mean - half, mean + half) for name, half in halves.items()} | {OURS: ours(values)}


def of_items(rng: np.random.Generator, values: NDArray[np.float64]) -> dict[str, Bounds]:
    """Return the bounds of every kind of interval for items of one training (count, n), (count,) each.

    The skewed ones: Student's t with an Edgeworth correction of its quantiles (Johnson 1978, Hall 1983); a
    bootstrap-t with equal tails, and one of the size of t.
    """
    n, mean = values.shape[1], values.mean(axis=1)
    error = values.std(axis=1, ddof=1) / math.sqrt(n)
    quantile = float(t.ppf(1 - LEVEL / 2, n - 1))
    off = values - mean[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.nan_to_num((off**3).mean(axis=1) / (off**2).mean(axis=1) ** 1.5)
    shift = skewness / (6 * math.sqrt(n)) * (2 * quantile**2 + 1)
    low, high, size = (np.empty(len(values)) for _ in range(3))
    rank = round(LEVEL / 2 * (DRAWS_OF_BOOTSTRAP + 1))
    for number, one in enumerate(off):
        sample = one[rng.integers(0, n, (DRAWS_OF_BOOTSTRAP, n))]
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = sample.mean(axis=1) / (sample.std(axis=1, ddof=1) / math.sqrt(n))
        drawn = np.sort(np.nan_to_num(drawn, nan=0.0, posinf=1e6, neginf=-1e6))
        low[number], high[number] = drawn[rank - 1], drawn[-rank]
        size[number] = np.sort(np.abs(drawn))[-2 * rank]
    return {
        STUDENT: (mean - quantile * error, mean + quantile * error),
        "Edgeworth": (mean - (quantile - shift) * error, mean + (quantile + shift) * error),
        "bootstrap-t": (mean - high * error, mean - low * error),
        "bootstrap-t, its size": (mean - size * error, mean + size * error),
        OURS: ours(values[:, None]),
    }


def cells(found: dict[str, Bounds], mean: float, *, beside: str) -> list[str]:
    """Return how often each kind covers the mean, in per cent, and its width as a multiple of another's."""
    # A bootstrap-t of few values divides by 0 now and then, and has no mean width.
    middle = np.mean if beside == SATTERTHWAITE else np.median
    widths = {name: float(middle(high - low)) for name, (low, high) in found.items()}
    return [
        f"{100 * float(((low <= mean) & (mean <= high)).mean()):.1f} ({widths[name] / widths[beside]:.2f})"
        for name, (low, high) in found.items()
    ]


def print_table(head: list[str], names: list[str], lines: list[str]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join([*head, *names]) + " |")
    print("|" + " --- |" * len(head) + " ---: |" * len(names))
    print("\n".join(lines) + "\n")


def main() -> None:
    """Run both simulations and print their tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=4_000, help="tables of each design")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    rng = np.random.default_rng(options.seed)
    error = 100 * float(np.sqrt(LEVEL * (1 - LEVEL) / options.count))
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {options.count:,} tables of each design, seed {options.seed}\n"
        f"Per cent of the {1 - LEVEL:.0%} intervals that cover the mean (standard error {error:.1f}); in brackets their "
        f"width, {SATTERTHWAITE} (means) or {STUDENT} (medians) being 1.\n"
    )
    lines, names = [], list[str]()
    for seeds in SEEDS:
        for label, design in DESIGNS.items():
            say(f"{seeds} seeds, {label}: {time.monotonic() - started:,.0f} s so far")
            found = of_tables(rng, simulate(rng, design, seeds=seeds, count=options.count))
            names = list(found)
            given = [f"{seeds}", label, " / ".join(f"{each:g}" for each in design)]
            lines.append("| " + " | ".join(given + cells(found, 0.0, beside=SATTERTHWAITE)) + " |")
    print_table(["S", "design", "standard deviation of items / seeds / residual"], names, lines)
    lines = []
    for label, (draw, mean) in SHAPES.items():
        for n in FEW:
            say(f"{n} items, {label}: {time.monotonic() - started:,.0f} s so far")
            values = draw(rng, (options.count, n))
            # Without any spread there is no interval.
            found = of_items(rng, values[np.ptp(values, axis=1) > 0])
            names = list(found)
            lines.append("| " + " | ".join([label, f"{n}", *cells(found, mean, beside=STUDENT)]) + " |")
    print_table(["items", "n"], names, lines)
    print(f"Cost: {time.monotonic() - started:,.0f} s")


if __name__ == "__main__":
    main()
