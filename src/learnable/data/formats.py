"""The shapes that fine-tuning rows come in: which columns each has, and how one is written.

Nothing is guessed: what cannot be read as a conversation that ends in an answer is refused with the reason.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learnable.data.layout import ColumnLayout, preference_error
from learnable.data.names import (
    COMPLETIONS,
    CONTEXTS,
    HISTORIES,
    LABELS,
    OTHER_COMPLETIONS,
    OTHER_PROMPTS,
    OTHER_TURNS,
    PROMPTS,
    REASONINGS,
    SYSTEMS,
    TOOLS,
    TURNS,
    doubt,
    plain,
)
from learnable.data.turns import as_turns
from learnable.data.values import Row, UnknownKeysError, UnusableRowError, is_blank, shown_keys
from learnable.errors import DataError, did_you_mean
from learnable.types import Conversation, Example, Message

Columns = Mapping[str, tuple[str, ...]]
"""Parts of a conversation, and the columns that hold them."""

_BESIDE = {"system": SYSTEMS, "history": HISTORIES, "tools": TOOLS, "label": LABELS}
"""Parts that stand beside any conversation."""
_KNOWN = {
    "prompt": (*PROMPTS, "inputs"),
    "response": COMPLETIONS,
    "context": CONTEXTS,
    "reasoning": REASONINGS,
    "messages": (*TURNS, *OTHER_TURNS),
    **_BESIDE,
}
"""Columns that some format reads: where another one reads something else instead, they are in doubt."""


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """How one kind of row is read and written.

    ``matches`` tells from its keys whether a row is of this format; ``columns`` gives the columns of each part of a
    conversation among the keys of a row, and nothing where one is missing; ``read`` gives the conversation that a row
    means and raises ``ValueError`` with the reason when it cannot; ``write`` is its inverse.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    columns: Callable[[Sequence[str]], Mapping[str, tuple[str, ...]]]
    read: Callable[[Mapping[str, Any]], Conversation]
    write: Callable[[Conversation], dict[str, Any]]


def detect(row: Row) -> RowFormat:
    """Return the format whose keys the row has; a key without a value counts only when nothing else fits.

    Raises:
        DataError: If no format fits; the message lists the keys seen.
    """
    try:
        return FORMATS[find_layout(row).format]
    except UnusableRowError as error:
        raise DataError(str(error), hint=error.hint) from error


def find_layout(
    row: Row, *, format: str | None = None, columns: Mapping[str, Sequence[str]] | None = None
) -> ColumnLayout:
    """Return how the columns of a row make a conversation; it is the same for all rows with values in the same columns.

    Args:
        row: A row; a key without a value counts only when nothing else fits.
        format: Name of the format; found from the keys when not given.
        columns: Columns that were named, by the part that they are.

    Raises:
        UnusableRowError: If no format fits, or a column that was named is not there.
    """
    given = {part: tuple(names) for part, names in (columns or {}).items()}
    ignored = given.pop("ignore", ())
    for part in ("messages", "prompt", "response"):
        for name in given.get(part, ()):
            if name not in row:
                raise UnusableRowError(
                    f"no column {name!r} to take the {part} from", hint=did_you_mean(name, row)
                )
    named = {*ignored, *(name for names in given.values() for name in names)}
    filled = [key for key, value in row.items() if value is not None]
    for keys in (filled, list(row)):
        found, parts = _parts([key for key in keys if key not in named], format, given)
        if found is not None:
            return _layout(
                found, {**parts, **given}, filled, ignored=ignored, settled={*given, *_settled(format)}
            )
    raise _unknown(row, format)


def _parts(keys: Sequence[str], format: str | None, given: Columns) -> tuple[str | None, Columns]:
    """Return the format that keys are of, and the columns of its parts; None where they are of none."""
    if format is not None:
        parts = FORMATS[format].columns(keys)
        return (format if parts else None), parts
    if "messages" in given:
        return "messages", {}
    if "prompt" in given or "response" in given:
        return _rest(keys, given)
    row = dict.fromkeys(keys)
    known = next((known for known in FORMATS.values() if known.matches(row)), None)
    return (known.name, known.columns(keys)) if known else (None, {})


