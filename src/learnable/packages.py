"""Optional packages: imported when something needs them, named when they are missing."""

import importlib
import importlib.util
from typing import Any

from learnable.errors import UsageError


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "learnable[{extra}]"'


def is_installed(module: str) -> bool:
    """Return whether a package is there, without importing it."""
    return importlib.util.find_spec(module) is not None


def needed(module: str, *, by: str, extra: str) -> Any:
    """Return a module of an optional package; where it is not installed, say what needs it and the extra that has it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{by} needs the package {module.partition('.')[0]}: {error}",
            hint=install(extra),
        ) from error
