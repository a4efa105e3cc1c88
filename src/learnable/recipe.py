"""Recipes: steps in a YAML file, each a verb, run in order; what is done already is skipped, by fingerprint."""

import json
import math
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.resources import files
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from learnable.atomic import replacing
from learnable.comparing import parse_lessons, parse_methods
from learnable.diversifying import build_diversifier
from learnable.errors import SelectionError, UsageError, did_you_mean
from learnable.evaluating import build_evaluator, parse
from learnable.exploring import read_ids
from learnable.mixing import MIXTURES, Mixing
from learnable.progress import say
from learnable.registry import build
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS, Thresholds
from learnable.steps import Outcome
from learnable.types import Budget, Loading, NewToken, Reading, Reference, Tuning
from learnable.verbs import VERBS

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
COSTLY = ("diversify", "train", "score", "compare", "teach")
MEASURED = {"loss_before", "loss_after", "tokens", "response_tokens"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named list of steps and the parameters that fill them.

    Args:
        name: Names the folder of its runs.
        about: What it does.
        parameters: Names to values, nested; ``${a.b}`` in a step stands for one of them.
        steps: Names to verbs and their arguments, in order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    about: str
    parameters: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]


def shipped() -> dict[str, Recipe]:
    """Return the recipes that come with the package, by name."""
    found = (read(path.read_text(encoding="utf-8"), path.name) for path in _shipped_files())
    return {recipe.name: recipe for recipe in sorted(found, key=lambda recipe: recipe.name)}


def _shipped_files() -> Iterable[Any]:
    return (path for path in files("learnable").joinpath("recipes").iterdir() if path.name.endswith(".yaml"))


def find(name: str) -> Recipe:
    """Return a shipped recipe by name, or one from a YAML file.

    Raises:
        UsageError: If there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"there is no recipe file {name}", hint="shipped ones: learnable list recipes")
        return read(path.read_text(encoding="utf-8"), name)
    known = shipped()
    if name not in known:
        raise UsageError(f"no recipe called {name!r}", hint=did_you_mean(name, known))
    return known[name]


def read(text: str, where: str) -> Recipe:
    """Return the recipe in a YAML text.

    Raises:
        UsageError: If it is not one.
    """
    try:
        content = yaml.safe_load(text)
        recipe = TypeAdapter(Recipe).validate_python(content)
    except (yaml.YAMLError, ValidationError) as error:
        raise UsageError(
            f"{where} is not a recipe: {str(error).splitlines()[0]}",
            hint="start from a shipped one: `learnable list`",
        ) from error
    for name, step in recipe.steps.items():
        if step.get("verb") not in VERBS:
            raise UsageError(
                f"{where}: step {name!r} has no verb we know: {step.get('verb')!r}",
                hint=did_you_mean(str(step.get("verb")), VERBS),
            )
    return recipe


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return the recipe with ``name=value`` settings in place of its parameters.

    Values are read as YAML; but where a parameter is a list, all that does not begin with ``[`` is one text of it, as
    it stands. A name given again makes a list (``data=a.jsonl data=b.jsonl``); dots go into nested parameters
    (``reference.folds=2``), and anything after ``budget.`` is a kind of budget.

    Raises:
        UsageError: If a name is not known, or a value cannot be read.
    """
    parameters: dict[str, Any] = {
        name: dict(value) if isinstance(value, dict) else value for name, value in recipe.parameters.items()
    }
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(
                f"{setting!r} is not name=value",
                hint=f"for example {next(iter(parameters))}=...; see `learnable list`",
            )
        listed = isinstance(_present(recipe.parameters, name), list)
        try:
            value = _value(text, listed=listed)
        except yaml.YAMLError as error:
            hint = f"""write a list: {name}=["..."]""" if listed else "put quotes around text with [ { : or #"
            raise UsageError(f"cannot read the value of {setting!r}", hint=hint) from error
        if name in given:
            value = [*_as_list(given[name]), *_as_list(value)]
        given[name] = value
    for name, value in given.items():
        _set(parameters, name, value)
    return Recipe(name=recipe.name, about=recipe.about, parameters=parameters, steps=recipe.steps)