def _rest(keys: Sequence[str], given: Columns) -> tuple[str | None, Columns]:
    """Return what belongs to a prompt or an answer that was named: the other one, and what stands beside them."""
    prompt = None if "prompt" in given else _first(keys, PROMPTS)
    turns = _first(keys, _KNOWN["messages"])
    if "prompt" not in given and prompt is None and turns is not None:
        return "messages", {"messages": (turns,)}
    if "prompt" not in given and prompt is None:
        prompt = _first(keys, OTHER_PROMPTS)
    answer = None if "response" in given else _first(keys, COMPLETIONS) or _first(keys, OTHER_COMPLETIONS)
    if "response" not in given and answer is None:
        return None, {}
    parts = {"prompt": (prompt,) if prompt else (), "response": (answer,) if answer else ()}
    beside = {"context": _all(keys, CONTEXTS, besides=prompt), "reasoning": _all(keys, REASONINGS)}
    return "prompt_completion", {part: names for part, names in {**parts, **beside}.items() if names}


def _settled(format: str | None) -> Sequence[str]:
    """Return the parts that a format which was named leaves no doubt about."""
    return () if format is None else ("messages", "prompt", "response")


def _layout(
    format: str, parts: Columns, filled: Sequence[str], *, ignored: Sequence[str], settled: set[str]
) -> ColumnLayout:
    """Return the layout of a format, with what stands beside the conversation and what is in doubt."""
    if "messages" in parts:
        unusable = {"prompt", "context", "history"} | (set() if "response" in parts else {"reasoning"})
        if wrong := [f"{part}={names[0]}" for part, names in parts.items() if part in unusable]:
            raise UnusableRowError(
                f"{wrong[0]} has no place beside turns ({parts['messages'][0]!r})",
                hint="name prompt and response as well, or leave it out: --columns ignore=...",
            )
    used = {*ignored, *(name for names in parts.values() for name in names)}
    free = [key for key in filled if key not in used]
    beside = {part: _all(free, names) for part, names in _BESIDE.items() if part not in parts}
    if "messages" in parts:
        beside.pop("history", None)
    used.update(name for names in beside.values() for name in names)
    others = [key for key in filled if key not in used]
    plain_names = [plain(key) for key in filled]
    doubts = {key: _doubt(plain(key), plain_names, settled, whole="messages" in parts) for key in others}
    return ColumnLayout(
        format=format,
        doubts={key: part for key, part in doubts.items() if part is not None},
        others=(*others, *(key for key in ignored if key in filled)),
        **parts,
        **beside,
    )


def _doubt(name: str, names: Sequence[str], settled: set[str], *, whole: bool) -> str | None:
    """Return the part that a column may be which nothing reads."""
    for part, known in _KNOWN.items():
        if name in known:
            # Beside a whole conversation, which has its prompts and answers, others are what it was made of.
            return None if part in settled or (whole and part in ("prompt", "response")) else part
    return doubt(name, names)


