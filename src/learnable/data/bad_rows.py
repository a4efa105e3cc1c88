"""Rows that cannot be used: counted by kind, each kind with a place; said, or an error where there are too many."""

import re
from collections import Counter
from dataclasses import dataclass, field

from learnable.data.records import Record
from learnable.data.values import shown_keys
from learnable.errors import DataError
from learnable.runs.progress import say

FIRST_ROWS = 10_000
"""When none of so many first rows can be used, the rest is not read."""
KINDS_SAID = 5

_ALLOW = "--on-error skip leaves all such rows out, --on-error 5% up to that share"
_VALUE = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(kw_only=True)
class BadRows:
    """What is wrong with the rows of one input: a file, or the files of a folder or a pattern.

    ``most`` is the share of its rows that may be bad, from 0 to 1.
    """

    name: str
    most: float
    total: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)
    """Of the first row of each kind: where it is and what is wrong with it, a hint, and the keys seen."""

    def add(self, where: str, reason: str, record: Record, *, hint: str | None) -> None:
        """Count a row; a ``DataError`` where none may be bad, or no row was any good for long."""
        # What differs from row to row, such as a number of a turn or the value seen, makes no kind of its own.
        kind = _VALUE.sub("#", reason.partition(": ")[0])
        self._counts[kind] += 1
        if kind not in self._first:
            keys = shown_keys(record.value) if record.value is not None else ""
            seen = f"; keys seen: {keys}" if keys and keys not in reason else ""
            self._first[kind] = (f"{where}: {reason}", hint, seen)
        if self.most == 0:
            raise self._error(self._first[kind][0])
        if self._counts.total() == self.total == FIRST_ROWS and self.most < 1:
            raise self._error(
                f"{self.name}: none of the first {FIRST_ROWS:,} rows can be used: {self._said()}"
            )

    def none_of(self, name: str, rows: int) -> DataError:
        """Return the error for a file that has not a single usable row."""
        return self._error(f"{name}: none of its {rows:,} rows can be used: {self._said()}", allow=None)

    def settle(self) -> None:
        """Say how many rows are left out, once all are read; a ``DataError`` where they are more than may be."""
        if not (count := self._counts.total()):
            return
        share = f"{self.name}: {count:,} of {self.total:,} rows cannot be used"
        if count > self.most * self.total:
            raise self._error(f"{share}, more than {100 * self.most:g}%: {self._said()}")
        say(f"{share} and are left out: {self._said()}")

    def _said(self) -> str:
        said = [
            self._first[kind][0] + (f" ({count:,} rows of this kind)" if count > 1 else "")
            for kind, count in self._counts.most_common(KINDS_SAID)
        ]
        rest = sum(count for _, count in self._counts.most_common()[KINDS_SAID:])
        return "; ".join([*said, *([f"{rest:,} rows of other kinds"] if rest else [])])

    def _error(self, message: str, *, allow: str | None = _ALLOW) -> DataError:
        _, hint, seen = self._first[self._counts.most_common(1)[0][0]]
        hints = "; or ".join(filter(None, [hint, allow]))
        return DataError(message + seen, hint=hints or "look at that row, and repair the file")
