"""The shapes that fine-tuning rows come in, and the conversation each row means.

A format never guesses: what it cannot read as a conversation that ends in an answer, it refuses with the reason.
"""

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from learnable.errors import DataError
from learnable.types import Conversation, Format, Message

Row = Mapping[str, Any]

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
PROMPTS = ("prompt", "query", "question", "instruction")
COMPLETIONS = ("completion", "response", "answer")
CONTEXTS = ("context", "input")
SYSTEMS = ("system", "system_prompt")

_BRIEF = reprlib.Repr()  # of bounded depth: a row may be nested deeper than repr can go
_BRIEF.maxstring = _BRIEF.maxother = 80
_TOOL_KEYS = ("tool_calls", "tools", "function_call")
_TOOL_ROLES = ("tool", "function", "ipython", "observation")


def detect(row: Row) -> Format:
    """Return the format whose keys the row has; a key without a value counts only when nothing else fits.

    Raises:
        DataError: If no format fits; the message lists the keys seen.
    """
    for keys in ([key for key, value in row.items() if value is not None], list(row)):
        present = {key: row[key] for key in keys}
        for known in FORMATS.values():
            if known.matches(present):
                return known
    raise DataError(f"no known format fits the keys: {shown_keys(row)}", hint=_hint(row))


def shown_keys(keys: Iterable[object]) -> str:
    """Return the keys for an error message, safe to print and of bounded length."""
    texts = [key if isinstance(key, str) and key.isprintable() else repr(key) for key in keys]
    listed = ", ".join(text if len(text) <= 60 else f"{text[:60]}..." for text in texts[:30])
    return (listed + ", ..." if len(texts) > 30 else listed) or "none"


