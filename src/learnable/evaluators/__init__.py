"""One file per evaluator: what a model is asked, and how its answer is graded."""

from learnable.evaluators.evaluation import (
    Evaluation,
    check_place,
    evaluations_of,
    graded_all,
    wants_heldout,
)
from learnable.evaluators.exact_match import question_of
from learnable.evaluators.kinds import (
    GRADES,
    EvaluatedModel,
    Evaluator,
    GenerationEvaluator,
    JudgeEvaluator,
    Kind,
)
from learnable.evaluators.running import Completion, completions, evaluate, judged
from learnable.evaluators.specification import Specification, build_evaluator, parse
from learnable.evaluators.table import EVALUATORS

__all__ = [
    "EVALUATORS",
    "GRADES",
    "Completion",
    "EvaluatedModel",
    "Evaluation",
    "Evaluator",
    "GenerationEvaluator",
    "JudgeEvaluator",
    "Kind",
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
