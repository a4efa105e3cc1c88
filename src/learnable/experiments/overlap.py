"""Examples that are in several selections."""

from collections import Counter
from collections.abc import Collection, Mapping


def only_in(selections: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Return for each method the ids that no other method chose, in the order in which it chose them."""
    times = Counter(name for chosen in selections.values() for name in set(chosen))
    return {
        method: [name for name in dict.fromkeys(chosen) if times[name] == 1]
        for method, chosen in selections.items()
    }
