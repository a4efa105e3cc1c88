"""The checkpoint of a training: one file, written aside and renamed, so that it is there whole or not at all."""

import time
from pathlib import Path
from typing import Any

import torch

from learnable.runs.files import replacing
from learnable.runs.step import note
from learnable.training import devices

CHECKPOINT_EVERY_S = 60.0


class Checkpoints:
    """Writes a checkpoint every minute, or less often where writing is slow, and reads the last one."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "last.pt"
        self._saved = time.monotonic()
        self._pause_s = CHECKPOINT_EVERY_S

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, by this process or one before it; None where nothing was."""
        if not devices.shared(self._path.is_file()):
            return None
        state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        return state

    def due(self) -> bool:
        """Return whether it is time to write; the same in all processes, whose clocks differ."""
        return bool(devices.shared(time.monotonic() - self._saved >= self._pause_s))

    def write(self, state: dict[str, Any]) -> None:
        """Write a state; the main process does."""
        began = time.monotonic()
        if devices.is_main():
            with replacing(self._path) as part:
                torch.save(state, part)
            note()
        self._saved = time.monotonic()
        self._pause_s = max(CHECKPOINT_EVERY_S, 10 * (self._saved - began) * (CHECKPOINT_EVERY_S > 0))
