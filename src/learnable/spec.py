"""Looks a method up by name, by ``module:attribute``, or with parameters, in the table of its folder."""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from learnable.errors import UsageError, closest, did_you_mean

Method = TypeVar("Method")
_SETTING = re.compile(r"([A-Za-z_][\w-]*)=(.*)", re.DOTALL)
_BEFORE_KEY = re.compile(r",(?=[A-Za-z_][\w-]*=)")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What tells the methods of a kind from other code.

    Args:
        has: Attributes that they have.
        call: Which of their functions is called.
        takes: What that call gives by name.
        told_apart: Whether their fields stand in results, for which they must be dataclasses.
    """

    has: tuple[str, ...] = ()
    call: str = "__call__"
    takes: tuple[str, ...] = ()
    told_apart: bool = True

    def __str__(self) -> str:
        kind = "dataclass" if self.told_apart else "class"
        called = f"{self.call}({', '.join(['...', *self.takes])})"
        return f"{kind} with {', '.join([*self.has, called])}"


CONTRACTS: Mapping[str, Contract] = {
    "scorer": Contract(has=("needs", "higher_is_better")),
    "selector": Contract(takes=("k",)),
    "method": Contract(
        has=("needs_examples", "needs_generator", "sampling"), takes=("n", "draw"), told_apart=False
    ),
    "merger": Contract(has=("by_scalar", "seed", "check"), takes=("base", "moved", "rng")),
    "evaluator": Contract(has=("kind", "unit", "higher_is_better"), call="read"),
    "loss": Contract(has=("needs", "answers", "linear")),
}
"""By kind, as errors name it: the least that the protocols of the kinds ask for."""


def build(kind: str, spec: str | Mapping[str, Any], table: Mapping[str, Callable[..., Method]]) -> Method:
    """Return the method that ``spec`` names.

    Args:
        kind: What is looked up: ``scorer``, ``selector`` ... Outside code must keep its contract, and is not called
            before that is known.
        spec: A name of the table or ``module:attribute`` of outside code, each with ``@key=value,key=value`` behind it
            for the fields of a dataclass; or a mapping with ``name`` and parameters.
        table: Names to factories.

    Raises:
        UsageError: If there is no such method, or it does not know a parameter.
    """
    parameters = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"a {kind} needs a name, got {spec!r}", hint=did_you_mean("", table))
    written, (name, _, settings) = name, name.partition("@")
    factory = _imported(kind, name) if ":" in name else table.get(name)
    if factory is None:
        raise UsageError(f"no {kind} called {name!r}", hint=did_you_mean(name, table))
    if settings:
        pairs = settings_in(settings)
        if pairs is None or not isinstance(factory, type):
            raise UsageError(f"cannot read the {kind} {written!r}", hint="write NAME@key=value,key=value")
        parameters |= typed(name, settings_of(factory), pairs)
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


def settings_in(text: str) -> dict[str, str] | None:
    """Return the pairs of ``key=value,key=value``, None if the text is not made of them.

    A piece between commas that is no pair belongs to the value before it: ``keys=thought,label`` is one setting.
    """
    matches = [_SETTING.fullmatch(piece) for piece in _BEFORE_KEY.split(text)]
    found = [match for match in matches if match]
    return {match[1].replace("-", "_"): match[2] for match in found} if len(found) == len(matches) else None


def settings_of(factory: type[Any]) -> dict[str, Any]:
    """Return the types of what a dataclass takes, by name."""
    hints = get_type_hints(factory)
    return {setting.name: hints[setting.name] for setting in fields(factory) if setting.init}


def typed(name: str, known: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """Return settings that were written as text in their types, ``known`` by name; ``name`` is for errors."""
    from pydantic import TypeAdapter, ValidationError

    found: dict[str, Any] = {}
    for written, value in settings.items():
        # prompt=question and source=task are short for prompt_column and source_column.
        key = written if written in known or f"{written}_column" not in known else f"{written}_column"
        if key not in known:
            raise UsageError(f"{name} has no setting {key!r}", hint=did_you_mean(key, known))
        several = get_origin(known[key]) is tuple
        one = TypeAdapter(get_args(known[key])[0] if several else known[key])
        parts = [part.strip() for part in value.split(",") if part.strip()] if several else [value]
        try:
            values = [one.validate_strings(part) for part in parts]
            found[key] = tuple(values) if several else values[0]
        except ValidationError as error:
            raise UsageError(f"{name} does not take {key}={value}", hint=error.errors()[0]["msg"]) from error
    return found


def is_module(name: str) -> bool:
    """Return whether there is a module of this name, without a dot in it; it is not imported."""
    with _working_folder():
        return importlib.util.find_spec(name) is not None


@contextmanager
def _working_folder() -> Iterator[None]:
    """Find modules of the working folder too, behind all others; outside of this block, none of them runs.

    No compiled files stay beside code that is being edited: Python takes them for fresh within a second.
    """
    here, before = str(Path.cwd()), sys.dont_write_bytecode
    is_there = here in sys.path  # the user has put it there
    sys.path += [] if is_there else [here]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        with suppress(ValueError):  # the module may have done so itself
            if not is_there:
                sys.path.remove(here)


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
        with _working_folder():
            module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise UsageError(f"cannot import the {kind} {name!r}: {error}", hint=hint) from error
    found: Callable[..., Any] | None = getattr(module, attribute, None) if attribute else None
    if found is None:
        close = closest(attribute, (each for each in vars(module) if not each.startswith("_")))
        raise UsageError(
            f"cannot import the {kind} {name!r}: {module_name} has no {attribute!r}",
            hint=f"did you mean '{module_name}:{close}'?" if close else hint,
        )
    made, contract = _made_by(found), CONTRACTS[kind]
    if lacking := _lacking(made, contract):
        raise UsageError(
            f"{name!r} is no {kind}: {lacking}",
            hint=f"a {kind} is a {contract}, or a function with such a class as its return type",
        )
    return found


def _made_by(factory: Any) -> type | None:
    """Return the class of what a factory makes: its own, or the one that stands behind the ``->`` of a function."""
    if isinstance(factory, type):
        return factory
    if not isinstance(factory, FunctionType):
        return None
    made = None
    with suppress(NameError):
        made = get_type_hints(factory).get("return")
    return made if isinstance(made, type) else None


def _lacking(made: type | None, contract: Contract) -> str | None:
    """Return what a class lacks of a contract, None where it keeps it."""
    if made is None:
        return "it is neither a class nor a function that says what it returns"
    if contract.told_apart and not is_dataclass(made):
        return "it lacks @dataclass"
    members = {name for base in made.__mro__[:-1] for name in (*vars(base), *inspect.get_annotations(base))}
    missing = [name for name in (*contract.has, contract.call) if name not in members]
    if not missing and contract.takes:
        taken = inspect.signature(getattr(made, contract.call)).parameters
        missing = [f"{contract.call}({name})" for name in contract.takes if name not in taken]
    return f"it lacks {missing[0]}" if missing else None