def kind_of(value: object) -> str:
    """Return what a value is, in the words of JSON."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def text_of(value: object, name: str) -> str:
    """Return the value if it is text that can be stored.

    Raises:
        ValueError: If it is missing, of another type, or not valid Unicode.
    """
    if value is None:
        raise ValueError(f"{name} is missing")
    if isinstance(value, str):
        return value if value.isascii() else _encodable(value, name)
    raise ValueError(f"{name} is {kind_of(value)}, not text: {_shortened(value)}")


def _encodable(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: lone surrogate {text[error.start]!r}") from error
    return text


def _shortened(value: object) -> str:
    text = _BRIEF.repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refuse_tools(row: Row) -> None:
    for key in _TOOL_KEYS:
        if row.get(key):
            raise ValueError(f"tool calls are not supported ({key!r} is not empty)")


def _checked(messages: Sequence[Message]) -> Conversation:
    """Refuse conversations without an answer to learn, or an answer to nothing."""
    if not messages:
        raise ValueError("the conversation is empty")
    asked = False
    for message in messages:
        if message.role == "assistant" and not asked:
            raise ValueError("no user turn before the assistant turn")
        if message.role != "system" and not message.content.strip():
            raise ValueError(
                "the answer is empty" if message.role == "assistant" else "the user turn is empty"
            )
        asked = asked or message.role == "user"
    if messages[-1].role != "assistant":
        raise ValueError(f"the conversation ends with a {messages[-1].role} turn")
    return Conversation(messages=tuple(messages))


def _system(row: Row) -> list[Message]:
    """Return the system turn that stands beside the conversation; an empty column means none."""
    for key in SYSTEMS:
        if row.get(key) is not None:
            text = text_of(row[key], repr(key))
            return [Message(role="system", content=text)] if text.strip() else []
    return []


def _turns(value: object, name: str) -> list[Message]:
    if value is None:
        raise ValueError(f"{name} is missing")
    if isinstance(value, list | tuple):
        return [_turn(item, f"turn {number} of {name}") for number, item in enumerate(value, 1)]
    raise ValueError(f"{name} is {kind_of(value)}, not a list of turns: {_shortened(value)}")


def _turn(item: object, name: str) -> Message:
    turn = _object(item, name)
    _refuse_tools(turn)
    role, content = _either(turn, "role", "from"), _either(turn, "content", "value")
    if role is None:
        raise ValueError(f"{name} has no role; keys seen: {shown_keys(turn)}")
    if role in _TOOL_ROLES:
        raise ValueError(f"tool calls are not supported (role {role!r} in {name})")
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"unknown role {_shortened(role)} in {name}; known: {', '.join(ROLES)}")
    if isinstance(content, list | tuple):
        text = "".join(_part_text(_object(part, f"a part of {name}"), name) for part in content)
    else:
        text = text_of(content, f"the content of {name}")
    return Message(role=ROLES[role], content=text)


def _either(row: Row, key: str, other: str) -> object:
    return row[key] if row.get(key) is not None else row.get(other)


def _object(item: object, name: str) -> Row:
    if isinstance(item, Mapping):
        return item
    raise ValueError(f"{name} is {kind_of(item)}, not an object")


def _part_text(part: Row, name: str) -> str:
    if part.get("type") != "text":
        raise ValueError(
            f"only text is supported, got a part of type {_shortened(part.get('type'))} in {name}"
        )
    return text_of(part.get("text"), f"the text of {name}")


def _read_conversation(row: Row, key: str) -> Conversation:
    _refuse_tools(row)
    beside, turns = _system(row), _turns(row.get(key), repr(key))
    if beside and turns and turns[0].role == "system":
        raise ValueError("two system prompts: one as a turn, one as a key")
    return _checked(beside + turns)


def _read_single_turn(row: Row, *, prompt: str, contexts: Sequence[str], answer: str) -> Conversation:
    _refuse_tools(row)
    parts = [text_of(row.get(prompt), repr(prompt))]
    parts += [text_of(row[key], repr(key)) for key in contexts if row.get(key) is not None]
    user = Message(role="user", content="\n\n".join(part for part in parts if part.strip()))
    assistant = Message(role="assistant", content=text_of(row.get(answer), repr(answer)))
    return _checked([*_system(row), user, assistant])


def _read_messages(row: Row) -> Conversation:
    return _read_conversation(row, "messages")


def _write_messages(conversation: Conversation) -> dict[str, Any]:
    return {"messages": _as_turns(conversation.messages)}


def _as_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _read_sharegpt(row: Row) -> Conversation:
    return _read_conversation(row, "conversations")


def _write_sharegpt(conversation: Conversation) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return {
        "conversations": [
            {"from": names[message.role], "value": message.content} for message in conversation.messages
        ]
    }


def _read_alpaca(row: Row) -> Conversation:
    if row.get("history"):
        raise ValueError("earlier turns ('history') are not supported; use messages")
    return _read_single_turn(row, prompt="instruction", contexts=("input",), answer="output")


def _write_alpaca(conversation: Conversation) -> dict[str, Any]:
    messages = conversation.messages
    roles = [message.role for message in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise ValueError(f"alpaca holds one question and one answer, got the turns {', '.join(roles)}")
    row = {"instruction": messages[-2].content, "input": "", "output": messages[-1].content}
    if len(messages) == 3:
        if not messages[0].content.strip():
            raise ValueError("alpaca cannot hold an empty system turn")
        row["system"] = messages[0].content
    return row


def _first(row: Row, keys: Sequence[str]) -> str:
    """Return the first key with a value, else the first one that is there at all."""
    filled = [key for key in keys if row.get(key) is not None]
    found = filled or [key for key in keys if key in row]
    if not found:
        raise ValueError(f"none of the keys {', '.join(keys)} is there")
    return found[0]


def _read_prompt_completion(row: Row) -> Conversation:
    prompt, completion = _first(row, PROMPTS), _first(row, COMPLETIONS)
    if isinstance(row[prompt], list | tuple) and isinstance(row[completion], list | tuple):
        turns = [*row[prompt], *row[completion]]
        return _read_conversation({**row, "turns": turns}, "turns")
    return _read_single_turn(row, prompt=prompt, contexts=CONTEXTS, answer=completion)


def _write_prompt_completion(conversation: Conversation) -> dict[str, Any]:
    messages = conversation.messages
    if [message.role for message in messages] == ["user", "assistant"]:
        return {"prompt": messages[0].content, "completion": messages[1].content}
    return {"prompt": _as_turns(messages[:-1]), "completion": _as_turns(messages[-1:])}


FORMATS: dict[str, Format] = {
    "messages": Format(
        name="messages",
        matches=lambda row: "messages" in row,
        read=_read_messages,
        write=_write_messages,
    ),
    "sharegpt": Format(
        name="sharegpt",
        matches=lambda row: "conversations" in row,
        read=_read_sharegpt,
        write=_write_sharegpt,
    ),
    "alpaca": Format(
        name="alpaca",
        matches=lambda row: "instruction" in row and "output" in row,
        read=_read_alpaca,
        write=_write_alpaca,
    ),
    "prompt_completion": Format(
        name="prompt_completion",
        matches=lambda row: any(key in row for key in PROMPTS) and any(key in row for key in COMPLETIONS),
        read=_read_prompt_completion,
        write=_write_prompt_completion,
    ),
}

_KEYS = {
    "messages": "messages",
    "sharegpt": "conversations",
    "alpaca": "instruction, input, output",
    "prompt_completion": f"one of {'/'.join(PROMPTS)} and one of {'/'.join(COMPLETIONS)}",
}


def _hint(row: Row) -> str:
    words = ["messages", "conversations", "output", *PROMPTS, *COMPLETIONS]
    for key in (key for key in row if key not in words):
        close = difflib.get_close_matches(str(key).lower(), words, n=1, cutoff=0.75)
        if close:
            return f"did you mean {close[0]!r} instead of {shown_keys([key])}?"
    return "known formats: " + "; ".join(f"{name} ({_KEYS.get(name, 'added')})" for name in FORMATS)
