"""CSV and TSV: records with the lines they begin on, whatever character separates their fields."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from learnable.data.records import Record, too_large
from learnable.data.text_files import BYTE_ORDER_MARK, inner_suffix, lines, not_utf8
from learnable.data.values import refuse_repeated
from learnable.errors import DataError

_LARGEST_FIELD = 1 << 30
_LONGEST_HEADER = 1 << 20
_DELIMITERS = ",;\t|"


class CsvRecord(NamedTuple):
    """One record of a CSV file: the line it starts on, its bytes, and its fields or the reason why it has none.

    ``fields`` is None too for a record that is larger than allowed; ``raw`` is not whole then, and ``reason`` None.
    """

    line: int
    raw: bytes
    fields: list[str] | None
    reason: str | None


def style_of(path: str) -> tuple[str, bool]:
    """Return what separates the fields of a file, as its name says unless its header has several fields only otherwise.

    Where a space stands before every name but the first, it stands behind every delimiter and belongs to none: whether it does.
    """
    first = next((line or b"" for line in lines(path, _LONGEST_HEADER) if line is None or line.strip()), b"")
    header = first.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace")
    named = "\t" if inner_suffix(path) == ".tsv" else ","
    names = {delimiter: _fields(header, delimiter) for delimiter in (named, *_DELIMITERS)}
    chosen = named if len(names[named]) > 1 else max(names, key=lambda delimiter: len(names[delimiter]))
    spaced = len(names[chosen]) > 1 and all(name.startswith(" ") for name in names[chosen][1:])
    return chosen, spaced


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:  # a name that goes on in the next line, or quotes that this delimiter does not explain
        return []


def csv_records(path: str, max_bytes: int | None = None) -> Iterator[CsvRecord]:
    """Yield the records of a CSV or TSV file, the header first; blank lines are left out."""
    # The module's limit of 128 KiB for a field is global and too small for documents.
    csv.field_size_limit(min(max_bytes or _LARGEST_FIELD, _LARGEST_FIELD))
    source, pending = lines(path, max_bytes), list[bytes | None]()

    def fed() -> Iterator[str]:
        for number, line in enumerate(source):
            pending.append(line)
            raw = b"\n" if line is None else line if number else line.removeprefix(BYTE_ORDER_MARK)
            # Bytes that are no UTF-8 pass the parser as they are; the record that holds them is refused later.
            yield raw.decode("utf-8", "surrogateescape")

    delimiter, spaced = style_of(path)
    reader = csv.reader(fed(), delimiter=delimiter, skipinitialspace=spaced, strict=True)
    passed = 0
    while True:
        start = reader.line_num + passed + 1
        pending.clear()
        fields, reason = None, None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):
                passed += _to_its_end(source, pending)
                pending.append(None)
            else:
                reason = f"not valid CSV: {error}"
        if None in pending:
            yield CsvRecord(start, b"", None, None)
        elif fields is None or fields[1:] or any(field.strip() for field in fields):
            yield CsvRecord(start, b"".join(line for line in pending if line), fields, reason)


def _to_its_end(source: Iterator[bytes | None], begun: list[bytes | None]) -> int:
    """Pass over the rest of a record with a field that is too long, and return the number of its lines."""
    quotes = sum(line.count(b'"') for line in begun if line)
    number = 0
    while quotes % 2 and (line := next(source, b"")) != b"":
        quotes += line.count(b'"') if line else 0
        number += 1
    return number


def _undecodable(record: CsvRecord, path: str) -> tuple[str, str] | None:
    """Return why the bytes of a record are no UTF-8, and what to do; None where they are."""
    try:
        record.raw.decode()
    except UnicodeDecodeError as error:
        return not_utf8(record.raw, error, Path(path).name)
    return None


def _header(path: str, record: CsvRecord) -> list[str]:
    """Return the column names, without the spaces around them; a ``DataError`` where the record cannot be a header."""
    if record.fields is None:
        raise DataError(
            f"{path}: the header is {record.reason or 'too long'}", hint="the first line names the columns"
        )
    if wrong := _undecodable(record, path):
        raise DataError(f"{path}: the header is {wrong[0]}", hint=wrong[1])
    names = [name.strip() for name in record.fields]
    refuse_repeated(names, f"{path}: columns")
    return names


def read_csv(path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a CSV or TSV file."""
    header: list[str] | None = None
    for record in csv_records(path, max_bytes):
        line, _, fields, reason = record
        if header is None:
            header = _header(path, record)
        elif fields is None:
            yield Record(line, None, reason) if reason else too_large(line, max_bytes)
        elif len(fields) != len(header):
            reason = f"{len(fields)} fields, but the header has {len(header)}"
            yield Record(line, None, reason, hint="put a field with delimiters in it in quotes")
        elif wrong := _undecodable(record, path):
            yield Record(line, None, *wrong)
        else:
            yield Record(line, dict(zip(header, fields, strict=True)))
