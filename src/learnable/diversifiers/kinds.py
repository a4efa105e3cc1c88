"""What a diversifier is: examples in, new examples and a ledger of what was refused out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import polars as pl

from learnable.diversifiers.drawing import Drawing
from learnable.runs.identity import example_id
from learnable.settings import Sampling
from learnable.types import Example, Message

DROPPED = {"parent": pl.String, "seed": pl.Int64, "reason": pl.String, "text": pl.String}
"""Columns of the ledger of what was drawn and refused."""


@dataclass(frozen=True, kw_only=True)
class Diversified:
    """What a diversifier made.

    ``kept``: new examples in the order asked for; their ``meta`` has at least ``parent`` (id of the example it comes
    from, or None), ``by`` (name of the method) and ``seed`` (int).
    ``dropped``: what was drawn and why it was refused, columns as in ``DROPPED``.
    ``notes``: sentences that the user must read, for example of a shortfall.
    """

    kept: list[Example]
    dropped: pl.DataFrame
    notes: tuple[str, ...] = ()


class Diversifier(Protocol):
    """Makes new examples; hyperparameters are its fields.

    ``needs_examples`` is False when it works without input rows, ``needs_generator`` is False when rules alone do it;
    ``sampling`` is its default way of drawing. It may also have ``files``, those that it reads, which count by their
    content; ``price(rows=, n=)``, what it makes in words; and ``texts(examples, n)``, how many it draws.
    """

    needs_examples: ClassVar[bool] = True
    needs_generator: ClassVar[bool] = True
    sampling: ClassVar[Sampling] = Sampling()

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return ``n`` new examples, in the method's own sense; its default when None. ``draw`` asks the generator."""


def variant(example: Example, messages: Sequence[Message], **meta: Any) -> Example:
    """Return an example with other turns, their identity, and itself as the parent of what it is now."""
    identity = example_id(messages, tools=example.tools)
    meta = {"parent": example.id, **meta}
    return replace(example, id=identity, messages=tuple(messages), meta=meta)


class Ledger:
    """Collects what was refused."""

    def __init__(self) -> None:
        self._rows: list[tuple[str | None, int | None, str, str]] = []

    def refuse(self, reason: str, *, text: str, parent: str | None = None, seed: int | None = None) -> None:
        """Note why a text was refused."""
        self._rows.append((parent, seed, reason, text))

    @property
    def frame(self) -> pl.DataFrame:
        """All refusals in the order noted, columns as in ``DROPPED``."""
        return pl.DataFrame(self._rows, schema=DROPPED, orient="row")

    def shortfall(self, asked: int, got: int, *, of: str, what: str = "") -> list[str]:
        """Return the sentence that says how many there are less than asked for, and why; nothing if they are as many.

        ``of`` says how many there were to choose from, such as ``1,500 draws``; ``what`` stands before the sentence.
        """
        if got >= asked:
            return []
        reasons = counted(self.frame)
        longer = "; --max-new-tokens lets them end" if "cut off" in reasons.partition(",")[0] else ""
        return [f"{what}asked for {asked:,}, got {got:,}: of {of}, {reasons or 'none was refused'}{longer}"]


def counted(dropped: pl.DataFrame) -> str:
    """Return how many were refused for each reason, most frequent first: ``12 cut off, 3 empty``.

    What stands behind a colon in a reason tells single cases apart and is left out.
    """
    kinds = Counter(reason.partition(":")[0] for reason in dropped["reason"])
    return ", ".join(f"{count:,} {reason}" for reason, count in kinds.most_common())
