"""One typed function per command, from folders to folders; the only place that loads a model.

A verb that makes something writes a folder and returns its ``Outcome``, whose ``path`` is what the next verb takes; one
that finds its own result in the folder does nothing; one that was interrupted goes on. ``show``, ``explore`` and
``doctor`` only look.
"""

from learnable.verbs.compare import compare
from learnable.verbs.diversify import diversify
from learnable.verbs.doctor import doctor
from learnable.verbs.evaluate import evaluate
from learnable.verbs.explore import explore
from learnable.verbs.load import load
from learnable.verbs.report import report
from learnable.verbs.score import score
from learnable.verbs.select import select
from learnable.verbs.show import show
from learnable.verbs.teach import teach
from learnable.verbs.train import train

VERBS = {
    verb.__name__: verb for verb in (load, diversify, train, score, select, evaluate, compare, teach, report)
}
"""The verbs that write a folder, hence can be steps of a recipe."""

__all__ = [
    "VERBS",
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
