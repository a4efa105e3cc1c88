"""Where the answers of a conversation stand in the text that a chat template makes of it, and what it leaves out.

The span of an answer is found by rendering the conversation twice, once with that answer replaced by a sentinel:
what differs between the two texts is the answer. This needs no ``{% generation %}`` mark, no prefix property and no
second tokenization, and works for templates that trim, merge or rewrite turns.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from learnable.models.turns import REFUSALS, SENTINEL
from learnable.types import Message, Rendered

Span = tuple[int, int]
"""Characters ``[start, end)`` of a text."""

LEFT_OUT_HINT = (
    "what is left out is neither scored nor learned; give a chat template that keeps it (--chat-template my.jinja), "
    "unless the model is meant to work so"
)

_WORD = re.compile(r"(?<!\w)\w")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Finds answers in the text of one conversation, as a template writes it with its tools.

    ``header`` is what the template writes before an answer that is asked for, and may be empty; ``ends`` are the texts of
    the tokens that end a turn.
    """

    write: Callable[[Sequence[Message]], str]
    messages: Sequence[Message]
    text: str
    header: str
    ends: Collection[str]

    def spans(self, position: int) -> list[Span]:
        """Return where an answer stands: in one place, unless the template puts the results of its calls inside.

        Raises one of ``REFUSALS`` if the answer, or a call of it, does not appear in the text.
        """
        message = self.messages[position]
        if not message.tool_calls:
            start, end = self._changed(position, Message(role="assistant", content=SENTINEL))
            if end <= start:
                raise ValueError(f"the template leaves out the answer of turn {position + 1}")
            return [(start, end)]
        whole = self._calling(position, _marked(message))
        if not (message.content and self._holds_result(position, whole)):
            return [whole]
        calls = self._calling(position, replace(_marked(message), content=message.content))
        return sorted([calls, self._without(position)])

    def _holds_result(self, position: int, span: Span) -> bool:
        """Tell whether the result after a turn with calls stands inside that turn."""
        result = self.messages[position + 1] if position + 1 < len(self.messages) else None
        if result is None or result.role != "tool":
            return False
        if result.content.strip() not in self.text[slice(*span)]:  # it may be there by chance
            return False
        return self._without(position + 1)[0] < span[1]

    def _calling(self, position: int, marked: Message) -> Span:
        """Return where a turn with calls stands: from its header on, with all that the template writes around calls.

        Names stay while the end is looked for, as the header of a later result may repeat them.
        """
        other = self.write(self._with(position, marked))
        for number in range(len(marked.tool_calls)):
            if _numbered(number) not in other:
                raise ValueError(f"the template leaves out call {number + 1} of turn {position + 1}")
        start, end = _difference(self.text, other)
        renamed = [replace(call, name=f"{SENTINEL}{call.name}") for call in marked.tool_calls]
        try:
            begun, _ = self._changed(position, replace(marked, tool_calls=tuple(renamed)))
        except REFUSALS:  # a name that is checked; the header tells where the call begins
            begun = start
        start = self._after_header(position, min(start, begun))
        return start, end + self._closing(position, marked, self.text[end:])

    def _after_header(self, position: int, start: int) -> int:
        """Return where the header before a turn ends; ``start`` where the template writes none."""
        try:
            _, before = self._without(position - 1)
        except REFUSALS:
            return start
        for header in (self.header, self.header.partition("<think>")[0]):
            found = self.text.rfind(header, before, start) if header else -1
            if found >= 0:
                return found + len(header)
        return start

    def _closing(self, position: int, marked: Message, after: str) -> int:
        """Return how many characters of what follows a call belong to it: as where the conversation ends there."""
        until = self.messages[:position]
        try:
            whole = self.write([*until, self.messages[position]])
            _, end = _difference(whole, self.write([*until, marked]))
        except REFUSALS:
            return 0
        closing = after[: shared_length(whole[end:], after)].rstrip()
        return len(closing) - max((len(each) for each in self.ends if closing.endswith(each)), default=0)

    def _changed(self, position: int, message: Message) -> Span:
        """Return where the text differs from one with another turn at this position."""
        return _difference(self.text, self.write(self._with(position, message)))

    def _without(self, position: int) -> Span:
        """Return where the text differs from one without the content of a turn."""
        return self._changed(position, replace(self.messages[position], content=SENTINEL))

    def _with(self, position: int, message: Message) -> list[Message]:
        return [*self.messages[:position], message, *self.messages[position + 1 :]]

    @property
    def to_learn(self) -> list[int]:
        """Positions of the answers to learn."""
        turns = enumerate(self.messages)
        return [place for place, turn in turns if turn.role == "assistant" and turn.trained]

    def left_out(self, spans: Sequence[Sequence[Span]]) -> tuple[int, int]:
        """Return how many characters the answers to learn have, whose spans are given, and how many are not in the text."""
        said = missing = before = 0
        for place, parts in zip(self.to_learn, spans, strict=True):
            # What a template takes out of an answer and writes itself, such as <think>, may stand before its span.
            found = self.text[min(before, parts[0][0]) : parts[-1][1]]
            texts = [text.strip() for text in _texts(self.messages[place])]
            said += sum(map(len, texts))
            missing += sum(_missing(text, found) for text in texts)
            before = parts[-1][1]
        return said, missing

    def hides_context(self) -> bool:
        """Tell whether the text of a turn that is no answer to learn is left out; a tool's result must not be."""
        context = set(range(len(self.messages))).difference(self.to_learn)
        hidden = [place for place in sorted(context) if not self._shows(place)]
        results = [place for place in hidden if self.messages[place].role == "tool"]
        if results:
            raise ValueError(f"the template leaves out the tool's result in turn {results[0] + 1}")
        return bool(hidden)

    def _shows(self, position: int) -> bool:
        message = self.messages[position]
        if message.content.strip() in self.text:
            return True
        try:
            return SENTINEL in self.write(self._with(position, replace(message, content=SENTINEL)))
        except REFUSALS:
            return False


