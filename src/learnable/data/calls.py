"""Tools, and calls of them, in the forms that rows have; both become the one that OpenAI's chats have."""

from collections.abc import Mapping
from typing import Any

from learnable.data.values import (
    from_json,
    is_empty,
    shown_keys,
    text_of,
    to_json,
    without_nulls,
    wrong_kind,
)
from learnable.types import ToolCall


def read_tools(value: object, name: str) -> str:
    """Return the tools in a column as JSON text of a list; empty when there are none.

    A list, the JSON text of one, or a list of JSON texts; a bare function, as older rows have it, is wrapped.

    Raises:
        ValueError: If it is none of these.
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


def _tool(item: object, name: str) -> Mapping[str, Any]:
    tool = from_json(item, name) if isinstance(item, str) else item
    if not isinstance(tool, Mapping):
        raise wrong_kind(tool, name, "an object")
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "type": tool.get("type") or "function"}
    if tool.get("name") is not None:
        return {"type": "function", "function": {key: tool[key] for key in tool if key != "type"}}
    if tool.get("type") is not None:
        return tool
    raise ValueError(f"{name} has no name; keys seen: {shown_keys(tool)}")


def read_calls(value: object, name: str) -> tuple[ToolCall, ...]:
    """Return the calls in a turn: a list of calls, one call, or the JSON text of either.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(value, str):
        value = from_json(value, name)
    calls = value if isinstance(value, list | tuple) else [value]
    return tuple([_call(item, name) for item in calls])


def _call(item: object, name: str) -> ToolCall:
    call = from_json(item, name) if isinstance(item, str) else item
    if not isinstance(call, Mapping):
        raise wrong_kind(call, name, "a call")
    function = call.get("function")
    inner = function if isinstance(function, Mapping) else call
    called = text_of(inner.get("name"), f"the name of the function in {name}")
    if is_empty(called):
        raise ValueError(f"the name of the function in {name} is empty")
    identity = call.get("id")
    return ToolCall(
        name=called,
        arguments=_arguments(inner, f"'arguments' of {name}"),
        id="" if identity is None else text_of(identity, f"'id' of {name}"),
    )


def _arguments(call: Mapping[str, Any], name: str) -> str:
    value = call["arguments"] if call.get("arguments") is not None else call.get("parameters")
    if is_empty(value):
        return "{}"
    found = from_json(value, name) if isinstance(value, str) else without_nulls(value)
    if not isinstance(found, Mapping):
        raise wrong_kind(found, name, "an object")
    return to_json(found, name)
