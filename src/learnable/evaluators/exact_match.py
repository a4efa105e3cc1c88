"""Exact match of the final answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from learnable.errors import UsageError, did_you_mean
from learnable.evaluators.extraction import amount, last_number, letter, normalised
from learnable.evaluators.kinds import Kind
from learnable.evaluators.reading import REFERENCES, Item, Row, answered, asked, read_items
from learnable.types import Example, Grade, Message

_EXTRACTORS: dict[str, Callable[[str], str]] = {
    "number": last_number,
    "letter": letter,
    "text": normalised,
}


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """Whether the final answer of a completion is the reference's.

    Args:
        extract: ``number``: what follows ``####``, else the last number; compared by value, so that ``$1,000.00``
            is ``1000``. ``letter``: the letter chosen. ``text``: all of it, without case and outer punctuation.
            Anything else is a regular expression with a group, whose last match counts.
        answer: Column of the reference.
        prompt: Column of the question.
        suffix: Added to the question after an empty line, for example how to write the answer.
        max_new_tokens: Most tokens of a completion.
        source_column: Column that names the source of a row.
        n: How many examples to draw; all when not given.
        seed: Seeds the draw.

    Source: the extraction of numbers is that of GSM8K (Cobbe et al. 2021, arXiv:2110.14168), with the last number
    where the mark ``####`` is not written.
    """

    kind: ClassVar[Kind] = "generation"
    unit: ClassVar[str] = "share correct"
    higher_is_better: ClassVar[bool] = True
    extract: str = "number"
    answer: str | None = None
    prompt_column: str | None = None
    suffix: str | None = None
    max_new_tokens: int = 256
    source_column: str | None = None
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.extract in _EXTRACTORS:
            return
        try:
            groups = re.compile(self.extract).groups
        except re.error as error:
            raise UsageError(
                f"extract={self.extract!r} is no regular expression: {error}",
                hint=did_you_mean(self.extract, _EXTRACTORS),
            ) from error
        if not groups:
            raise UsageError(
                f"extract={self.extract!r} is neither {', '.join(_EXTRACTORS)} nor a regular expression with a group",
                hint=did_you_mean(self.extract, _EXTRACTORS),
            )

    def read(self, path: str | None) -> list[Example]:
        """Return rows with a question and a reference (``final``, ``answer`` ...), or with ``messages``."""
        return read_items(
            path,
            self._item,
            evaluator="exact_match",
            n=self.n,
            seed=self.seed,
            source_column=self.source_column,
        )

    def _item(self, row: Row) -> Item:
        question = asked(row, self.prompt_column, suffix=self.suffix)
        reference = answered(row, self.answer, ("final", *REFERENCES))
        closing = (Message(role="assistant", content=reference),) if reference else ()
        return Item(messages=(*question, *closing), grading={"reference": reference})

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """Return the turns without the reference."""
        return question_of(example)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return 1 or 0; NaN when the reference holds no answer."""
        reference = str(example.meta.get("reference", ""))
        expected = self._reference_answer(reference)
        if not expected:
            return Grade(
                value=float("nan"), why=f"no {self._wanted} found in the reference {reference[:60]!r}"
            )
        found = self._extracted(completion)
        if not found:
            return Grade(value=0.0, why=f"no {self._wanted} found")
        if self._same(found, expected):
            return Grade(value=1.0, answer=found)
        return Grade(value=0.0, answer=found, why=f"expected {expected}")

    @property
    def _wanted(self) -> str:
        return self.extract if self.extract in _EXTRACTORS else "answer"

    def _extracted(self, text: str) -> str:
        if self.extract in _EXTRACTORS:
            return _EXTRACTORS[self.extract](text)
        matches = [match for match in re.finditer(self.extract, text) if match.lastindex]
        return normalised(matches[-1].group(matches[-1].lastindex or 0)) if matches else ""

    def _reference_answer(self, reference: str) -> str:
        found = self._extracted(reference)
        return found if found or self.extract in _EXTRACTORS else normalised(reference)

    def _same(self, found: str, expected: str) -> bool:
        if self.extract in ("letter", "text"):
            return found == expected
        values = amount(found), amount(expected)
        if values[0] is not None and values[1] is not None:
            return values[0] == values[1]
        return found == expected


def question_of(example: Example) -> tuple[Message, ...]:
    """Return the turns of an example before its reference answer."""
    closed = bool(example.messages) and example.messages[-1].role == "assistant"
    return example.messages[:-1] if closed else example.messages
