"""The page itself: embedding-atlas, of the extra ``explore``."""

from typing import Any

from learnable.packages import needed


def library(module: str) -> Any:
    """Return a module of embedding-atlas.

    Raises:
        UsageError: If it, or something that it needs, is not installed.
    """
    return needed(f"embedding_atlas.{module}", by="learnable explore", extra="explore")
