"""Packages of the extra ``evaluate``: imported when an evaluator needs them, named when they are missing."""

import importlib
from typing import Any

from learnable.errors import UsageError


def needed(module: str, *, evaluator: str) -> Any:
    """Return a module of an optional package.

    Raises:
        UsageError: If it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{evaluator} needs the package {module.partition('.')[0]}: {error}",
            hint='pip install "learnable[evaluate]"',
        ) from error
