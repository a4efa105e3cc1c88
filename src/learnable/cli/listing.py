"""What can be named on the command line: what each does, what it needs, and what it costs."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

from cyclopts import Parameter
from docstring_parser import DocstringStyle
from docstring_parser import parse as parse_docstring

from learnable.commands.options import Flat
from learnable.commands.score import passes_of
from learnable.data import FORMATS
from learnable.diversifiers import DIVERSIFIERS
from learnable.errors import UsageError, did_you_mean
from learnable.evaluators import EVALUATORS
from learnable.experiments import ALIASES, WITHOUT_BUDGET, parse_methods
from learnable.measures import AIMED, PASSES, roles_of
from learnable.merging import MERGERS
from learnable.mixing import MIXTURES
from learnable.objectives import PREFERENCES
from learnable.recipes import RECIPES, Run
from learnable.recipes.run import flag_of, options_of
from learnable.scorers import SCORERS
from learnable.selectors import SELECTORS
from learnable.settings import Aim, Reference, WarmUp


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a method: its name, its default (of a JSON type), what it takes, and what it is for."""

    name: str
    default: Any
    takes: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What can be named: its kind in the singular, what it does in one line, what it needs and costs, how it is written.

    ``more`` is the rest of its docstring, ``source`` where the method comes from.
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


class Listing(NamedTuple):
    """A kind of things that can be named.

    ``table`` holds them by name, ``usage`` has ``{}`` for a name; ``needs``, ``costs`` and ``about`` take one of them.
    Where there is no ``about``, it is in its docstring, with settings and where it comes from.
    """

    table: Mapping[str, Any]
    usage: str
    needs: Callable[[Any], Iterable[str]]
    costs: Callable[[Any], str]
    about: Callable[[Any], str] | None = None


def listed(what: str | None = None) -> Tables | list[Entry]:
    """List recipes, scorers, selectors, evaluators and all else that has a name: what it does, needs and costs.

    Args:
        what: One kind, such as scorers, or one name, such as ifd, with its settings; everything when not given.
    """
    if what is not None and what in KINDS:
        return Tables(kinds={what: entries(what)})
    everything = {kind: entries(kind) for kind in KINDS}
    if what is None:
        return Tables(kinds=everything)
    names = [entry.name for found in everything.values() for entry in found]
    if what in names:
        # Usually one, but a recipe and a mixture may share a name.
        return [each for found in everything.values() for each in found if each.name == what]
    close = did_you_mean(what, [*KINDS, *names])
    raise UsageError(
        f"nothing is called {what!r}",
        hint=close if close.startswith("did") else f"one of {', '.join(KINDS)}, or a name among them",
    )


def entries(kind: str) -> list[Entry]:
    """Return the entries of a kind, given in the plural."""
    listing, found = KINDS[kind], []
    for name, method in listing.table.items():
        entry = Entry(
            kind=kind.removesuffix("s"),
            name=name,
            about="" if listing.about is None else listing.about(method),
            needs=tuple(listing.needs(method)),
            costs=listing.costs(method),
            usage=listing.usage.format(name),
        )
        found.append(_told(entry, method) if listing.about is None else entry)
    return found


def _told(entry: Entry, method: Any) -> Entry:
    text, _, source = (inspect.getdoc(method) or "").partition("\nSource:")
    head, _, body = text.partition("\nArgs:")[0].partition("\n\n")
    notes = [f"The unit is {method.unit}."] if hasattr(method, "unit") else []
    if not getattr(method, "higher_is_better", True):
        notes.append("Lower is better.")
    settings = settings_of(method)
    if entry.kind == "recipe":
        settings = (replace(each, name=flag_of("", each.name)) for each in settings)
    return replace(
        entry,
        about=_plain(head),
        more="\n\n".join(filter(None, [*map(_plain, body.strip().split("\n\n")), " ".join(notes)])),
        source=_plain(source),
        settings=tuple(settings),
    )


def _scorer_costs(needs: Collection[str]) -> str:
    roles = roles_of(needs)
    passes = [PASSES[role] for role in passes_of(roles, "none")]
    if not passes:
        return "no pass"
    counted = f"{len(passes)} pass{'' if len(passes) == 1 else 'es'} ({', '.join(passes)})"
    trainings = [f"{Reference().passes:g} training epoch"] * ("reference" in roles)
    trainings += [f"{Aim().epochs:g} epochs of the target"] * ("target" in roles)
    trainings += [f"a warm-up of {WarmUp().epochs:g} epochs"] * ("gradient" in roles)
    return ", ".join([counted, *trainings])


_ASKED = {
    "paraphrase": "wordings written by the model, buffer written by the model",
    "stages": "an answer of the model to each row, twice",
    "checks": "no pass; with a model, two references in folds and a pass of each",
}
"""What recipes with an option ask for."""


