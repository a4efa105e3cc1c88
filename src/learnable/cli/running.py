"""``learnable run``: recipes as commands, a file that repeats a run, and recipes of the user's own."""

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import BoundArguments, isfunction, signature
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict

from learnable.cli.completing import OFFERED
from learnable.errors import UsageError, closest, did_you_mean
from learnable.recipes import RECIPES
from learnable.recipes.run import flag_of, is_recipe, options_of, recipe
from learnable.recipes.trust import brought

NAME = "run"
WITH_ALL = ("--json", "--quiet", "--debug")
"""Flags of every command, which may stand before it."""
RUN_FILES = (".yaml", ".yml")
EACH = Group("With every recipe", sort_key=8)

run = App(name=NAME, help_format="markdown", default_parameter=OFFERED)
for function in RECIPES.values():
    run.command(function)


@run.meta.default
def launch(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[str | None, Parameter(group=EACH)] = None,
    allow_code: Annotated[bool, Parameter(group=EACH, negative=(), show_default=False)] = False,
) -> Any:
    """Run a recipe: all its steps, skipping what is done.

    A second run of the same command does nothing; an interrupted one goes on where it was. The run.yaml beside the
    last step's result repeats the run, with other options too: `learnable run FILE --budget 10%`. A function of your
    own is a recipe as well: `learnable run my.py:name`.

    Args:
        words: The recipe, its rows and options.
        config: A run.yaml with options of this recipe; those that are typed go before it.
        allow_code: Run code and reach servers that such a file names; what you name yourself needs no leave.
    """
    command, bound = understood(words, config=config, allow_code=allow_code)
    return command(*bound.args, **bound.kwargs)


def understood(
    words: Sequence[str], *, config: str | None = None, allow_code: bool = False
) -> tuple[Callable[..., Any], BoundArguments]:
    """Return the recipe that the words behind ``learnable run`` name, and what it is given; nothing is run.

    Raises:
        UsageError: If there is no such recipe or file, or the file names what it may not.
        CycloptsError: If the recipe does not know an option.
    """
    if not words or words[0].startswith("-"):
        raise UsageError("`learnable run` needs a recipe", hint=f"one of {', '.join(RECIPES)}")
    name, options = words[0], list(words[1:])
    file = config
    if name.endswith(RUN_FILES):
        if config is not None:
            raise UsageError(f"{name} and {config} are two run files", hint="give one of them")
        file, name = name, _read(name)[0]
        if name not in RECIPES and not allow_code:
            raise _untrusted(file, [name])
    function = _function(name)
    _refuse_old_settings(name, function, options)
    given = {} if file is None else _given(file, name, function)
    run.config = (Dict({name: given}, source=file or ""),)
    try:
        command, bound, _ = run.parse_args([name, *options], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.command_chain = (NAME, *(error.command_chain or ()))
        raise
    finally:
        run.config = ()
    if file is not None and not allow_code and (named := brought(bound.arguments, options)):
        raise _untrusted(file, named)
    return command, bound


def _untrusted(file: str, named: Sequence[str]) -> UsageError:
    return UsageError(
        f"{file} names code or servers that are not part of learnable: {', '.join(named)}",
        hint="look at what they do; if you trust them, add --allow-code",
    )


def _read(path: str) -> tuple[str, Mapping[str, Any]]:
    """Return the recipe that a run file names, and the options in it."""
    hint = "a run leaves run.yaml beside the result of its last step"
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no run file {path}", hint=hint) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a run file: {str(error).splitlines()[0]}", hint=hint) from error
    if isinstance(content, Mapping) and "steps" in content:
        raise UsageError(
            f"{path} is a recipe of an earlier version, whose steps are YAML",
            hint="say it with options: learnable run lobass --help",
        )
    if not (isinstance(content, Mapping) and len(content) == 1):
        raise UsageError(f"{path} is not a run file: it does not name one recipe", hint=hint)
    ((name, options),) = content.items()
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise UsageError(f"{path} is not a run file: {name!r} has no options in it", hint=hint)
    return name, options


def _given(path: str, recipe_name: str, function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the options in a run file; where it writes is for the command line to say."""
    name, options = _read(path)
    if name != recipe_name and _function(name).__name__ != function.__name__:
        raise UsageError(f"{path} is of a run of {name}, not of {recipe_name}", hint=f"learnable run {path}")
    known = {f"{each.group}.{each.name}".lstrip(".") for each in options_of(function)}
    asked = {
        f"{key}.{inner}".rstrip(".")
        for key, value in options.items()
        for inner in (value if isinstance(value, Mapping) and key not in known else [""])
    }
    if unknown := sorted(asked - known):
        raise UsageError(f"{path}: {name} has no option {unknown[0]!r}", hint=did_you_mean(unknown[0], known))
    return options


def _function(name: str) -> Callable[..., Any]:
    """Return a recipe by its name, or by file and name; one of the user's own becomes a command."""
    if name in RECIPES:
        return RECIPES[name]
    path, colon, attribute = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UsageError(f"no recipe called {name!r}", hint=did_you_mean(name, RECIPES))
    if name not in run:
        run.command(_own(Path(path), attribute), name=name)
    function = run[name].default_command
    assert function is not None
    return function


def register(words: Sequence[str]) -> None:
    """Make a command of a recipe of the user's own, where the words name one, so that it has its help page.

    Raises:
        UsageError: If there is no such function, or help is asked for what is no recipe.
    """
    behind = [word for word in words if word not in WITH_ALL]
    name = behind[1] if behind[:1] == [NAME] and len(behind) > 1 else "-"
    is_name = not name.startswith("-") and not name.endswith(RUN_FILES)
    if re.search(r"\.py:\w+$", name) or (asks_for_help(words) and is_name):
        _function(name)


def asks_for_help(words: Sequence[str]) -> bool:
    """Tell whether a help page is asked for."""
    return not {"-h", "--help"}.isdisjoint(words)


def _own(path: Path, attribute: str) -> Callable[..., Any]:
    """Return a function of a Python file as a recipe."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="learnable list recipes")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    beside = str(path.resolve().parent)
    sys.path.append(beside)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does when it is imported
        raise UsageError(f"cannot import {path}: {error}", hint="run it with python to see where") from error
    finally:
        sys.path.remove(beside)
    functions = {name: value for name, value in vars(module).items() if isfunction(value)}
    if attribute not in functions:
        close = closest(attribute, functions)
        raise UsageError(
            f"{path} has no function {attribute!r}",
            hint=f"did you mean {path}:{close}?" if close else "write a function that calls commands",
        )
    found = functions[attribute]
    return recipe(found) if "run" in signature(found).parameters and not is_recipe(found) else found


def _refuse_old_settings(name: str, function: Callable[..., Any], words: Sequence[str]) -> None:
    """Say how a setting that was written ``name=value`` in an earlier version is written now."""
    known = [each.flag for each in options_of(function)]
    for before, word in zip(["", *words], words, strict=False):
        found = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)?)=(.*)", word, re.DOTALL)
        if found is None or before.startswith("--") or Path(word).exists():
            continue
        group, _, inner = found[1].rpartition(".")
        flag = next((f for f in (flag_of(group, inner), flag_of("", inner)) if f in known), None)
        if group == "budget":
            flag = flag_of(group, inner)
        text = found[2].strip("[]").replace(",", " ") if found[2].startswith("[") else shlex.quote(found[2])
        new = text if flag == known[0] else f"{flag} {text}"
        if flag is not None:
            raise UsageError(
                f"`learnable run {name}` has no use for {word!r}: settings of recipes are options now",
                hint=f"write {new}",
            )
