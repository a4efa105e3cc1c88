"""Looks a method up by name, by ``module:attribute``, or with parameters, in the table of its folder."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from learnable.errors import UsageError, closest, did_you_mean

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
    known = _parameters(factory)
    if known is not None and (unknown := sorted(set(parameters) - set(known))):
        raise UsageError(
            f"{kind} {name!r} does not take these parameters: {parameters}",
            hint=f"it has no {unknown[0]!r}; {did_you_mean(unknown[0], known)}",
        )
    try:
        return factory(**parameters)
    except TypeError as error:
        raise UsageError(
            f"{kind} {name!r} does not take these parameters: {parameters}", hint=str(error)
        ) from error


def _parameters(factory: Callable[..., Any]) -> list[str] | None:
    """Return the names that a factory takes; None where it takes any, or cannot tell."""
    try:
        taken = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_KEYWORD for one in taken):
        return None
    return [one.name for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _imported(kind: str, name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    hint = "write it as module:attribute, importable from here"
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"cannot import the {kind} {name!r}: {error}", hint=hint) from error
    found: Callable[..., Any] | None = getattr(module, attribute, None) if attribute else None
    if found is None:
        close = closest(attribute, (each for each in vars(module) if not each.startswith("_")))
        raise UsageError(
            f"cannot import the {kind} {name!r}: {module_name} has no {attribute!r}",
            hint=f"did you mean '{module_name}:{close}'?" if close else hint,
        )
    return found
