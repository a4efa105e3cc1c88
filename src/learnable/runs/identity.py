"""Identity: a stable hash of content and configuration, the same on every machine and in every process."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import xxhash

from learnable.types import Message

DIGEST_BYTES = 16

_BEYOND = {each.name: each.default for each in fields(Message) if each.name not in ("role", "content")}
BEYOND = tuple(_BEYOND)
"""What a turn may have beside role and content."""
NOTHING_BEYOND = tuple(_BEYOND.values())
"""The same of a turn that has none of it."""
beyond_of = attrgetter(*BEYOND)
"""Returns what a turn has beside role and content, in the order of ``BEYOND``."""


def fingerprint(value: Any) -> str:
    """Return 32 hexadecimal digits that depend only on the value.

    Frozen dataclasses contribute their type's name and their fields; mappings are sorted by key.

    Raises:
        TypeError: If the value, or something in it, has no stable form (a path, an array, an object).
    """
    canonical = json.dumps(_canonical(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


def example_id(messages: Iterable[Message], *, tools: str = "") -> str:
    """Return the identity of a conversation: a hash of its turns and tools, and of nothing else.

    What a turn does not have is not hashed: an id of roles and contents alone stays what it was.
    """
    turns = [turn_content(message) for message in messages]
    return fingerprint([turns, {"tools": tools}] if tools else turns)


def turn_content(message: Message) -> list[Any]:
    """Return what the identity of a turn is made of: role and content, and what it has beyond them."""
    said = [message.role, message.content]
    beyond = beyond_of(message)
    if beyond == NOTHING_BEYOND:
        return said
    named = zip(BEYOND, beyond, NOTHING_BEYOND, strict=True)
    return [*said, {name: value for name, value, empty in named if value != empty}]


def file_digest(path: Path) -> str:
    """Return a hash of the bytes of a file (xxh3, 128 bits: for identity, not for security)."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # float(): a NumPy float64 is a float too, but writes itself differently.
        return {"float": repr(float(value))}
    if is_dataclass(value) and not isinstance(value, type):
        values = {field.name: _canonical(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, "fields": values}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"only text keys have a stable form, got {list(value)!r}")
        return {"map": {key: _canonical(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    raise TypeError(f"a {type(value).__name__} has no stable form: {value!r}")
