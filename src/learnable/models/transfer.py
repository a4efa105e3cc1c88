"""Between the memory of this machine and that of a GPU, while both go on computing."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def sent(values: NDArray[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return what is here on a device; to a GPU it travels while the CPU goes on."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Arriving:
    """A tensor on its way from a device: the copy is asked for now, and waited for when it is wanted.

    Args:
        values: On any device; float32.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._here = values
        if values.device.type == "cuda":
            # Queued behind what computes it, and before the next batch: fetched late, it would wait for that too.
            self._here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._here.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def numpy(self) -> NDArray[np.float32]:
        """Return it, when it is here."""
        if self._event is not None:
            self._event.synchronize()
        array: NDArray[np.float32] = self._here.cpu().numpy()
        return array
