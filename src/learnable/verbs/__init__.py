"""One typed function per command, from folders to folders; the only place that loads a model.

Every verb writes a folder and returns its ``Outcome``, whose ``path`` is what the next verb takes. A
verb that finds its own result in the folder does nothing; one that was interrupted goes on.
"""

from learnable.verbs.compare import compare
from learnable.verbs.diversify import diversify
from learnable.verbs.evaluate import evaluate
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
    "evaluate",
    "load",
    "report",
    "score",
    "select",
    "show",
    "teach",
    "train",
]
