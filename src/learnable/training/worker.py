"""``python -m learnable.training.worker FILE PARENT``: one of the processes that train together."""

import os
import sys
import time
import warnings
from pathlib import Path
from threading import Thread

from learnable.training.devices import work


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: a second run may go on in the same folder then."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    # PEFT 0.21 asks transformers 5.23 for a property under its old name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    work(Path(sys.argv[1]))
