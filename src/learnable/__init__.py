"""Choose the fine-tuning data that a language model can learn, and teach it the task, not the template.

The same words as the command: ``load``, ``train``, ``score``, ``select`` and the others. Recipes are run by ``learnable.recipe.run``.
Names are imported when first used, so that ``import learnable`` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable.errors import LearnableError
    from learnable.steps import Outcome
    from learnable.store import Store
    from learnable.types import Budget, Loading, Reading, Reference
    from learnable.verbs import (
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

__version__ = "0.1.0"

_HOMES = {
    "Budget": "learnable.types",
    "LearnableError": "learnable.errors",
    "Loading": "learnable.types",
    "Outcome": "learnable.steps",
    "Reading": "learnable.types",
    "Reference": "learnable.types",
    "Store": "learnable.store",
    "compare": "learnable.verbs",
    "diversify": "learnable.verbs",
    "doctor": "learnable.verbs",
    "evaluate": "learnable.verbs",
    "explore": "learnable.verbs",
    "load": "learnable.verbs",
    "report": "learnable.verbs",
    "score": "learnable.verbs",
    "select": "learnable.verbs",
    "show": "learnable.verbs",
    "teach": "learnable.verbs",
    "train": "learnable.verbs",
}

__all__ = [
    "Budget",
    "LearnableError",
    "Loading",
    "Outcome",
    "Reading",
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
