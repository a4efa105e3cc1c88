"""Values of rows: what each is in words, whether it is empty, and its text."""

import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from learnable.errors import DataError

Row = Mapping[str, Any]

_BRIEF = reprlib.Repr()  # of bounded depth: a row may be nested deeper than repr can go
_BRIEF.maxstring = _BRIEF.maxother = 80

# What nobody sees: white space, control characters, marks of width zero, fillers that are drawn as nothing.
_INVISIBLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0]*"
)


class UnusableRowError(ValueError):
    """A row that is no usable conversation: the reason, and what may help."""

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


class UnknownKeysError(UnusableRowError):
    """A row whose keys are those of no format."""


class RepeatedKeyError(ValueError):
    """An object of JSON in which a key occurs twice: nobody knows which value is meant."""


def shown_keys(keys: Iterable[object]) -> str:
    """Return the keys for an error message, safe to print and of bounded length."""
    texts = [key if isinstance(key, str) and key.isprintable() else repr(key) for key in keys]
    listed = ", ".join(text if len(text) <= 60 else f"{text[:60]}..." for text in texts[:30])
    return (listed + ", ..." if len(texts) > 30 else listed) or "none"


def refuse_repeated(names: Iterable[str], what: str) -> None:
    """Raise a ``DataError`` where one of these names stands twice."""
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{what} occur twice: {shown_keys(twice)}", hint="give every column its own name")


def shortened(value: object) -> str:
    """Return a value for an error message, safe to print and of bounded length."""
    text = _BRIEF.repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "a boolean"),
    (str, "text"),
    (int | float, "a number"),
    (Mapping, "an object"),
    (bytes | bytearray | memoryview, "binary"),
    (list | tuple, "a list"),
)


def kind_of(value: object) -> str:
    """Return what a value is, in the words of JSON."""
    if value is None or value != value:  # pandas writes NaN for a value that is missing
        return "missing"
    known = (kind for types, kind in _KINDS if isinstance(value, types))
    return next(known, f"a {type(value).__name__}")


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: it is empty, white space, or of width zero."""
    return _INVISIBLE.fullmatch(text) is not None


def is_empty(value: object) -> bool:
    """Return whether a value says nothing: missing, NaN, a blank text, a list or object without anything in it."""
    if isinstance(value, str):
        return is_blank(value)
    if isinstance(value, Mapping | list | tuple):
        return not value
    return value is None or bool(value != value)


def is_said(value: object) -> bool:
    """Return whether a value may be part of what is said: neither empty, nor a number or a flag."""
    return not (is_empty(value) or isinstance(value, bool | int | float))


def text_of(value: object, name: str) -> str:
    """Return the value if it is text that can be stored; a ``ValueError`` where it is not, or not valid Unicode."""
    if not isinstance(value, str):
        raise wrong_kind(value, name, "text")
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: lone surrogate {value[error.start]!r}") from error
    return value


def object_of(value: object, name: str, wanted: str = "an object") -> Row:
    """Return the object that a value or its JSON text is."""
    found = from_json(value, name) if isinstance(value, str) else value
    if not isinstance(found, Mapping):
        raise wrong_kind(found, name, wanted)
    return found


def wrong_kind(value: object, name: str, wanted: str) -> UnusableRowError:
    """Return the error for a value that is not of the kind that is wanted."""
    kind = kind_of(value)
    if kind == "missing":
        return UnusableRowError(f"{name} is missing")
    if kind == "binary":
        return UnusableRowError(f"{name} is binary, not {wanted}: cast the column to text")
    return UnusableRowError(f"{name} is {kind}, not {wanted}: {shortened(value)}")


def from_json(text: str, name: str) -> Any:
    """Return what a JSON text in a row holds."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        if re.match(r"\s*[\[{]+\s*'", text):
            raise UnusableRowError(
                f"{name} is as Python prints it, not JSON: write it with json.dumps"
            ) from error
        raise UnusableRowError(f"{name} is not valid JSON: {error}") from error


def to_json(value: object, name: str) -> str:
    """Return a value as JSON text, the same text for the same value."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be written as JSON: {error}") from error
    return text_of(text, name)


def without_nulls(value: Any) -> Any:
    """Return a value without the fields that are null: a column of objects has the fields of all rows in every row."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs, for a decoder of JSON; a ``RepeatedKeyError`` where a key occurs twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise RepeatedKeyError(f"the key {shown_keys([twice])} occurs twice in an object")
    return made


def texts_in(value: object) -> Iterator[str]:
    """Yield the texts in a value that a reader would see: of a turn its content, of an object its values."""
    if isinstance(value, str):
        if not is_blank(value):
            yield value.strip()
    elif isinstance(value, Mapping):
        said = [value[key] for key in ("content", "value") if value.get(key) is not None]
        for item in said or value.values():
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


# Made once: `json.loads` with a hook makes a decoder for each text.
DECODER = json.JSONDecoder(object_pairs_hook=unique)
