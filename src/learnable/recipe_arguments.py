"""What the steps of a recipe are given: references filled in, names known, values of the types that the verbs take."""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any

from pydantic import TypeAdapter, ValidationError

from learnable.commands import VERBS
from learnable.diversifiers import build_diversifier
from learnable.errors import UsageError, did_you_mean
from learnable.evaluators import build_evaluator, parse
from learnable.experiments import parse_methods, parse_task_arms
from learnable.explorer import read_ids
from learnable.measures import COLUMNS, numbers_of
from learnable.mixing import MIXTURES, Mixing
from learnable.runs.records import Outcome
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS, Thresholds
from learnable.settings import Loading, NewToken, Reading, Reference, Tuning
from learnable.spec import build
from learnable.types import Budget

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
SETTINGS: Mapping[str, type] = {
    "reading": Reading,
    "loading": Loading,
    "reference": Reference,
    "tuning": Tuning,
    "thresholds": Thresholds,
    "mixing": Mixing,
}
MATERIAL = {
    "repeated": ("paraphrases", "buffer"),
    "no_buffer": ("paraphrases",),
    "no_paraphrases": ("buffer",),
    "delia": ("paraphrases", "buffer"),
    "dmt": ("buffer",),
    "fact_based": ("facts",),
    "controlled": ("constrained",),
}
"""Arguments of `learnable teach` that its arms need."""
STORE = "${store}"
"""What a step may give as its store."""


