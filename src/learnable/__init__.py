"""Choose the fine-tuning data that a language model can learn, and teach it the task, not the template.

Objects in and out: ``read`` rows, ``train`` a ``Model`` on them, ``score``, ``select`` and ``report``. The commands are
functions of ``learnable.commands``, from folders to folders. Names are imported when first used, so that
``import learnable`` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable.errors import LearnableError as LearnableError
    from learnable.objects.choosing import select as select
    from learnable.objects.model import Model as Model
    from learnable.objects.reporting import report as report
    from learnable.objects.results import Picked as Picked
    from learnable.objects.results import ReferenceModel as ReferenceModel
    from learnable.objects.results import ScoreTable as ScoreTable
    from learnable.objects.rows import Rows as Rows
    from learnable.objects.rows import read as read
    from learnable.objects.scoring import score as score
    from learnable.objects.training import train as train
    from learnable.runs.store import Store as Store
    from learnable.settings import Aim as Aim
    from learnable.settings import Loading as Loading
    from learnable.settings import Reading as Reading
    from learnable.settings import Reference as Reference
    from learnable.training.recording import RecordLosses as RecordLosses
    from learnable.types import Budget as Budget

__version__ = "0.1.0"

_HOMES = {
    "errors": ("LearnableError",),
    "objects.choosing": ("select",),
    "objects.model": ("Model",),
    "objects.results": ("Picked", "ReferenceModel", "ScoreTable"),
    "objects.rows": ("Rows", "read"),
    "objects.reporting": ("report",),
    "objects.scoring": ("score",),
    "objects.training": ("train",),
    "runs.store": ("Store",),
    "settings": ("Aim", "Loading", "Reading", "Reference"),
    "training.recording": ("RecordLosses",),
    "types": ("Budget",),
}
_HOME = {name: f"learnable.{home}" for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'learnable' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
