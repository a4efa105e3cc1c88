"""Evaluators by name. To add one, write it in a file of its own and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.evaluating.exact_match import ExactMatch
from learnable.evaluating.format import Format
from learnable.evaluating.heldout import Heldout
from learnable.evaluating.ifeval import IFEval
from learnable.evaluating.judge import Judge
from learnable.evaluating.kinds import Evaluator
from learnable.evaluating.lm_eval import LMEval
from learnable.evaluating.multiple_choice import MultipleChoice
from learnable.evaluating.reasoning_gym import ReasoningGym
from learnable.evaluating.translation import Translation

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
