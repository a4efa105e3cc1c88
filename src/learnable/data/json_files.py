"""JSON: a row on each line, or a document in any of the shapes that programs write; and what is wrong with neither."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from learnable.data.formats import find_layout, format_of
from learnable.data.records import Record, too_large
from learnable.data.text_files import BYTE_ORDER_MARK, inner_suffix, lines, not_utf8, open_lines, whole_text
from learnable.data.values import DECODER, RepeatedKeyError, kind_of, shown_keys, unique
from learnable.errors import DataError

PEEK_BYTES = 1 << 20
"""A first line of at most this size tells how a file is laid out; a longer one does by its first character."""

_ONCE = "keep one of its values"
_PYTHON = re.compile(r"True|False|None")


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


_MARKING = json.JSONDecoder(object_pairs_hook=_marked)

# ---------------------------------------------------------------- lines


def layout_of(path: str) -> Literal["jsonl", "json"]:
    """Return whether a file holds a row on each line, or one document; its name decides where its start does not.

    A complete value on the first line with more behind it makes lines. A value that goes on after the first line makes
    a document, and so does an array of rows alone on it, whatever the file is called.
    """
    named: Literal["jsonl", "json"] = "json" if inner_suffix(path) == ".json" else "jsonl"
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
        if second.lstrip().startswith(text[:1].encode() or b" "):
            with suppress(ValueError, RecursionError):
                if _is_row(json.loads(second)):
                    return named  # only the first line is broken
        return "json" if text.startswith("[") or text.endswith(("{", "[", ",", ":")) else named
    if second or text[end:].strip():
        return "jsonl" if text[end:].strip() in ("", ",") or named == "jsonl" else "json"
    return named if not isinstance(value, list) else "jsonl" if _is_turns(value) else "json"


def json_lines(path: str, max_bytes: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """Yield the 1-based number and the bytes of every line that is not blank; None for one that is too long."""
    for number, line in enumerate(lines(path, max_bytes), 1):
        raw = line.removeprefix(BYTE_ORDER_MARK) if number == 1 and line is not None else line
        if raw is None or raw.strip():
            yield number, raw


def read_jsonl(path: str, max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a file that holds one on each line."""
    for number, raw in json_lines(path, max_bytes):
        if raw is None:
            yield too_large(number, max_bytes)
            continue
        try:
            value = DECODER.decode(raw.decode())
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
    return bool(value) and all(isinstance(turn, Mapping) and {"role", "from"} & {*turn} for turn in value)


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


def json_document(path: str) -> tuple[list[Any], list[str] | None]:
    """Return the rows of a JSON document, and their names where it is an object of named rows.

    It is an array of rows; one row; rows behind each other; rows by name (``{"a1": {...}, ...}``); columns, as pandas
    writes them (``orient`` columns, list or split); or an object with a single list of rows in it. All else is
    a ``DataError``.
    """
    text, values, end = whole_text(path), list[Any](), 0
    try:
        while (rest := text[end:].lstrip()) or not values:
            # Another value has to begin here: whatever else does is no document.
            if values and rest[0] not in "{[":
                raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
            value, end = _MARKING.raw_decode(text, len(text) - len(rest))
            values.append(value)
    except (ValueError, RecursionError) as error:
        what, hint = str(error), None
        if isinstance(error, json.JSONDecodeError):
            problem, hint = _problem(error)
            what = f"{problem} at line {error.lineno} column {error.colno}"
        hint = hint or "check that the file is complete"
        raise DataError(f"{path} is not valid JSON: {what}", hint=hint) from error
    return _document(values[0], path) if len(values) == 1 else (values, None)


def _document(content: Any, path: str) -> tuple[list[Any], list[str] | None]:
    if isinstance(content, list):
        return [content] if _is_turns(content) else content, None
    if not isinstance(content, Mapping):
        raise _no_rows(path, kind_of(content))
    if isinstance(content, _Ambiguous):
        raise DataError(f"{path}: {content.why}", hint=_ONCE)
    if set(content) == {"columns", "index", "data"} and _is_table(content["columns"], content["data"]):
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]], None
    if format_of(list(content)):
        return _rows_of_columns(content) if _is_by_column(content) else [content], None
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    of_rows = [key for key, value in lists.items() if value and all(map(_is_row, value))]
    if len(of_rows) > 1:
        name, chosen = Path(path).name, "train" if "train" in of_rows else of_rows[0]
        raise DataError(
            f"{path} holds several lists of rows: {shown_keys(of_rows)}",
            hint=f"write the one you mean to a file of its own: jq .{chosen} {name} > {chosen}.json",
        )
    return (lists[of_rows[0]], None) if of_rows else _container(content, lists, path)


def _container(
    content: Mapping[str, Any], lists: Mapping[str, list[Any]], path: str
) -> tuple[list[Any], list[str] | None]:
    """Return the rows that are in an object which is no row itself, and has no list of rows."""
    if _is_by_column(content):
        return _rows_of_columns(content), None
    if content and all(isinstance(value, Mapping) for value in content.values()):
        return list(content.values()), list(content)
    if len(lists) == 1:
        return next(iter(lists.values())), None
    raise _no_rows(path, f"an object with the keys {shown_keys(content)}")


def _is_row(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and _is_turns(value))


def _is_table(columns: object, rows: object) -> bool:
    """Return whether this is a table of pandas with ``orient="split"``."""
    if not (isinstance(columns, list) and isinstance(rows, list)):
        return False
    named = all(isinstance(name, str) for name in columns)
    return named and all(isinstance(row, list) and len(row) == len(columns) for row in rows)


def _is_by_column(content: Mapping[str, Any]) -> bool:
    """Return whether an object holds columns: lists of one length, or objects with the same numbers for keys."""
    columns = list(content.values())
    if len(columns) < 2 or not columns[0]:
        return False
    if all(isinstance(column, list) for column in columns):
        if len({len(column) for column in columns}) > 1:
            return False
        with suppress(ValueError):  # a row may hold lists too
            return not find_layout(content).read(content, set())
        return True
    return all(isinstance(column, Mapping) for column in columns) and all(
        list(column) == list(columns[0]) and all(key.isdigit() for key in column) for column in columns
    )


def _rows_of_columns(content: Mapping[str, Any]) -> list[Any]:
    columns = [column.values() if isinstance(column, Mapping) else column for column in content.values()]
    return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]


def _no_rows(path: str, seen: str) -> DataError:
    return DataError(
        f"{path} holds {seen}, not rows", hint="write an array of objects, or one object per line in .jsonl"
    )


def read_json(path: str, _max_bytes: int) -> Iterator[Record]:
    """Yield the rows of a JSON document; nobody knows what one means in which a key stands twice."""
    for value in json_document(path)[0]:
        left, why = [value], None
        while left and why is None:
            item = left.pop()
            why = item.why if isinstance(item, _Ambiguous) else None
            left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        yield _record(value, None) if why is None else Record(None, None, why, hint=_ONCE)
