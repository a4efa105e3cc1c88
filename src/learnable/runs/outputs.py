"""What finished work left on disk: sizes, times and digests, by which a later run knows that it is all still there."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import xxhash

from learnable.runs.files import disk_errors
from learnable.runs.identity import file_digest

KEPT = "changed"
"""Folder in the step's own for what was changed by others, in case they want it back."""
MISSING, CHANGED, DAMAGED = "is missing", "has changed", "is damaged"
WHOLE_BYTES = 64 << 20
"""Size of a file up to which all of it is read; of a larger one, pieces of as many bytes together."""
PIECES = 64


def _digest(path: Path, size: int) -> str:
    """Return a hash of the whole content, or of pieces spread over a large file."""
    if size <= WHOLE_BYTES:
        return file_digest(path)
    digest, piece = xxhash.xxh3_128(), WHOLE_BYTES // PIECES
    with path.open("rb") as file:
        for number in range(PIECES):
            file.seek(number * (size - piece) // (PIECES - 1))
            digest.update(file.read(piece))
    return digest.hexdigest()


def recorded(folder: Path, *, leave_out: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the files of a folder and those below it, by their path in it, but for the names to leave out.

    Each with its ``size`` in bytes, the time when it was ``modified``, in nanoseconds since 1970, and its ``digest``.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] not in (*leave_out, KEPT) and path.suffix != ".part":
            size, modified = path.stat().st_size, path.stat().st_mtime_ns
            found[inside.as_posix()] = {"size": size, "modified": modified, "digest": _digest(path, size)}
    return found


def differences(folder: Path, record: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what is missing or changed of the recorded files, by its path in the folder.

    Content is read only where the time differs: a copy with another time is the same file.
    """
    found = {}
    for inside, known in record.items():
        path = folder / inside
        if not path.is_file():
            found[inside] = MISSING
        elif (stat := path.stat()).st_size != known["size"] or (
            stat.st_mtime_ns != known["modified"] and _digest(path, known["size"]) != known["digest"]
        ):
            found[inside] = CHANGED
    return found


def clear(folder: Path, record: Collection[str], differing: Mapping[str, str]) -> None:
    """Make room for outputs to be made again: all in a part of the folder in which one differs.

    A part is a folder in it with all that is below, such as a model of a reference, or the files in it itself. What was
    changed may be somebody's work and is moved to ``changed/``; what is not recorded stays.
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
