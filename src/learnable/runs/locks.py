"""Locks between processes: files that go with the process that holds them, however it ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from learnable.runs.files import ELSEWHERE, disk_errors


@contextmanager
def waiting_lock(path: Path, *, hint: str = ELSEWHERE) -> Iterator[None]:
    """Hold a lock within the block, after waiting for whoever holds it.

    Args:
        path: Its file.
        hint: What to do where it cannot be made.

    Raises:
        DiskError: If the lock cannot be made.
    """
    with disk_errors(path, hint=hint):
        lock = take(path, waits=True)
    try:
        yield
    finally:
        let_go(lock)


def take(path: Path, *, waits: bool) -> FileLock:
    """Return a lock that is held.

    Raises:
        filelock.Timeout: If another process holds it, and this one does not wait.
    """
    lock = FileLock(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock.acquire(blocking=waits)
    return lock


def let_go(lock: FileLock) -> None:
    """Release a lock and remove its file; whoever waits for it notices, and makes a new one."""
    if sys.platform == "win32":  # no file that is open can be removed
        lock.release()
        return
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
