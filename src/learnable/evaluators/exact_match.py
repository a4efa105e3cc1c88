"""Exact match of the final answer: a number, a letter, a text, or what a regular expression finds."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from learnable.errors import UsageError, did_you_mean
from learnable.evaluators import reading
from learnable.evaluators.kinds import ungraded
from learnable.types import Example, Grade

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)"
# Mixed (1 1/2), plain fraction (3/4), or decimal; a sign counts only where it cannot be a subtraction.
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>-)?\s?\$?\s?(?:(?P<mixed>\d+) (?P<over>\d+)/(?P<under>\d+)(?![\d/])"
    rf"|(?P<top>{_DECIMAL})(?:/(?P<bottom>{_DECIMAL})(?![\d/]))?)"
)
_MARKED = re.compile(r"####\s*(?=[-$\d.])")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})

_LETTER_PATTERNS = (
    re.compile(r"(?i:answer|choice|option)(?:\s+(?i:is|was))?\s*:?\s*\**\(?([A-Z])\)?(?![\w'])"),
    re.compile(r"^\s*\**\(?([A-Z])(?:[).:\]*]|\s*$|\s*\n)"),
    re.compile(r"\(([A-Z])\)"),
    re.compile(r"(?<![\w'])([B-HJ-Z])(?![\w'])"),
)


def last_number(text: str) -> str:
    """Return the final number of a text as it is written, empty if there is none.

    What follows a last ``####`` counts (the mark of GSM8K), else the last number of all.
    """
    plain = text.translate(_MINUS)
    marked = [_NUMBER.match(plain, mark.end()) for mark in _MARKED.finditer(plain)]
    found = [match.group(0).strip() for match in (*_NUMBER.finditer(plain), *marked) if match is not None]
    return next((number for number in reversed(found) if amount(number) is not None), "")


def amount(text: str) -> Fraction | None:
    """Return the value of a number such as ``1,234.50``, ``$18``, ``-3/4`` or ``1 1/2``; None if it is none."""
    match = _NUMBER.fullmatch(text.translate(_MINUS).strip().removesuffix("%").rstrip(" ."))
    if match is None:
        return None
    parts = {name: value.replace(",", "") for name, value in match.groupdict().items() if value}
    try:
        if "mixed" in parts:
            value = int(parts["mixed"]) + Fraction(int(parts["over"]), int(parts["under"]))
        else:
            value = Fraction(parts["top"]) / Fraction(parts.get("bottom", "1"))
    except (ZeroDivisionError, ValueError):  # ValueError: more digits than Python converts
        return None
    return -value if "sign" in parts else value


def letter(text: str) -> str:
    """Return the letter that a text chooses: ``the answer is (B)``, ``B. ...``, ``(B)``, the last by itself; or nothing."""
    for pattern in _LETTER_PATTERNS:
        found = pattern.findall(text)
        if found:
            return str(found[-1])
    alone = text.strip().strip("().*[]: ")
    return alone.upper() if len(alone) == 1 and alone.isascii() and alone.isalpha() else ""


def normalised(text: str) -> str:
    """Return a text without case, repeated white space, or quotes and punctuation around it."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .,;:!?\"'`*\u201c\u201d\u2018\u2019")


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
