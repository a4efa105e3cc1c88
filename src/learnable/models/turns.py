"""The turns of a conversation as a chat template takes them.

Templates agree on ``role`` and ``content`` alone. Where a template reads reasoning from, and in which form it takes
calls, is found by trial: a form is right when what it carries appears in the text.
"""

import json
from collections.abc import Callable, Sequence
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
    """How one chat template is given what a turn has beyond role and content, and whether it shows that.

    In the field ``content``, reasoning stands between ``<think>`` and ``</think>``. Arguments of calls are JSON text or
    an object; a turn that only calls has an empty ``content``, or none at all.
    """

    reasoning: str = REASONING_FIELDS[0]
    arguments_as_text: bool = False
    without_content: bool = False
    knows_reasoning: bool = True
    knows_calls: bool = True

    @classmethod
    def of(cls, write: Write, template: str) -> Self:
        """Find the fields that a template reads, of which the source is given too.

        Reasoning goes into the content only where the template itself knows ``<think>``.
        """
        forms = product((False, True), (False, True))
        calling = (cls(arguments_as_text=text, without_content=without) for text, without in forms)
        showing = (form for form in calling if _appear(form, write, _CALLS, SENTINEL, _CALL.name))
        fields = next(showing, cls(knows_calls=False))
        names = (*REASONING_FIELDS, IN_CONTENT) if "<think>" in template else REASONING_FIELDS
        thinking = (replace(fields, reasoning=name) for name in names)
        found = (form for form in thinking if _appear(form, write, _REASONINGS, SENTINEL))
        return next(found, replace(fields, knows_reasoning=False))

    def turn(self, message: Message) -> Turn:
        """Return a turn as the template takes it."""
        if message.reasoning and self.reasoning == IN_CONTENT:
            content = f"<think>\n{message.reasoning}\n</think>\n\n{message.content}"
            message = replace(message, content=content, reasoning="")
        if message.role != "tool":
            message = replace(message, name="", tool_call_id="")
        turn = message.turn(arguments_as_text=self.arguments_as_text)
        if message.tool_calls and self.without_content and not message.content:
            del turn["content"]
        return {self.reasoning if key == REASONING_FIELDS[0] else key: value for key, value in turn.items()}


def plain_turn(message: Message) -> Turn:
    """Return a turn that has nothing beyond role and content."""
    return {"role": message.role, "content": message.content}


# Turns that templates are tried with.
_CALL = ToolCall(name="look_up", arguments='{"d": "e"}', id="call00001")
ASKED, ANSWER = Message(role="user", content="a"), Message(role="assistant", content="b")
CALLING = Message(role="assistant", content="", tool_calls=(_CALL,))
RESULT = Message(role="tool", content="c", name="look_up", tool_call_id="call00001")
_FUNCTION = {"name": SENTINEL, "description": "b", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": _FUNCTION}
_MARKED = replace(_CALL, arguments=json.dumps({"what": SENTINEL}, ensure_ascii=False))
_SAYING = replace(CALLING, tool_calls=(_MARKED,))
_THINKING = replace(CALLING, reasoning=SENTINEL, tool_calls=(replace(_CALL, arguments="{}"),))
_CALLS = [(ASKED, _SAYING), (ASKED, _SAYING, RESULT, ANSWER)]
_REASONINGS = [(ASKED, replace(ANSWER, reasoning=SENTINEL)), (ASKED, _THINKING, RESULT, ANSWER)]


def _appear(form: TurnFields, write: Write, trials: Sequence[Sequence[Message]], *texts: str) -> bool:
    """Tell whether texts appear in what the template makes of one of these conversations that it takes."""
    for messages in trials:
        try:
            written = write([form.turn(message) for message in messages], None)
        except REFUSALS:
            continue
        if all(text in written for text in texts):
            return True
    return False
