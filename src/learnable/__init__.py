"""Choose the fine-tuning data that a language model can learn, and teach it the task, not the template.

The same words as the command: ``load``, ``train``, ``score``, ``select`` and the others. Recipes are run by ``learnable.recipe.run``.
Names are imported when first used, so that ``import learnable`` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable.commands import (
        compare,
        diversify,
        doctor,
        evaluate,
        explore,
        load,
        report,
        score,
        select,
        show,
        teach,
        train,
    )
    from learnable.errors import LearnableError
    from learnable.runs.step import Outcome
    from learnable.runs.store import Store
    from learnable.settings import Loading, Reading, Reference
    from learnable.training.recording import RecordLosses
    from learnable.types import Budget

__version__ = "0.1.0"

_HOMES = {
    "Budget": "learnable.types",
    "LearnableError": "learnable.errors",
    "Loading": "learnable.settings",
    "Outcome": "learnable.runs.step",
    "Reading": "learnable.settings",
    "RecordLosses": "learnable.training.recording",
    "Reference": "learnable.settings",
    "Store": "learnable.runs.store",
    "compare": "learnable.commands",
    "diversify": "learnable.commands",
    "doctor": "learnable.commands",
    "evaluate": "learnable.commands",
    "explore": "learnable.commands",
    "load": "learnable.commands",
    "report": "learnable.commands",
    "score": "learnable.commands",
    "select": "learnable.commands",
    "show": "learnable.commands",
    "teach": "learnable.commands",
    "train": "learnable.commands",
}

__all__ = [
    "Budget",
    "LearnableError",
    "Loading",
    "Outcome",
    "Reading",
    "RecordLosses",
    "Reference",
    "Store",
    "compare",
    "diversify",
    "doctor",
    "evaluate",
    "explore",
    "load",
    "report",
    "score",
    "select",
    "show",
    "teach",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'learnable' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
