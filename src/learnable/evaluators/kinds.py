"""What an evaluator is: it reads its items, says what a model must do with each, and grades that."""

from typing import ClassVar, Literal, Protocol

import polars as pl

from learnable.types import Example, Grade

Kind = Literal["likelihood", "generation", "harness", "judge"]

GRADES = {"id": pl.String, "source": pl.String, "value": pl.Float32, "answer": pl.String, "why": pl.String}
"""Columns of a table of grades."""


class Evaluator(Protocol):
    """What all evaluators have: frozen dataclasses whose fields are their settings; and beside it, by kind, as follows.

    - ``likelihood`` has conversations scored. ``candidates(example)``: c conversations, of which the tokens of assistant
      turns count; ``grade(example, nll, tokens) -> Grade``, given nll in nats (c,) and counted tokens (c,).
    - ``generation`` has prompts answered. ``max_new_tokens``; ``prompt(example)``: the turns that the model answers;
      ``grade(example, completion) -> Grade``, which never raises, whatever the model wrote. One that is slow one by one
      may also have ``grade_all(examples, completions) -> list[Grade]``: it is called instead.
    - ``judge`` compares the answers of two models. ``max_new_tokens``; ``prompt(example)``; ``judge_pairs(examples, ones,
      others) -> list[Grade]``: 1 where ``ones`` win, 0 where ``others`` win, 0.5 for a tie.
    - ``harness`` runs an outside benchmark. ``run(network, tokenizer, examples, batch_tokens=)``: a table of grades, one
      row per example that ``read`` gave.
    """

    kind: ClassVar[Kind]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def read(self, path: str | None) -> list[Example]:
        """Return the examples of a file, distinct and in order; ``meta`` holds the fields that grading needs."""


def ungraded(why: str) -> Grade:
    """Return the grade of what cannot be graded."""
    return Grade(value=float("nan"), why=why)
