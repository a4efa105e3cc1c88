"""One file per evaluator: what a model is asked, and how its answer is graded."""

from learnable.evaluators.kinds import Evaluator
from learnable.evaluators.reading import question_of
from learnable.evaluators.running import (
    Completion,
    Evaluation,
    check_place,
    completions,
    evaluate,
    evaluations_of,
    graded_all,
    judged,
    wants_heldout,
)
from learnable.evaluators.table import EVALUATORS, Specification, build_evaluator, parse

__all__ = [
    "EVALUATORS",
    "Completion",
    "Evaluation",
    "Evaluator",
    "Specification",
    "build_evaluator",
    "check_place",
    "completions",
    "evaluate",
    "evaluations_of",
    "graded_all",
    "judged",
    "parse",
    "question_of",
    "wants_heldout",
]
