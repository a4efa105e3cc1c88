"""A run of a recipe: where its steps write, what they would cost, and the file that repeats it."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import wraps
from inspect import Parameter as Taken
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple, ParamSpec, get_type_hints

import yaml
from cyclopts import Parameter

from learnable.commands.options import Flat, Short, typed
from learnable.names import component
from learnable.runs.files import replacing
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.settings import ROWS

Given = ParamSpec("Given")

RUN_FILE = "run.yaml"
PATHS = ("data", "model", "task", "target", "test", "general", "questions", "pin", "ban", "rows", "avoid")
"""Options that may name a file or folder; a run file has them whole."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a recipe writes its steps; within the recipe, the run that does them.

    Args:
        output: Folder of all runs.
        dry_run: Say what each step would cost, and run nothing; only rows are read.
    """

    output: Annotated[str, Short] = "runs"
    dry_run: bool = False
    name: Annotated[str, Parameter(parse=False)] = "recipe"
    command: Annotated[str, Parameter(parse=False)] = ""
    outcomes: Annotated[dict[str, Outcome], Parameter(parse=False)] = field(default_factory=dict)

    @property
    def store(self) -> str:
        """The folder of measurements, which all runs share."""
        return str(Path(self.output) / "store")

    @property
    def folder(self) -> Path:
        """The folder of the steps."""
        return Path(self.output) / component(self.name, "a recipe")

    def step(
        self, name: str, command: Callable[Given, Outcome], /, *inputs: Given.args, **options: Given.kwargs
    ) -> Outcome:
        """Do one step of the recipe, into ``<output>/<recipe>/<name>-<fingerprint>``, unless its result is there.

        Args:
            name: Of the step.
            command: Does it: one of ``learnable.commands``, or a function that also takes ``output`` and ``dry_run``.
            inputs: What it takes; a step's outcome is given by its ``path``.
            options: Its options, but for these two.
        """
        output = str(self.folder / f"{component(name, 'a step')}-{{fingerprint}}")
        options.update(output=output, dry_run=self.dry_run)
        outcome = command(*inputs, **options)
        if self.dry_run:
            say(f"{name}: {', '.join([*outcome.facts['would run'], *outcome.facts['price']])}")
        else:
            say(f"{name}: {'done' if outcome.ran else 'was done already'} → {outcome.folder}")
        self.outcomes[name] = outcome
        return outcome


def recipe(function: Callable[Given, None]) -> Callable[Given, dict[str, Outcome]]:
    """Make a recipe of a function that takes ``run: Annotated[Run, Flat] = Run()`` and calls ``run.step`` for each step.

    Called, it returns the outcome of each step by name, and leaves a ``run.yaml`` beside the result of the last one:
    ``learnable run run.yaml`` repeats the run. A run in which nothing was left to do writes nothing.
    """
    taken = signature(function)

    @wraps(function)
    def whole(*positional: Given.args, **named: Given.kwargs) -> dict[str, Outcome]:
        bound = taken.bind(*positional, **named)
        bound.apply_defaults()
        given = {name: value for name, value in bound.arguments.items() if name != "run"}
        own = function.__name__
        if not function.__module__.startswith("learnable.recipes."):
            own = f"{Path(function.__code__.co_filename).resolve()}:{own}"
        run: Run = replace(
            bound.arguments["run"],
            name=function.__name__,
            command=shlex.join(["learnable", "run", own, *words(function, given)]),
            outcomes={},
        )
        bound.arguments["run"] = run
        function(*bound.args, **bound.kwargs)
        if run.outcomes and not run.dry_run:
            _keep({own: as_written(function, given)}, list(run.outcomes.values())[-1].folder / RUN_FILE)
        return dict(run.outcomes)

    vars(whole)["is_recipe"] = True
    return whole


def is_recipe(function: Callable[..., Any]) -> bool:
    """Tell whether a function was made a recipe."""
    return bool(getattr(function, "is_recipe", False))


class RecipeOption(NamedTuple):
    """An option of a recipe: of a group of settings such as ``reference``, or of none; its value and its default."""

    group: str
    name: str
    value: Any
    default: Any

    @property
    def flag(self) -> str:
        """How it is typed."""
        return flag_of(self.group, self.name)


def flag_of(group: str, name: str) -> str:
    """Return how an option is typed."""
    return f"--{group}.{name}".replace("--.", "--").replace("_", "-")


def options_of(
    function: Callable[..., Any], given: Mapping[str, Any] | None = None
) -> Iterator[RecipeOption]:
    """Yield the options of a recipe, with their values; where none are given, with their defaults."""
    hints = get_type_hints(function, include_extras=True)
    for name, one in signature(function).parameters.items():
        if name == "run":
            continue
        value = one.default if given is None else given[name]
        if not is_dataclass(value):
            yield RecipeOption(group="", name=name, value=value, default=one.default)
            continue
        group = "" if Flat in getattr(hints[name], "__metadata__", ()) else name
        for each in fields(value):
            inner, usual = getattr(value, each.name), getattr(one.default, each.name)
            yield RecipeOption(group=group, name=each.name, value=inner, default=usual)


def words(function: Callable[..., Any], given: Mapping[str, Any]) -> list[str]:
    """Return what is to be typed behind the name of a recipe for these values; what is usual is left out."""
    first = next(iter(signature(function).parameters.values()))
    front, back = list[str](), list[str]()
    for option in options_of(function, given):
        shown = typed(option.flag, option.value)
        if option.value is None or shown == typed(option.flag, option.default):
            continue
        if option.name == first.name and first.kind is not Taken.KEYWORD_ONLY and len(shown) > 1:
            front = shown[1:]
        else:
            back += shown
    return [*front, *back]


def as_written(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe's parameters as a run file has them: paths hold from any folder."""
    written: dict[str, Any] = {}
    for option in options_of(function, given):
        if option.value is None or option.value in ([], ()):
            continue
        named = option.name in PATHS and option.value not in ROWS
        held = _absolute(option.value) if named else option.value
        inside = written.setdefault(option.group, {}) if option.group else written
        inside[option.name] = list(held) if isinstance(held, tuple) else held
    return written


def _absolute(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_absolute(each) for each in value]
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value


def _keep(content: Mapping[str, Any], path: Path) -> None:
    text = f"# learnable run {path.name}\n"
    text += yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=110)
    if not path.is_file() or path.read_bytes() != text.encode():
        with replacing(path) as part:
            part.write_bytes(text.encode())
