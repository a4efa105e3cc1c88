"""One typed function per command, from folders to folders; the only place that loads a model.

A verb that makes something writes a folder and returns its ``Outcome``, whose ``path`` is what the next verb takes; one
that finds its own result in the folder does nothing; one that was interrupted goes on. ``show``, ``explore`` and
``doctor`` only look.
"""

from learnable.commands.compare import compare
from learnable.commands.diversify import diversify
from learnable.commands.doctor import doctor
from learnable.commands.evaluate import evaluate
from learnable.commands.explore import explore
from learnable.commands.load import load
from learnable.commands.report import report
from learnable.commands.score import score
from learnable.commands.select import select
from learnable.commands.show import show
from learnable.commands.teach import teach
from learnable.commands.train import train

__all__ = [
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
