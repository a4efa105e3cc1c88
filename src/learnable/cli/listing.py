"""What can be named on the command line: what each does, what it needs, and what it costs."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any

from docstring_parser import DocstringStyle
from docstring_parser import parse as parse_docstring

from learnable.commands.options import Flat
from learnable.data import FORMATS
from learnable.diversifiers import DIVERSIFIERS
from learnable.errors import UsageError, did_you_mean
from learnable.evaluators import EVALUATORS
from learnable.experiments import ALIASES, WITHOUT_BUDGET, parse_methods
from learnable.measures import roles_of
from learnable.mixing import MIXTURES
from learnable.recipes import RECIPES, Run
from learnable.recipes.run import flag_of, options_of
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS
from learnable.settings import Reference
from learnable.types import Conversation, Message

PASSES = {"base": "base", "alone": "answer alone", "reference": "reference"}
"""The model passes of the columns that a scorer needs, in words."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a method: its name, its default (of a JSON type), what it takes, and what it is for."""

    name: str
    default: Any
    takes: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What can be named.

    Args:
        kind: In the singular, such as ``scorer``.
        name: As it is written.
        about: What it does, in one line.
        needs: Measured columns, vectors, a reference, rows, a generator, packages.
        costs: Passes over the data, trainings, or what is generated.
        usage: How it is written in a command.
        more: The rest of its docstring.
        source: Where the method comes from.
        settings: With their defaults.
    """

    kind: str
    name: str
    about: str
    needs: tuple[str, ...] = ()
    costs: str = "no pass"
    usage: str = ""
    more: str = ""
    source: str = ""
    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All entries of some kinds, by the plural of the kind."""

    kinds: Mapping[str, list[Entry]]


@dataclass(frozen=True, kw_only=True)
class Details:
    """Everything about the entries of one name: usually one, but a recipe and a mixture may share it."""

    entries: list[Entry]


def listed(what: str | None = None) -> Tables | Details:
    """Return all there is, all of one kind (``scorers``), or one thing by its name (``ifd``).

    Raises:
        UsageError: If nothing is called so.
    """
    if what is None:
        return Tables(kinds={kind: make() for kind, make in KINDS.items()})
    if what in KINDS:
        return Tables(kinds={what: KINDS[what]()})
    everything = [entry for make in KINDS.values() for entry in make()]
    if found := [entry for entry in everything if entry.name == what]:
        return Details(entries=found)
    known = [*KINDS, *(entry.name for entry in everything)]
    close = did_you_mean(what, known)
    raise UsageError(
        f"nothing is called {what!r}",
        hint=close if close.startswith("did") else f"one of {', '.join(KINDS)}, or a name among them",
    )


def recipes() -> list[Entry]:
    """Return the recipes that come with the package."""
    entries = [
        _method(
            "recipe",
            name,
            function,
            usage=f"learnable run {name}",
            needs=tuple(
                each for each in ("data", "task", "model") if each in inspect.signature(function).parameters
            ),
            costs=", ".join(_recipe_costs(function)),
        )
        for name, function in RECIPES.items()
    ]
    return [replace(entry, settings=tuple(map(_as_flag, entry.settings))) for entry in entries]


def _as_flag(setting: Setting) -> Setting:
    """Return a setting of a recipe under the name that is typed."""
    return replace(setting, name=flag_of("", setting.name))


def scorers() -> list[Entry]:
    """Return the scorers."""
    return [
        _method(
            "scorer",
            name,
            method,
            usage=f"learnable score DATA --scorers {name}",
            needs=(*method.needs, *(["a reference"] if "reference" in roles_of(method.needs) else [])),
            costs=_scorer_costs(method.needs),
        )
        for name, method in _classes(SCORERS)
    ]


