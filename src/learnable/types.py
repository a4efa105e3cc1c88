"""The nouns of the house: frozen, keyword-only, without torch and without files.

Letters used for shapes: n examples, T tokens of one example, k picked.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call that an assistant's turn makes: ``arguments`` is the JSON text of an object; ``id`` may be empty."""

    name: str
    arguments: str
    id: str = ""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """What a row means: its ``messages``, and the JSON text of the ``tools`` that the assistant may call."""

    messages: tuple[Message, ...]
    tools: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training conversation.

    ``id`` is a hash of the messages and tools alone, so that the same conversation has the same id in every file.
    ``tools`` is the JSON text of the list of tools that the assistant may call; empty when there are none.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    tools: str = ""
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

    Args:
        opening: Tokens that a conversation begins with, int32 (O,): BOS, or none.
        marks: Tokens between a question and its answer, int32 (H,), H at least 1.
    """

    opening: NDArray[np.int32]
    marks: NDArray[np.int32]

    @property
    def ids(self) -> NDArray[np.int32]:
        """Both, (O + H,)."""
        return np.concatenate([self.opening, self.marks])


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How to load a model.

    Args:
        revision: Commit or branch of a hub id.
        dtype: ``auto`` is bfloat16 where the device computes in it, else float32.
        device: ``auto`` is CUDA, else MPS, else the CPU; never part of an identity.
        trust_remote_code: Run code that comes with the model.
        batch_tokens: Most tokens of a batch, padding included, when losses are measured; by the kind of device when not
            given (see `learnable doctor`); never part of an identity.
        chat_template: Name of one of the model's chat templates, or a file with another; the model's default one when
            not given.
    """

    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    batch_tokens: int | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise UsageError(f"batch_tokens must be at least 1, got {self.batch_tokens}")


