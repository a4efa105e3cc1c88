"""JSON: a row on each line, or a document in any of the shapes that programs write; and what is wrong with neither."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from learnable.data.formats import FORMATS, detect
from learnable.data.records import Record, too_large
from learnable.data.text_files import BYTE_ORDER_MARK, inner_suffix, lines, not_utf8, open_lines, whole_text
from learnable.data.values import RepeatedKeyError, kind_of, shown_keys, unique
from learnable.errors import DataError

PEEK_BYTES = 1 << 20
"""A first line of at most this size tells how a file is laid out; a longer one does by its first character."""

Layout = Literal["jsonl", "json"]

_ONCE = "keep one of its values"
_PYTHON = re.compile(r"True|False|None")


class Document(NamedTuple):
    """The rows of a JSON document.

    ``keys`` are their names where it is an object of named rows; ``ambiguous`` where a key stands twice somewhere.
    """

    rows: list[Any]
    keys: list[str] | None = None
    ambiguous: bool = False


class _Ambiguous(dict[str, Any]):
    """An object of a document in which a key occurs twice."""

    why = ""


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique(pairs)
    except RepeatedKeyError as error:
        made = _Ambiguous(pairs)
        made.why = str(error)
        return made


# Made once: `json.loads` with a hook makes a decoder for each row.
_DECODER = json.JSONDecoder(object_pairs_hook=unique)
_MARKING = json.JSONDecoder(object_pairs_hook=_marked)

# ---------------------------------------------------------------- lines


def layout_of(path: str) -> Layout:
    """Return whether a file holds a row on each line, or one document; its name decides where its start does not.

    A complete value on the first line with more behind it makes lines. A value that goes on after the first line makes
    a document, and so does an array of rows alone on it, whatever the file is called.
    """
    named: Layout = "json" if inner_suffix(path) == ".json" else "jsonl"
    with open_lines(path) as read:
        filled = filter(bytes.strip, iter(partial(read, PEEK_BYTES), b""))
        first, second = next(filled, b""), next(filled, b"")
    if len(first) >= PEEK_BYTES and not first.endswith(b"\n"):
        start = first[:PEEK_BYTES].removeprefix(BYTE_ORDER_MARK).lstrip()
        return "json" if start.startswith(b"[") else named
    text = first.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace").strip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        if second.lstrip().startswith(text[:1].encode() or b" ") and _is_row(_value(second)):
            return named  # only the first line is broken
        return "json" if text.startswith("[") or text.endswith(("{", "[", ",", ":")) else named
    if second or text[end:].strip():
        return "jsonl" if text[end:].strip() in ("", ",") or named == "jsonl" else "json"
    return named if not isinstance(value, list) else "jsonl" if _is_turns(value) else "json"


def _value(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def json_lines(path: str, max_bytes: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """Yield the 1-based number and the bytes of every line that is not blank; None for one that is too long."""
    for number, line in enumerate(lines(path, max_bytes), 1):
        raw = line.removeprefix(BYTE_ORDER_MARK) if number == 1 and line is not None else line
        if raw is None or raw.strip():
            yield number, raw


def read_jsonl(path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a file that holds one on each line."""
    decode = _DECODER.decode
    for number, raw in json_lines(path, max_bytes):
        if raw is None:
            yield too_large(number, max_bytes)
            continue
        try:
            value = decode(raw.decode())
        except UnicodeDecodeError as error:
            yield Record(number, None, *not_utf8(raw, error, Path(path).name))
        except json.JSONDecodeError as error:
            what, hint = _problem(error)
            yield Record(number, None, f"not valid JSON: {what} at character {error.pos + 1}", hint)
        except RepeatedKeyError as error:
            yield Record(number, None, str(error), hint=_ONCE)
        except (ValueError, RecursionError) as error:
            yield Record(number, None, f"not valid JSON: {error}")
        else:
            yield _record(value, number)


def _record(value: object, line: int | None) -> Record:
    if isinstance(value, Mapping):
        return Record(line, value)
    if isinstance(value, list) and _is_turns(value):
        return Record(line, {"messages": value})
    return Record(line, None, f"a row must be an object with named fields, got {kind_of(value)}")


def _is_turns(value: list[Any]) -> bool:
    """Return whether a list is a conversation without a name: objects that have a role."""
    return bool(value) and all(
        isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value
    )


def _problem(error: json.JSONDecodeError) -> tuple[str, str | None]:
    """Return what is wrong where JSON ends, and what to do about it where that is known."""
    before, rest = error.doc[: error.pos].rstrip()[-1:], error.doc[error.pos :].lstrip()
    if rest[:1] in ("]", "}") and before == ",":
        return f"a comma stands before the closing {rest[0]}", "remove that comma"
    if re.match(r",\s*[\]}]", rest):
        return f"a comma stands before the closing {rest.lstrip(', ')[0]}", "remove that comma"
    if error.msg == "Extra data" and rest.strip() == ",":
        return "a comma stands behind the object", "remove the commas between the lines"
    if error.msg == "Extra data" and rest[:1] in "{[":
        return "a second value stands behind the first", "write each row on a line of its own"
    if rest[:1] == "'":
        return "text stands in single quotes, as Python prints it", "write rows with json.dumps"
    if literal := _PYTHON.match(rest):
        return f"{literal[0]} is Python, not JSON", "write rows with json.dumps"
    if not rest or error.msg.startswith("Unterminated string"):
        return "it ends too early", None
    return error.msg.removesuffix(" at"), None


