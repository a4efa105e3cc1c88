"""What finished work left on disk: sizes, times and digests, by which a later run knows that it is all still there."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import xxhash

from learnable.runs.files import disk_errors
from learnable.runs.identity import file_digest

KEPT = "changed"
"""Folder in the step's own for what was changed by others, in case they want it back."""
MISSING, CHANGED, DAMAGED = "is missing", "has changed", "is damaged"
WHOLE_BYTES = 64 << 20
"""Size of a file up to which all of it is read; of a larger one, pieces of as many bytes together."""
PIECES = 64


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file as it was when the work was finished.

    Args:
        size: In bytes.
        modified: Time in nanoseconds since 1970; while it and the size hold, the content is not read.
        digest: Of the whole content, or of pieces spread over a large file.
    """

    size: int
    modified: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read it off a file."""
        stat = path.stat()
        return cls(size=stat.st_size, modified=stat.st_mtime_ns, digest=_digest(path, stat.st_size))

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is as it was; a copy of it with another time is."""
        stat = path.stat()
        if stat.st_size != self.size:
            return False
        return stat.st_mtime_ns == self.modified or _digest(path, self.size) == self.digest


def _digest(path: Path, size: int) -> str:
    if size <= WHOLE_BYTES:
        return file_digest(path)
    digest, piece = xxhash.xxh3_128(), WHOLE_BYTES // PIECES
    with path.open("rb") as file:
        for number in range(PIECES):
            file.seek(number * (size - piece) // (PIECES - 1))
            digest.update(file.read(piece))
    return digest.hexdigest()


def recorded(folder: Path, *, leave_out: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the files of a folder and those below it, as they are now, by their path in it.

    Args:
        folder: Where to look.
        leave_out: Names in the folder that are no outputs.
    """
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        inside.as_posix(): asdict(Output.of(path))
        for inside, path in files.items()
        if inside.parts[0] not in (*leave_out, KEPT) and path.suffix != ".part"
    }


def differences(folder: Path, record: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what is missing or changed of the recorded files, by its path in the folder."""
    found = {}
    for inside, known in record.items():
        path = folder / inside
        if not path.is_file():
            found[inside] = MISSING
        elif not Output(**known).is_at(path):
            found[inside] = CHANGED
    return found


def clear(folder: Path, record: Collection[str], differing: Mapping[str, str]) -> None:
    """Make room for outputs to be made again: all those that lie in the same part of the folder as one that differs.

    A part is a folder in it with all that is below, such as a model of a reference, or the files in it itself. What
    was changed may be somebody's work and is moved to ``changed/``; what is not recorded stays.

    Raises:
        DiskError: If a file cannot be moved or removed.
    """
    parts = {_part(inside) for inside in differing}
    with disk_errors(folder):
        for inside in record:
            if inside in differing and differing[inside] != MISSING:
                kept = folder / KEPT / inside
                kept.parent.mkdir(parents=True, exist_ok=True)
                (folder / inside).replace(kept)
            elif _part(inside) in parts:
                (folder / inside).unlink(missing_ok=True)


def _part(inside: str) -> str:
    first, _, below = inside.partition("/")
    return first if below else ""


def in_words(differing: Mapping[str, str]) -> str:
    """Return what differs as words of a sentence: a few names, and how many more."""
    few = [f"{inside} {state}" for inside, state in list(differing.items())[:3]]
    return ", ".join(few) + (f" and {len(differing) - 3:,} more" if len(differing) > 3 else "")


def where_kept(differing: Mapping[str, str]) -> str:
    """Return how the sentence goes on about what was changed, which ``clear`` keeps."""
    return "" if set(differing.values()) == {MISSING} else f"; what is there now is moved to {KEPT}/"