def _first(keys: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the key that has the first of these names."""
    by_name: dict[str, str] = {}
    for key in keys:
        by_name.setdefault(plain(key), key)
    return next((by_name[name] for name in names if name in by_name), None)


def _all(keys: Iterable[str], names: Sequence[str], *, besides: str | None = None) -> tuple[str, ...]:
    """Return the keys that have one of these names, in the order of the names."""
    found = [key for key in keys if plain(key) in names and key != besides]
    return tuple(sorted(found, key=lambda key: names.index(plain(key))))


def _has_turns(row: Mapping[str, Any]) -> bool:
    others = bool(_first(row, OTHER_TURNS)) and not _first(row, ("conversations",))
    return bool(_first(row, ("messages",))) or (others and not _pair(list(row)))


def _turns(*names: str) -> Callable[[Sequence[str]], Columns]:
    return lambda keys: {"messages": (_first(keys, names) or names[0],)}


def _pair(keys: Sequence[str]) -> Columns:
    prompt = _first(keys, PROMPTS) or _first(keys, OTHER_PROMPTS)
    answer = _first(keys, COMPLETIONS) or _first(keys, OTHER_COMPLETIONS)
    if prompt is None or answer is None:
        return {}
    contexts = _all(keys, CONTEXTS, besides=prompt)
    return {
        "prompt": (prompt,),
        "context": contexts,
        "reasoning": _all(keys, REASONINGS),
        "response": (answer,),
    }


def _alpaca(keys: Sequence[str]) -> Columns:
    return {
        "prompt": (_first(keys, ("instruction",)) or "instruction",),
        "context": _all(keys, CONTEXTS),
        "reasoning": _all(keys, REASONINGS),
        "response": (_first(keys, ("output",)) or "output",),
    }


def _reader(name: str) -> Callable[[Row], Conversation]:
    return lambda row: find_layout(row, format=name).read(row, set())


def _beside(conversation: Conversation) -> dict[str, Any]:
    return {"tools": conversation.tools} if conversation.tools else {}


def _write_messages(conversation: Conversation) -> dict[str, Any]:
    return {"messages": as_turns(conversation.messages), **_beside(conversation)}


def _write_sharegpt(conversation: Conversation) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
    turns = as_turns(conversation.messages, role="from", content="value")
    named = [{**turn, "from": names[turn["from"]]} for turn in turns]
    return {"conversations": named, **_beside(conversation)}


def _write_alpaca(conversation: Conversation) -> dict[str, Any]:
    messages = conversation.messages
    roles = [message.role for message in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise ValueError(f"alpaca holds one question and one answer, got the turns {', '.join(roles)}")
    if not _is_plain(messages[-1]) or conversation.tools:
        raise ValueError("alpaca holds texts alone, got calls, tools or reasoning")
    row = {"instruction": messages[-2].content, "input": "", "output": messages[-1].content}
    if len(messages) == 3:
        if is_blank(messages[0].content):
            raise ValueError("alpaca cannot hold an empty system turn")
        row["system"] = messages[0].content
    return row


def _write_prompt_completion(conversation: Conversation) -> dict[str, Any]:
    messages, beside = conversation.messages, _beside(conversation)
    if [message.role for message in messages] == ["user", "assistant"] and _is_plain(messages[-1]):
        return {"prompt": messages[0].content, "completion": messages[1].content, **beside}
    return {"prompt": as_turns(messages[:-1]), "completion": as_turns(messages[-1:]), **beside}


def as_row(example: Example) -> dict[str, Any]:
    """Return an example as a row of the format messages, with its source: what is written is read as the same."""
    conversation = Conversation(messages=example.messages, tools=example.tools)
    return {**_write_messages(conversation), "source": example.source}


def _is_plain(message: Message) -> bool:
    return message == Message(role=message.role, content=message.content)


FORMATS: dict[str, RowFormat] = {
    known.name: known
    for known in (
        RowFormat(
            name="messages",
            matches=_has_turns,
            columns=_turns("messages", *OTHER_TURNS),
            read=_reader("messages"),
            write=_write_messages,
        ),
        RowFormat(
            name="sharegpt",
            matches=lambda row: _first(row, ("conversations",)) is not None,
            columns=_turns("conversations"),
            read=_reader("sharegpt"),
            write=_write_sharegpt,
        ),
        RowFormat(
            name="alpaca",
            matches=lambda row: bool(_first(row, ("instruction",)) and _first(row, ("output",))),
            columns=_alpaca,
            read=_reader("alpaca"),
            write=_write_alpaca,
        ),
        RowFormat(
            name="prompt_completion",
            matches=lambda row: bool(_pair(list(row))),
            columns=_pair,
            read=_reader("prompt_completion"),
            write=_write_prompt_completion,
        ),
    )
}

_KEYS = {
    "messages": "messages",
    "sharegpt": "conversations",
    "alpaca": "instruction, input, output",
    "prompt_completion": f"one of {'/'.join(PROMPTS)} and one of {'/'.join(COMPLETIONS)}",
}


def _unknown(row: Row, format: str | None) -> UnusableRowError:
    if preference := preference_error(list(row)):
        return preference
    if format is not None:
        return UnusableRowError(
            f"none of the keys {', '.join(PROMPTS)} is there with one of {', '.join(COMPLETIONS)}"
        )
    return UnknownKeysError(f"no known format fits the keys: {shown_keys(row)}", hint=_hint(row))


def _hint(row: Row) -> str:
    words = ["messages", "conversations", "output", *PROMPTS, *COMPLETIONS]
    for key in (key for key in row if plain(key) not in words):
        close = difflib.get_close_matches(plain(str(key)), words, n=1, cutoff=0.75)
        if close:
            return f"did you mean {close[0]!r} instead of {shown_keys([key])}?"
    known = "; ".join(f"{name} ({_KEYS.get(name, 'added')})" for name in FORMATS)
    return f"say what the columns are: --columns prompt=...,response=...; known formats: {known}"