def _recipe_costs(function: Callable[..., Any]) -> Iterator[str]:
    """Yield what the costly steps of a recipe ask for, as its parameters are when nothing is given."""
    usual = {option.name: option.default for option in options_of(function)}
    trainings = f"{usual.get('seeds')} training{'' if usual.get('seeds') == 1 else 's'}"
    if "scorers" in usual:
        yield _scorer_costs({need for name in usual["scorers"] for need in _needs(SCORERS[name])})
    elif usual.get("by") in SCORERS:
        yield _scorer_costs(_needs(SCORERS[usual["by"]]))
    if isinstance(usual.get("by"), tuple):
        by = parse_methods(usual["by"], reference=Reference())
        yield _scorer_costs({need for method in by if method.scorer for need in method.scorer.needs})
        yield f"{trainings} of each method"
    if "orders" in usual:
        yield f"{usual['orders']} trainings"
    if "pairs_by" in usual:
        yield "1 base pass over the pairs"
        yield f"{trainings} of each fraction, and of each other loss"
    for option, asked in _ASKED.items():
        if option in usual:
            yield asked
    if {"rounds", "tuned"} <= usual.keys():
        yield "an answer of the model to each row, a reward model, and the steps of a policy"
    if "arms" in usual or "stages" in usual:
        yield f"{trainings} of each arm"


def _needs(scorer: Any) -> tuple[str, ...]:
    """Return the columns that a scorer needs; the tables promise factories, and what is shipped are classes."""
    needs: tuple[str, ...] = scorer.needs
    return needs


def _methods() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return what a comparison knows beside scorers and selectors: what it is, needs and costs."""
    trained = "1 training for each seed"
    found = {
        name: (f"The {name} answers.", _needs(SCORERS[score]), trained)
        for name, (score, _) in ALIASES.items()
    }
    full, untuned = WITHOUT_BUDGET
    found[full] = ("All of the pool, whatever the budget.", (), trained)
    return found | {untuned: ("The model as it is.", (), "no training")}


_SETTINGS = "[@KEY=VALUE,...]"
_ASKING = {
    "likelihood": "1 pass over each answer or choice",
    "generation": "up to {} tokens written for each row",
    "harness": "what its task asks for",
    "judge": "up to {} tokens written for each row, and two verdicts",
}

KINDS: Mapping[str, Listing] = {
    "recipes": Listing(
        RECIPES,
        "learnable run {}",
        lambda each: [
            name for name in ("data", "task", "target", "model") if name in inspect.signature(each).parameters
        ],
        lambda each: ", ".join(_recipe_costs(each)),
    ),
    "scorers": Listing(
        SCORERS,
        "learnable score DATA --scorers {}",
        lambda each: [
            *each.needs,
            *["a reference"] * ("reference" in roles_of(each.needs)),
            *["a null reference"] * ("null" in roles_of(each.needs)),
            *["a target"] * bool(AIMED & roles_of(each.needs)),
        ],
        lambda each: _scorer_costs(each.needs),
    ),
    "selectors": Listing(
        SELECTORS,
        "learnable select SCORES --selector {}",
        lambda each: ["scores", *["vectors"] * each.needs_vectors],
        lambda each: "1 pass for vectors, none with wordllama" if each.needs_vectors else "no pass",
    ),
    "methods": Listing(
        _methods(),
        "learnable compare DATA --by {}",
        lambda each: each[1],
        lambda each: each[2],
        lambda each: each[0],
    ),
    "diversifiers": Listing(
        DIVERSIFIERS,
        f"learnable diversify DATA --method {{}}{_SETTINGS}",
        lambda each: [
            *["rows"] * each.needs_examples,
            *["a model or server that writes"] * each.needs_generator,
        ],
        lambda each: (
            f"up to {each.sampling.max_new_tokens} tokens written for each text"
            if each.needs_generator
            else "no pass: rules alone"
        ),
    ),
    "mixtures": Listing(
        MIXTURES,
        "learnable teach TASK --arms {}",
        lambda each: ["task", *each.needs],
        lambda _: "1 training for each seed",
        lambda each: _plain(f"{each.about[0].upper()}{each.about[1:]}."),
    ),
    "mergers": Listing(
        MERGERS,
        f"learnable merge A B --by {{}}{_SETTINGS}",
        lambda _: ["models of one base"],
        lambda _: "no pass",
    ),
    "losses": Listing(
        PREFERENCES,
        f"learnable train PAIRS --loss {{}}{_SETTINGS}",
        lambda _: ["preference pairs"],
        lambda _: "1 base pass for the reference, then the training",
    ),
    "evaluators": Listing(
        EVALUATORS,
        f"learnable evaluate {{}}:FILE{_SETTINGS}",
        lambda each: each.packages,
        lambda each: _ASKING[each.kind].format(getattr(each, "max_new_tokens", "")),
    ),
    "formats": Listing(
        FORMATS,
        "learnable load DATA --format {}",
        lambda _: (),
        lambda _: "no pass",
        lambda each: f"Rows with {each.keys}; recognised by these keys, rarely to be named.",
    ),
}


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
    """Return what annotations and docstrings say of each argument, also those of the classes it stands on."""
    hints = typing.get_type_hints(factory, include_extras=True)
    notes = [(name, note) for name, hint in hints.items() for note in getattr(hint, "__metadata__", ())]
    said = {name: _plain(note.help) for name, note in notes if isinstance(note, Parameter) and note.help}
    for each in reversed(getattr(factory, "__mro__", (factory,))):
        parsed = parse_docstring(inspect.cleandoc(each.__doc__ or ""), style=DocstringStyle.GOOGLE)
        said |= {one.arg_name: _plain(one.description or "") for one in parsed.params}
    return said


def _takes(hint: Any) -> str:
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
