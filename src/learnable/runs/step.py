"""The record of a step: what was done with what, by which a second run knows that nothing is left to do.

A step's folder gets ``begun.json`` first and ``step.json`` last; a folder with the first only was interrupted, and the
same command goes on in it. ``step.json`` lists the outputs: what is removed or changed later is made again.
"""

import json
import os
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from learnable.errors import DiskError, StoreError
from learnable.names import component
from learnable.runs.files import ELSEWHERE, disk_errors, flush, write_json
from learnable.runs.identity import fingerprint
from learnable.runs.outputs import DAMAGED, MISSING, clear, differences, in_words, recorded, where_kept
from learnable.runs.progress import say

BEGUN, DONE, LOCK = RECORDS = ("begun.json", "step.json", "run.lock")
SPENT, NOTE_EVERY_S = "spent", 5.0
ANEW = "delete its folder and run again"
FORMAT = 1
"""Raised when a step's output changes its form, so that old results are made anew."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a step computed, killed attempts included; what was stored before it began costs nothing.

    Args:
        tokens: Tokens that went through a model, without padding.
        passes: The same in passes over the pool.
        seconds: Wall-clock time of all attempts, of a killed one up to its last note.
        peak_memory_bytes: Highest resident memory of a process up to the end of the step.
    """

    tokens: int = 0
    passes: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(kw_only=True)
class _Attempt:
    """A step at work in this process; ``earlier`` is what attempts before it spent, ``tokens`` what this one noted."""

    lock: FileLock
    folder: Path
    record: Mapping[str, Any]
    earlier: Cost
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    noted: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> Cost:
        """What was spent so far, up to now."""
        return Cost(
            tokens=self.earlier.tokens + self.tokens,
            seconds=self.earlier.seconds + time.monotonic() - self.started,
            peak_memory_bytes=max(self.earlier.peak_memory_bytes, peak_memory_bytes()),
        )


_AT_WORK: dict[Path, _Attempt] = {}
"""The steps at work in this process by folder; a step stands after the one that it is done within."""


def note(tokens: int = 0) -> None:
    """Write down what the steps at work have spent so far, for a later attempt should this one be killed.

    Args:
        tokens: That were computed since the last note and are kept; they count for the innermost step.
    """
    for number, attempt in enumerate(reversed(_AT_WORK.values())):
        new = tokens if number == 0 else 0
        attempt.tokens += new
        if new or time.monotonic() - attempt.noted >= NOTE_EVERY_S:
            attempt.noted = time.monotonic()
            write_json(attempt.folder / BEGUN, {**attempt.record, SPENT: asdict(attempt.spent)})


