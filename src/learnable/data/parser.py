"""From a record of any file to the conversation that it means, and the source that it counts to."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal

from learnable.data.formats import find_layout
from learnable.data.layout import ColumnLayout, Understanding
from learnable.data.records import Record
from learnable.data.values import Row, UnusableRowError, text_of
from learnable.types import Conversation

NO_SOURCE = "none"

MOST_LAYOUTS = 10_000
"""Layouts that are remembered: every row may have keys of its own."""

_Keys = tuple[str, ...]


@dataclass(kw_only=True)
class Parser:
    """Turns the records of one source into conversations; their layout is looked up once for each set of keys.

    Args:
        format: Name of the format of all rows; None finds it by the keys.
        columns: Columns that were named, by the part of a conversation that they are.
        source_column: Column that names the source of a row, if any.
        source: Source of rows otherwise.

    ``formats`` counts the rows of each format; ``keys`` are all keys seen, where columns were named.
    """

    format: str | None
    columns: Mapping[str, Sequence[str]]
    source_column: str | None
    source: str
    formats: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    understanding: Understanding = field(init=False)
    _layouts: dict[_Keys, ColumnLayout] = field(default_factory=dict)
    _lacking: dict[_Keys, ColumnLayout | UnusableRowError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.understanding = Understanding(self.source_column)

    def parse(self, record: Record) -> tuple[Conversation, str]:
        """Return the conversation and the source of a row.

        Raises:
            ValueError: If the row is no usable conversation, with the reason.
        """
        row = record.value
        if row is None:
            raise UnusableRowError(record.reason or "", hint=record.hint)
        layout = self._layout_of(row)
        conversation, source = layout.read(row, self.understanding.ignored), self._source_of(row)
        self.formats[layout.format] += 1
        self.understanding.add(layout, row)
        return conversation, source

    def _layout_of(self, row: Row) -> ColumnLayout:
        filled = tuple([key for key, value in row.items() if value is not None])
        if layout := self._layouts.get(filled):
            return layout
        # Of a row without values where the conversation should be, all keys count.
        every = ("filled", *filled, "every", *row)
        if every not in self._lacking:
            self._forget()
            if self.columns:
                self.keys.update(row)
            try:
                found = find_layout(row, format=self.format, columns=self.columns)
            except UnusableRowError as error:
                self._lacking[every] = error
            else:
                if found.needs <= set(filled):
                    self._layouts[filled] = found
                    return found
                self._lacking[every] = found
        lacking = self._lacking[every]
        if isinstance(lacking, UnusableRowError):
            raise type(lacking)(str(lacking), hint=lacking.hint)
        return lacking

    def _forget(self) -> None:
        for remembered in (self._layouts, self._lacking):
            if len(remembered) >= MOST_LAYOUTS:
                remembered.clear()
                self.understanding.forget()

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
