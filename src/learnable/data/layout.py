"""How the columns of a row make a conversation: which is read as what, and which are read by nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

from learnable.data.names import CHOSEN, NEVER_TEXT, PARTS, REJECTED, plain
from learnable.data.pairs import better, context, paired, strength_of
from learnable.data.turns import Turns, holds_turns, is_transcript
from learnable.data.values import (
    Row,
    UnusableRowError,
    from_json,
    is_blank,
    is_empty,
    is_said,
    text_of,
    texts_in,
)
from learnable.types import Conversation, Message

_DOUBTS = {
    "media": "{0!r} is not empty, and only text is supported",
    "choices": "{0!r} holds choices that the prompt does not show",
    "spans": "{0!r} is not empty, and parts of an answer cannot be left out",
    "prompt": "there is a second prompt in {0!r}",
    "context": "{0!r} may be part of the prompt",
    "system": "{0!r} may be a system prompt",
    "response": "there is a second answer in {0!r}",
    "reasoning": "{0!r} may be part of the answer",
    "messages": "there are other turns in {0!r}",
    "history": "there are other turns in {0!r}",
    "tools": "{0!r} stands beside other tools",
}
"""Why a column that is read by nothing makes a row unusable, unless what it holds stands in the conversation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnLayout:
    """What the columns of rows with the same keys are.

    Args:
        format: Name of the format.
        messages: Column of turns, and so on for the other parts of ``PARTS``.
        doubts: Columns that may bear on what a model reads or learns, and that nothing reads, each with the part that
            it may be.
        others: All columns that nothing reads.
    """

    format: str
    messages: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    prompt: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    response: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()
    strength: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    doubts: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def uses(self) -> dict[str, str]:
        """Return what each column that is read becomes, in words."""
        parts = [part for part in PARTS if part not in ("label", "ignore")]
        uses = {column: PARTS[part] for part in parts for column in getattr(self, part)}
        if self.preferred:
            return uses | dict.fromkeys(self.rejected, PARTS["response"])
        return uses | (dict.fromkeys(self._chosen, "chosen answer") if self.rejected else {})

    @property
    def needs(self) -> set[str]:
        """Return the columns without which there is no conversation."""
        return {*self.messages, *self.prompt[:1], *self.response, *self.rejected, *self.preferred[:1]}

    @property
    def _chosen(self) -> tuple[str, ...]:
        return self.response or self.messages

    @cached_property
    def _other_side(self) -> "ColumnLayout":
        """Return the layout of a pair's other conversation: where each side is whole, its turns are."""
        if self.response:
            return replace(self, response=self.rejected)
        return replace(self, messages=self.rejected)

    def read(self, row: Row, ignored: set[str]) -> Conversation:
        """Return the conversation that a row means; a ``ValueError`` says why it is none.

        Args:
            row: Its columns and values.
            ignored: Collects what turns have that nothing reads.
        """
        for column in self.label:
            if marks(row.get(column), column) is False:
                raise UnusableRowError(
                    f"the answer is marked as undesirable ({column!r} is {row[column]})",
                    hint=f"if {column!r} means something else: --columns ignore={column}",
                )
        turns = Turns(ignored)
        messages = self._messages(row, turns)
        rejected = self._other_side._messages(row, turns) if self.rejected else []
        for column in self.tools:
            with _or_ignored(column):
                turns.add_tools(row.get(column), repr(column))
        if self.doubts:
            self._refuse_lost(row, [*messages, *rejected])
        if self.rejected:
            return self._pair(row, messages, rejected, turns.tools)
        if messages and messages[-1].role == "user" and (preference := preference_error(self.others)):
            raise preference
        return Conversation(messages=checked(messages), tools=turns.tools)

    def _pair(self, row: Row, messages: list[Message], rejected: list[Message], tools: str) -> Conversation:
        """Return a pair of two sides, in the order that a column of labels says where there is one."""
        (own,), (other,) = self._chosen, self.rejected
        sides = [_checked_side(messages, own), _checked_side(rejected, other)]
        strength = strength_of(row, self.strength)
        if self.preferred:
            votes = better(row, self.preferred, (own, other))
            if votes < 0:
                sides.reverse()
                strength = None if strength is None else -strength
            if strength is None and len(self.preferred) > 1:
                strength = abs(votes)
        return paired(*sides, tools=tools, strength=strength)

    def _messages(self, row: Row, turns: Turns) -> list[Message]:
        before = self._system(row)
        for column in self.history:
            with _or_ignored(column):
                before += _earlier(row.get(column), column, turns)
        if self.messages:
            found = turns.read(row.get(self.messages[0]), self.messages[0])
            if before and found and found[0].role == "system":
                if self.history or found[0] != before[0]:
                    raise UnusableRowError(
                        "two system prompts: one as a turn, one as a key",
                        hint=f"--columns ignore={(*self.system, *self.history)[0]} leaves the key out",
                    )
                found = found[1:]
            before += found
        elif self.prompt:
            before += self._prompt(row, turns)
        if not self.response:
            return before
        if self.messages and before and before[-1].role == "assistant":
            raise ValueError(f"the turns in {self.messages[0]!r} end with an answer already")
        return _answered(before, self._response(row, turns), self.response[0])

    def _one(self, texts: Iterable[str], part: str, what: str) -> str:
        """Return the one text that columns hold, empty where they hold none."""
        found = list(dict.fromkeys(text for text in texts if not is_blank(text)))
        if len(found) > 1:
            columns: tuple[str, ...] = getattr(self, part)
            raise UnusableRowError(
                f"two {what}: {' and '.join(map(repr, columns))}",
                hint=f"--columns {part}={columns[0]} takes one of them",
            )
        return next(iter(found), "")

    def _system(self, row: Row) -> list[Message]:
        """Return the system turn that stands beside the conversation; an empty column means none."""
        texts = []
        for key in self.system:
            with _or_ignored(key):
                texts.append(text_of(row[key], repr(key)) if row.get(key) is not None else "")
        text = self._one(texts, "system", "system prompts")
        return [Message(role="system", content=text)] if text else []

    def _prompt(self, row: Row, turns: Turns) -> list[Message]:
        first, *others = self.prompt
        value = row.get(first)
        beside = [key for key in (*others, *self.context) if not is_empty(row.get(key))]
        if holds_turns(value) or (self.rejected and is_transcript(value)):
            if beside:
                raise UnusableRowError(
                    f"{beside[0]!r} stands beside the turns in {first!r}",
                    hint=f"--columns ignore={beside[0]} leaves it out",
                )
            return turns.read(value, first)
        parts = [text_of(value, repr(first)), *(text_of(row[key], repr(key)) for key in beside)]
        return [Message(role="user", content="\n\n".join(part for part in parts if not is_blank(part)))]

    def _response(self, row: Row, turns: Turns) -> list[Message]:
        (column,) = self.response
        value = row.get(column)
        said = [key for key in self.reasoning if is_said(row.get(key))]
        thought = self._one((text_of(row[key], repr(key)) for key in said), "reasoning", "texts of reasoning")
        if holds_turns(value):
            if thought:
                raise ValueError(f"{self.reasoning[0]!r} stands beside the turns in {column!r}")
            return turns.read(value, column)
        answer = text_of(value, repr(column))
        if self.rejected and self.prompt and is_transcript(row.get(self.prompt[0])):
            answer = answer.strip()
        reasoning = "" if thought.strip() in answer else thought
        return [Message(role="assistant", content=answer, reasoning=reasoning)]

    def _refuse_lost(self, row: Row, messages: Sequence[Message]) -> None:
        """Refuse a row in which a column says what the conversation does not, and may belong to it."""
        for column, part in self.doubts.items():
            value = row.get(column)
            if is_empty(value) or (part != "response" and not is_said(value)):
                continue
            if part in NEVER_TEXT or not _stands_in(value, part, messages):
                raise UnusableRowError(_DOUBTS[part].format(column), hint=self._remedy(row, column, part))

    def _remedy(self, row: Row, column: str, part: str) -> str:
        alike = [key for key, other in self.doubts.items() if other == part and not is_empty(row.get(key))]
        leave = f"{','.join(f'ignore={key}' for key in alike)} leaves it out"
        used: tuple[str, ...] = getattr(self, part, ())
        if part == "prompt" and used:
            return (
                f"--columns prompt={used[0]},prompt={column} joins them; system={used[0]},prompt={column} makes the "
                f"first a system prompt; prompt={column} takes it alone"
            )
        if part == "response" and used:
            return f"--columns response={used[0]} or response={column} takes one of them"
        kept = "".join(f"{part}={key}," for key in used)
        if part == "system":
            return f"--columns system={column} makes it one; {leave}"
        if part == "context" and self.response:
            return f"--columns {kept}context={column} adds it to the prompt; {leave}"
        if part == "reasoning" and self.response:
            return f"--columns reasoning={column} makes it the reasoning before the answer; {leave}"
        return f"--columns {leave}"


