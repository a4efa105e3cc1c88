"""Files that are there whole or not at all: written aside, then renamed."""

import errno
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from learnable.errors import DiskError

FULL = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to, and move it to ``path`` when all went well.

    Raises:
        DiskError: If it cannot be written, for example because the disk is full.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            if part.is_dir() and path.is_dir():
                shutil.rmtree(path)
            part.replace(path)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part)
        elif part.exists():
            part.unlink()
        raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system, safetensors or torch say about writing to ``path`` into a ``DiskError``."""
    try:
        yield
    except OSError as error:
        raise _disk_error(path, error, full=error.errno in (errno.ENOSPC, errno.EDQUOT)) from error
    except Exception as error:
        # Writers in other languages have errors of their own, which carry the system's words.
        if not any(words in str(error) for words in FULL):
            raise
        raise _disk_error(path, error, full=True) from error


def _disk_error(path: Path, error: Exception, *, full: bool) -> DiskError:
    said = "the disk is full" if full else getattr(error, "strerror", None) or error
    kept = "free some space and run the same command again: what is finished is kept"
    return DiskError(f"cannot write {path}: {said}", hint=kept if full else "choose another folder with -o")


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a table as Parquet.

    Raises:
        DiskError: If it cannot be written.
    """
    import pyarrow.parquet

    with replacing(path) as part:
        # Not polars' own writer: it hides a full disk.
        pyarrow.parquet.write_table(
            frame.to_arrow(compat_level=pl.CompatLevel.oldest()), part, compression="zstd"
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object.

    Raises:
        DiskError: If it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
