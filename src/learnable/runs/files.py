"""Files that are there whole or not at all: written aside, flushed to the disk, then renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from learnable.errors import DiskError

FREE_SPACE = "free some space and run the same command again"
HIGHER_LIMIT = "raise the limit, or choose a larger disk with -o, and run the same command again"
ELSEWHERE = "choose another folder with -o"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the disk or a limit (ulimit -f) allows",
}
_WORDS = {
    "No space left on device": errno.ENOSPC,
    "PytorchStreamWriter failed writing file": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
}
"""What writers in other languages say, whose errors carry no number."""

_PROCESS = uuid.uuid4().hex[:8]
_PART = re.compile(r"(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<process>[0-9a-f]{8})-[0-9a-f]{8}\.part")
ABANDONED_S = 3_600.0
"""Age at which what another machine was writing is taken for left behind."""
_swept: set[Path] = set()


@contextmanager
def replacing(path: Path, *, hint: str = ELSEWHERE) -> Iterator[Path]:
    """Give a path to write a file or folder to, and move it to ``path`` when all went well and is on the disk.

    What killed runs left beside ``path`` is removed first.

    Raises:
        DiskError: If it cannot be written; ``hint`` says what to do where there is no lack of space.
    """
    # Of one length whatever the name is, which may take all that the file system allows.
    part = path.with_name(f"{_machine()}-{os.getpid()}-{_PROCESS}-{uuid.uuid4().hex[:8]}.part")
    try:
        with disk_errors(path, hint=hint):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.absolute() not in _swept:
                sweep(path.parent)
                _swept.add(path.parent.absolute())
            yield part
            flush(part)
            if part.is_dir() and path.is_dir():
                shutil.rmtree(path)
            part.replace(path)
            _flush_folder(path.parent)
    except BaseException:
        _remove(part)
        raise


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)  # another process may sweep too
    elif part.exists():
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed runs were writing in a folder; what a living process writes stays."""
    for part in folder.glob("*.part"):
        named = _PART.fullmatch(part.name)
        if named and _is_abandoned(part, **named.groupdict()):
            _remove(part)


def _is_abandoned(part: Path, *, machine: str, pid: str, process: str) -> bool:
    if machine == _machine():
        import psutil

        return process != _PROCESS if int(pid) == os.getpid() else not psutil.pid_exists(int(pid))
    try:
        newest = max(path.stat().st_mtime for path in (part, *part.rglob("*")))
    except FileNotFoundError:  # it changes as we look
        return False
    return time.time() - newest > ABANDONED_S


@cache
def _machine() -> str:
    """Return what tells apart where process numbers are given out: this machine, or this container on it."""
    container = Path("/proc/self/ns/pid")
    place = f"{socket.gethostname()} {container.stat().st_ino if container.exists() else 0}"
    return hashlib.blake2b(place.encode(), digest_size=4).hexdigest()


def flush(path: Path) -> None:
    """Wait until a file, or all that is in a folder, is on the disk: a power cut leaves no empty files then."""
    if path.is_dir():
        for inside in path.iterdir():
            flush(inside)
        _flush_folder(path)
    else:
        with path.open("rb" if sys.platform != "win32" else "r+b") as file:
            os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":  # it flushes names itself
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know files only
            raise
    finally:
        os.close(number)


@contextmanager
def disk_errors(path: Path, *, hint: str = ELSEWHERE) -> Iterator[None]:
    """Turn what the system, safetensors or torch say about writing to ``path`` into a ``DiskError``."""
    try:
        yield
    except OSError as error:
        raise _disk_error(path, error, error.errno, hint) from error
    except Exception as error:
        # Writers in other languages have errors of their own, which carry the system's words.
        number = next((number for words, number in _WORDS.items() if words in str(error)), None)
        if number is None:
            raise
        raise _disk_error(path, error, number, hint) from error


def _disk_error(path: Path, error: Exception, number: int | None, hint: str) -> DiskError:
    if number in _FULL:
        remedy = HIGHER_LIMIT if number == errno.EFBIG else FREE_SPACE
        return DiskError(f"cannot write {path}: {_FULL[number]}", hint=f"{remedy}: what is finished is kept")
    said = getattr(error, "strerror", None) or error
    return DiskError(f"cannot write {path}: {said}", hint=hint)


def system_error(error: OSError) -> DiskError:
    """Return what to say about a file that could not be read or written, where nobody foresaw it."""
    if error.errno in _FULL:
        return _disk_error(Path(error.filename or "the output"), error, error.errno, "")
    said = error.strerror or str(error)
    hint = "take a shorter name" if error.errno == errno.ENAMETOOLONG else "--debug shows where"
    return DiskError(f"cannot use {error.filename}: {said}" if error.filename else said, hint=hint)


def write_frame(frame: pl.DataFrame, path: Path, *, hint: str = ELSEWHERE) -> None:
    """Write a table as Parquet, as ``replacing`` does."""
    with writing_frames(path, hint=hint) as file:
        file.add(frame)


@contextmanager
def writing_frames(path: Path, *, hint: str = ELSEWHERE) -> "Iterator[FrameWriter]":
    """Give what writes tables into one Parquet file, which is there whole or not at all, as with ``replacing``."""
    with ExitStack() as stack:
        file = FrameWriter(stack.enter_context(replacing(path, hint=hint)), stack)
        try:
            yield file
        finally:
            file.close()


class FrameWriter:
    """Writes tables one after the other into a Parquet file, each as a row group; see ``writing_frames``."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._writer: Any = None
        self.schema: pl.Schema | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Write a table of the schema of those before, see ``schema``."""
        from pyarrow.parquet import ParquetWriter

        # Not polars' own writer: it hides a full disk.
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self.schema, self._writer = (
                frame.schema,
                ParquetWriter(self._path, table.schema, compression="zstd"),
            )
        self._writer.write_table(table, row_group_size=max(len(table), 1))

    def rewrite(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Change what was written up to now, a row group at a time, so that tables of another schema may follow."""
        from pyarrow.parquet import ParquetFile

        self.close()
        with ParquetFile(self._path) as before:
            self._path = self._stack.enter_context(replacing(self._path))
            groups = map(before.read_row_group, range(before.num_row_groups))
            for table in groups if before.num_row_groups else [before.schema_arrow.empty_table()]:
                self.add(change(pl.DataFrame(table)))

    def written(self) -> pl.LazyFrame:
        """Return what was written up to now; after it, only ``rewrite`` may follow."""
        self.close()
        return pl.scan_parquet(self._path)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def write_text(path: Path, text: str) -> None:
    """Write a text."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects, each on a line, as ``replacing`` does."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def write_json(path: Path, value: Mapping[str, Any], *, hint: str = ELSEWHERE) -> None:
    """Write a JSON object, as ``replacing`` does."""
    with replacing(path, hint=hint) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
