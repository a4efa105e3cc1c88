"""Optional packages: imported when something needs them, named when they are missing."""

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from learnable.errors import ModelError, UsageError


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "learnable[{extra}]"'


def is_installed(module: str) -> bool:
    """Return whether a package is there, without importing it."""
    return importlib.util.find_spec(module) is not None


def packaged(package: str, ending: str, *, what: str, hint: str) -> Path:
    """Return the file of a package that holds a model, by how its name ends; ``what`` and ``hint`` are for the message.

    Raises:
        ModelError: If it is not installed, or has no such file.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(f"{what} not installed", hint=hint) from error
    for file in files:
        if str(file).endswith(ending):
            return Path(str(file.locate()))
    raise ModelError(f"the package {package} holds no file *{ending}", hint=hint)


def needed(module: str, *, by: str, extra: str) -> Any:
    """Return a module of an optional package; where it is not installed, say what needs it and the extra that has it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{by} needs the package {module.partition('.')[0]}: {error}", hint=install(extra)
        ) from error
