"""The chat template of a model at work: turns and tools in, text out; and what trials tell about it."""

import json
from collections.abc import Collection, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from learnable.models.answers import Answers
from learnable.models.templates import DEFAULT, WITH_TOOLS, check_size, templates_of, try_template
from learnable.models.turns import (
    ANSWER,
    ASKED,
    CALLING,
    REFUSALS,
    RESULT,
    SENTINEL,
    TOOL,
    Tools,
    Turn,
    TurnFields,
    plain_turn,
)
from learnable.types import Message


class ChatTemplate:
    """Writes conversations as a model reads them.

    The tokenizer has the template, and the marks that go into it; ``name`` is the model's, ``ends`` are the texts of the
    tokens that may end a turn, and ``adds_bos`` is whether the tokenizer puts BOS in front of a text.

    Raises:
        ModelError: If there are several templates and no default, or one does not end, or makes far too long texts.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, name: str, ends: Collection[str], adds_bos: bool
    ) -> None:
        self._tokenizer, self._name, self._ends = tokenizer, name, ends
        self._templates = templates_of(tokenizer, name=name)
        marks = tuple(sorted((kind, str(token)) for kind, token in tokenizer.special_tokens_map.items()))
        for template in self._templates.values():
            try_template(template, marks=marks, name=name)
        # A chat template is the whole text, so the default one must bring the BOS that the tokenizer would add.
        self._options: dict[str, Any] = {"add_bos": adds_bos} if tokenizer.chat_template is None else {}

    @property
    def source(self) -> str:
        """The template of conversations without tools."""
        return self._templates[DEFAULT]

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the text of a conversation."""
        named = isinstance(self._tokenizer.chat_template, dict)
        closings = {"closings": list(self.closings)} if any(self.closings) else {}
        return {"template": self._templates if named else self.source, **closings}

    def text(self, messages: Sequence[Message], tools: str = "") -> str:
        """Return a whole conversation, and what closes its last answer where the template leaves it open."""
        return self._written(messages, tools) + self.closing(messages)

    def closing(self, messages: Sequence[Message]) -> str:
        """Return what is put behind the last answer of a conversation."""
        if messages[-1].role != "assistant":
            return ""
        answer, call = self.closings
        return call if messages[-1].tool_calls else answer

    def answers(self, messages: Sequence[Message], tools: str = "") -> Answers:
        """Return what finds the answers in the text of a conversation, without what closes the last one."""
        header = self._header if any(message.tool_calls for message in messages) else ""
        write = partial(self._written, tools=tools)
        return Answers(write=write, messages=messages, text=write(messages), header=header, ends=self._ends)

    def marked(
        self, messages: Sequence[Message], tools: str = ""
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the tokens of a conversation (T,), and which of them the template itself marks as generated (T,)."""
        given = {**self._given(_tool_list(tools)), "return_assistant_tokens_mask": True}
        made: Any = self._tokenizer.apply_chat_template(self._turns(messages), **given)
        return np.asarray(made["input_ids"], np.int32), np.asarray(made["assistant_masks"], np.bool_)

    def _written(self, messages: Sequence[Message], tools: str = "") -> str:
        return self._write(self._turns(messages), _tool_list(tools))

    def _turns(self, messages: Sequence[Message]) -> list[Turn]:
        return [
            self.fields.turn(each)
            if each.reasoning or each.tool_calls or each.tool_call_id or each.name
            else plain_turn(each)
            for each in messages
        ]

    def _write(self, turns: list[Turn], tools: Tools | None, *, asking: bool = False) -> str:
        how: dict[str, Any] = {"tokenize": False, "add_generation_prompt": asking}
        rendered = str(self._tokenizer.apply_chat_template(turns, **how, **self._given(tools)))
        check_size(len(rendered), [turns, tools], name=self._name)
        return rendered

    def _given(self, tools: Tools | None) -> dict[str, Any]:
        name = WITH_TOOLS if tools and WITH_TOOLS in self._templates else DEFAULT
        return {"tools": tools, "chat_template": self._templates[name], **self._options}

    @cached_property
    def fields(self) -> TurnFields:
        """How the template is given reasoning and calls."""
        return TurnFields.of(self._write, self._templates.get(WITH_TOOLS, self.source))

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template shows the tools that the assistant may call."""
        try:
            return SENTINEL in self._write([plain_turn(ASKED), plain_turn(ANSWER)], [TOOL])
        except REFUSALS:
            return False

    @cached_property
    def _header(self) -> str:
        """What the template writes before an answer that is asked for; empty where it writes nothing."""
        turns = [plain_turn(ASKED)]
        try:
            before, after = (self._write(turns, None, asking=asked) for asked in (False, True))
        except REFUSALS:
            return ""
        return after.removeprefix(before) if after.startswith(before) else ""

    @cached_property
    def closings(self) -> tuple[str, str]:
        """What is put behind the last answer, and behind a last call, that the template leaves open; else empty.

        It is the token that the template writes after an earlier answer, or call, where that begins another turn: such a
        model stops at it. Where there is none, or it begins answers too, it is the end of sequence.

        Source: GLM-4.5 is such a model, and TRL's template for its training closes answers in this way.
        """
        last = self._behind([ASKED, ANSWER], 1)
        if last is None or last.strip():  # closed, or by text that is no token
            return "", ""
        answer = self._closing_token(self._behind([ASKED, ANSWER, ASKED, ANSWER], 1))
        call = self._closing_token(self._behind([ASKED, CALLING, RESULT, ANSWER], 1))
        end = str(self._tokenizer.eos_token)
        return answer or end, call or answer or end

    def _behind(self, messages: Sequence[Message], position: int) -> str | None:
        """Return the text behind an answer; None where the template refuses the conversation."""
        try:
            answers = self.answers(messages)
            return answers.text[answers.spans(position)[-1][1] :]
        except REFUSALS:
            return None

    def _closing_token(self, behind: str | None) -> str:
        """Return the token that a text begins with and that ends a turn; empty where it is none, or begins answers."""
        begun = [end for end in self._ends if behind and behind.lstrip().startswith(end)]
        longest = max(begun, key=len, default="")
        return "" if longest in self._header else longest


def _tool_list(tools: str) -> Tools | None:
    """Return the tools of a conversation as templates take them, each under ``function``; None where there are none."""
    given = json.loads(tools) if tools else []
    whole = [tool if "function" in tool else {"type": "function", "function": tool} for tool in given]
    return whole if tools else None
