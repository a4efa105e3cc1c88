"""Rows that cannot be used: counted by kind, each kind with a place; said, or an error where there are too many."""

import re
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
class _Kind:
    """Rows with the same fault: the first of them, and how many."""

    where: str
    reason: str
    hint: str | None
    keys: str | None
    count: int = 0

    def __str__(self) -> str:
        more = f" ({self.count:,} rows of this kind)" if self.count > 1 else ""
        return f"{self.where}: {self.reason}{more}"


@dataclass(kw_only=True)
class BadRows:
    """What is wrong with the rows of one input: a file, or the files of a folder or a pattern.

    Args:
        name: What the input is called.
        most: Share of its rows that may be bad, from 0 to 1.
    """

    name: str
    most: float
    total: int = 0
    count: int = 0
    _kinds: dict[str, _Kind] = field(default_factory=dict)

    def add(self, where: str, reason: str, record: Record, *, hint: str | None) -> None:
        """Count a row.

        Raises:
            DataError: If none may be bad, or no row was any good for long.
        """
        self.count += 1
        # What differs from row to row, such as a number of a turn or the value seen, makes no kind of its own.
        key = _VALUE.sub("#", reason.partition(": ")[0])
        if key not in self._kinds:
            keys = shown_keys(record.value) if record.value is not None else None
            self._kinds[key] = _Kind(where=where, reason=reason, hint=hint, keys=keys)
        self._kinds[key].count += 1
        if self.most == 0:
            raise self._error(str(self._kinds[key]))
        if self.count == self.total == FIRST_ROWS and self.most < 1:
            raise self._error(
                f"{self.name}: none of the first {FIRST_ROWS:,} rows can be used: {self._said()}"
            )

    def none_of(self, name: str, rows: int) -> DataError:
        """Return the error for a file that has not a single usable row."""
        return self._error(f"{name}: none of its {rows:,} rows can be used: {self._said()}", allow=None)

    def settle(self) -> None:
        """Say how many rows are left out, once all are read.

        Raises:
            DataError: If they are more than may be.
        """
        if not self.count:
            return
        share = f"{self.name}: {self.count:,} of {self.total:,} rows cannot be used"
        if self.count > self.most * self.total:
            raise self._error(f"{share}, more than {100 * self.most:g}%: {self._said()}")
        say(f"{share} and are left out: {self._said()}")

    def _said(self) -> str:
        kinds = sorted(self._kinds.values(), key=lambda kind: -kind.count)
        rest = sum(kind.count for kind in kinds[KINDS_SAID:])
        return "; ".join(
            [*map(str, kinds[:KINDS_SAID]), *([f"{rest:,} rows of other kinds"] if rest else [])]
        )

    def _error(self, message: str, *, allow: str | None = _ALLOW) -> DataError:
        first = max(self._kinds.values(), key=lambda kind: kind.count)
        seen = f"; keys seen: {first.keys}" if first.keys and first.keys not in first.reason else ""
        hints = [hint for hint in (first.hint, allow) if hint]
        return DataError(message + seen, hint="; or ".join(hints) or "look at that row, and repair the file")
