"""Recipes: steps in a YAML file, each a verb, run in order; what is done already is skipped, by fingerprint."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from learnable.commands import VERBS
from learnable.commands.inputs import look_up
from learnable.errors import SelectionError, UsageError, did_you_mean
from learnable.names import component
from learnable.recipe_arguments import SETTINGS, arguments_of, as_list, checked_arguments, typed_arguments
from learnable.recipe_trust import outside, typed_by_user
from learnable.runs.files import replacing
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.settings import Loading, Reference
from learnable.types import Budget


@dataclass(frozen=True, kw_only=True)
class WrittenRecipe:
    """A recipe as a file has it: a named list of steps and the parameters that fill them.

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


@dataclass(frozen=True, kw_only=True)
class Recipe(WrittenRecipe):
    """A recipe, and what the user has set in it, as ``name=value``; recipes are equal however that was written."""

    settings: tuple[str, ...] = field(default=(), compare=False)


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
        recipe = Recipe(**vars(TypeAdapter(WrittenRecipe).validate_python(content)))
    except (yaml.YAMLError, ValidationError) as error:
        raise UsageError(
            f"{where} is not a recipe: {str(error).splitlines()[0]}",
            hint="start from a shipped one: `learnable list`",
        ) from error
    component(recipe.name, f"the recipe {where}")
    for name, step in recipe.steps.items():
        component(name, f"a step of {where}")
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
    settings = tuple(settings)
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
            value = [*as_list(given[name]), *as_list(value)]
        given[name] = value
    for name, value in given.items():
        _set(parameters, name, value)
    return replace(recipe, parameters=parameters, settings=(*recipe.settings, *settings))


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


def _set(parameters: dict[str, Any], name: str, value: Any) -> None:
    group, _, key = name.partition(".")
    if group not in parameters:
        raise UsageError(f"the recipe has no parameter {name!r}", hint=_suggestion(name, parameters))
    if not key:
        parameters[group] = value
    elif group == "budget":
        parameters[group] = {key: value}
    elif not isinstance(parameters[group], dict):
        raise UsageError(f"the parameter {group!r} has no part {key!r}", hint=f"write {group}=...")
    else:
        known = _keys_of(group, parameters[group])
        if key not in known:
            hint = did_you_mean(name, (f"{group}.{each}" for each in known))
            raise UsageError(f"the recipe has no parameter {name!r}", hint=hint)
        parameters[group][key] = value


def _suggestion(name: str, parameters: Mapping[str, Any]) -> str:
    """Return a hint for a name that is no parameter: one of them, or the part of one that has this name."""
    parts = setting_names(name, parameters)
    return f"did you mean {parts[0]!r}?" if parts else did_you_mean(name.partition(".")[0], parameters)


def setting_names(option: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the settings of a recipe that an option of a command stands for: ``on_error`` for reading.on_error.

    Args:
        option: Name of a parameter, or of a part of one.
        parameters: Of the recipe.
    """
    whole = [option] if option in parameters else []
    nested = (group for group, present in parameters.items() if isinstance(present, dict))
    return whole + [f"{group}.{option}" for group in nested if option in _keys_of(group, parameters[group])]


def _keys_of(group: str, present: Mapping[str, Any]) -> set[str]:
    if group in SETTINGS:
        return {field.name for field in fields(SETTINGS[group])}
    if group in VERBS:
        own = signature(VERBS[group]).parameters
        nested = {field.name for name in own if name in SETTINGS for field in fields(SETTINGS[name])}
        return set(own) | nested | set(present)
    return set(present)


def run(recipe: Recipe, *, root: Path, dry_run: bool = False, allow_code: bool = False) -> dict[str, Outcome]:
    """Run the steps of a recipe in order, each into ``<root>/<recipe>/<step>-<fingerprint>``.

    A step whose result is there is skipped; one that was interrupted goes on. ``recipe.yaml`` with all parameters is
    written beside the result of the last step: running it repeats the run.

    Args:
        recipe: What to run.
        root: Folder of all runs.
        dry_run: Say what each step would cost; only rows are read, and code that the recipe brings is not imported.
        allow_code: Run code and reach servers that the recipe names and are not part of this package.

    Returns:
        The outcome of each step, by name.

    Raises:
        UsageError: If a step names what it does not know, or what is not allowed.
    """
    outcomes: dict[str, Outcome] = {}
    brought = _brought(recipe, allowed=allow_code)
    checked = checked_arguments(recipe.parameters, recipe.steps, unread=brought if dry_run else ())
    _look_up_models(recipe, checked)
    scope = {**recipe.parameters, "store": str(root / "store"), "command": command(recipe)}
    base = root / component(recipe.name, "a recipe")
    for name, step in recipe.steps.items():
        verb, output = VERBS[step["verb"]], base / f"{component(name, 'a step')}-{{fingerprint}}"
        if dry_run and name in brought:
            unpriced = f"not priced: a dry run neither imports nor asks {', '.join(brought[name])}"
            outcomes[name] = Outcome.planned(step["verb"], output, [unpriced])
        else:
            arguments = arguments_of(name, step, scope, outcomes)
            outcomes[name] = verb(**arguments, dry_run=dry_run, output=str(output))
        facts = outcomes[name].facts
        if "examples" in facts and step["verb"] == "load":
            _check_budget(checked, examples=facts["examples"])
        if dry_run:
            say(f"{name}: {', '.join([*facts['would run'], *facts['price']])}")
        else:
            say(f"{name}: {'done' if outcomes[name].ran else 'was done already'} → {outcomes[name].folder}")
    if not dry_run:
        _keep(recipe, outcomes[list(recipe.steps)[-1]].folder / "recipe.yaml")
    return outcomes


def _keep(recipe: Recipe, path: Path) -> None:
    """Write a recipe, unless it is there: a run in which nothing was left to do writes nothing."""
    text = dump(recipe)
    if not path.is_file() or path.read_bytes() != text.encode():
        with replacing(path) as part:
            part.write_bytes(text.encode())


def _brought(recipe: Recipe, *, allowed: bool) -> dict[str, list[str]]:
    """Return what is not of this package in each step, and was named by the recipe and not by the user.

    Raises:
        UsageError: If there is any, and it is not allowed.
    """
    typed = typed_arguments(recipe.parameters, recipe.steps)
    found = {
        step: [name for name in outside(arguments) if not typed_by_user(name, recipe.settings)]
        for step, arguments in typed.items()
    }
    brought = {step: names for step, names in found.items() if names}
    if brought and not allowed:
        named = "; ".join(f"{step}: {', '.join(names)}" for step, names in brought.items())
        raise UsageError(
            f"the recipe {recipe.name!r} names code or servers that are not part of learnable: {named}",
            hint="look at what they do; if you trust them, add --allow-code",
        )
    return brought


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


def _look_up_models(recipe: Recipe, checked: Iterable[Mapping[str, Any]]) -> None:
    """Notice a wrong name of a model in any step before the first one reads rows; what a step makes is not looked up."""
    for step, arguments in zip(recipe.steps.values(), checked, strict=True):
        loading = arguments.get("loading") or Loading()
        given, generator = arguments.get("reference"), str(arguments.get("generator") or "")
        named = {
            "model": (arguments.get("model"), False),
            "generator": (generator.removeprefix("vllm:") if generator.startswith("vllm:") else None, False),
            "adapter": (arguments.get("adapter"), True),
            "reference": (given.model if isinstance(given, Reference) else given, True),
        }
        for key, (name, reference) in named.items():
            if "${steps." not in str(step.get(key)):
                look_up(name, loading, reference=reference)


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
