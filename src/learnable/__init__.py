"""Choose the fine-tuning data that a language model can learn, and teach it the task, not the template.

Objects in and out: ``read`` rows, ``train`` a ``Model`` on them, ``score``, ``select`` and ``report``. The commands are
functions of ``learnable.commands``, from folders to folders. Names are imported when first used, so that
``import learnable`` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable.errors import LearnableError
    from learnable.objects.choosing import select
    from learnable.objects.model import Model
    from learnable.objects.reporting import report
    from learnable.objects.results import Picked, ReferenceModel, ScoreTable
    from learnable.objects.rows import Rows, read
    from learnable.objects.scoring import score
    from learnable.objects.training import train
    from learnable.runs.store import Store
    from learnable.settings import Loading, Reading, Reference
    from learnable.training.recording import RecordLosses
    from learnable.types import Budget

__version__ = "0.1.0"

_HOMES = {
    "Budget": "learnable.types",
    "LearnableError": "learnable.errors",
    "Loading": "learnable.settings",
    "Model": "learnable.objects.model",
    "Picked": "learnable.objects.results",
    "Reading": "learnable.settings",
    "RecordLosses": "learnable.training.recording",
    "Reference": "learnable.settings",
    "ReferenceModel": "learnable.objects.results",
    "Rows": "learnable.objects.rows",
    "ScoreTable": "learnable.objects.results",
    "Store": "learnable.runs.store",
    "read": "learnable.objects.rows",
    "report": "learnable.objects.reporting",
    "score": "learnable.objects.scoring",
    "select": "learnable.objects.choosing",
    "train": "learnable.objects.training",
}

__all__ = [
    "Budget",
    "LearnableError",
    "Loading",
    "Model",
    "Picked",
    "Reading",
    "RecordLosses",
    "Reference",
    "ReferenceModel",
    "Rows",
    "ScoreTable",
    "Store",
    "read",
    "report",
    "score",
    "select",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'learnable' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
