"""What a run file would run or reach that is not part of this package: the file may be somebody else's."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from learnable.evaluators import parse
from learnable.experiments import outside_names
from learnable.urls import is_this_machine


def brought(arguments: Mapping[str, Any], typed: Iterable[str]) -> list[str]:
    """Return what the arguments of a recipe name that runs code of others, or sends rows to another machine.

    Nothing of it is imported, opened or asked. What the user has ``typed``, in words of the command line, is left out.
    """
    given = dict(arguments)
    for value in arguments.values():
        if is_dataclass(value):
            given |= {each.name: getattr(value, each.name) for each in fields(value)}
    typed = list(typed)
    return [name for name in _outside(given) if not _is_typed(name, typed)]


def _outside(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not ours, as it is written."""
    methods = [each for name in ("paraphrase", "buffer", "mergers") for each in _texts(arguments.get(name))]
    names = [
        *_texts(arguments.get("scorers")),
        *_texts(arguments.get("selector")),
        *(each.partition("@")[0] for each in _texts(arguments.get("loss"))),
        *(each.partition("@")[0] for each in methods),
    ]
    yield from (name for name in names if ":" in name)
    for written in _texts(arguments.get("by")):
        yield from outside_names(written)
    for written in _texts(arguments.get("evaluate")):
        yield from _of_evaluation(written)
    generator, on = arguments.get("generator"), arguments.get("on")
    if (
        generator
        and not generator.startswith("vllm:")
        and not is_this_machine(generator.removeprefix("openai:"))
    ):
        yield generator
    if on and on != "ray":  # what its workers send back is unpickled here
        yield on
    if arguments.get("trust_remote_code"):
        yield "--trust-remote-code"


def _is_typed(name: str, typed: Iterable[str]) -> bool:
    """Return whether a name stands in one of the words, and not as a part of another name."""
    whole = re.compile(rf"(?<![\w.:/]){re.escape(name)}(?![\w.:/])")
    return any(whole.search(word) for word in typed)


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _of_evaluation(written: str) -> Iterator[str]:
    """Yield what an evaluation runs or asks: code by name, programs, weights with code in them, a server."""
    found = parse(written)
    if ":" in found.name:
        yield found.name
    if found.name == "lm_eval" and found.path and found.path.endswith((".yaml", ".yml")):
        yield found.path  # a task file of lm-eval names functions beside it
    if found.name == "translation":
        yield from (found.settings[key] for key in ("python", "weights") if key in found.settings)
    if found.name == "judge" and not is_this_machine(server := found.settings.get("server", "")):
        yield server