# ---------------------------------------------------------------- documents


def json_document(path: str) -> Document:
    """Return the rows of a JSON document.

    It is an array of rows; one row; rows behind each other; rows by name (``{"a1": {...}, ...}``); columns, as pandas
    writes them (``orient`` columns, list or split); or an object with a single list of rows in it.

    Raises:
        DataError: If it is none of these, or no JSON.
    """
    text, ambiguous = whole_text(path), False
    try:
        try:
            values = _values(text, _DECODER)
        except RepeatedKeyError:
            values, ambiguous = _values(text, _MARKING), True
    except json.JSONDecodeError as error:
        what, hint = _problem(error)
        raise DataError(
            f"{path} is not valid JSON: {what} at line {error.lineno} column {error.colno}",
            hint=hint or "check that the file is complete",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON: {error}", hint="check that the file is complete"
        ) from error
    found = _document(values[0], path) if len(values) == 1 else Document(values)
    return found._replace(ambiguous=ambiguous)


def _values(text: str, decoder: json.JSONDecoder) -> list[Any]:
    """Return the values that stand behind each other in a text: one, as a rule."""
    first, end = decoder.raw_decode(text, len(text) - len(text.lstrip()))
    values = [first]
    while rest := text[end:].lstrip():
        # Another value has to begin here: whatever else does is no document.
        if rest[0] not in "{[":
            raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
        value, end = decoder.raw_decode(text, len(text) - len(rest))
        values.append(value)
    return values


def _document(content: Any, path: str) -> Document:
    if isinstance(content, list):
        return Document([content] if _is_turns(content) else content)
    if not isinstance(content, Mapping):
        raise _no_rows(path, kind_of(content))
    if isinstance(content, _Ambiguous):
        raise DataError(f"{path}: {content.why}", hint=_ONCE)
    if set(content) == {"columns", "index", "data"} and _is_table(content["columns"], content["data"]):
        return Document([dict(zip(content["columns"], row, strict=True)) for row in content["data"]])
    if any(known.matches(content) for known in FORMATS.values()):
        return Document(_rows_of_columns(content) if _is_by_column(content) else [content])
    return _container(content, path)


def _container(content: Mapping[str, Any], path: str) -> Document:
    """Return the rows that are in an object which is no row itself."""
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    of_rows = {key: value for key, value in lists.items() if value and all(map(_is_row, value))}
    if len(of_rows) > 1:
        raise _several(path, list(of_rows))
    if len(of_rows) == 1:
        return Document(next(iter(of_rows.values())))
    if _is_by_column(content):
        return Document(_rows_of_columns(content))
    if content and all(isinstance(value, Mapping) for value in content.values()):
        return Document(list(content.values()), keys=list(content))
    if len(lists) == 1:
        return Document(next(iter(lists.values())))
    raise _no_rows(path, f"an object with the keys {shown_keys(content)}")


def _is_row(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and _is_turns(value))


def _is_table(columns: object, rows: object) -> bool:
    """Return whether this is a table of pandas with ``orient="split"``."""
    return (
        isinstance(columns, list)
        and isinstance(rows, list)
        and all(isinstance(name, str) for name in columns)
        and all(isinstance(row, list) and len(row) == len(columns) for row in rows)
    )


def _is_by_column(content: Mapping[str, Any]) -> bool:
    """Return whether an object holds columns: lists of one length, or objects with the same numbers for keys."""
    columns = list(content.values())
    if len(columns) < 2 or not columns[0]:
        return False
    if all(isinstance(column, list) for column in columns):
        # A row may hold lists too.
        return len({len(column) for column in columns}) == 1 and not _is_conversation(content)
    return all(isinstance(column, Mapping) for column in columns) and all(
        list(column) == list(columns[0]) and all(key.isdigit() for key in column) for column in columns
    )


def _is_conversation(row: Mapping[str, Any]) -> bool:
    try:
        detect(row).read(row)
    except (DataError, ValueError):
        return False
    return True


def _rows_of_columns(content: Mapping[str, Any]) -> list[Any]:
    columns = [column.values() if isinstance(column, Mapping) else column for column in content.values()]
    return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]


def _no_rows(path: str, seen: str) -> DataError:
    return DataError(
        f"{path} holds {seen}, not rows", hint="write an array of objects, or one object per line in .jsonl"
    )


def _several(path: str, keys: list[str]) -> DataError:
    name, chosen = Path(path).name, next((key for key in keys if key == "train"), keys[0])
    return DataError(
        f"{path} holds several lists of rows: {shown_keys(keys)}",
        hint=f"write the one you mean to a file of its own: jq .{chosen} {name} > {chosen}.json",
    )


def read_json(path: str, _max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a JSON document."""
    rows, _, ambiguous = json_document(path)
    for value in rows:
        why = _ambiguity(value) if ambiguous else None
        yield _record(value, None) if why is None else Record(None, None, why, hint=_ONCE)


def _ambiguity(value: object) -> str | None:
    """Return why nobody knows what a value means, None where every key in it stands once."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, _Ambiguous):
            return item.why
        left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return None
