"""What can go wrong, as one tree: every error says what failed, and what to do about it."""

import difflib
from collections.abc import Iterable


class LearnableError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        message: What failed, with the value seen and where.
        hint: What the user can do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(LearnableError):
    """A name, option or value that the command does not know (exit code 2)."""


class DataError(LearnableError):
    """Rows that cannot be read, understood or written."""


class ModelError(LearnableError):
    """A model, tokenizer or chat template that cannot be loaded or used."""


class DiskError(LearnableError):
    """A file that cannot be written: the disk is full, or the folder is not ours."""


class StoreError(LearnableError):
    """Measurements or step records that cannot be read or written."""


class TrainError(LearnableError):
    """A training run that cannot start or go on."""


class SelectionError(LearnableError):
    """A budget, threshold or expression that the scores cannot satisfy."""


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known word that is closest to a mistyped one, None when none is close.

    Case and ``-`` for ``_`` are no mistakes: ``Top-K`` is ``top_k``.
    """
    plain = {_plain(word): word for word in sorted(known, reverse=True)}
    close = difflib.get_close_matches(_plain(name), plain, n=1)
    return plain[close[0]] if close else None


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known word, or all of them when none is close."""
    names = sorted(known)
    if close := closest(name, names):
        return f"did you mean {close!r}?"
    return f"known: {', '.join(names)}" if names else "none are known"
