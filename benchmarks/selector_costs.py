"""What does a selector cost? Seconds by selector and number of examples, and how many times that of top k.

Picks 6 % of random vectors of 256 dimensions with every selector that looks at vectors, drops near-duplicates as
``choose`` does, and prints one table. Random vectors resemble nothing, the worst case for near-duplicates; diverse top
k, whose worst case is the other one, is also timed on clouds of 20 vectors that resemble one another. No model, no data.

    OMP_NUM_THREADS=1 python benchmarks/selector_costs.py
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from functools import partial

import numpy as np

from learnable.runs.progress import say
from learnable.selectors.coverage import FacilityLocation, KCenter
from learnable.selectors.ranking import DiverseTopK, TopK
from learnable.selectors.vectors import distinct

DIMENSIONS, SHARE, CLOUD = 256, 0.06, 20
# The cosine of two vectors of one cloud is about 1 / (1 + SPREAD**2) = 0.96, above the usual limit.
SPREAD = 0.2
REPEATED_S = 0.2


def timed(n: int, *, seed: int) -> dict[str, Callable[[], object]]:
    """Return what is timed on n examples, top k first."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n, dtype=np.float32)  # (n,)
    unlike = rng.standard_normal((n, DIMENSIONS), dtype=np.float32)  # (n, d)
    clouds = SPREAD * rng.standard_normal((n, DIMENSIONS), dtype=np.float32) + unlike[np.arange(n) // CLOUD]
    k = round(SHARE * n)
    return {
        "top_k": partial(TopK(), scores, k=k),
        "diverse_top_k": partial(DiverseTopK(), scores, k=k, vectors=unlike),
        "diverse_top_k, clouds": partial(DiverseTopK(), scores, k=k, vectors=clouds),
        "k_center": partial(KCenter(), scores, k=k, vectors=unlike),
        "facility_location": partial(FacilityLocation(), scores, k=k, vectors=unlike),
        "near-duplicates": partial(distinct, unlike, max_similarity=0.9),
    }


def seconds_of(work: Callable[[], object]) -> float:
    """Return the processor seconds of one call, all threads together: the least of as many as fit into 0.2 s."""
    least, started = float("inf"), time.process_time()
    while time.process_time() - started < REPEATED_S:
        begun = time.process_time()
        work()
        least = min(least, time.process_time() - begun)
    return least


def main() -> None:
    """Time the selectors and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[5_000, 20_000], help="how many examples")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = []
    for n in options.n:
        seconds: dict[str, float] = {}
        for name, work in timed(n, seed=options.seed).items():
            say(f"{n:,} examples, {name}")
            seconds[name] = seconds_of(work)
            times = seconds[name] / seconds["top_k"]
            lines.append(f"| {n:,} | {round(SHARE * n):,} | {name} | {seconds[name]:.2g} | {times:,.0f} |")
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, {DIMENSIONS} dimensions, seed {options.seed}\n"
    )
    print("| n | k | selector | processor seconds | times top k |\n| ---: | ---: | --- | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
