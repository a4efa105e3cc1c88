"""What the steps of a recipe would run or reach that is not part of this package: a recipe file may be somebody else's."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from learnable.evaluators import EVALUATORS, parse
from learnable.experiments import outside_names
from learnable.settings import Loading
from learnable.urls import is_this_machine


def outside(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a step names that runs code of others, or sends rows to another machine, as it is written there.

    Nothing of it is imported, opened or asked.

    Args:
        arguments: Of a verb, of the types that it takes.
    """
    selector, method = arguments.get("selector"), arguments.get("method")
    names = [
        *_texts(arguments.get("scorers")),
        *_texts(selector),
        *(each.partition("@")[0] for each in _texts(method)),
    ]
    yield from (name for name in names if ":" in name)
    for written in arguments["by"] if isinstance(arguments.get("by"), list) else ():
        yield from outside_names(written)
    for written in (*_texts(arguments.get("evaluate")), *_texts(arguments.get("evaluations"))):
        yield from _of_evaluation(written)
    for path in _texts(arguments.get("avoid")):
        if path.partition(":")[0] in EVALUATORS:
            yield from _of_evaluation(path)
    generator, on, loading = arguments.get("generator"), arguments.get("on"), arguments.get("loading")
    if (
        generator
        and not generator.startswith("vllm:")
        and not is_this_machine(generator.removeprefix("openai:"))
    ):
        yield generator
    if on and on != "ray":  # what its workers send back is unpickled here
        yield on
    if isinstance(loading, Loading) and loading.trust_remote_code:
        yield "loading.trust_remote_code"


def typed_by_user(name: str, settings: Iterable[str]) -> bool:
    """Return whether a name stands in one of the ``name=value`` settings, and not as a part of another name."""
    whole = re.compile(rf"(?<![\w.:/]){re.escape(name)}(?![\w.:/])")
    return any(whole.search(setting) for setting in settings)


def _texts(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


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
