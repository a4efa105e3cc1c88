"""A step is a value: what it depends on, what it will cost, and its work. One runner locks, resumes, records and skips.

The folder of a step is claimed before its work begins, and its record is written last; a step that was killed goes on
in its folder, and what was done already is not done again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from learnable.errors import DiskError, StoreError
from learnable.runs import records
from learnable.runs.files import write_json
from learnable.runs.identity import fingerprint
from learnable.runs.locks import locked
from learnable.runs.outputs import DAMAGED, KEPT, MISSING, clear, differences, in_words, recorded
from learnable.runs.price import Cost, Price, peak_memory_bytes
from learnable.runs.progress import say
from learnable.runs.records import BEGUN, DONE, Outcome, UnreadableError, read_json, read_outcome

SPENT, NOTE_EVERY_S = "spent", 5.0
FORMAT = 1
"""Raised when a step's output changes its form, so that old results are made anew."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What the work of a step came to.

    Args:
        facts: Figures to show, of JSON types.
        tokens: Tokens that went through a model in this attempt.
        pool_tokens: Those of one pass over the pool, where passes are to be counted by them.
        passes: Passes over the pool, where they are known otherwise.
        at_least_s: Seconds of all attempts that are known from elsewhere.
        identity: What later steps depend on, when it is not the step's own fingerprint.
    """

    facts: Mapping[str, Any]
    tokens: int = 0
    pool_tokens: int | None = None
    passes: float = 0.0
    at_least_s: float = 0.0
    identity: str | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command with all that it depends on, before it runs.

    Args:
        verb: The command.
        parameters: What the result depends on.
        inputs: Identities of what it reads, by name.
        sources: What its methods do, by name, see ``identity.source_of``. A result of other sources is made again.
        links: Folders of earlier steps that it reads, by name; where they lie does not matter to the result.
        says: What it will do, in words.
        awaits: What is not there yet and has to be made or fetched first; a dry run says so, others have nothing.
        plan: Prices it; may take seconds, and reads rows at most.
        work: Does it, into the folder it is given, where an attempt that was killed may have left a part.
    """

    verb: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Path] = field(default_factory=dict)
    says: Sequence[str] = ()
    awaits: Sequence[str] = ()
    plan: Callable[[], Price] = Price
    work: Callable[[Path], Finished]

    @property
    def identity(self) -> str:
        """Fingerprint of verb, parameters, inputs and, where it has methods, of their sources."""
        return fingerprint(self.record)

    @property
    def record(self) -> dict[str, Any]:
        """What the step's folder says of it."""
        record = {"format": FORMAT, "verb": self.verb, "parameters": self.parameters, "inputs": self.inputs}
        return record | ({"sources": self.sources} if self.sources else {})

    def folder(self, output: str | os.PathLike[str]) -> Path:
        """Return the output folder; ``{fingerprint}`` in it becomes the first digits of the identity."""
        return Path(os.fspath(output).replace("{fingerprint}", self.identity[:8]))

    def is_done(self, folder: Path) -> bool:
        """Tell whether the step is done in this folder, and its outputs are there."""
        try:
            return _is_done(self, folder)
        except StoreError:  # another step's
            return False


def run(step: Step, output: str | os.PathLike[str], *, dry_run: bool = False) -> Outcome:
    """Do a step, unless it is done already and its outputs are there; a dry run only says what it would cost.

    Args:
        step: What to do.
        output: Its folder, see ``Step.folder``.
        dry_run: Do nothing.

    Raises:
        StoreError: If the folder holds something else, another process is at work in it, or outputs of an earlier step
            are not as that left them.
        DiskError: If it cannot be written.
    """
    folder = step.folder(output)
    if dry_run:
        if not step.awaits and step.is_done(folder):
            identity = read_outcome(folder).identity
            return Outcome.planned(step.verb, folder, ["done already"], identity=identity)
        price, lines = step.plan(), [*step.awaits, *(step.says or ["no pass"])]
        return Outcome.planned(step.verb, folder, lines, price=price, identity=step.identity)
    if _is_done(step, folder):
        return _finished(step, folder)
    with _claimed(step, folder) as attempt:
        if step.says:
            say(f"{step.verb}: {', '.join(step.says)}")
        done = step.work(folder)
        outcome = Outcome(
            verb=step.verb,
            folder=folder,
            identity=done.identity or step.identity,
            inputs=step.inputs,
            facts=done.facts,
            links=step.links,
            cost=attempt.cost(done),
            ran=True,
        )
        records.write_outcome(outcome, step.record)
    note(outcome.cost.tokens)
    return outcome


def _is_done(step: Step, folder: Path) -> bool:
    return (folder / DONE).is_file() and not _differing(step, folder) and not _edited(step, folder)


def _finished(step: Step, folder: Path) -> Outcome:
    """Return the outcome of a step that is done; where its inputs lie elsewhere than when it ran, that is noted."""
    record, now = read_json(folder / DONE), records.relative(step.links, folder)
    if now and record["links"] != now:
        try:
            write_json(folder / DONE, record | {"links": now})
        except DiskError as error:
            say(f"{error.message}: where its inputs lie now is not noted")
            return replace(read_outcome(folder), links=dict(step.links))
    return read_outcome(folder)