def selectors() -> list[Entry]:
    """Return the selectors."""
    return [
        _method(
            "selector",
            name,
            method,
            usage=f"learnable select SCORES --selector {name}",
            needs=("scores", *(["vectors"] if method.needs_vectors else [])),
            costs="1 pass for vectors, none with wordllama" if method.needs_vectors else "no pass",
        )
        for name, method in _classes(SELECTORS)
    ]


def methods() -> list[Entry]:
    """Return what a comparison knows beside scorers and selectors."""
    about = {name: f"The {name} answers." for name in ALIASES}
    about |= {"full": "All of the pool, whatever the budget.", "untuned": "The model as it is."}
    found = []
    for name in (*ALIASES, *WITHOUT_BUDGET):
        score = SCORERS[ALIASES[name][0]] if name in ALIASES else None
        found.append(
            Entry(
                kind="method",
                name=name,
                about=about[name],
                needs=tuple(score.needs) if score is not None else (),  # type: ignore[attr-defined]
                costs="no training" if name == "untuned" else "1 training for each seed",
                usage=f"learnable compare DATA --by {name}",
            )
        )
    return found


def diversifiers() -> list[Entry]:
    """Return the diversifiers."""
    return [
        _method(
            "diversifier",
            name,
            method,
            usage=f"learnable diversify DATA --method {name}{_SETTINGS}",
            needs=(
                *(["rows"] if method.needs_examples else []),
                *(["a model or server that writes"] if method.needs_generator else []),
            ),
            costs=f"up to {method.sampling.max_new_tokens} tokens written for each text"
            if method.needs_generator
            else "no pass: rules alone",
        )
        for name, method in _classes(DIVERSIFIERS)
    ]


def mixtures() -> list[Entry]:
    """Return the arms of a task."""
    return [
        Entry(
            kind="mixture",
            name=name,
            about=_plain(f"{blend.about[0].upper()}{blend.about[1:]}."),
            needs=("task", *blend.needs),
            costs="1 training for each seed",
            usage=f"learnable teach TASK --arms {name}",
        )
        for name, blend in MIXTURES.items()
    ]


def evaluators() -> list[Entry]:
    """Return the evaluators."""
    costs = {
        "likelihood": "1 pass over each answer or choice",
        "generation": "up to {} tokens written for each row",
        "harness": "what its task asks for",
        "judge": "up to {} tokens written for each row, and two verdicts",
    }
    return [
        _method(
            "evaluator",
            name,
            method,
            usage=f"learnable evaluate {name}:FILE{_SETTINGS}",
            needs=method.packages,
            costs=costs[method.kind].format(getattr(method, "max_new_tokens", "")),
        )
        for name, method in _classes(EVALUATORS)
    ]


def formats() -> list[Entry]:
    """Return the formats of rows."""
    return [
        Entry(
            kind="format",
            name=name,
            about=f"Rows with {', '.join(each.write(_TURNS))}; recognised by these keys, rarely to be named.",
            usage=f"learnable load DATA --format {name}",
        )
        for name, each in FORMATS.items()
    ]


KINDS: Mapping[str, Callable[[], list[Entry]]] = {
    "recipes": recipes,
    "scorers": scorers,
    "selectors": selectors,
    "methods": methods,
    "diversifiers": diversifiers,
    "mixtures": mixtures,
    "evaluators": evaluators,
    "formats": formats,
}


_SETTINGS = "[@KEY=VALUE,...]"
_TURNS = Conversation(
    messages=tuple(Message(role=role, content=role) for role in ("system", "user", "assistant"))
)


def _classes(table: Mapping[str, Callable[..., Any]]) -> Iterator[tuple[str, Any]]:
    """Yield names and classes; the tables promise factories, and what is shipped are classes."""
    yield from table.items()


