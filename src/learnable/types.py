"""The nouns of the house: frozen, keyword-only, without torch and without files.

Letters used for shapes: n examples, T tokens of one example, k picked.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training conversation.

    ``id`` is a hash of the messages alone, so that the same conversation has the same id in every file.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """One example as the model sees it.

    ``ids`` int32 (T,); ``mask`` bool (T,), True where the loss counts; ``truncated`` is True when tokens were
    cut off to fit the length limit.
    """

    id: str
    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """Names a model; ``Model.key`` identifies its content.

    Args:
        name: Directory, hub id, GGUF file, or ``starter``.
        revision: Commit or branch of a hub id.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: ``auto``, ``cpu``, ``cuda`` ...; never part of the identity.
        trust_remote_code: Run code that comes with the model.
    """

    name: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


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


class Model(Protocol):
    """What the rooms without torch may ask of a loaded model."""

    @property
    def key(self) -> str:
        """Identity of weights, active adapter, chat template and dtype."""

    def render(self, examples: Sequence[Example], *, max_length: int) -> list[Rendered]:
        """Tokenize conversations and mark the response tokens."""

    def batches(self, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Group examples of the given token lengths; each group is one forward pass."""

    def nll(self, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
        """Summed negative log-likelihood of the response tokens in nats, (n,)."""


class Scorer(Protocol):
    """A cheap formula over measured columns; hyperparameters are its fields."""

    needs: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[bool]

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return one score per row, (n,); NaN where it is undefined."""


class Selector(Protocol):
    """Arrays in, picks out; hyperparameters are its fields."""

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

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``6%`` (of the examples), ``500`` (examples) or ``50000tokens``.

        Raises:
            UsageError: If the text is none of these.
        """
        match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(%|tokens?|examples?)?\s*", text)
        if match is None:
            raise UsageError(f"cannot read the budget {text!r}", hint="write 6%, 500 or 50000tokens")
        number, unit = match.groups()
        if unit == "%":
            return cls(fraction=float(number) / 100)
        if "." in number:
            raise UsageError(f"cannot read the budget {text!r}: a count has no decimals", hint="write 6% for a fraction")
        if unit is not None and unit.startswith("token"):
            return cls(tokens=int(number))
        return cls(examples=int(number))

    def __str__(self) -> str:
        if self.fraction is not None:
            return f"{self.fraction * 100:g}% of the examples"
        if self.tokens is not None:
            return f"{self.tokens:,} tokens"
        return f"{self.examples:,} examples"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The outcome of choosing: every scored example is in one of the two frames.

    ``kept`` has ``id``, ``rank`` (0 = first picked) and ``gain``; ``dropped`` has ``id`` and ``reason``.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame
    by: str
    budget: Budget


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file rows were read from: where it is, what it is, and the hash of its bytes."""

    path: str
    kind: str
    format: str
    source: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All rows that were read.

    ``examples``: one line per distinct conversation, columns ``id``, ``source`` and ``messages`` (list of structs
    ``role``, ``content``), in the order first seen.
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
        for row in self.examples.iter_rows(named=True):
            messages = tuple(Message(role=m["role"], content=m["content"]) for m in row["messages"])
            yield Example(id=row["id"], messages=messages, source=row["source"])


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one kind of row is read and written.

    ``matches`` tells from its keys whether a row is of this format; ``read`` gives the messages of a row and raises
    ``ValueError`` with the reason when it cannot; ``write`` is its inverse.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], tuple[Message, ...]]
    write: Callable[[Sequence[Message]], dict[str, Any]]
