"""Methods, arrays in and picks out; ``choose`` puts budget, shares and thresholds around them."""

from collections.abc import Callable, Mapping

from learnable.selectors.budget import count_asked
from learnable.selectors.choose import choose
from learnable.selectors.coverage import FacilityLocation, KCenter, SpreadTop
from learnable.selectors.eligible import Choosing, PerSource
from learnable.selectors.ranking import DiverseTopK, GumbelTopK, Middle, Random, TopK
from learnable.selectors.round_robin import RoundRobin, turns_of
from learnable.types import Selector

SELECTORS: Mapping[str, Callable[..., Selector]] = {
    "top_k": TopK,
    "middle": Middle,
    "random": Random,
    "diverse_top_k": DiverseTopK,
    "k_center": KCenter,
    "facility_location": FacilityLocation,
    "gumbel_top_k": GumbelTopK,
    "round_robin": RoundRobin,
    "spread_top": SpreadTop,
}

__all__ = ["SELECTORS", "Choosing", "PerSource", "choose", "count_asked", "turns_of"]
