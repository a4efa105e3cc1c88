"""One file per evaluator: what a model is asked, and how its answer is graded."""

from learnable.evaluators.evaluation import (
    Evaluation,
    check_place,
    evaluations_of,
    graded_all,
    wants_heldout,
)
from learnable.evaluators.kinds import Evaluator, GenerationEvaluator, JudgeEvaluator
from learnable.evaluators.reading import question_of
from learnable.evaluators.running import Completion, completions, evaluate, judged
from learnable.evaluators.table import EVALUATORS, Specification, build_evaluator, parse

__all__ = [
    "EVALUATORS",
    "Completion",
    "Evaluation",
    "Evaluator",
    "GenerationEvaluator",
    "JudgeEvaluator",
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