def _checked_side(messages: list[Message], column: str) -> tuple[Message, ...]:
    """Return one side of a pair, whose last answer is compared; a ``ValueError`` names the side."""
    try:
        return checked([*context(messages[:-1]), *messages[-1:]])
    except ValueError as error:
        raise UnusableRowError(f"{column!r}: {error}") from error


@contextmanager
def _or_ignored(column: str) -> Iterator[None]:
    """Say of a column that cannot be read what to do if it is something else than its name says."""
    try:
        yield
    except ValueError as error:
        hint = f"if {column!r} is something else: --columns ignore={column}"
        raise UnusableRowError(str(error), hint=hint) from error


def _stands_in(value: object, part: str, messages: Sequence[Message]) -> bool:
    """Return whether a conversation says what a column does: what is asked in its prompts, anything else anywhere."""
    asked = part in ("prompt", "context", "choices", "system")
    said = "\n".join(
        f"{turn.content}\n{turn.reasoning}" for turn in messages if not asked or turn.role != "assistant"
    )
    texts = [str(value)] if isinstance(value, int | float) else list(texts_in(value))
    if part == "prompt":
        # A prompt that holds the whole question is the question in a template.
        question = next((turn.content.strip() for turn in messages if turn.role == "user"), "")
        if question and any(question in text for text in texts):
            return True
    return all(text in said for text in texts)


