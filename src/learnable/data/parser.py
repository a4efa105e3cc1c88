"""From a record of any file to the conversation that it means, and the source that it counts to."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from typing import Any

from learnable.data.formats import find_layout, format_of
from learnable.data.layout import ColumnLayout, marks
from learnable.data.names import PARTS
from learnable.data.records import Record
from learnable.data.values import Row, UnusableRowError, is_empty, shown_keys, text_of
from learnable.types import Conversation

NO_SOURCE = "none"

MOST_LAYOUTS, MOST_IGNORED = 10_000, 1_000
"""Layouts, and ignored columns, that are remembered: every row may have keys of its own."""
MOST_SHOWN = 12
"""Ignored columns that are named."""
CONVERSATION = frozenset({"messages", "prompt", "response", "rejected"})
"""Parts that tell of which rows somebody spoke who named columns."""


@dataclass(kw_only=True)
class Parser:
    """Turns the records of one source into conversations; their layout is looked up once for each set of keys.

    ``format``, ``columns`` and ``source_column`` are those that were named; ``source`` is that of rows otherwise. Of
    ``several`` files, one that has none of the named columns in its first row is read by the usual names.
    ``formats`` counts the rows of each format; ``keys`` are all keys seen, where columns were named; ``ignored`` is
    what nothing reads of columns and of turns.
    """

    format: str | None
    columns: Mapping[str, Sequence[str]]
    source_column: str | None
    source: str
    several: bool = False
    formats: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    _elsewhere: dict[str, str] | None = None
    _layouts: dict[tuple[Any, ...], ColumnLayout | UnusableRowError] = field(default_factory=dict)
    _uses: dict[str, dict[str, str]] = field(default_factory=dict)
    _unseen: dict[ColumnLayout, list[str]] = field(default_factory=dict)

    def parse(self, record: Record) -> tuple[Conversation, str]:
        """Return the conversation, or pair, and the source of a row; a ``ValueError`` says why it is no usable one."""
        row = record.value
        if row is None:
            raise UnusableRowError(record.reason or "", hint=record.hint)
        layout = self._layout_of(row)
        conversation, source = layout.read(row, self.ignored), self._source_of(row)
        self.formats[layout.format] += 1
        self._note(layout, row)
        return conversation, source

    def _layout_of(self, row: Row) -> ColumnLayout:
        filled = tuple([key for key, value in row.items() if value is not None])
        # Of a row without values where the conversation should be, all keys count.
        every = (filled, *row)
        found = self._layouts.get(filled) or self._layouts.get(every)
        if found is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
                self._unseen.clear()
            if self.columns:
                self.keys.update(row)
            try:
                found = find_layout(row, format=self.format, columns=self._columns_of(row))
            except UnusableRowError as error:
                found = error
            is_whole = isinstance(found, ColumnLayout) and found.needs <= set(filled)
            self._layouts[filled if is_whole else every] = found
        if isinstance(found, UnusableRowError):
            raise type(found)(str(found), hint=found.hint)
        return found

    def _columns_of(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the named columns that hold for this file: all, or those beside a conversation that other files have."""
        asked = {name: part for part in CONVERSATION for name in self.columns.get(part, ())}
        if self._elsewhere is None:
            is_other = self.several and asked.keys().isdisjoint(row) and format_of(list(row)) is not None
            self._elsewhere = asked if is_other else {}
        if not self._elsewhere:
            return self.columns
        if met := [name for name in row if name in self._elsewhere]:
            raise UnusableRowError(
                f"a column {met[0]!r}, named as {self._elsewhere[met[0]]}, which the first row of this file has not",
                hint="give rows with it in a file of their own",
            )
        return {part: names for part, names in self.columns.items() if part not in CONVERSATION}

    def _source_of(self, row: Row) -> str:
        name = self.source_column
        if name is None:
            return self.source
        if name not in row:
            raise ValueError(f"no column {name!r} to take the source from")
        value = row[name]
        if value is None or value == "":
            return NO_SOURCE
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        if isinstance(value, date | time | Decimal):
            return str(value)
        return text_of(value, f"the source column {name!r}")

    def _note(self, layout: ColumnLayout, row: Row) -> None:
        """Take in what the columns of a row were taken for, and those with a value that nothing reads."""
        unseen = self._unseen.get(layout)
        if unseen is None:
            self._uses.setdefault(layout.format, {}).update(layout.uses)
            unseen = self._unseen[layout] = [*layout.label, *layout.others]
        for column in [column for column in unseen if not is_empty(row.get(column))]:
            unseen.remove(column)
            if column == self.source_column:
                self._uses[layout.format][column] = "source"
            elif column in layout.label and marks(row[column], column) is not None:
                self._uses[layout.format][column] = PARTS["label"]
            elif len(self.ignored) < MOST_IGNORED:
                self.ignored.add(column)

    def understood(self) -> str:
        """Return for people: ``alpaca: instruction → user, output → answer; ignored: tool, about``."""
        formats = [
            f"{name}: {', '.join(f'{shown_keys([column])} → {word}' for column, word in uses.items())}"
            for name, uses in self._uses.items()
        ]
        ignored = sorted(self.ignored)
        more = f" and {len(ignored) - MOST_SHOWN} more" if len(ignored) > MOST_SHOWN else ""
        named = f"ignored: {shown_keys(ignored[:MOST_SHOWN])}{more}"
        return "; ".join([*formats, named] if ignored else formats)
