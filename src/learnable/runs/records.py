"""The record of a step: what was done with what, by which a second run knows that nothing is left to do.

A step's folder gets ``begun.json`` first and ``step.json`` last, which lists the outputs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from learnable.errors import StoreError
from learnable.names import component
from learnable.runs.files import disk_errors, flush, write_json
from learnable.runs.outputs import differences, in_words, recorded
from learnable.runs.price import Cost, Price

BEGUN, DONE, LOCK = RECORDS = ("begun.json", "step.json", "run.lock")
ANEW = "delete its folder and run again"
ANOTHER = "give a folder that a learnable command wrote"


class UnreadableError(StoreError):
    """A record that is damaged."""


@dataclass(frozen=True, kw_only=True)
class Outcome(os.PathLike[str]):
    """What a step left behind, or will: ``path`` is its folder, which the next verb takes.

    Args:
        verb: The command.
        folder: Its output.
        identity: What later steps depend on.
        inputs: Identities of what it read, by name.
        facts: Figures to show; of a dry run what would run, in words.
        links: Folders of earlier steps, by name.
        cost: What it cost; zeros where it was done before.
        ran: False when the step was done already.
        price: Of a dry run: what the step will cost.
    """

    verb: str
    folder: Path
    identity: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any]
    links: Mapping[str, Path] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    ran: bool = False
    price: Price | None = None

    @property
    def path(self) -> str:
        """The folder as text, for the next verb."""
        return str(self.folder)

    def __fspath__(self) -> str:
        return self.path

    @classmethod
    def planned(
        cls, verb: str, folder: Path, lines: Sequence[str], *, price: Price | None = None, identity: str = ""
    ) -> Self:
        """Return the outcome of a dry run: what the step would do and cost, in words and figures."""
        price = price or Price()
        facts = {"would run": list(lines), "price": price.words}
        return cls(verb=verb, folder=folder, identity=identity, facts=facts, price=price)


def write_outcome(outcome: Outcome, begun: Mapping[str, Any]) -> None:
    """Write the record that says a step is done; ``begun`` is what its folder said at the beginning."""
    folder = outcome.folder
    with disk_errors(folder):
        flush(folder)
    record = {
        **begun,
        "identity": outcome.identity,
        "links": relative(outcome.links, folder),
        "facts": outcome.facts,
        "cost": asdict(outcome.cost),
        "outputs": recorded(folder, leave_out=RECORDS),
    }
    write_json(folder / DONE, record)


def read_outcome(folder: Path) -> Outcome:
    """Return what a finished step left behind; a StoreError says that the folder holds none."""
    if not (folder / DONE).is_file():
        begun = (folder / BEGUN).is_file()
        state = "was not finished: run the same command again" if begun else "holds no result of learnable"
        raise StoreError(f"{folder} {state}", hint=ANOTHER)
    record = read_json(folder / DONE)
    try:
        return Outcome(
            verb=record["verb"],
            folder=folder,
            identity=record["identity"],
            inputs=record["inputs"],
            facts=record["facts"],
            links={name: Path(os.path.normpath(folder / link)) for name, link in record["links"].items()},
            cost=Cost(**record["cost"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder / DONE} is not a record of this learnable: {error!r}", hint=ANOTHER
        ) from error


def check_outputs(folder: Path) -> None:
    """Refuse by a StoreError, cheaply, outputs of a finished step that are not as it left them, where that is known."""
    if differing := differences(folder, known_outputs(folder)):
        raise StoreError(
            f"{folder}: {in_words(differing)} since `learnable {read_json(folder / DONE)['verb']}` wrote it",
            hint="run that command again: it makes again what is not as it was",
        )


def known_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the outputs of a finished step as its record has them, by their path in the folder."""
    known: dict[str, dict[str, Any]] = read_json(folder / DONE).get("outputs", {})
    for inside in known:
        for name in inside.split("/"):
            component(name, f"an output in {folder / DONE}")
    return known


def parameters_of(folder: Path) -> dict[str, Any]:
    """Return what a finished step was asked for."""
    return dict(read_json(folder / DONE).get("parameters", {}))


def relative(links: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Return links as paths from the folder, so that a run can be moved; as they are on another drive."""
    found = {}
    for name, path in links.items():
        try:
            found[name] = os.path.relpath(path, folder)
        except ValueError:
            found[name] = str(path.resolve())
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; a StoreError says that the file is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableError(f"cannot read {path}: {error}", hint=ANEW) from error
    if not isinstance(value, dict):
        raise UnreadableError(f"{path} is not a JSON object", hint=ANEW)
    return value
