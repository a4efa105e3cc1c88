"""What a page says of where its results lie, and of what can be typed next."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from os.path import normpath, relpath
from pathlib import Path
from typing import Any

from learnable.commands.load import HELDOUT
from learnable.commands.options import unusual, words_of
from learnable.runs.records import DONE, Outcome, read_outcome
from learnable.settings import Reading

FEW_SEEDS = 5
"""Trainings of each arm below which more of them are worth their time."""
FILES_NAMED = 3
"""Files of rows that stand in a command; more make it unreadable."""
_READ = ("format", "on_error", "source_column", "columns")
"""Settings of reading without which the same files may be other rows, or none."""
Onward = list[tuple[str, str]]
"""What there is or can be done, in words, and a path or a command."""


def after_selection(
    chosen: Outcome, scored: Outcome | None, *, files: Sequence[str], reading: Mapping[str, Any] = {}
) -> Onward:
    """Return where the chosen rows lie, how to look through all, and how to find out whether choosing pays.

    ``scored`` is None where the scores were given as a table; ``files`` are named as in a command, and ``reading`` are
    settings that they were read with.
    """
    written = list(chosen.facts.get("written", ()))
    where = chosen.folder / (written[0] if len(written) == 1 else "selected")
    found = [("The chosen rows", str(where))] if written else []
    found.append(("Look through all rows", typed("explore", str(chosen.folder))))
    if scored is not None and "target" not in scored.links and 0 < len(files) <= FILES_NAMED:
        given = [_shown(file) for file in files]
        budget = f"{chosen.facts['kept_tokens']}tokens"
        model, by = str(scored.facts["model"]), str(chosen.facts["by"])
        how = words_of(unusual(reading, {name: getattr(Reading(), name) for name in _READ}))
        tried = ["--model", model, "--by", by, "longest", "--budget", budget]
        found.append(("Find out whether choosing pays", typed("run", "compare", *given, *how, *tried)))
    return found


def after_contest(done: Outcome, *, command: str) -> Onward:
    """Return where the tables and the model lie, how to ask the model, and how to get narrower intervals."""
    found = [("Its tables", str(done.folder))]
    if done.verb == "compare":
        found.append(("Look through what was chosen", typed("explore", str(done.folder))))
    if (done.folder / "model").is_dir():
        found.append(("The model", str(done.folder / "model")))
        found += [
            ("Ask it again", typed("evaluate", each, "--model", str(done.folder / "model")))
            for each in _asked(done)
        ]
    seeds = done.facts.get("seeds", FEW_SEEDS)
    if seeds < FEW_SEEDS and command.startswith("learnable run "):
        more = re.sub(r" --seeds \S+", "", command) + f" --seeds {FEW_SEEDS}"
        found.append(("More seeds, for narrower intervals", more))
    return found


def typed(*words: str) -> str:
    """Return a command as it is typed."""
    return shlex.join(["learnable", *words])


def _asked(done: Outcome) -> Iterator[str]:
    """Yield the rows that a model was asked, or may be: those that were set aside."""
    unseen = done.folder / "unseen_wording.jsonl"
    pool = done.links.get("pool")
    if unseen.is_file():
        yield f"heldout:{unseen}"
    elif pool is not None and (pool / DONE).is_file() and read_outcome(pool).facts.get("held out"):
        yield f"heldout:{normpath(pool / HELDOUT)}"


def _shown(file: str) -> str:
    """Return a file as it is typed from here where it lies below; else as it was given."""
    path = Path(file)
    return relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else file
