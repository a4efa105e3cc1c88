"""What an evaluator is: it reads its items, says what a model must do with each, and grades that.

There are four kinds. A ``likelihood`` evaluator has conversations scored; a ``generation`` evaluator has prompts
answered; a ``harness`` evaluator runs an outside benchmark on the model itself; a ``judge`` evaluator compares the
answers of two models. Each is a frozen dataclass whose fields are its settings.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.types import Example, Grade, MeasuredModel, Message

Kind = Literal["likelihood", "generation", "harness", "judge"]

GRADES = {"id": pl.String, "source": pl.String, "value": pl.Float32, "answer": pl.String, "why": pl.String}
"""Columns of a table of grades."""


class Evaluator(Protocol):
    """What all evaluators have."""

    kind: ClassVar[Kind]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def read(self, path: str | None) -> list[Example]:
        """Return the examples of a file, distinct and in order; ``meta`` holds the fields that grading needs."""


class LikelihoodEvaluator(Evaluator, Protocol):
    """Grades how likely answers are."""

    def candidates(self, example: Example) -> tuple[tuple[Message, ...], ...]:
        """Return c conversations to score; the tokens of their assistant turns count."""

    def grade(self, example: Example, nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> Grade:
        """Return the grade, given nll in nats (c,) and counted tokens (c,) of the candidates."""


class AskingEvaluator(Evaluator, Protocol):
    """Has prompts answered."""

    max_new_tokens: int

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """Return the turns that a model answers."""


class GenerationEvaluator(AskingEvaluator, Protocol):
    """Grades what a model writes.

    One that is slow one by one may also have ``grade_all(examples, completions) -> list[Grade]``: it is called instead.
    """

    def grade(self, example: Example, completion: str) -> Grade:
        """Return the grade of an answer; never raises, whatever the model wrote."""


class JudgeEvaluator(AskingEvaluator, Protocol):
    """Compares the answers of two models."""

    def judge_pairs(
        self, examples: Sequence[Example], ones: Sequence[str], others: Sequence[str]
    ) -> list[Grade]:
        """Return one grade per example: 1 where ``ones`` win, 0 where ``others`` win, 0.5 for a tie."""


class HarnessEvaluator(Evaluator, Protocol):
    """Runs an outside benchmark on a loaded network."""

    def run(
        self, network: Any, tokenizer: Any, examples: Sequence[Example], *, batch_tokens: int
    ) -> pl.DataFrame:
        """Return a table of grades, one row per example that ``read`` gave."""


class EvaluatedModel(MeasuredModel, Protocol):
    """What evaluation asks of a loaded model, beside its ``network`` and ``renderer``."""

    network: Any
    renderer: Any

    @property
    def position_limit(self) -> int | None:
        """Most tokens of a sequence, None where the model does not say."""

    def completions(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        only: Collection[int] | None = None,
    ) -> Iterator[tuple[list[int], list[str]]]:
        """Yield positions and greedy completions, batch by batch."""


def ungraded(why: str) -> Grade:
    """Return the grade of what cannot be graded."""
    return Grade(value=float("nan"), why=why)