@dataclass(kw_only=True, eq=False)
class _Attempt:
    """A step at work in this process; ``earlier`` is what attempts before it spent, ``tokens`` what this one noted."""

    folder: Path
    record: Mapping[str, Any]
    earlier: Cost
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    noted: float = field(default_factory=time.monotonic)

    def spent(self, tokens: int) -> Cost:
        """Return what all attempts spent up to now, of which this one so many tokens."""
        return Cost(
            tokens=self.earlier.tokens + tokens,
            seconds=self.earlier.seconds + time.monotonic() - self.started,
            peak_memory_bytes=max(self.earlier.peak_memory_bytes, peak_memory_bytes()),
        )

    def cost(self, done: Finished) -> Cost:
        """Return what all attempts spent together."""
        spent, pool = self.spent(done.tokens), done.pool_tokens
        passes = done.passes if pool is None else spent.tokens / max(pool, 1)
        return replace(spent, passes=passes, seconds=max(spent.seconds, done.at_least_s))


_AT_WORK: list[_Attempt] = []
"""The steps at work in this process; a step stands after the one that it is done within."""


def note(tokens: int = 0) -> None:
    """Write down what the steps at work have spent, for a later attempt; new ``tokens`` count for the innermost step."""
    for number, attempt in enumerate(reversed(_AT_WORK)):
        new = tokens if number == 0 else 0
        attempt.tokens += new
        if new or time.monotonic() - attempt.noted >= NOTE_EVERY_S:
            attempt.noted = time.monotonic()
            write_json(
                attempt.folder / BEGUN, {**attempt.record, SPENT: asdict(attempt.spent(attempt.tokens))}
            )


@contextmanager
def _claimed(step: Step, folder: Path) -> Iterator[_Attempt]:
    """Keep other processes out of the folder within the block, and note that the step is at work in it."""
    remade = (folder / DONE).is_file()
    differing = _differing(step, folder) if remade else {}
    if not remade:
        _refuse_taken(step, folder)
    for link in step.links.values():
        if (link / DONE).is_file():
            records.check_outputs(link)
    with locked(folder / records.LOCK, waits=False):
        earlier = _spent(folder, step.record)
        if remade:
            earlier = _make_room(step, folder, differing, earlier)
        attempt = _Attempt(folder=folder, record=step.record, earlier=earlier)
        write_json(folder / BEGUN, {**step.record, SPENT: asdict(earlier)})
        (folder / DONE).unlink(missing_ok=True)  # last: after a kill, what differs is found again
        _AT_WORK.append(attempt)
        try:
            yield attempt
        finally:
            _AT_WORK.remove(attempt)


def _make_room(step: Step, folder: Path, differing: Mapping[str, str], earlier: Cost) -> Cost:
    """Move or remove what is to be made again of a finished step, and return what it had cost.

    Of a damaged record all is made again; of a method that was edited too, and then nothing of it was done before.
    """
    damaged = DONE in differing
    outputs = {} if damaged else records.known_outputs(folder)
    edited = [] if damaged else _edited(step, folder)
    if edited:
        say(f"{folder}: the source of {', '.join(edited)} is not what it was, and all is made again")
    if differing:
        kept = "" if set(differing.values()) == {MISSING} else f"; what is there now is moved to {KEPT}/"
        say(f"{folder}: {in_words(differing)}, and is made again{kept}")
    cost = earlier if damaged else Cost() if edited else read_outcome(folder).cost
    differing = {**(dict.fromkeys(outputs, MISSING) if edited else {}), **differing}
    clear(folder, {*differing, *outputs}, differing)
    return cost


def _edited(step: Step, folder: Path) -> list[str]:
    """Return the methods whose source is not the one that a finished step used; of an earlier version's, none is known."""
    try:
        used = read_json(folder / DONE).get("sources", {})
    except UnreadableError:
        return []
    return [name for name, source in step.sources.items() if used.get(name) != source]


def _refuse_taken(step: Step, folder: Path) -> None:
    # A command that failed or was killed at its very start leaves nothing but these; they hold no result.
    if folder.is_dir() and all(
        path.name in (BEGUN, records.LOCK) or path.suffix == ".part" for path in folder.iterdir()
    ):
        return
    if (folder / BEGUN).is_file():
        _refuse_other(step, folder, BEGUN)
    elif folder.exists():
        raise StoreError(f"{folder} is there already, and holds something else", hint="choose another -o")


def _differing(step: Step, folder: Path) -> dict[str, str]:
    """Return what is missing or changed of a finished step; all that is there where the record is damaged."""
    try:
        _refuse_other(step, folder, DONE)
    except UnreadableError:
        if not (folder / BEGUN).is_file():
            raise
        _refuse_other(step, folder, BEGUN)
        return dict.fromkeys((DONE, *recorded(folder, leave_out=records.RECORDS)), DAMAGED)
    return differences(folder, records.known_outputs(folder))


def _refuse_other(step: Step, folder: Path, name: str) -> None:
    """Refuse a folder with the record of another step, and say in which field it differs."""
    known, elsewhere = read_json(folder / name), "choose another -o, or delete that folder"
    holds = f"{folder} holds the result of"
    if known.get("verb") != step.verb:
        raise StoreError(f"{holds} `learnable {known.get('verb')}`", hint="choose another -o")
    if (was := known.get("format", 1)) != FORMAT:
        raise StoreError(
            f"{holds} another version of learnable: its format was {was!r}, now {FORMAT!r}", hint=elsewhere
        )
    mine = json.loads(json.dumps(step.record))
    for part in ("parameters", "inputs"):
        old, new = known.get(part, {}), mine[part]
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                was = f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
                raise StoreError(f"{holds} another `learnable {step.verb}`: {was}", hint=elsewhere)


def _spent(folder: Path, record: Mapping[str, Any]) -> Cost:
    """Return what earlier attempts of the step with this record noted."""
    if not (folder / BEGUN).is_file():
        return Cost()
    begun = read_json(folder / BEGUN)
    same = all(begun.get(name) == value for name, value in json.loads(json.dumps(record)).items())
    return Cost(**begun.get(SPENT, {})) if same else Cost()
