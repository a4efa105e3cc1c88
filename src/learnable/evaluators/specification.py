"""``NAME[:PATH][@key=value,...]``: how an evaluator is written on the command line and in recipes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import PurePath
from typing import Any

from learnable.errors import UsageError, did_you_mean
from learnable.evaluators.kinds import Evaluator
from learnable.evaluators.table import EVALUATORS
from learnable.spec import build, is_module, settings_in, settings_of, typed

_NAME = re.compile(r"\w+(?=[:@]|$)")
_OUTSIDE = re.compile(r"\w+(?:\.\w+)*:\w+(?=[:@]|$)")


@dataclass(frozen=True, kw_only=True)
class Specification:
    """An evaluator as it is written.

    Args:
        name: Its name in the table, or ``module.of.yours:attribute``.
        path: Its data: a file, a hub id, or what else the evaluator takes; None when there is none.
        settings: Its settings as text.
        label: What it is called in tables: name, file name and settings.
    """

    name: str
    path: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    label: str = ""


def parse(written: str) -> Specification:
    """Return the parts of ``NAME[:PATH][@key=value,...]``.

    The settings begin at the first ``@`` after which ``key=value`` pairs follow; other ``@`` and ``:`` belong to the
    path. A piece between commas that is no pair belongs to the value before it: ``keys=thought,label`` is one setting.

    Raises:
        UsageError: If there is no name.
    """
    match = _NAME.match(written)
    if match is None or match.group() not in EVALUATORS:
        match = _outside(written) or match
    if match is None:
        raise UsageError(f"cannot read the evaluator {written!r}", hint="write NAME:PATH@key=value,key=value")
    name, rest = match.group(), written[match.end() :]
    path, settings = rest, dict[str, str]()
    for at in (position for position, character in enumerate(rest) if character == "@"):
        found = settings_in(rest[at + 1 :])
        if found is not None:
            path, settings = rest[:at], found
            break
    else:
        if rest.startswith("@"):
            raise UsageError(
                f"cannot read the settings in {written!r}", hint="write NAME:PATH@key=value,key=value"
            )
    path = path.removeprefix(":")
    label = name + (f":{PurePath(path).name or path}" if path else "")
    if settings:
        label += "@" + ",".join(f"{key}={value}" for key, value in settings.items())
    return Specification(name=name, path=path or None, settings=settings, label=label)


def _outside(written: str) -> re.Match[str] | None:
    """Match ``module:attribute``; one word before the colon must be a module, else it is a mistyped name."""
    match = _OUTSIDE.match(written)
    module = match.group().partition(":")[0] if match else ""
    return match if "." in module or (module and is_module(module)) else None


def build_evaluator(specification: Specification) -> Evaluator:
    """Return the evaluator with its settings.

    Raises:
        UsageError: If there is no such evaluator, or it does not know a setting or its value.
    """
    name = specification.name
    factory: Any = EVALUATORS.get(name)
    if factory is None and ":" not in name:
        raise UsageError(f"no evaluator called {name!r}", hint=did_you_mean(name, EVALUATORS))
    settings: dict[str, Any] = dict(specification.settings)
    if isinstance(factory, type) and is_dataclass(factory):
        settings = typed(name, settings_of(factory), specification.settings)
    return build("evaluator", {"name": name, **settings}, EVALUATORS)