def typed_arguments(
    parameters: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the arguments of each step, without folders, before the first one runs; nothing that they name is looked up.

    Raises:
        UsageError: If a value is not what its verb takes, or a step writes elsewhere than its run.
    """
    scope = {**parameters, "store": "", "command": ""}
    typed: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        if "output" in step or step.get("store", STORE) != STORE:
            raise UsageError(
                f"step {name!r} says where it writes, which `learnable run --output` does",
                hint=f"leave output out, and write store: {STORE}",
            )
        typed[name] = arguments_of(name, step, scope, {done: done for done in typed})
    return typed


def checked_arguments(
    parameters: Mapping[str, Any],
    steps: Mapping[str, Mapping[str, Any]],
    *,
    unread: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Find what is wrong with any step before the first one runs; return the arguments of each, without folders.

    Args:
        parameters: Of the recipe.
        steps: Of the recipe.
        unread: Names of steps whose methods are not looked up.

    Raises:
        UsageError: If a name is not known, or a value is not what its verb takes.
        DataError: If a file of ids cannot be read.
    """
    typed = typed_arguments(parameters, steps)
    scores: set[str] = set()
    for name, arguments in typed.items():
        step, scorers = steps[name], arguments.get("scorers") or ()
        scores |= {*scorers, *(COLUMNS if scorers and name in unread else ())}
        if name in unread:
            continue
        _check_names(step["verb"], arguments, step)
        if scorers:
            scores |= numbers_of({need for each in scorers for need in build("scorer", each, SCORERS).needs})
        if step["verb"] == "select":
            build("selector", arguments.get("selector", "top_k"), SELECTORS)
            by = arguments.get("by", "learnability")
            if scores and by not in scores:
                raise UsageError(
                    f"select.by is {by!r}, which is not among the scorers", hint=did_you_mean(by, scores)
                )
    return list(typed.values())


def _check_names(verb: str, arguments: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    """Find names that are not known, of files of ids, methods, ways to train, evaluations, and what they lack."""
    if verb == "select":
        for listed in (*(arguments.get("pin") or ()), *(arguments.get("ban") or ())):
            read_ids(listed)
    if verb == "compare":
        parse_methods(
            arguments.get("by") or (), reference=arguments.get("reference") or Reference(), columns=None
        )
    if verb == "teach":
        _check_lessons(arguments)
    if verb == "diversify":
        name, method = build_diversifier(arguments["method"])
        if method.needs_examples and not arguments.get("data"):
            wanted = _REFERENCE.fullmatch(str(step.get("data")))
            raise UsageError(
                f"{name} needs rows to start from", hint=f"give {wanted.group(1) if wanted else 'data'}=FILE"
            )
    if verb in ("compare", "teach"):
        for each in arguments.get("evaluate") or ():
            build_evaluator(parse(each))


def _check_lessons(arguments: Mapping[str, Any]) -> None:
    """Find what a lesson lacks: material of its arms, tokens for what is about tokens."""
    lessons = parse_task_arms(
        arguments.get("arms") or (), init=arguments.get("init", "description"), known=MIXTURES
    )
    for lesson in lessons:
        for name in MATERIAL.get(lesson.mixture, ()):
            if not arguments.get(name):
                raise UsageError(
                    f"the arm {lesson.label!r} needs {name}, which this recipe does not make",
                    hint=f"leave it out, or use `learnable teach` with --{name}",
                )
    tokens = [NewToken.parse(text) for text in arguments.get("tokens") or ()]
    if not tokens and (arguments.get("words") or any(lesson.label != lesson.mixture for lesson in lessons)):
        raise UsageError(
            "words, and arms with @init, are about new tokens, and there are none",
            hint='give "tokens=<sep>=what it means"',
        )
    tuning = arguments.get("tuning") or Tuning()
    if tuning.seed or tuning.steps is not None:
        raise UsageError(
            "a lesson sets the seeds and steps of its trainings itself: tuning.seed and tuning.steps have no effect",
            hint="give seeds",
        )


def arguments_of(
    name: str, step: Mapping[str, Any], scope: Mapping[str, Any], outcomes: Mapping[str, Outcome | str]
) -> dict[str, Any]:
    """Return the arguments of a step's verb, filled in and checked against its types.

    Args:
        name: Of the step.
        step: Its verb and arguments, in which ``${a.b}`` stands for a parameter and ``${steps.a}`` for an outcome.
        scope: The parameters.
        outcomes: Of the steps before it.

    Raises:
        UsageError: If a name is not known, or a value is not what the verb takes.
    """
    arguments = {key: _filled(value, scope, outcomes) for key, value in step.items() if key != "verb"}
    spread = arguments.pop("*", None) or {}
    thresholds = {
        name: spread.pop(name) for name in list(spread) if name in {f.name for f in fields(Thresholds)}
    }
    arguments |= spread
    if thresholds:
        arguments["thresholds"] = thresholds
    if "budget" in arguments:
        budgets = _budgets(arguments["budget"])
        arguments["budget"] = budgets if step["verb"] == "compare" else ",".join(budgets)
    known = signature(VERBS[step["verb"]]).parameters
    if unknown := sorted(set(arguments) - set(known)):
        raise UsageError(
            f"step {name!r}: `{step['verb']}` has no option {unknown[0]!r}",
            hint=did_you_mean(unknown[0], known),
        )
    return {
        key: _validated(key, known[key].annotation, _listed(key, known[key].annotation, value))
        for key, value in arguments.items()
    }


def _listed(name: str, kind: Any, value: Any) -> Any:
    """Return one value as a list of text where a verb takes several.

    Raises:
        UsageError: If YAML made something else of a text.
    """
    if value is None or "list[str]" not in str(kind):
        return value
    for item in as_list(value):
        if item is None or isinstance(item, (Mapping, list, bool)):
            raise UsageError(
                f"{name}: {item!r} is not text", hint=f"""put quotes around it: {name}=["..."]"""
            )
    return [str(item) for item in as_list(value)]


def _budgets(given: Any) -> list[str]:
    """Return the budgets as verbs read them: of ``6%``, ``{tokens: 50000}``, a list of the former, or a list inside."""
    if isinstance(given, list):
        return [text for each in given for text in _budgets(each)]
    if not isinstance(given, Mapping):
        Budget.parse(str(given))
        return [str(given)]
    inside = [
        {name: each}
        for name, values in given.items()
        for each in (values if isinstance(values, list) else [values])
    ]
    if len(given) != 1:
        inside = [dict(given)]
    return [str(_validated("budget", Budget, each)) for each in inside]


def _filled(value: Any, scope: Mapping[str, Any], outcomes: Mapping[str, Outcome | str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(each, scope, outcomes) for key, each in value.items()}
    if isinstance(value, list):
        # A parameter that is null stands for no item, one that is a list for its items.
        filled = [(each, _filled(each, scope, outcomes)) for each in value]
        return [
            item
            for each, found in filled
            for item in ([found] if found == each else [] if found is None else as_list(found))
        ]
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    name = match.group(1)
    if name.startswith("steps."):
        step = name.removeprefix("steps.")
        if step not in outcomes:
            raise UsageError(
                f"the recipe refers to the step {step!r} before it has run", hint=did_you_mean(step, outcomes)
            )
        return os.fspath(outcomes[step])
    found: Any = scope
    for key in name.split("."):
        if not isinstance(found, Mapping) or key not in found:
            raise UsageError(
                f"the recipe refers to {name!r}, which is not a parameter", hint=did_you_mean(name, scope)
            )
        found = found[key]
    return dict(found) if isinstance(found, Mapping) else found


def _validated(name: str, kind: Any, value: Any) -> Any:
    """Return a value as the annotated type of a verb's parameter.

    Raises:
        UsageError: If it is not of that type, or names an unknown setting.
    """
    kind = getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
    if is_dataclass(kind) and isinstance(value, Mapping):
        known = {field.name for field in fields(kind)}
        if unknown := sorted(set(value) - known):
            raise UsageError(f"{name} has no setting {unknown[0]!r}", hint=did_you_mean(unknown[0], known))
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join([name, *map(str, problem["loc"])])
        raise UsageError(f"{place}: {problem['msg']}, got {problem['input']!r}") from error


def as_list(value: Any) -> list[Any]:
    """Return a value as a list; a list is one already."""
    return value if isinstance(value, list) else [value]
