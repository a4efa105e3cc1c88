"""Does it help? Ways to choose, the trainings they lead to, differences with intervals, overlap, and what it all cost."""

from learnable.experiments.arms import Arm, arms_of
from learnable.experiments.buffering import RATIOS, buffering
from learnable.experiments.lessons import INITS, Init, Lesson, lesson_table, parse_lessons
from learnable.experiments.methods import (
    ALIASES,
    WITHOUT_BUDGET,
    Method,
    outside_names,
    parse_method,
    parse_methods,
)
from learnable.experiments.overlap import contamination, jaccard, only_in, spoken
from learnable.experiments.overview import FULL, RANDOM, UNTUNED, Measured, SelectionCost, overview
from learnable.experiments.payback import Payback, payback
from learnable.experiments.statistics import (
    FEWEST_ITEMS,
    FOR_THIS_SEED,
    Interval,
    MeanDifference,
    Verdict,
    difference,
    interval,
)

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
    "Init",
    "Interval",
    "Lesson",
    "MeanDifference",
    "Measured",
    "Method",
    "Payback",
    "SelectionCost",
    "Verdict",
    "arms_of",
    "buffering",
    "contamination",
    "difference",
    "interval",
    "jaccard",
    "lesson_table",
    "only_in",
    "outside_names",
    "overview",
    "parse_lessons",
    "parse_method",
    "parse_methods",
    "payback",
    "spoken",
]
