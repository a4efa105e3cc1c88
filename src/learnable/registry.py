"""Looks a method up by name, by ``module:attribute``, or with parameters, in the table of its folder."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from learnable.errors import UsageError, did_you_mean

Method = TypeVar("Method")


def build(kind: str, spec: str | Mapping[str, Any], table: Mapping[str, Callable[..., Method]]) -> Method:
    """Return the method that ``spec`` names.

    Args:
        kind: What is looked up, for the error message: ``scorer``, ``selector`` ...
        spec: A name of the table, ``module:attribute`` of outside code, or a mapping with ``name`` and parameters.
        table: Names to factories.

    Raises:
        UsageError: If there is no such method, or it does not know a parameter.
    """
    parameters = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"a {kind} needs a name, got {spec!r}", hint=did_you_mean("", table))
    factory = _imported(kind, name) if ":" in name else table.get(name)
    if factory is None:
        raise UsageError(f"no {kind} called {name!r}", hint=did_you_mean(name, table))
    try:
        return factory(**parameters)
    except TypeError as error:
        raise UsageError(
            f"{kind} {name!r} does not take these parameters: {parameters}", hint=str(error)
        ) from error


def _imported(kind: str, name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(
            f"cannot import the {kind} {name!r}: {error}",
            hint="write it as module:attribute, importable from here",
        ) from error
    return found
