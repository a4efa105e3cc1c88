"""Evaluators by name, and how they are written. To add one, write it in a file of its own and give it a line here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import PurePath
from typing import Any

from learnable.errors import UsageError
from learnable.evaluators.exact_match import ExactMatch
from learnable.evaluators.format import Format
from learnable.evaluators.heldout import Heldout
from learnable.evaluators.ifeval import IFEval
from learnable.evaluators.judge import Judge
from learnable.evaluators.kinds import Evaluator
from learnable.evaluators.lm_eval import LMEval
from learnable.evaluators.multiple_choice import MultipleChoice
from learnable.evaluators.reasoning_gym import ReasoningGym
from learnable.evaluators.translation import Translation
from learnable.spec import Method, build, is_module, settings_in, settings_of, typed

EVALUATORS: Mapping[str, Callable[..., Evaluator]] = {
    "heldout": Heldout,
    "multiple_choice": MultipleChoice,
    "exact_match": ExactMatch,
    "reasoning_gym": ReasoningGym,
    "ifeval": IFEval,
    "format": Format,
    "translation": Translation,
    "lm_eval": LMEval,
    "judge": Judge,
}

_NAME = re.compile(r"\w+(?=[:@]|$)")
_OUTSIDE = re.compile(r"\w+(?:\.\w+)*:\w+(?=[:@]|$)")
_HINT = "write NAME:PATH@key=value,key=value"


@dataclass(frozen=True, kw_only=True)
class Specification:
    """An evaluator as it is written: its name in the table, or ``module:attribute``; its data; its settings as text.

    ``label`` is what it is called in tables: name, file name and settings.
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
        raise UsageError(f"cannot read the evaluator {written!r}", hint=_HINT)
    name, rest = match.group(), written[match.end() :]
    found = ((at, settings_in(rest[at + 1 :])) for at, mark in enumerate(rest) if mark == "@")
    at, settings = next(((at, pairs) for at, pairs in found if pairs is not None), (len(rest), {}))
    if not settings and rest.startswith("@"):
        raise UsageError(f"cannot read the settings in {written!r}", hint=_HINT)
    path = rest[:at].removeprefix(":")
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
    """Return the evaluator with its settings; ``UsageError`` if there is none, or it does not take a setting."""
    return built("evaluator", specification, EVALUATORS)


def built(kind: str, written: Specification, table: Mapping[str, Callable[..., Method]]) -> Method:
    """Return what a table, or outside code, has under a name, with the settings in their types."""
    factory: Any = table.get(written.name)
    settings: dict[str, Any] = dict(written.settings)
    if isinstance(factory, type) and is_dataclass(factory):
        settings = typed(written.name, settings_of(factory), written.settings)
    return build(kind, {"name": written.name, **settings}, table)
