"""The turns of a conversation as a chat template takes them.

Templates agree on ``role`` and ``content`` alone. Where a template reads reasoning from, and in which form it takes
calls, is found by trial: a form is right when what it carries appears in the text.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Self

from jinja2 import TemplateError

from learnable.types import Message, ToolCall

Turn = dict[str, Any]
Tools = list[dict[str, Any]]
Write = Callable[[list[Turn], Tools | None], str]
"""Returns the text that a chat template makes of turns and tools."""

REFUSALS = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template may raise on a conversation that it does not take."""
SENTINEL = "\ue5f0learnable\ue5f1"
"""Private-use characters at both ends: no text begins or ends with them."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Names under which templates read reasoning; transformers itself gives the first one as ``thinking`` too."""
IN_CONTENT = "content"


@dataclass(frozen=True, kw_only=True)
class TurnFields:
    """How one chat template is given what a turn has beyond role and content.

    Args:
        reasoning: Field for reasoning; ``content`` puts it there between ``<think>`` and ``</think>``.
        arguments_as_text: Arguments of calls are given as JSON text instead of an object.
        without_content: A turn that only calls has no ``content`` at all, instead of an empty one.
        knows_reasoning: Whether reasoning appears in the text.
        knows_calls: The same of calls.
    """

    reasoning: str = REASONING_FIELDS[0]
    arguments_as_text: bool = False
    without_content: bool = False
    knows_reasoning: bool = True
    knows_calls: bool = True

    @classmethod
    def of(cls, write: Write, template: str) -> Self:
        """Find the fields that a template reads.

        Args:
            write: The template.
            template: Its source: reasoning goes into the content only where the template itself knows ``<think>``.
        """
        forms = product((False, True), (False, True))
        calling = (cls(arguments_as_text=text, without_content=without) for text, without in forms)
        fields = next((form for form in calling if _calls_appear(form, write)), cls(knows_calls=False))
        names = (*REASONING_FIELDS, IN_CONTENT) if "<think>" in template else REASONING_FIELDS
        thinking = (replace(fields, reasoning=name) for name in names)
        found = next((form for form in thinking if _reasoning_appears(form, write)), None)
        return found or replace(fields, knows_reasoning=False)

    def turn(self, message: Message) -> Turn:
        """Return a turn as the template takes it."""
        turn: Turn = {"role": message.role, "content": message.content}
        if message.reasoning and self.reasoning == IN_CONTENT:
            turn["content"] = f"<think>\n{message.reasoning}\n</think>\n\n{message.content}"
        elif message.reasoning:
            turn[self.reasoning] = message.reasoning
        if message.tool_calls:
            turn["tool_calls"] = [self._call(call) for call in message.tool_calls]
            if self.without_content and not turn["content"]:
                del turn["content"]
        if message.role == "tool":
            named = {"name": message.name, "tool_call_id": message.tool_call_id}
            turn |= {name: value for name, value in named.items() if value}
        return turn

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments if self.arguments_as_text else json.loads(call.arguments)
        asked = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        return asked | ({"id": call.id} if call.id else {})


def plain_turn(message: Message) -> Turn:
    """Return a turn that has nothing beyond role and content."""
    return {"role": message.role, "content": message.content}


def is_plain(message: Message) -> bool:
    """Tell whether a template is given nothing of a turn but role and content."""
    return not (message.reasoning or message.tool_calls or message.tool_call_id or message.name)


_ASKED = Message(role="user", content="a")
_CALL = ToolCall(name="look_up", arguments=json.dumps({"what": SENTINEL}, ensure_ascii=False), id="call00001")
_RESULT = Message(role="tool", content="b", name="look_up", tool_call_id="call00001")
_ANSWER = Message(role="assistant", content="c")


def _calls_appear(form: TurnFields, write: Write) -> bool:
    calling = Message(role="assistant", content="", tool_calls=(_CALL,))
    return any(
        SENTINEL in text and "look_up" in text
        for text in _written(form, write, [(_ASKED, calling), (_ASKED, calling, _RESULT, _ANSWER)])
    )


def _reasoning_appears(form: TurnFields, write: Write) -> bool:
    thinking = replace(_ANSWER, reasoning=SENTINEL)
    calling = Message(role="assistant", content="", reasoning=SENTINEL, tool_calls=(_CALL,))
    trials = [(_ASKED, thinking), (_ASKED, replace(calling, tool_calls=(_plain_call(),)), _RESULT, _ANSWER)]
    return any(SENTINEL in text for text in _written(form, write, trials))


def _plain_call() -> ToolCall:
    return replace(_CALL, arguments="{}")


def _written(form: TurnFields, write: Write, trials: Sequence[Sequence[Message]]) -> Iterator[str]:
    """Yield the texts of the conversations that the template takes."""
    for messages in trials:
        try:
            yield write([form.turn(message) for message in messages], None)
        except REFUSALS:
            continue
