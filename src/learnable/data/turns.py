"""Lists of turns, calls and tools in the forms that rows have; they become messages, and what OpenAI's chats have."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeGuard

from learnable.data.names import NEVER_TEXT, REASONINGS, TURNS, doubt, plain
from learnable.data.values import (
    Row,
    from_json,
    is_empty,
    is_said,
    object_of,
    shortened,
    shown_keys,
    text_of,
    texts_in,
    to_json,
    without_nulls,
    wrong_kind,
)
from learnable.types import Message, ToolCall

_NAMES = {
    "system": "system developer",
    "user": "user human prompter",
    "assistant": "assistant gpt chatgpt bing bard bot chatbot model ai",
    "tool": "tool function ipython observation function_response function_result tool_response tool_result "
    "tool_results",
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
"""What the roles of turns are called, without case."""
_CALLS = ("function_call", "tool_call", "tool_calls")
"""Roles of turns whose content is a call."""
_PAIRED = {
    "system": "system",
    **dict.fromkeys(("human", "user", "input", "question", "prompt"), "user"),
    **dict.fromkeys(("assistant", "bot", "gpt", "output", "answer", "response"), "assistant"),
}
"""Keys of an object that holds a question and its answer instead of one turn."""
_WEIGHTS = ("weight", "train", "training", "trainable", "train_on_turn", "loss", "loss_scale")
_FLAGS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_PLAIN = frozenset(("role", "from", "content", "value"))
_READ = _PLAIN | {"tool_calls", "function_call", "tools", *REASONINGS, *_WEIGHTS} - {"loss"}
_OF_RESULTS = ("name", "tool_call_id")
_SPOKEN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
"""How a turn begins in a transcript."""
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHTS = ("thinking", "reasoning")


class Turns:
    """Reads the turns of one conversation, and the tools among them.

    ``ignored`` collects what turns have that nothing reads, such as ``messages[].timestamp``.
    """

    def __init__(self, ignored: set[str]) -> None:
        self.ignored = ignored
        self.tools = ""

    def read(self, value: object, column: str) -> list[Message]:
        """Return the messages in a column: a list of turns, its JSON text, an object of lists, or one turn alone."""
        name = repr(column)
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            value = from_json(value, name)
        elif is_transcript(value):
            value = _transcript(value)
        if isinstance(value, Mapping):
            value = self._opened(value, name)
        if not isinstance(value, list | tuple):
            error = wrong_kind(value, name, "a list of turns")
            if isinstance(value, str) and column not in TURNS:
                error.hint = f"if it is a text: --columns prompt={column},response=..."
            raise error
        messages: list[Message] = []
        for number, item in enumerate(value, 1):
            place = f"turn {number} of {name}"
            if not isinstance(item, Mapping):
                raise wrong_kind(item, place, "an object")
            messages += self._turns(item, place, column)
        return messages

    def add_tools(self, value: object, name: str) -> None:
        """Take the tools in a value, if there are any; a ``ValueError`` where the conversation has others already."""
        found = _tools(value, name)
        if found and self.tools and found != self.tools:
            raise ValueError(f"{name} holds other tools than the conversation has already")
        self.tools = found or self.tools

    def _opened(self, value: Row, name: str) -> object:
        """Return the turns in an object: lists of roles and of contents, a conversation with its tools, or one turn."""
        roles = _either(value, "role", "from", name)
        if isinstance(roles, list | tuple):
            lists = {key: items for key, items in value.items() if items is not None}
            if not all(isinstance(each, list | tuple) and len(each) == len(roles) for each in lists.values()):
                raise ValueError(f"the lists in {name} differ in length")
            return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
        for key in TURNS:
            if value.get(key) is not None:
                for tools in ("tools", "functions"):
                    self.add_tools(value.get(tools), f"{tools!r} of {name}")
                return value[key]
        return [value] if roles is not None or any(plain(key) in _PAIRED for key in value) else value

    def _turns(self, turn: Row, name: str, column: str) -> list[Message]:
        role, content = _either(turn, "role", "from", name), _either(turn, "content", "value", name)
        if role is None:
            return self._pair(turn, name, column)
        known = _ROLES.get(role) if isinstance(role, str) else None
        is_plain = len(turn) == 2 or all(value is None or key in _PLAIN for key, value in turn.items())
        if known is not None and isinstance(content, str) and is_plain:
            return [Message(role=known, content=text_of(content, f"the content of {name}"))]
        return [self._whole(turn, content, name, column, role=known or _role(role, name))]

    def _pair(self, turn: Row, name: str, column: str) -> list[Message]:
        """Return the turns of an object that holds a question and its answer."""
        found: dict[str, Message] = {}
        read = {key: role for key in turn if (role := _PAIRED.get(plain(key)))}
        for key, role in read.items():
            if is_empty(turn[key]) and role != "assistant":
                continue
            if role in found:
                raise ValueError(f"{name} has two {role} texts; keys seen: {shown_keys(turn)}")
            found[role] = Message(role=role, content=text_of(turn[key], f"{key!r} of {name}"))
        if not found:
            raise ValueError(f"{name} has no role; keys seen: {shown_keys(turn)}")
        messages = [found[role] for role in ("system", "user", "assistant") if role in found]
        self._ignore_others(turn, set(read), messages, name, column)
        return messages

    def _whole(self, turn: Row, content: object, name: str, column: str, *, role: str) -> Message:
        called = [key for key in ("tool_calls", "function_call") if not is_empty(turn.get(key))]
        calls = tuple([call for key in called for call in _read_calls(turn[key], f"{key!r} of {name}")])
        text, reasoning = "", ""
        if role == "call":
            role, calls = "assistant", calls + _read_calls(content, f"the call in {name}")
        elif content is not None or not calls:
            text, reasoning = _content(content, name)
        thoughts = {text_of(turn[key], f"{key!r} of {name}") for key in REASONINGS if is_said(turn.get(key))}
        thoughts |= {reasoning} if reasoning else set()
        if len(thoughts) > 1:
            raise ValueError(f"{name} has two texts of reasoning")
        if role != "assistant" and (calls or thoughts):
            raise ValueError(f"{'a call' if calls else 'reasoning'} in {name}, which is a {role} turn")
        self.add_tools(turn.get("tools"), f"'tools' of {name}")
        results = [key for key in _OF_RESULTS if role == "tool" and turn.get(key) is not None]
        message = Message(
            role=role,
            content=text,
            reasoning=thoughts.pop() if thoughts else "",
            tool_calls=calls,
            **{key: text_of(turn[key], f"{key!r} of {name}") for key in results},
            trained=role != "assistant" or _trained(turn, name),
        )
        read = _READ | {*results} | ({"loss"} if isinstance(turn.get("loss"), bool) else set())
        self._ignore_others(turn, read, [message], name, column)
        return message

    def _ignore_others(
        self, turn: Row, read: Collection[str], messages: list[Message], name: str, column: str
    ) -> None:
        """Note what nothing reads of a turn; a ``ValueError`` where it may be part of what the model reads or learns."""
        for key, value in turn.items():
            if key in read or is_empty(value):
                continue
            said = "\n".join(f"{message.content}\n{message.reasoning}" for message in messages)
            kind = doubt(plain(key), ())
            lost = kind in NEVER_TEXT or any(text not in said for text in texts_in(value))
            if lost and is_said(value) and kind in (*NEVER_TEXT, "choices", "reasoning"):
                raise ValueError(f"{key!r} of {name} is not supported, and may be part of the turn")
            self.ignored.add(f"{column}[].{key}")


def is_transcript(value: object) -> TypeGuard[str]:
    """Return whether a value is a text of turns that each begin with who speaks."""
    return isinstance(value, str) and _SPOKEN.match(value) is not None


def _transcript(text: str) -> list[dict[str, Any]]:
    """Return the turns of a transcript; where an answer is only begun, those before it."""
    _, *parts = _SPOKEN.split(text)
    turns: list[dict[str, Any]] = [
        {"role": role, "content": said.strip()} for role, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns if turns[-1] != {"role": "Assistant", "content": ""} else turns[:-1]


def holds_turns(value: object) -> bool:
    """Return whether a value is turns rather than a text: a list of objects, or an object with a role or with turns."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping) and not {"role", "from", *TURNS, *_PAIRED}.isdisjoint(map(plain, value))


