"""The page itself: embedding-atlas, of the extra ``explore``."""

from typing import Any

from learnable.errors import UsageError
from learnable.packages import needed

HINT = 'pip install "learnable[explore]"'


def library(module: str) -> Any:
    """Return a module of embedding-atlas.

    Raises:
        UsageError: If it, or something that it needs, is not installed.
    """
    try:
        return needed(f"embedding_atlas.{module}", by="learnable explore")
    except UsageError as error:
        raise UsageError(error.message, hint=HINT) from error
