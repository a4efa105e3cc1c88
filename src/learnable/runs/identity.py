"""Identity: a stable hash of content and configuration, the same on every machine and in every process."""

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import xxhash

from learnable.settings import told
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
    """Return 32 hexadecimal digits that depend only on the value; of a dataclass on its type's name and its fields.

    Raises:
        TypeError: If the value, or something in it, has no stable form (a path, an array, an object).
    """
    canonical = json.dumps(_canonical(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


def example_id(messages: Iterable[Message], *, tools: str = "") -> str:
    """Return the identity of a conversation: a hash of what its turns have, and of its tools."""
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


def source_of(method: Any) -> str:
    """Return a hash of what a method does, whatever its comments, docstrings and layout.

    That is the module of a function, or of its class and its bases, and the modules beside them that they import. Of one without
    a file, as in a notebook, its own source counts; where there is none either, its compiled code.
    """
    library = sys.stdlib_module_names
    made_of = [method] if isinstance(method, FunctionType) else type(method).__mro__
    kinds = [kind for kind in made_of if kind.__module__.partition(".")[0] not in library]
    waiting = {path for kind in kinds if (path := _file_of(kind)) is not None}
    read: dict[Path, str] = {}
    while waiting:
        path = waiting.pop()
        tree = ast.parse(path.read_bytes())
        read[path] = _undocumented(tree)
        waiting |= set(_beside(path, tree)) - set(read)
    texts = sorted((path.name, text) for path, text in read.items())
    return fingerprint([texts, [_text_of(kind) for kind in kinds if _file_of(kind) is None]])


def _file_of(kind: type | FunctionType) -> Path | None:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file) if file is not None and file.endswith(".py") and Path(file).is_file() else None


def _beside(path: Path, tree: ast.Module) -> Iterator[Path]:
    """Yield the modules in the folder of a module that it imports, wherever it does so."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        for name in names:
            beside = path.parent / f"{name.rpartition('.')[2]}.py"
            if beside.is_file():
                yield beside


def _undocumented(tree: ast.Module) -> str:
    """Return the code of a module in one layout, without docstrings."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.unparse(tree)


def _text_of(kind: type | FunctionType) -> Any:
    try:
        return _undocumented(ast.parse(inspect.cleandoc(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError):
        parts = [kind] if isinstance(kind, FunctionType) else vars(kind).values()
        return [_compiled(each.__code__) for each in parts if isinstance(each, FunctionType)]


def _compiled(code: CodeType) -> list[Any]:
    constants = [_compiled(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # float(): a NumPy float64 is a float too, but writes itself differently.
        return {"float": repr(float(value))}
    if is_dataclass(value) and not isinstance(value, type):
        values = {name: _canonical(inside) for name, inside in told(value).items()}
        return {"type": type(value).__name__, "fields": values}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"only text keys have a stable form, got {list(value)!r}")
        return {"map": {key: _canonical(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    raise TypeError(f"a {type(value).__name__} has no stable form: {value!r}")