def _present(parameters: Mapping[str, Any], name: str) -> Any:
    """Return the value of a parameter, or of a part of one; None where there is none."""
    group, _, key = name.partition(".")
    value = parameters.get(group)
    if not key:
        return value
    return value.get(key) if isinstance(value, Mapping) else None


def _value(text: str, *, listed: bool) -> Any:
    """Return what is meant by the text after ``name=``.

    Raises:
        yaml.YAMLError: If it cannot be read.
    """
    if listed and not text.startswith("["):
        return [text] if text else []
    return yaml.safe_load(text) if text else None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _set(parameters: dict[str, Any], name: str, value: Any) -> None:
    group, _, key = name.partition(".")
    if group not in parameters:
        raise UsageError(f"the recipe has no parameter {name!r}", hint=did_you_mean(group, parameters))
    if not key:
        parameters[group] = value
    elif group == "budget":
        parameters[group] = {key: value}
    elif not isinstance(parameters[group], dict):
        raise UsageError(f"the parameter {group!r} has no part {key!r}", hint=f"write {group}=...")
    else:
        known = _keys_of(group, parameters[group])
        if key not in known:
            raise UsageError(f"the recipe has no parameter {name!r}", hint=did_you_mean(key, known))
        parameters[group][key] = value


def _keys_of(group: str, present: Mapping[str, Any]) -> set[str]:
    if group in SETTINGS:
        return {field.name for field in fields(SETTINGS[group])}
    if group in VERBS:
        own = signature(VERBS[group]).parameters
        nested = {field.name for name in own if name in SETTINGS for field in fields(SETTINGS[name])}
        return set(own) | nested | set(present)
    return set(present)


def run(recipe: Recipe, *, root: Path, dry_run: bool = False) -> dict[str, Outcome]:
    """Run the steps of a recipe in order, each into ``<root>/<recipe>/<step>-<fingerprint>``.

    A step whose result is there is skipped; one that was interrupted goes on. ``recipe.yaml`` with all parameters is
    written beside the result of the last step: running it repeats the run.

    Args:
        recipe: What to run.
        root: Folder of all runs.
        dry_run: Say what each step would cost; only rows are read.

    Returns:
        The outcome of each step, by name.
    """
    outcomes: dict[str, Outcome] = {}
    checked = _check(recipe)
    scope = {**recipe.parameters, "store": str(root / "store"), "command": command(recipe)}
    with tempfile.TemporaryDirectory() as aside:
        for name, step in recipe.steps.items():
            verb = VERBS[step["verb"]]
            base = root / recipe.name
            if dry_run and step["verb"] not in {"load", *COSTLY}:
                say(f"{name}: no pass; seconds")
                continue
            arguments = _arguments(name, step, scope, outcomes)
            if dry_run and step["verb"] in COSTLY:
                arguments["dry_run"] = True
            elif dry_run:
                base = Path(aside)
            arguments["output"] = str(base / f"{name}-{{fingerprint}}")
            outcomes[name] = verb(**arguments)
            if step["verb"] == "load":
                _check_budget(checked, examples=outcomes[name].facts["examples"])
            if "would run" in outcomes[name].facts:
                say(f"{name}: {', '.join(outcomes[name].facts['would run'])}")
            elif not dry_run:
                say(
                    f"{name}: {'done' if outcomes[name].ran else 'was done already'} → {outcomes[name].folder}"
                )
    if not dry_run:
        last = outcomes[list(recipe.steps)[-1]]
        with replacing(last.folder / "recipe.yaml") as part:
            part.write_text(dump(recipe), encoding="utf-8")
    return outcomes


