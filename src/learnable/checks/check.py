"""What a check of rows is given, and what it says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import polars as pl

from learnable.data.decontamination import EvaluationIndex
from learnable.types import Example


class Suspicion(NamedTuple):
    """Why a row may be wrong.

    ``row`` is its position, ``strength`` in (0, 1] about how often a person would agree, ``why`` a sentence, ``other`` the
    position of the row that it collides with.
    """

    row: int
    strength: float
    why: str
    other: int | None = None


@dataclass(frozen=True, kw_only=True)
class CheckedRow:
    """A conversation as checks read it.

    Args:
        id: Of the example.
        source: Of the example.
        question: What stands before and between the answers, but for the system's turns.
        answer: The answers that are trained on.
        last: The last of them, "" where the conversation does not end with one.
        turns: Number of the answers.
        calls: Whether an answer calls a tool.
    """

    id: str
    source: str
    question: str
    answer: str
    last: str
    turns: int
    calls: bool

    @classmethod
    def of(cls, example: Example) -> "CheckedRow":
        """Return an example as checks read it."""
        answers = [each for each in example.messages if each.role == "assistant" and each.trained]
        asked = [each.content for each in example.messages if each.role not in ("assistant", "system")]
        return cls(
            id=example.id,
            source=example.source,
            question="\n".join(asked),
            answer="\n".join(each.content for each in answers),
            last=answers[-1].content if answers and answers[-1] is example.messages[-1] else "",
            turns=len(answers),
            calls=any(each.tool_calls for each in example.messages),
        )


@dataclass(frozen=True, kw_only=True)
class Checked:
    """All rows of a pool, and what is known of them.

    Args:
        examples: n examples.
        measured: A line for each of them, in their order: what models measured, by the names of a table of scores.
        evaluation: Rows of evaluation files.
    """

    examples: Sequence[Example]
    measured: pl.DataFrame = field(default_factory=pl.DataFrame)
    evaluation: EvaluationIndex | None = None

    @cached_property
    def rows(self) -> list[CheckedRow]:
        """The examples as checks read them."""
        return [CheckedRow.of(example) for example in self.examples]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A way in which a row can be wrong.

    Args:
        about: What it looks for and from which threshold on, in a sentence.
        look: Finds such rows.
        needs: Columns that models measure, none where the text is enough.
        needs_evaluation: Whether it needs rows of evaluation files.
    """

    about: str
    look: Callable[[Checked], Iterable[Suspicion]]
    needs: tuple[str, ...] = ()
    needs_evaluation: bool = False


Checks = Mapping[str, Check]


def between(low: float, high: float, share: float) -> float:
    """Return a strength that rises from ``low`` to ``high`` as ``share`` goes from 0 to 1, and stays there."""
    return low + (high - low) * min(max(share, 0.0), 1.0)