def _method(kind: str, name: str, method: Any, *, usage: str, needs: tuple[str, ...], costs: str) -> Entry:
    said = parse_docstring(inspect.getdoc(method) or "", style=DocstringStyle.GOOGLE)
    text, _, source = (inspect.getdoc(method) or "").partition("\nSource:")
    notes = [f"The unit is {method.unit}."] if hasattr(method, "unit") else []
    if hasattr(method, "higher_is_better") and not method.higher_is_better:
        notes.append("Lower is better.")
    body = text.partition("\nArgs:")[0].partition("\n\n")[2]
    return Entry(
        kind=kind,
        name=name,
        about=_plain(said.short_description or ""),
        needs=needs,
        costs=costs,
        usage=usage,
        more="\n\n".join(filter(None, [*map(_plain, body.strip().split("\n\n")), " ".join(notes)])),
        source=_plain(source),
        settings=tuple(settings_of(method)),
    )


def _scorer_costs(needs: Collection[str]) -> str:
    passes = [name for role, name in PASSES.items() if role in roles_of(needs)]
    if not passes:
        return "no pass"
    counted = f"{len(passes)} pass{'' if len(passes) == 1 else 'es'} ({', '.join(passes)})"
    trained = f", {Reference().passes:g} training epoch" if "reference" in passes else ""
    return counted + trained


def _recipe_costs(function: Callable[..., Any]) -> Iterator[str]:
    """Yield what the costly steps of a recipe ask for, as its parameters are when nothing is given."""
    usual = {option.name: option.default for option in options_of(function)}
    trainings = f"{usual.get('seeds')} training{'' if usual.get('seeds') == 1 else 's'}"
    if "scorers" in usual:
        yield _scorer_costs({need for name in usual["scorers"] for need in SCORERS[name].needs})  # type: ignore[attr-defined]
    if isinstance(usual.get("by"), tuple):
        by = parse_methods(usual["by"], reference=Reference())
        yield _scorer_costs({need for method in by if method.scorer for need in method.scorer.needs})
        yield f"{trainings} of each method"
    if "arms" in usual:
        yield from (f"{made} written by the model" for made in ("wordings", "buffer"))
        yield f"{trainings} of each arm"


def settings_of(factory: Any) -> Iterator[Setting]:
    """Yield what a dataclass, a command or a recipe takes, with what its docstring says of each."""
    about, hints = said_of(factory), typing.get_type_hints(factory, include_extras=True)
    if is_dataclass(factory):
        defaults = {field.name: field.default for field in fields(factory) if field.init}
    else:
        defaults = {one.name: one.default for one in inspect.signature(factory).parameters.values()}
    for name, default in defaults.items():
        if isinstance(default, Run):  # where to write is no setting
            continue
        if is_dataclass(default):
            group = "" if Flat in getattr(hints[name], "__metadata__", ()) else f"{name}."
            given = {field.name: getattr(default, field.name) for field in fields(default)}
            for each in settings_of(type(default)):
                yield replace(each, name=f"{group}{each.name}", default=_listed(given[each.name]))
            continue
        missing = default is MISSING or default is inspect.Parameter.empty
        yield Setting(
            name=name,
            default=None if missing else _listed(default),
            takes=_takes(hints[name]),
            about=about.get(name, about.get(name.removesuffix("_column"), "")),
        )


def _listed(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def said_of(factory: Any) -> dict[str, str]:
    """Return what docstrings say of each argument, also those of the classes it stands on."""
    said: dict[str, str] = {}
    for each in reversed(getattr(factory, "__mro__", (factory,))):
        parsed = parse_docstring(inspect.cleandoc(each.__doc__ or ""), style=DocstringStyle.GOOGLE)
        said |= {one.arg_name: _plain(one.description or "") for one in parsed.params}
    return said


def _takes(hint: Any) -> str:
    """Return in words what a setting takes."""
    hint = hint.__origin__ if hasattr(hint, "__metadata__") else hint
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(_takes(part) for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return words.get(typing.get_origin(hint) or hint, "list")


def _plain(text: str) -> str:
    """Return a text of a docstring on one line, without marks of code."""
    return " ".join(text.replace("``", "").replace("`", "").split())