def command(recipe: Recipe) -> str:
    """Return the command that runs a shipped recipe with these parameters."""
    original = shipped().get(recipe.name)
    words = ["learnable", "run", recipe.name]
    for name, value in recipe.parameters.items():
        default = original.parameters.get(name) if original else None
        for key, item in value.items() if isinstance(value, dict) else [(None, value)]:
            if item == (default.get(key) if isinstance(default, dict) and key else default):
                continue
            dotted = f"{name}.{key}" if key else name
            listed = isinstance(_present(original.parameters, dotted) if original else None, list)
            words += [f"{dotted}={text}" for text in _texts(item, listed=listed)]
    return shlex.join(words)


def _texts(value: Any, *, listed: bool) -> list[str]:
    """Return what is to be written after ``name=``, once or several times, for a value to be read again."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        if listed and all(each and not each.startswith("[") for each in value):
            return value or [""]
        if listed or len(value) < 2:
            return [json.dumps(value, ensure_ascii=False)]
        return [text for each in value for text in _texts(each, listed=False)]
    if isinstance(value, str):
        try:
            as_it_stands = _value(value, listed=listed) in (value, [value])
        except yaml.YAMLError:
            as_it_stands = False
        return [value if as_it_stands else json.dumps([value] if listed else value, ensure_ascii=False)]
    return [yaml.safe_dump(value, default_flow_style=True, width=math.inf).splitlines()[0]]


def dump(recipe: Recipe) -> str:
    """Return the recipe as YAML, with paths that hold from any folder."""
    parameters = dict(recipe.parameters)
    for name in ("data", "model", "task", "test", "general", "questions"):
        if name in parameters:
            parameters[name] = _absolute(parameters[name])
    if isinstance(parameters.get("reference"), dict) and "model" in parameters["reference"]:
        parameters["reference"] = parameters["reference"] | {
            "model": _absolute(parameters["reference"]["model"])
        }
    if isinstance(parameters.get("select"), dict):
        own = parameters["select"]
        parameters["select"] = own | {key: _absolute(own[key]) for key in ("pin", "ban") if key in own}
    content = {
        "name": recipe.name,
        "about": recipe.about,
        "parameters": parameters,
        "steps": {k: dict(v) for k, v in recipe.steps.items()},
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value


def _check(recipe: Recipe) -> list[dict[str, Any]]:
    """Find what is wrong with any step before the first one runs; return the arguments of each, without folders."""
    scope = {**recipe.parameters, "store": "", "command": ""}
    done: dict[str, str] = {}
    checked: list[dict[str, Any]] = []
    scores: set[str] = set()
    for name, step in recipe.steps.items():
        arguments = _arguments(name, step, scope, done)
        done[name] = name
        checked.append(arguments)
        _check_names(step["verb"], arguments, step)
        for scorer in arguments.get("scorers") or ():
            build("scorer", scorer, SCORERS)
            scores.add(scorer)
        if step["verb"] == "select":
            build("selector", arguments.get("selector", "top_k"), SELECTORS)
            by = arguments.get("by", "learnability")
            if scores and by not in scores | MEASURED:
                raise UsageError(
                    f"select.by is {by!r}, which is not among the scorers", hint=did_you_mean(by, scores)
                )
    return checked


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
    lessons = parse_lessons(
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


def _check_budget(checked: Iterable[Mapping[str, Any]], *, examples: int) -> None:
    """Find a budget above the pool before anything costly runs."""
    for arguments in checked:
        given = arguments.get("budget")
        asked = Budget.parse(given).examples if isinstance(given, str) else None
        if asked is not None and asked > examples:
            raise SelectionError(
                f"the budget of {asked:,} examples is above the pool, which has {examples:,}",
                hint="lower the budget, or give more data",
            )


def _arguments(
    name: str, step: Mapping[str, Any], scope: Mapping[str, Any], outcomes: Mapping[str, Outcome | str]
) -> dict[str, Any]:
    """Return the arguments of a step's verb, filled in and checked against its types."""
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
    for item in _as_list(value):
        if item is None or isinstance(item, (Mapping, list, bool)):
            raise UsageError(
                f"{name}: {item!r} is not text", hint=f"""put quotes around it: {name}=["..."]"""
            )
    return [str(item) for item in _as_list(value)]


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
            for item in ([found] if found == each else [] if found is None else _as_list(found))
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
