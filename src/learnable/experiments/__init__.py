"""Does it help? Arms, the models they lead to, their grades, differences with intervals, overlap, and what it all cost."""

from learnable.experiments.arms import INITS, UNTUNED, Arm, Init, TaskArm, parse_task_arms
from learnable.experiments.buffering import RATIOS, buffering
from learnable.experiments.methods import (
    ALIASES,
    RANDOM,
    WITHOUT_BUDGET,
    Method,
    arms_of,
    outside_names,
    parse_method,
    parse_methods,
)
from learnable.experiments.overlap import contamination, jaccard, only_in, spoken
from learnable.experiments.payback import Payback, payback
from learnable.experiments.run import ArmRun, run_arms
from learnable.experiments.statistics import (
    FEWEST_ITEMS,
    FOR_THIS_SEED,
    Interval,
    MeanDifference,
    Verdict,
    difference,
    interval,
)
from learnable.experiments.table import FULL, Measured, SelectionCost, arm_table

__all__ = [
    "ALIASES",
    "FEWEST_ITEMS",
    "FOR_THIS_SEED",
    "FULL",
    "INITS",
    "RANDOM",
    "RATIOS",
    "UNTUNED",
    "WITHOUT_BUDGET",
    "Arm",
    "ArmRun",
    "Init",
    "Interval",
    "MeanDifference",
    "Measured",
    "Method",
    "Payback",
    "SelectionCost",
    "TaskArm",
    "Verdict",
    "arm_table",
    "arms_of",
    "buffering",
    "contamination",
    "difference",
    "interval",
    "jaccard",
    "only_in",
    "outside_names",
    "parse_method",
    "parse_methods",
    "parse_task_arms",
    "payback",
    "run_arms",
    "spoken",
]