def _either(turn: Row, key: str, other: str, name: str) -> object:
    value, alias = turn.get(key), turn.get(other)
    if value is None:
        return alias
    if alias is not None and alias != value:
        raise ValueError(f"{name} has both {key!r} and {other!r}")
    return value


def _role(role: object, name: str) -> str:
    word = plain(role.strip()) if isinstance(role, str) else role
    if word in _CALLS:
        return "call"
    if not isinstance(word, str) or word not in _ROLES:
        known = "system, user, human, assistant, gpt, tool, function_call, observation"
        raise ValueError(f"unknown role {shortened(role)} in {name}; known: {known}")
    return _ROLES[word]


def _content(content: object, name: str) -> tuple[str, str]:
    """Return the text of a turn, and the reasoning among its parts."""
    if not isinstance(content, list | tuple):
        return text_of(content, f"the content of {name}"), ""
    parts = [_part(part, name) for part in content]
    return "".join(text for text, _ in parts), "".join(thought for _, thought in parts)


def _part(part: object, name: str) -> tuple[str, str]:
    if not isinstance(part, Mapping):
        raise wrong_kind(part, f"a part of {name}", "an object")
    kind = part.get("type")
    if kind in _TEXT_PARTS:
        return text_of(part.get("text"), f"the text of {name}"), ""
    if kind in _THOUGHTS:
        thought = _either(part, str(kind), "text", name)
        if isinstance(thought, list | tuple):
            return "", _content(thought, name)[0]
        return "", text_of(thought, f"the reasoning of {name}")
    raise ValueError(f"only text is supported, got a part of type {shortened(kind)} in {name}")