def _earlier(value: object, column: str, turns: Turns) -> list[Message]:
    """Return the turns of a history: a list of pairs of texts, or of turns, or the JSON text of either."""
    if isinstance(value, str) and not is_blank(value):
        value = from_json(value, repr(column))
    if is_empty(value):
        return []
    if isinstance(value, list | tuple) and all(isinstance(item, list | tuple) for item in value):
        messages = []
        for number, pair in enumerate(value, 1):
            name = f"pair {number} of {column!r}"
            if len(pair) != 2:
                raise ValueError(f"{name} has {len(pair)} texts, not a question and its answer")
            for role, what, text in zip(("user", "assistant"), ("question", "answer"), pair, strict=True):
                messages.append(Message(role=role, content=text_of(text, f"the {what} in {name}")))
        return messages
    return turns.read(value, column)


def _answered(before: list[Message], answer: list[Message], column: str) -> list[Message]:
    """Return a prompt and what answers it; an answer that repeats the prompt stands for both."""
    if not answer or answer[0].role not in ("system", "user"):
        return [*before, *answer]
    asked = [turn for turn in before if turn.role != "system"]
    system, own = (before[:1], answer) if answer[0].role == "user" else (answer[:1], answer[1:])
    if own[: len(asked)] != asked:
        raise ValueError(f"{column!r} begins with another turn than the prompt")
    return [*(turn for turn in system if turn.role == "system"), *own]


def marks(value: object, column: str) -> bool | None:
    """Return whether a column marks an answer as wanted; None where it marks nothing, such as the label of a class."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False} | ({} if plain(column) == "label" else {"1": True, "0": False})
    return words.get(str(value).strip().lower())


def preference_error(keys: Sequence[str]) -> UnusableRowError | None:
    """Return the error for a row of preference data that no answer was named for; None where it is something else."""
    chosen = next((key for key in keys if plain(key) in CHOSEN), None)
    rejected = next((key for key in keys if plain(key) in REJECTED), None)
    if chosen is None:
        return None
    prompt = ",prompt=input" if plain(chosen) == "preferred_output" and "input" in keys else ""
    both = f"{chosen!r} and {rejected!r}" if rejected is not None else f"{chosen!r} without a rejected answer"
    return UnusableRowError(
        f"preference data: {both}, and no answer to learn from alone",
        hint=f"--columns response={chosen}{prompt} takes the chosen answer",
    )


def checked(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages of a conversation that ends in an answer, and has one to learn; else a ``ValueError``."""
    if not messages:
        raise ValueError("the conversation is empty")
    roles: set[str] = set()
    for message in messages:
        role = message.role
        if role == "assistant" and "user" not in roles:
            raise ValueError("no user turn before the assistant turn")
        if role == "tool" and "assistant" not in roles:
            raise ValueError("a tool's result before any call")
        if role in ("user", "assistant") and not message.tool_calls and is_blank(message.content):
            raise ValueError("the answer is empty" if role == "assistant" else "the user turn is empty")
        roles.add(role)
    if messages[-1].role != "assistant":
        raise ValueError(f"the conversation ends with a {messages[-1].role} turn")
    if not any(message.trained for message in messages if message.role == "assistant"):
        raise ValueError("no answer to learn: all have weight 0")
    return tuple(messages)
