"""Exact match of the final answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from learnable.errors import UsageError, did_you_mean
from learnable.evaluators import reading
from learnable.evaluators.extraction import amount, last_number, letter, normalised
from learnable.evaluators.kinds import ungraded
from learnable.types import Example, Grade

_EXTRACTORS: dict[str, Callable[[str], str]] = {"number": last_number, "letter": letter, "text": normalised}


@dataclass(frozen=True, kw_only=True)
class ExactMatch(reading.RowSettings):
    """Whether the final answer of a completion is the reference's.

    Args:
        extract: ``number``: what follows ``####``, else the last number; compared by value, so that ``$1,000.00``
            is ``1000``. ``letter``: the letter chosen. ``text``: all of it, without case and outer punctuation.
            Anything else is a regular expression with a group, whose last match counts.
        suffix: Added to the question after an empty line, for example how to write the answer.
        max_new_tokens: Most tokens of a completion.

    Source: the extraction of numbers is that of GSM8K (Cobbe et al. 2021, arXiv:2110.14168), with the last number
    where the mark ``####`` is not written.
    """

    name: ClassVar[str] = "exact_match"
    extract: str = "number"
    suffix: str | None = None
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.extract in _EXTRACTORS:
            return
        hint, known = did_you_mean(self.extract, _EXTRACTORS), ", ".join(_EXTRACTORS)
        try:
            groups = re.compile(self.extract).groups
        except re.error as error:
            raise UsageError(
                f"extract={self.extract!r} is no regular expression: {error}", hint=hint
            ) from error
        if not groups:
            raise UsageError(
                f"extract={self.extract!r} is neither {known} nor a regular expression with a group",
                hint=hint,
            )

    def item(self, row: reading.Row) -> reading.Item:
        """Return a row with a question and a reference (``final``, ``answer`` ...), or with ``messages``."""
        question = reading.asked(row, self.prompt_column, suffix=self.suffix)
        return reading.with_reference(
            question, reading.answered(row, self.answer, ("final", *reading.REFERENCES))
        )

    def grade(self, example: Example, completion: str) -> Grade:
        """Return 1 or 0; NaN when the reference holds no answer."""
        wanted = self.extract if self.extract in _EXTRACTORS else "answer"
        reference = str(example.meta.get("reference", ""))
        expected = self._extracted(reference)
        if not expected and wanted == "answer":
            expected = normalised(reference)
        if not expected:
            return ungraded(f"no {wanted} found in the reference {reference[:60]!r}")
        found = self._extracted(completion)
        if not found:
            return Grade(value=0.0, why=f"no {wanted} found")
        by_value = wanted in ("number", "answer") and amount(found) is not None
        if found == expected or (by_value and amount(found) == amount(expected)):
            return Grade(value=1.0, answer=found)
        return Grade(value=0.0, answer=found, why=f"expected {expected}")

    def _extracted(self, text: str) -> str:
        if self.extract in _EXTRACTORS:
            return _EXTRACTORS[self.extract](text)
        matches = [match for match in re.finditer(self.extract, text) if match.lastindex]
        return normalised(matches[-1].group(matches[-1].lastindex or 0)) if matches else ""
