"""Do the intervals of a comparison hold? How often four kinds of 95 % intervals cover a known mean, and their widths.

Simulates differences of 60 items by 3 or 5 seeds, as item + seed + residual, all random, 4,000 tables for each design,
and prints one table. No model, no data; half a minute on one core.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py
"""

import argparse
import platform
import time
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t  # type: ignore[import-untyped]

from learnable.comparing import interval
from learnable.progress import say

ITEMS, SEEDS, LEVEL = 60, (3, 5), 0.05
DRAWS_OF_OURS, DRAWS_OF_BOOTSTRAP = 5_000, 1_000
# Standard deviations of items, seeds and residual; the mean's variance is the sum of their squares over n, S and n S.
DESIGNS = {
    "items dominate": (1.0, 0.02, 0.3),
    "seeds dominate": (0.3, 1.0, 0.3),
    "items and seeds matter alike": (1.0, 0.2, 0.3),
    "seeds and residual matter alike": (0.0, 0.2, 1.0),
    "only residual": (0.0, 0.0, 1.0),
}
SATTERTHWAITE, OURS = "Satterthwaite's t", "ours"


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


def halves(rng: np.random.Generator, values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return half the width of every kind of interval for each table, (count,)."""
    seeds = values.shape[1]
    of_t, quantile = satterthwaite(values)
    ours = [interval(table, draws=DRAWS_OF_OURS, seed=number) for number, table in enumerate(values)]
    # With S - 1 draws the variance between seeds is right in the mean; t for z widens by what is not known of it.
    corrected = bootstrap(rng, values, draws_of_seeds=seeds - 1) * quantile / norm.ppf(1 - LEVEL / 2)
    return {
        "bootstrap": bootstrap(rng, values, draws_of_seeds=seeds),
        "bootstrap, S - 1 draws, t": corrected,
        SATTERTHWAITE: of_t,
        OURS: np.array([each.high - each.mean for each in ours]),
    }


def main() -> None:
    """Run the simulation and print its table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=4_000, help="tables of each design")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    rng = np.random.default_rng(options.seed)
    lines: list[str] = []
    names: list[str] = []
    for seeds in SEEDS:
        for label, design in DESIGNS.items():
            say(f"{seeds} seeds, {label}: {time.monotonic() - started:,.0f} s so far")
            values = simulate(rng, design, seeds=seeds, count=options.count)
            size, found = np.abs(values.mean(axis=(1, 2))), halves(rng, values)
            names = list(found)
            cells = [
                f"{100 * float((size <= half).mean()):.1f} ({float(half.mean() / found[SATTERTHWAITE].mean()):.2f})"
                for half in found.values()
            ]
            deviations = " / ".join(f"{each:g}" for each in design)
            lines.append(f"| {seeds} | {label} | {deviations} | " + " | ".join(cells) + " |")
    error = 100 * float(np.sqrt(LEVEL * (1 - LEVEL) / options.count))
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, {options.count:,} tables of S seeds and {ITEMS} items, "
        f"seed {options.seed}\nPer cent of the {1 - LEVEL:.0%} intervals that cover the mean (standard error {error:.1f}); "
        f"in brackets their mean width, {SATTERTHWAITE} being 1.\n"
    )
    print("| S | design | standard deviation of items / seeds / residual | " + " | ".join(names) + " |")
    print("| ---: | --- | --- |" + " ---: |" * len(names))
    print("\n".join(lines))
    print(f"\nCost: {time.monotonic() - started:,.0f} s")


if __name__ == "__main__":
    main()
