"""Examples that are in several selections."""

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import combinations

import polars as pl


def jaccard(selections: Mapping[str, Collection[str]]) -> pl.DataFrame:
    """Return how far the ids that methods chose overlap: one row per pair of methods, in the order given.

    ``one``, ``other``, ``jaccard`` (shared over chosen by either, in [0, 1]; NaN where neither chose anything) and
    ``shared`` (how many ids).
    """
    rows = []
    for (one, mine), (other, theirs) in combinations(selections.items(), 2):
        shared, either = len(set(mine) & set(theirs)), len(set(mine) | set(theirs))
        rows.append((one, other, shared / either if either else float("nan"), shared))
    schema = {"one": pl.String, "other": pl.String, "jaccard": pl.Float64, "shared": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def only_in(selections: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Return for each method the ids that no other method chose, in the order in which it chose them."""
    times = Counter(name for chosen in selections.values() for name in set(chosen))
    return {
        method: [name for name in dict.fromkeys(chosen) if times[name] == 1]
        for method, chosen in selections.items()
    }