@dataclass(frozen=True, kw_only=True)
class Outcome(os.PathLike[str]):
    """What a step left behind; ``path`` is its folder, which the next verb takes.

    Args:
        verb: The command.
        folder: Its output.
        identity: What later steps depend on.
        inputs: Identities of what it read, by name.
        facts: Figures to show.
        links: Folders of earlier steps, by name.
        cost: What it cost; zeros where it was done before.
        ran: False when the step was done already.
    """

    verb: str
    folder: Path
    identity: str
    inputs: Mapping[str, str]
    facts: Mapping[str, Any]
    links: Mapping[str, Path]
    cost: Cost
    ran: bool

    @property
    def path(self) -> str:
        """The folder as text, for the next verb."""
        return str(self.folder)

    def __fspath__(self) -> str:
        return self.path

    @classmethod
    def planned(cls, verb: str, price: list[str], *, folder: Path = Path(), identity: str = "") -> Self:
        """Return the outcome of a dry run: what the step would cost."""
        facts = {"would run": price}
        return cls(
            verb=verb,
            folder=folder,
            identity=identity,
            inputs={},
            facts=facts,
            links={},
            cost=Cost(),
            ran=False,
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command with its parameters and the identities of its inputs, before it runs.

    Args:
        verb: The command.
        parameters: What it was given.
        inputs: Identities of what it reads, by name.
        sources: What its methods do, by name, see ``identity.source_of``. A result of other sources is made again.
    """

    verb: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Fingerprint of verb, parameters, inputs and, where it has methods, of their sources."""
        return fingerprint({"format": FORMAT, **self._record})

    @property
    def _record(self) -> dict[str, Any]:
        record = {"verb": self.verb, "parameters": self.parameters, "inputs": self.inputs}
        return record | ({"sources": self.sources} if self.sources else {})

    def folder(self, output: str | os.PathLike[str]) -> Path:
        """Return the output folder; ``{fingerprint}`` in it becomes the first digits of the identity."""
        return Path(os.fspath(output).replace("{fingerprint}", self.identity[:8]))

    def begin(self, folder: Path, *, links: Mapping[str, Path] | None = None) -> Outcome | None:
        """Claim a folder; return the outcome when the step is done already and its outputs are there.

        Args:
            folder: The step's output.
            links: Folders of the steps this one reads; where they lie elsewhere than when it ran, that is noted.

        Raises:
            StoreError: If the folder holds something else, another process is at work in it, or outputs of a step in
                ``links`` are not as that left them.
            DiskError: If it cannot be written.
        """
        if (folder / DONE).is_file():
            differing = self._differing(folder)
            damaged = DONE in differing
            others = {} if damaged else _known_outputs(folder)
            if edited := [] if damaged else self._edited(folder):
                say(f"{folder}: the source of {', '.join(edited)} is not what it was, and all is made again")
            if differing:
                say(f"{folder}: {in_words(differing)}, and is made again{where_kept(differing)}")
            elif not edited:
                return self._finished(folder, links)
            earlier = None if damaged else Cost() if edited else read_outcome(folder).cost
            self._claim(folder, links, earlier=earlier)
            differing = (dict.fromkeys(others, MISSING) if edited else {}) | differing
            clear(folder, {*differing, *others}, differing)
            (folder / DONE).unlink(missing_ok=True)  # last: after a kill, what differs is found again
            return None
        # A command that failed or was killed at its very start leaves nothing but these; they hold no result.
        leftover = folder.is_dir() and all(
            path.name in (BEGUN, LOCK) or path.suffix == ".part" for path in folder.iterdir()
        )
        if (folder / BEGUN).is_file() and not leftover:
            self._refuse_other(folder, BEGUN)
        elif folder.exists() and not leftover:
            raise StoreError(f"{folder} is there already, and holds something else", hint="choose another -o")
        self._claim(folder, links)
        return None

    def is_done(self, folder: Path) -> bool:
        """Tell whether the step is done in this folder, and its outputs are there."""
        if not (folder / DONE).is_file() or read_outcome(folder).identity != self.identity:
            return False
        return not differences(folder, _known_outputs(folder))

    def finish(
        self,
        folder: Path,
        *,
        facts: Mapping[str, Any],
        started: float,
        links: Mapping[str, Path] | None = None,
        identity: str | None = None,
        tokens: int = 0,
        pool_tokens: int | None = None,
        passes: float = 0.0,
        at_least_s: float = 0.0,
    ) -> Outcome:
        """Write the record that says the step is done.

        Args:
            folder: The step's output.
            facts: Figures to show, of JSON types.
            started: ``time.monotonic()`` at the start.
            links: Folders of the steps this one read.
            identity: What later steps depend on, when it is not the step's own fingerprint.
            tokens: Tokens that went through a model in this attempt.
            pool_tokens: Those of one pass over the pool, where passes are to be counted by them.
            passes: Passes over the pool, where they are known otherwise.
            at_least_s: Seconds of all attempts that are known from elsewhere.
        """
        attempt = _AT_WORK.pop(folder.resolve(), None)
        earlier = attempt.earlier if attempt else Cost()
        tokens += earlier.tokens
        cost = Cost(
            tokens=tokens,
            passes=passes if pool_tokens is None else tokens / max(pool_tokens, 1),
            seconds=max(earlier.seconds + time.monotonic() - started, at_least_s),
            peak_memory_bytes=max(earlier.peak_memory_bytes, peak_memory_bytes()),
        )
        with disk_errors(folder):
            flush(folder)
        outcome = Outcome(
            verb=self.verb,
            folder=folder,
            identity=identity or self.identity,
            inputs=self.inputs,
            facts=facts,
            links=links or {},
            cost=cost,
            ran=True,
        )
        record = {
            "format": FORMAT,
            **self._record,
            "identity": outcome.identity,
            "links": _relative(outcome.links, folder),
            "facts": facts,
            "cost": asdict(cost),
            "outputs": recorded(folder, leave_out=RECORDS),
        }
        write_json(folder / DONE, record)
        if attempt:
            _let_go(attempt.lock)
        note(tokens)
        return outcome

    def _differing(self, folder: Path) -> dict[str, str]:
        """Return what is missing or changed of a finished step; all that is there where the record is damaged."""
        try:
            self._refuse_other(folder, DONE)
        except _UnreadableError:
            if not (folder / BEGUN).is_file():
                raise
            self._refuse_other(folder, BEGUN)
            return dict.fromkeys((DONE, *recorded(folder, leave_out=RECORDS)), DAMAGED)
        return differences(folder, _known_outputs(folder))

    def _edited(self, folder: Path) -> list[str]:
        """Return the methods whose source is not the one that a finished step used; of an earlier version's, none is known."""
        used = read_json(folder / DONE).get("sources", {})
        return [name for name, source in self.sources.items() if used.get(name) != source]

    def _finished(self, folder: Path, links: Mapping[str, Path] | None) -> Outcome:
        record = read_json(folder / DONE)
        if links is None or record["links"] == (now := _relative(links, folder)):
            return read_outcome(folder)
        try:
            write_json(folder / DONE, record | {"links": now})
        except DiskError as error:
            say(f"{error.message}: where its inputs lie now is not noted")
            return replace(read_outcome(folder), links=dict(links))
        return read_outcome(folder)

    def _claim(self, folder: Path, links: Mapping[str, Path] | None, *, earlier: Cost | None = None) -> None:
        """Keep other processes out until the step is finished or this process ends, and note that it is at work."""
        for link in (links or {}).values():
            if (link / DONE).is_file():
                _check_outputs(link)
        lock = self._lock(folder)
        record = {"format": FORMAT, **self._record}
        earlier = earlier or _spent(folder, record)
        write_json(folder / BEGUN, {**record, SPENT: asdict(earlier)})
        _AT_WORK[folder.resolve()] = _Attempt(lock=lock, folder=folder, record=record, earlier=earlier)
        # A step that fails is gone with its last name; until then, or until it is finished, it is at work.
        weakref.finalize(self, _leave, folder.resolve(), lock)

    def _lock(self, folder: Path) -> FileLock:
        """Keep other processes out until the step is finished or this process ends, however it ends."""
        if folder.resolve() in _AT_WORK:  # an earlier try in this process failed
            return _AT_WORK.pop(folder.resolve()).lock
        lock = FileLock(folder / LOCK)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout as error:
                raise StoreError(
                    f"another run is at work in {folder}", hint="wait for it, or choose another -o"
                ) from error
        return lock

    def _refuse_other(self, folder: Path, name: str) -> None:
        known = read_json(folder / name)
        if known.get("verb") != self.verb:
            raise StoreError(
                f"{folder} holds the result of `learnable {known.get('verb')}`", hint="choose another -o"
            )
        if known.get("format", 1) != FORMAT:
            raise StoreError(
                f"{folder} holds the result of another version of learnable: "
                f"its format was {known.get('format', 1)!r}, now {FORMAT!r}",
                hint="choose another -o, or delete that folder",
            )
        mine = json.loads(json.dumps({"parameters": self.parameters, "inputs": self.inputs}))
        for part in ("parameters", "inputs"):
            old, new = known.get(part, {}), mine[part]
            for key in sorted({*old, *new}):
                if old.get(key) != new.get(key):
                    raise StoreError(
                        f"{folder} holds the result of another `learnable {self.verb}`: "
                        f"{key} was {old.get(key)!r}, now {new.get(key)!r}",
                        hint="choose another -o, or delete that folder",
                    )


def _spent(folder: Path, record: Mapping[str, Any]) -> Cost:
    """Return what earlier attempts of the step with this record noted."""
    if not (folder / BEGUN).is_file():
        return Cost()
    begun = read_json(folder / BEGUN)
    same = all(begun.get(name) == value for name, value in json.loads(json.dumps(record)).items())
    return Cost(**begun.get(SPENT, {})) if same else Cost()


def _leave(folder: Path, lock: FileLock) -> None:
    """Let others into the folder of a step that is over."""
    if folder in _AT_WORK and _AT_WORK[folder].lock is lock:
        del _AT_WORK[folder]
        _let_go(lock)


class _UnreadableError(StoreError):
    """A record that is damaged."""


@contextmanager
def waiting_lock(path: Path, *, hint: str = ELSEWHERE) -> Iterator[None]:
    """Hold a lock within the block, after waiting for whoever holds it; it goes with the process, however that ends.

    Args:
        path: Its file.
        hint: What to do where it cannot be made.

    Raises:
        DiskError: If the lock cannot be made.
    """
    lock = FileLock(path)
    with disk_errors(path, hint=hint):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        _let_go(lock)


def _let_go(lock: FileLock) -> None:
    """Release a lock and remove its file; whoever waits for it notices, and makes a new one."""
    if sys.platform == "win32":  # no file that is open can be removed
        lock.release()
        return
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _check_outputs(folder: Path) -> None:
    """Notice cheaply that outputs of a finished step are not as it left them; of an earlier version's, nothing is known.

    Raises:
        StoreError: If one is missing or has changed.
    """
    if differing := differences(folder, _known_outputs(folder)):
        raise StoreError(
            f"{folder}: {in_words(differing)} since `learnable {read_json(folder / DONE)['verb']}` wrote it",
            hint="run that command again: it makes again what is not as it was",
        )


def _known_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = read_json(folder / DONE).get("outputs", {})
    for inside in known:
        for name in inside.split("/"):
            component(name, f"an output in {folder / DONE}")
    return known


def read_outcome(folder: Path) -> Outcome:
    """Return what a finished step left behind.

    Raises:
        StoreError: If the folder holds no finished step.
    """
    if not (folder / DONE).is_file():
        state = (
            "was not finished: run the same command again"
            if (folder / BEGUN).is_file()
            else "holds no result of learnable"
        )
        raise StoreError(f"{folder} {state}", hint="give a folder that a learnable command wrote")
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
            ran=False,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder / DONE} is not a record of this learnable: {error!r}",
            hint="give a folder that a learnable command wrote",
        ) from error


def _relative(links: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Return links as paths from the folder, so that a run can be moved; as they are on another drive."""
    relative = {}
    for name, path in links.items():
        try:
            relative[name] = os.path.relpath(path, folder)
        except ValueError:
            relative[name] = str(path.resolve())
    return relative


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        StoreError: If the file is not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _UnreadableError(f"cannot read {path}: {error}", hint=ANEW) from error
    if not isinstance(value, dict):
        raise _UnreadableError(f"{path} is not a JSON object", hint=ANEW)
    return value


def peak_memory_bytes() -> int:
    """Return the highest resident memory of this process so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
