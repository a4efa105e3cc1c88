"""One file per method, arrays in and picks out; ``choose`` puts budget, shares and thresholds around them."""

from collections.abc import Callable, Mapping

from learnable.selectors.choose import PerSource, Thresholds, choose, count_asked
from learnable.selectors.random import Random
from learnable.selectors.top_k import TopK
from learnable.types import Selector

SELECTORS: Mapping[str, Callable[..., Selector]] = {"top_k": TopK, "random": Random}

__all__ = ["SELECTORS", "PerSource", "Random", "Thresholds", "TopK", "choose", "count_asked"]
