"""Optional packages: imported when something needs them, named when they are missing."""

import importlib
from typing import Any

from learnable.errors import UsageError


def needed(module: str, *, by: str, extra: str = "evaluate") -> Any:
    """Return a module of an optional package.

    Args:
        module: What to import.
        by: What needs it, for the message.
        extra: What it is installed with.

    Raises:
        UsageError: If it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{by} needs the package {module.partition('.')[0]}: {error}",
            hint=f'pip install "learnable[{extra}]"',
        ) from error