@dataclass(frozen=True, kw_only=True)
class ModelRef(Loading):
    """Names a model and how to load it; ``Model.key`` identifies its content.

    Args:
        name: Directory, hub id, GGUF file, or ``starter``.
    """

    name: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read rows.

    Args:
        format: ``alpaca``, ``sharegpt``, ``messages`` or ``prompt_completion``; detected row by row when not given.
        on_error: What to do about bad rows. A share such as ``1%`` leaves them out, counted and listed with their
            reasons, and stops where there are more in an input; ``raise`` stops at the first one; ``skip`` never stops.
        source_column: Column that names the source of a row; the name of the file when not given.
        columns: Which column is which part of a conversation: ``prompt=query_nl,response=shell_command``. Parts are
            prompt, response, messages, system, context, history, reasoning, tools, label, and ignore for a column that is
            none; columns with usual names need no naming.
        max_row_mb: Largest row in megabytes of text; a larger one is a bad row.
    """

    format: str | None = None
    on_error: str = "1%"
    source_column: str | None = None
    columns: str | Mapping[str, Any] | None = None
    max_row_mb: float = 8.0

    def __post_init__(self) -> None:
        if isinstance(self.columns, Mapping):
            object.__setattr__(self, "columns", _as_text(self.columns))
        _ = self.most_bad
        if self.max_row_mb <= 0:
            raise UsageError(f"max_row_mb must be above 0, got {self.max_row_mb}")

    @property
    def most_bad(self) -> float:
        """The share of the rows of an input that may be bad, from 0 to 1."""
        if self.on_error in ("raise", "skip"):
            return float(self.on_error == "skip")
        percent = re.fullmatch(r"(\d+|\d*\.\d+)%", self.on_error)
        if percent is None or float(percent[1]) > 100:
            raise UsageError(
                f"on_error is raise, skip or a share, got {self.on_error!r}",
                hint="1% is one row of a hundred",
            )
        return float(percent[1]) / 100


def _as_text(columns: Mapping[str, Any]) -> str:
    """Return named columns as they are written on the command line: one form, however they were given."""
    pairs = [
        (part, name)
        for part, names in columns.items()
        for name in (names if isinstance(names, list | tuple) else [names])
    ]
    if any(not isinstance(name, str) or "," in name or name != name.strip() for _, name in pairs):
        return json.dumps(dict(columns), ensure_ascii=False)
    return ",".join(f"{part}={name}" for part, name in pairs)


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


@dataclass(frozen=True, kw_only=True)
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
        return Work(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        )

    def __sub__(self, other: "Work") -> "Work":
        return Work(
            **{each.name: getattr(self, each.name) - getattr(other, each.name) for each in fields(self)}
        )


class Model(Protocol):
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
        self, kind: str, batches: Sequence[Sequence[Rendered]]
    ) -> Iterator[tuple[int, Sequence[Any] | NDArray[Any]]]:
        """Yield the number of each batch and one value per example, as they are done, in any order.

        Args:
            kind: ``nll`` (summed negative log-likelihood of the response tokens in nats), ``token_nll`` (float32
                arrays, the same of each response token) or ``embedding`` (float32 arrays (d,)).
            batches: Examples that are computed together.
        """


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model's answers are drawn; the defaults are those of DELIA's authors (arXiv 2408.10841, their code).

    Args:
        temperature: 0 is greedy; else logits are divided by it and a token is drawn.
        top_p: Draw from the likeliest tokens that together have this probability.
        max_new_tokens: Most tokens of an answer.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"temperature must be at least 0 and top_p in (0, 1], got {self.temperature} and {self.top_p}"
            )
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """A token that a model does not know yet: its ``text``, and its ``meaning`` in words that the model knows."""

    text: str
    meaning: str = ""

    def __post_init__(self) -> None:
        if not self.text or self.text != self.text.strip():
            raise UsageError(
                f"{self.text!r} cannot be a token: it is empty, or begins or ends with a space",
                hint='write --tokens "<sep>=answer in JSON"',
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<sep>=what it means``, or ``<sep>`` alone."""
        token, _, meaning = text.partition("=")
        return cls(text=token.strip(), meaning=meaning.strip())


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    """Tokens that a model gets, and how their rows of the embedding begin.

    Args:
        added: The tokens.
        init: ``random``, ``mean`` (of all rows) or ``description`` (mean of the rows of the meaning's tokens).
        init_seed: Seeds ``random``.
    """

    added: tuple[NewToken, ...]
    init: Literal["random", "mean", "description"] = "description"
    init_seed: int = 0

    def __post_init__(self) -> None:
        texts = [token.text for token in self.added]
        if len(set(texts)) != len(texts):
            raise UsageError(f"a token is given twice: {', '.join(texts)}")

    def __str__(self) -> str:
        return ", ".join(token.text for token in self.added)


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
    """A cheap formula over measured columns; hyperparameters are its fields."""

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
                hint="for example budget=6%, budget=500 or budget.tokens=50000",
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
        """Read ``6%`` (of the examples), ``500`` (examples) or ``50000tokens``; the inverse of ``str``.

        Raises:
            UsageError: If the text is none of these.
        """
        match = re.fullmatch(
            # A comma separates thousands only: 6,5% would otherwise be read as 65%.
            r"\s*((?:[0-9]+(?:_[0-9]+)*|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?)"
            r"\s*(%|tokens?|examples?)?(?: of the examples)?\s*",
            text,
        )
        if match is None:
            raise UsageError(f"cannot read the budget {text!r}", hint="write 6%, 500 or 50000tokens")
        number, unit = re.sub("[_,]", "", match.group(1)), match.group(2)
        if unit == "%":
            return cls(fraction=float(Decimal(number) / 100))
        if "." in number:
            raise UsageError(
                f"cannot read the budget {text!r}: a count has no decimals", hint="write 6% for a fraction"
            )
        if unit is not None and unit.startswith("token"):
            return cls(tokens=int(number))
        return cls(examples=int(number))

    def __str__(self) -> str:
        if self.fraction is not None:
            # Decimal and all digits: two budgets that differ never read the same.
            percent = (Decimal(repr(float(self.fraction))) * 100).normalize()
            return f"{percent:f}% of the examples"
        if self.tokens is not None:
            return f"{self.tokens:,} tokens"
        return f"{self.examples:,} examples"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to fine-tune; the defaults are those of common LoRA tuning, not of any paper (none states its own).

    Args:
        method: ``lora`` (adapters on the linear layers) or ``full``.
        epochs: Passes over the data.
        learning_rate: Highest learning rate; by default 2e-4 for LoRA and 2e-5 for full fine-tuning.
        batch_size: Examples per optimizer step.
        rank: LoRA rank; its alpha is twice the rank.
        warmup: Share of the steps in which the learning rate rises; it then falls by a cosine.
        seed: Seeds the adapters and the order of the data.
        steps: Optimizer steps per epoch, with batches as even as can be instead of ``batch_size``: selections of
            differing numbers of examples then train for equally many steps.
    """

    method: Literal["lora", "full"] = "lora"
    epochs: float = 1.0
    learning_rate: float | None = None
    batch_size: int = 8
    rank: int = 16
    warmup: float = 0.03
    seed: int = 0
    steps: int | None = None

    def __post_init__(self) -> None:
        counts = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "rank": self.rank,
            "steps": self.steps,
        }
        for name, count in counts.items():
            if count is not None and count <= 0:
                raise UsageError(f"{name} must be above 0, got {count}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup must be at least 0 and below 1, got {self.warmup}", hint="0.03 is 3%")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate that is used."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 2e-4 if self.method == "lora" else 2e-5


@dataclass(frozen=True, kw_only=True)
class Reference(Tuning):
    """How to get a reference model; see ``Tuning`` for the other fields.

    Args:
        folds: 0: one model trained on all examples, which then scores the very examples it has trained on (the
            paper); K >= 2: K models, each trained on the examples outside one fold and scoring that fold, so that no
            example is scored by a model that has seen it, or another answer to its prompt. Two folds cost what one
            in-sample epoch costs.
        fraction: Train on this share of the examples only, drawn at random.
        model: A model or LoRA adapter that is trained already (folder or hub id); nothing is trained then.
        last_epoch_loss: Keep the loss of each example as the last epoch met it, which `score` then takes for the loss
            after, instead of a pass. In-sample only, and not the paper's score: the weights move while it is measured.
    """

    folds: int = 0
    fraction: float = 1.0
    model: str | None = None
    last_epoch_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 0 or self.folds == 1:
            raise UsageError(
                f"reference.folds must be 0 or at least 2, got {self.folds}",
                hint="0 is in-sample, 2 is cross-fitted",
            )
        if not 0 < self.fraction <= 1:
            raise UsageError(f"reference.fraction must be above 0 and at most 1, got {self.fraction}")
        whole = (
            self.folds == 0 and self.fraction == 1 and self.epochs == int(self.epochs) and self.model is None
        )
        if self.last_epoch_loss and not whole:
            raise UsageError(
                "the losses of the last epoch are those of one model that met every example: "
                f"folds is {self.folds}, fraction {self.fraction}, epochs {self.epochs}, model {self.model}",
                hint="with reference.last_epoch_loss take folds 0, fraction 1, whole epochs, and no model of your own",
            )

    @property
    def passes(self) -> float:
        """Training cost in passes over the whole pool."""
        if self.model is not None:
            return 0.0
        return self.epochs * self.fraction * max(self.folds - 1, 1)


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
    by: str
    budget: Budget


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file rows were read from: where it is, what it is, the hash of its bytes, and what its columns were taken for."""

    path: str
    kind: str
    format: str
    source: str
    digest: str
    understood: str = ""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All rows that were read.

    ``examples``: one line per distinct conversation, columns ``id``, ``source`` and ``messages`` (list of structs
    ``role``, ``content``), in the order first seen. Where any turn has more, the structs have it too: ``reasoning``,
    ``tool_calls`` (JSON text), ``tool_call_id``, ``name``, ``trained``; where any conversation has tools, there is a
    column ``tools``.
    ``rows``: one line per row read, columns ``file`` (position in ``files``), ``row`` (0-based), ``line``
    (1-based line of a text file, null elsewhere), ``id`` (null for a row that could not be read) and ``reason``
    (null for a row that became an example; else why it did not, duplicates included).
    """

    examples: pl.DataFrame
    rows: pl.DataFrame
    files: tuple[SourceFile, ...]

    def __len__(self) -> int:
        return self.examples.height

    def iter_examples(self) -> Iterator[Example]:
        """Yield the distinct examples in the order first seen."""
        yield from examples_of(self.examples)


def examples_of(frame: pl.DataFrame) -> Iterator[Example]:
    """Yield the conversations in the rows of ``Pool.examples``, in their order."""
    for row in frame.iter_rows(named=True):
        messages = tuple([_message(turn) for turn in row["messages"]])
        yield Example(id=row["id"], messages=messages, source=row["source"], tools=row.get("tools", ""))


def _message(turn: Mapping[str, Any]) -> Message:
    if "tool_calls" not in turn:
        return Message(**turn)
    calls = json.loads(turn["tool_calls"] or "[]")
    return Message(**{**turn, "tool_calls": tuple(ToolCall(**call) for call in calls)})


@dataclass(frozen=True, kw_only=True)
class Format:
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
