"""The cache: what was found out about models and their files once, for all later commands. It may be read-only."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from learnable.errors import DiskError
from learnable.runs.files import write_json
from learnable.runs.identity import file_digest, fingerprint
from learnable.runs.progress import say

ELSEWHERE = "set LEARNABLE_CACHE to a folder that can be written"
WORTH_SAYING_BYTES = 2 << 30
EDGE_BYTES = 1 << 20
"""Bytes at each end of a file that are hashed whenever its digest is asked for."""

_not_written: dict[Path, dict[str, Any]] = {}
"""What this process found out and could not write."""


def cache_folder() -> Path:
    """Return the folder for converted models and what is remembered of models (``LEARNABLE_CACHE`` overrides it)."""
    if given := os.environ.get("LEARNABLE_CACHE"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "learnable"
    except RuntimeError as error:
        raise DiskError(f"there is no place for a cache: {error}", hint=ELSEWHERE) from error


def recalled(kind: str, key: str) -> dict[str, Any] | None:
    """Return what was remembered of a kind of things under a fingerprint; None where nothing was, or is readable."""
    place = _place(kind, key)
    if place in _not_written:
        return _not_written[place]
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def remember(kind: str, key: str, found: Mapping[str, Any]) -> None:
    """Keep what was found out; where the cache cannot be written, say so once, and keep it for this process alone."""
    try:
        write_json(_place(kind, key), found)
    except DiskError as error:
        if not _not_written:
            say(f"{error.message}: each command finds out about its models anew; {ELSEWHERE}")
        _not_written[_place(kind, key)] = dict(found)


def _place(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{key[:32]}.json"


def remembered_digest(file: Path) -> str:
    """Return the hash of a file, remembered for as long as nothing says that it is another one.

    A copy can keep size and time of what it replaces, so that the number of the file, the time of its last change of
    any kind, and its first and last MiB, read anew each time, count too.
    """
    resolved = file.resolve()
    stat = resolved.stat()
    if stat.st_size <= 2 * EDGE_BYTES:
        return file_digest(resolved)
    with resolved.open("rb") as opened:
        first = opened.read(EDGE_BYTES)
        opened.seek(-EDGE_BYTES, os.SEEK_END)
        edges = xxhash.xxh3_128_hexdigest(first + opened.read())
    stamp = [str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, edges]
    key = fingerprint(stamp)
    if known := recalled("digests", key):
        return str(known["digest"])
    if stat.st_size > WORTH_SAYING_BYTES:
        say(f"reading {file.name} once, for its digest: {stat.st_size / 1e9:.1f} GB")
    digest = file_digest(resolved)
    remember("digests", key, {"digest": digest})
    return digest