def _read_calls(value: object, name: str) -> tuple[ToolCall, ...]:
    """Return the calls in a turn: a list of calls, one call, or the JSON text of either."""
    found = from_json(value, name) if isinstance(value, str) else value
    return tuple([_call(item, name) for item in (found if isinstance(found, list | tuple) else [found])])


def _call(item: object, name: str) -> ToolCall:
    call = object_of(item, name, "a call")
    function = call.get("function")
    inner = function if isinstance(function, Mapping) else call
    called = text_of(inner.get("name"), f"the name of the function in {name}")
    if is_empty(called):
        raise ValueError(f"the name of the function in {name} is empty")
    identity, given = call.get("id"), f"'arguments' of {name}"
    arguments = inner["arguments"] if inner.get("arguments") is not None else inner.get("parameters")
    return ToolCall(
        name=called,
        arguments="{}" if is_empty(arguments) else to_json(object_of(without_nulls(arguments), given), given),
        id="" if identity is None else text_of(identity, f"'id' of {name}"),
    )


def _tools(value: object, name: str) -> str:
    """Return the tools in a column as JSON text of a list; empty when there are none.

    A list, the JSON text of one, or a list of JSON texts; a bare function, as older rows have it, is wrapped.
    """
    if is_empty(value):
        return ""
    found = from_json(value, name) if isinstance(value, str) else without_nulls(value)
    if is_empty(found):
        return ""
    tools = [found] if isinstance(found, Mapping) else found
    if not isinstance(tools, list):
        raise wrong_kind(tools, name, "a list of tools")
    return to_json([_tool(item, f"tool {number} of {name}") for number, item in enumerate(tools, 1)], name)


def _tool(item: object, name: str) -> Row:
    tool = object_of(item, name)
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "type": tool.get("type") or "function"}
    if tool.get("name") is not None:
        return {"type": "function", "function": {key: tool[key] for key in tool if key != "type"}}
    if tool.get("type") is not None:
        return tool
    raise ValueError(f"{name} has no name; keys seen: {shown_keys(tool)}")


def _trained(turn: Row, name: str) -> bool:
    """Return whether a turn is learned: weights are 1 or 0, and nothing between."""
    found: dict[str, bool] = {}
    for key in _WEIGHTS:
        value = turn.get(key)
        if is_empty(value) or (key == "loss" and not isinstance(value, bool)):
            continue  # a number called loss is a measurement
        flag = _FLAGS.get(str(value).strip().lower())
        if flag is None:
            raise ValueError(f"{key} is {shortened(value)} in {name}: an answer is learned or not, 1 or 0")
        found[key] = flag
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(found)} contradict each other in {name}")
    return all(found.values())


def as_turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as the turns of a row, which ``Turns`` reads again."""
    return [message.turn() | ({} if message.trained else {"weight": 0}) for message in messages]
