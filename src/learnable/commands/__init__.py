"""One typed function per command, from folders to folders; the only place that loads a model.

A verb that makes something writes a folder and returns its ``Outcome``, whose ``path`` is what the next verb takes; one
that finds its own result in the folder does nothing; one that was interrupted goes on. ``show``, ``explore`` and
``doctor`` only look.
"""

from learnable.commands.compare import compare as compare
from learnable.commands.diversify import diversify as diversify
from learnable.commands.doctor import doctor as doctor
from learnable.commands.evaluate import evaluate as evaluate
from learnable.commands.explore import explore as explore
from learnable.commands.leakage import leakage as leakage
from learnable.commands.load import load as load
from learnable.commands.merge import merge as merge
from learnable.commands.order import order as order
from learnable.commands.prefer import prefer as prefer
from learnable.commands.report import report as report
from learnable.commands.score import score as score
from learnable.commands.select import select as select
from learnable.commands.show import show as show
from learnable.commands.teach import teach as teach
from learnable.commands.train import train as train
