"""One file per evaluator: what a model is asked, and how its answer is graded."""

from learnable.evaluators.reading import question_of as question_of
from learnable.evaluators.running import Completion as Completion
from learnable.evaluators.running import Evaluation as Evaluation
from learnable.evaluators.running import check_place as check_place
from learnable.evaluators.running import completions as completions
from learnable.evaluators.running import evaluate as evaluate
from learnable.evaluators.running import evaluations_of as evaluations_of
from learnable.evaluators.running import graded_all as graded_all
from learnable.evaluators.running import judged as judged
from learnable.evaluators.running import wants_heldout as wants_heldout
from learnable.evaluators.table import EVALUATORS as EVALUATORS
from learnable.evaluators.table import Specification as Specification
from learnable.evaluators.table import build_evaluator as build_evaluator
from learnable.evaluators.table import parse as parse
