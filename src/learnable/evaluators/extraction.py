"""Final answers out of what a model wrote: numbers, letters, normalised text."""

import re
import unicodedata
from fractions import Fraction

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)"
# Mixed (1 1/2), plain fraction (3/4), or decimal; a sign counts only where it cannot be a subtraction.
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>-)?\s?\$?\s?(?:(?P<mixed>\d+) (?P<over>\d+)/(?P<under>\d+)(?![\d/])"
    rf"|(?P<top>{_DECIMAL})(?:/(?P<bottom>{_DECIMAL})(?![\d/]))?)",
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
    for mark in reversed(list(_MARKED.finditer(plain))):
        marked = _NUMBER.match(plain, mark.end())
        if marked is not None and amount(marked.group(0)) is not None:
            return marked.group(0).strip()
    found = [match.group(0).strip() for match in _NUMBER.finditer(plain)]
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
