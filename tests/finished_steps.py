"""Folders of steps that were not done, for tests of what reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run


def finished_step(
    verb: str,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    write: Callable[[Path], object] = lambda folder: None,
    tokens: int = 0,
    **depends: Any,
) -> Outcome:
    """Leave a folder as a command does; ``depends`` are the parameters, inputs and links of its step."""

    def work(folder: Path) -> Finished:
        write(folder)
        return Finished(facts=facts, tokens=tokens)

    return run(Step(verb=verb, work=work, **({"parameters": {}} | depends)), folder)
