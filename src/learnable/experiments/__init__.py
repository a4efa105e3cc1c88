"""Does it help? Arms, the models they lead to, their grades, differences with intervals, overlap, and what it all cost."""

from learnable.experiments.arms import UNTUNED, Arm, Init, TaskArm, check_settings, parse_task_arms
from learnable.experiments.buffering import RATIOS, buffering
from learnable.experiments.imbalance import Imbalance, arrays_of, binned, imbalance, slopes_of
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
from learnable.experiments.overlap import only_in
from learnable.experiments.payback import payback
from learnable.experiments.run import measured_by, run_arms
from learnable.experiments.statistics import FEWEST_ITEMS, FOR_THIS_SEED, difference, interval
from learnable.experiments.table import FULL, Measured, SelectionCost, arm_table, table_among

__all__ = [
    "ALIASES",
    "FEWEST_ITEMS",
    "FOR_THIS_SEED",
    "FULL",
    "RANDOM",
    "RATIOS",
    "UNTUNED",
    "WITHOUT_BUDGET",
    "Arm",
    "Imbalance",
    "Init",
    "Measured",
    "Method",
    "SelectionCost",
    "TaskArm",
    "arm_table",
    "arms_of",
    "arrays_of",
    "binned",
    "buffering",
    "check_settings",
    "difference",
    "imbalance",
    "interval",
    "measured_by",
    "only_in",
    "outside_names",
    "parse_method",
    "parse_methods",
    "parse_task_arms",
    "payback",
    "run_arms",
    "slopes_of",
    "table_among",
]
