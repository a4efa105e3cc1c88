"""``selectors.choose`` with its options by name."""

from learnable import selectors
from learnable.selectors import Choosing, TopK

Thresholds = dict


def choose(scores, *, budget, selector=None, vectors=None, pins=None, bans=None, thresholds=None, **options):
    choosing = Choosing(**options, **(thresholds or {}))
    given = {"vectors": vectors, "pins": pins, "bans": bans}
    return selectors.choose(scores, choosing, budget=budget, method=selector or TopK(), **given)