@dataclass(kw_only=True)
class LeftOut:
    """How much a chat template leaves out of rows, by characters of all of them.

    Of so many ``rows``, whose answers have ``said`` characters, ``lost`` ones are left out in ``cut`` rows, and other turns
    or tools in ``blind`` ones.
    """

    rows: int = 0
    said: int = 0
    lost: int = 0
    cut: int = 0
    blind: int = 0

    def add(self, rendered: Sequence[Rendered]) -> None:
        """Count rows."""
        self.rows += len(rendered)
        self.said += sum(row.said for row in rendered)
        self.lost += sum(row.left_out for row in rendered)
        self.cut += sum(row.left_out > 0 for row in rendered)
        self.blind += sum(row.hides_context for row in rendered)

    def __str__(self) -> str:
        """Say it in words; nothing where nothing is left out."""
        parts = []
        if self.lost:
            parts.append((f"{max(self.lost / self.said, 0.001):.1%} of the text of the answers", self.cut))
        if self.blind:
            parts.append(("the text of other turns, or the tools", self.blind))
        whats = "; and ".join(f"{what}, in {count:,} of {self.rows:,} rows" for what, count in parts)
        return f"the chat template leaves out {whats}" if parts else ""


def left_out(rendered: Sequence[Rendered]) -> str:
    """Say how much a chat template leaves out of rows, by characters of all of them; nothing where it is nothing."""
    counts = LeftOut()
    counts.add(rendered)
    return str(counts)


def shared_length(one: str, other: str) -> int:
    """Return how many characters two texts share at their beginning."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # one[:low] == other[:low], and one[:high] != other[:high]
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _difference(text: str, other: str) -> Span:
    """Return the characters of a text that lie between what it shares with another at both ends."""
    start = shared_length(text, other)
    return start, len(text) - shared_length(text[start:][::-1], other[start:][::-1])


def _marked(message: Message) -> Message:
    """Return a turn of the same form whose texts are sentinels; the calls keep their names, and have numbers."""
    calls = [
        replace(call, arguments=json.dumps({SENTINEL: _numbered(number)}, ensure_ascii=False))
        for number, call in enumerate(message.tool_calls)
    ]
    return replace(
        message,
        content=message.content and SENTINEL,
        reasoning=message.reasoning and SENTINEL,
        tool_calls=tuple(calls),
    )


def _numbered(number: int) -> str:
    return f"{SENTINEL}{number}{SENTINEL}"


def _texts(message: Message) -> Iterator[str]:
    """Yield what an answer says: its content, reasoning, and names, keys and texts of its calls."""
    calls = [[call.name, json.loads(call.arguments)] for call in message.tool_calls]
    return _strings([message.content, message.reasoning, calls])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in chain.from_iterable(value.items()) if isinstance(value, dict) else value:
            yield from _strings(item)


def _missing(said: str, found: str) -> int:
    """Return how many characters of a text do not stand in another: what both end with, and whole lines, do."""
    if said in found or json.dumps(said, ensure_ascii=False)[1:-1] in found:
        return 0
    # What both end with counts from the beginning of a word on.
    begins = _WORD.search(said, len(said) - shared_length(said[::-1], found.rstrip()[::-1]))
    rest = said[: begins.start()] if begins else said
    return sum(len(line.strip()) for line in rest.splitlines() if line.strip() not in found)
