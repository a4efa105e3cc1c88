"""Evaluators by name. To add one, write it in a file of its own and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.evaluators.exact_match import ExactMatch
from learnable.evaluators.format import Format
from learnable.evaluators.heldout import Heldout
from learnable.evaluators.ifeval import IFEval
from learnable.evaluators.judge import Judge
from learnable.evaluators.kinds import Evaluator
from learnable.evaluators.lm_eval import LMEval
from learnable.evaluators.multiple_choice import MultipleChoice
from learnable.evaluators.reasoning_gym import ReasoningGym
from learnable.evaluators.translation import Translation

EVALUATORS: Mapping[str, Callable[..., Evaluator]] = {
    "heldout": Heldout,
    "multiple_choice": MultipleChoice,
    "exact_match": ExactMatch,
    "reasoning_gym": ReasoningGym,
    "ifeval": IFEval,
    "format": Format,
    "translation": Translation,
    "lm_eval": LMEval,
    "judge": Judge,
}
