"""The nouns of the house: frozen, keyword-only, without torch and without files.

Letters used for shapes: n examples, T tokens of one example, k picked.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from decimal import Decimal
from operator import add, sub
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.settings import Loading, Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call that an assistant's turn makes: ``arguments`` is the JSON text of an object; ``id`` may be empty."""

    name: str
    arguments: str
    id: str = ""

    def turn_part(self, *, arguments_as_text: bool = True) -> dict[str, Any]:
        """Return it as OpenAI's chats have it; without ``arguments_as_text`` the arguments are an object."""
        arguments = self.arguments if arguments_as_text else json.loads(self.arguments)
        part = {"type": "function", "function": {"name": self.name, "arguments": arguments}}
        return part | ({"id": self.id} if self.id else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation.

    ``role`` is ``system``, ``user``, ``assistant`` or ``tool`` (the result of a call). Of an assistant's turn:
    ``reasoning`` is what it thinks before ``content``, and ``tool_calls`` are what it calls. Of a tool's turn:
    ``name`` and ``tool_call_id`` say which call it answers. ``trained`` is False for an answer that is context only:
    the model reads it, and its tokens carry no loss.
    """

    role: str
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    trained: bool = True

    def turn(self, *, arguments_as_text: bool = True) -> dict[str, Any]:
        """Return it as OpenAI's chats have it; reasoning goes under the name that servers of one's own take."""
        calls = [call.turn_part(arguments_as_text=arguments_as_text) for call in self.tool_calls]
        beside = {
            "reasoning_content": self.reasoning,
            "tool_calls": calls,
            "name": self.name,
            "tool_call_id": self.tool_call_id,
        }
        turn = {"role": self.role, "content": self.content}
        return turn | {key: value for key, value in beside.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """What a row means: ``messages``, the JSON text of the ``tools``; of a pair the last message is the chosen answer."""

    messages: tuple[Message, ...]
    tools: str = ""
    rejected: Message | None = None
    strength: float | None = None

    @property
    def turns(self) -> tuple[Message, ...]:
        """All that is said: the messages, and a rejected answer after them."""
        return self.messages if self.rejected is None else (*self.messages, self.rejected)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training conversation; ``id`` is a hash of the messages and tools alone, the same in every file."""

    id: str
    messages: tuple[Message, ...]
    source: str
    tools: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one prompt, one turn of the assistant each; ``id`` is a hash of the parts and the ``tools``.

    Answers in ``prompt`` are context only. ``strength`` is by how much the rejected answer is worse, such as a
    difference of scores; None where the data say nothing.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    source: str
    tools: str = ""
    strength: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """One example as the model sees it.

    ``ids`` int32 (T,); ``mask`` bool (T,), True where the loss counts; ``truncated`` is True when tokens were
    cut off to fit the length limit; ``refused`` says why the chat template does not take it, and T is 0 then.
    The answers that count have ``said`` characters, of which the template leaves out ``left_out``;
    ``hides_context`` is True when it leaves out the text of another turn, or the tools.
    """

    id: str
    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    truncated: bool
    refused: str | None = None
    said: int = 0
    left_out: int = 0
    hides_context: bool = False


@dataclass(frozen=True, kw_only=True)
class AnswerHeader:
    """What says that an answer follows, without a question.

    ``opening`` int32 (O,) begins a conversation: BOS, or nothing; ``marks`` int32 (H,), H at least 1, stand between a
    question and its answer.
    """

    opening: NDArray[np.int32]
    marks: NDArray[np.int32]

    @property
    def ids(self) -> NDArray[np.int32]:
        """Both, (O + H,)."""
        return np.concatenate([self.opening, self.marks])


@dataclass(frozen=True, kw_only=True)
class ModelRef(Loading):
    """Names a model (directory, hub id, GGUF file, or ``starter``) and how to load it."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Measure:
    """An expensive pass of a model over examples, stored once.

    Args:
        kind: What is measured, such as ``nll``.
        model: Key of the model: weights, adapter, chat template, dtype.
        parameters: What else changes the numbers, such as the length limit.
    """

    kind: str
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


Awaited = Callable[[], Sequence[Any] | NDArray[Any]]
"""Gives one value for each example of a batch, as soon as the device is done with it; until then the CPU goes on."""
Launch = Callable[[Any, Sequence[Rendered], Any], Awaited]
"""Begins a batch: takes a network, n examples and the layout of their tokens."""


@dataclass(frozen=True)
class Work:
    """What passes of a model computed.

    ``tokens`` of the examples; ``computed`` of them, what several begin with counted once; ``padding`` beside them;
    floating-point ``operations`` that this takes, multiplications and additions of matrices; ``seconds``.
    """

    tokens: int = 0
    computed: int = 0
    padding: int = 0
    operations: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Work") -> "Work":
        return Work(*map(sub, astuple(self), astuple(other)))


class MeasuredModel(Protocol):
    """What the rooms without torch may ask of a loaded model."""

    @property
    def key(self) -> str:
        """Identity of weights, active adapter, chat template and dtype."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one forward pass takes."""

    @property
    def work(self) -> Work:
        """What was computed so far."""

    @property
    def peak_operations_per_s(self) -> float | None:
        """What the device can do in products of matrices of this model's shapes; None where it is not known."""

    def measure(
        self, launch: Launch, batches: Sequence[Sequence[Rendered]]
    ) -> Iterator[tuple[int, Sequence[Any] | NDArray[Any]]]:
        """Yield the number of each batch and one value per example, as they are done, in any order.

        Args:
            launch: Begins a batch; a function of a module, so that it can be sent to other machines.
            batches: Examples that are computed together.
        """


class Answer(NamedTuple):
    """What was generated: its ``text``, and whether it ``finished`` by itself instead of being cut off."""

    text: str
    finished: bool


class Generator(Protocol):
    """Answers conversations: a loaded model, or a server."""

    @property
    def key(self) -> str:
        """Identity of what answers."""

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        only: Collection[int] | None = None,
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """Yield positions and answers, some at a time as they are done; those outside ``only`` are left out.

        Args:
            conversations: n conversations that end before the answer.
            sampling: How to draw.
            seeds: One per conversation.
            only: Positions to answer; all when not given.
        """


class Scorer(Protocol):
    """A cheap formula over measured columns; hyperparameters are its fields.

    ``by_row`` is True when the score of a row depends on that row alone, so that windows of a pool may be scored one by
    one; a scorer that lacks it is taken to say False, and sees all rows at once.
    """

    needs: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[bool]

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return one score per row, (n,); NaN where it is undefined."""


class Selector(Protocol):
    """Arrays in, picks out; hyperparameters are its fields.

    ``needs_vectors`` is True when it cannot do without ``vectors``; a selector that lacks it is taken to say False.
    """

    needs_vectors: ClassVar[bool]

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None,
        groups: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> "Picks":
        """Return at most ``k`` distinct positions; NaN is never picked."""


@dataclass(frozen=True, kw_only=True)
class Picks:
    """What a selector picked: ``index`` int64 (k,) in the order picked, ``gain`` float32 (k,)."""

    index: NDArray[np.int64]
    gain: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to keep: exactly one of examples, tokens (prompt and response together) or a fraction of the examples."""

    examples: int | None = None
    tokens: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in self.__dict__.items() if value is not None}
        if len(given) != 1:
            raise UsageError(
                f"a budget is one of examples, tokens or fraction, got {given or 'none'}",
                hint="for example 6%, 500 or 50000tokens",
            )
        ((name, value),) = given.items()
        if not math.isfinite(value) or value <= 0 or (name == "fraction" and value > 1):
            limit = "above 0 and at most 1 (100%)" if name == "fraction" else "above 0"
            raise UsageError(f"budget.{name} must be {limit}, got {value}")
        if name != "fraction" and value != int(value):
            raise UsageError(
                f"budget.{name} must be a whole number, got {value}", hint="write 6% for a fraction"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``6%`` (of the examples), ``500`` (examples) or ``50000tokens``, the inverse of ``str``; else a ``UsageError``."""
        # A comma separates thousands only: 6,5% would otherwise be read as 65%.
        number = r"((?:[0-9]+(?:_[0-9]+)*|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?)"
        match = re.fullmatch(rf"\s*{number}\s*(%|tokens?|examples?)?(?: of the examples)?\s*", text)
        if match is None:
            raise UsageError(f"cannot read the budget {text!r}", hint="write 6%, 500 or 50000tokens")
        count, unit = re.sub("[_,]", "", match[1]), match[2] or ""
        if unit == "%":
            return cls(fraction=float(Decimal(count) / 100))
        if "." in count:
            raise UsageError(
                f"cannot read the budget {text!r}: a count has no decimals", hint="write 6% for a fraction"
            )
        return cls(tokens=int(count)) if unit.startswith("token") else cls(examples=int(count))

    def __str__(self) -> str:
        if self.fraction is not None:
            # Decimal and all digits: two budgets that differ never read the same.
            percent = (Decimal(repr(float(self.fraction))) * 100).normalize()
            return f"{percent:f}% of the examples"
        if self.tokens is not None:
            return f"{self.tokens:,} tokens"
        return f"{self.examples:,} examples"


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What an evaluator says of one example.

    ``value`` is in the evaluator's unit, NaN when it could not be graded; ``answer`` is what was taken from the
    completion, or chosen; ``why`` gives the reason where there is one to give.
    """

    value: float
    answer: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The outcome of choosing: every scored example is in one of the two frames.

    ``kept`` has ``id``, ``rank`` (0 = first picked), ``gain`` (NaN where pinned) and ``pinned``; ``dropped`` has ``id`` and ``reason``.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class GradientSum:
    """What is kept of the gradients of a set of n examples, split at random into p parts of about equal size.

    ``lengths`` float64 (n,): the L2 length of each gradient. ``part`` int64 (n,): the part that each example is in.
    ``products``: by name of a set, this one included, the dot products of the sums of gradients over the parts of this
    set (rows) and of that set (columns), float64 (p, q).
    """

    lengths: NDArray[np.float64]
    part: NDArray[np.int64]
    products: Mapping[str, NDArray[np.float64]]
