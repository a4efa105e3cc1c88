"""Loss of held-out answers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable import data
from learnable.data.formats import find_layout
from learnable.data.names import COMPLETIONS, PROMPTS
from learnable.errors import UsageError
from learnable.evaluators.kinds import Kind, ungraded
from learnable.evaluators.reading import Item, Row, RowSettings, column, distinct, drawn
from learnable.types import Example, Grade, Message


@dataclass(frozen=True, kw_only=True)
class Heldout(RowSettings):
    """Negative log-likelihood of the answers of unseen rows, in nats per token of the answer.

    All assistant turns of a conversation count, with the token that ends each: the very pass that ``loss`` and
    ``learnability`` are made of.

    Args:
        answer: Column that holds the answer, for rows in no known format.
        prompt_column: Column that holds the question, likewise.
    """

    kind: ClassVar[Kind] = "likelihood"
    unit: ClassVar[str] = "nats per token"
    higher_is_better: ClassVar[bool] = False
    name: ClassVar[str] = "heldout"

    def read(self, path: str | None) -> list[Example]:
        """Return the rows of any format that ``learnable load`` knows, or of the named columns."""
        if path is None:
            raise UsageError("heldout needs a file", hint="write heldout:PATH")
        if self.answer is not None or self.prompt_column is not None:
            return super().read(path)
        pool = data.read([path], source_column=self.source_column)
        return drawn(distinct(pool.iter_examples(), path), n=self.n, seed=self.seed)

    def item(self, row: Row) -> Item:
        """Return the conversation that the named columns hold."""
        answer = column(row, self.answer, (*COMPLETIONS, "output"))
        prompt = column(row, self.prompt_column, PROMPTS)
        layout = find_layout(row, columns={"prompt": [prompt], "response": [answer]})
        return Item(layout.read(row, set()).messages, {})

    def candidates(self, example: Example) -> tuple[tuple[Message, ...], ...]:
        """Return the conversation itself."""
        return (example.messages,)

    def grade(self, example: Example, nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> Grade:
        """Return the loss per token in nats; NaN without a token to score."""
        if len(nll) != 1 or tokens[0] < 1 or not np.isfinite(nll[0]):
            return ungraded("no answer token to score")
        return Grade(value=float(nll[0] / tokens[0]))
