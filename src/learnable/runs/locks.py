"""Locks between processes: files that go with the process that holds them, however it ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from learnable.errors import StoreError
from learnable.runs.files import ELSEWHERE, disk_errors


@contextmanager
def locked(path: Path, *, waits: bool = True, hint: str = ELSEWHERE) -> Iterator[None]:
    """Hold a lock, which is the file ``path``, within the block; ``hint`` says what to do where it cannot be made.

    Raises:
        DiskError: If the lock cannot be made.
        StoreError: If another process holds it, and this one does not wait.
    """
    lock = FileLock(path)
    with disk_errors(path, hint=hint):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=waits)
        except Timeout as error:
            raise StoreError(
                f"another run is at work in {path.parent}", hint="wait for it, or choose another -o"
            ) from error
    try:
        yield
    finally:
        if sys.platform != "win32":  # no file that is open can be removed there
            path.unlink(missing_ok=True)  # whoever waits for it notices, and makes a new one
        lock.release()
