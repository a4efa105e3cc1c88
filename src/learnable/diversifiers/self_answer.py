"""``self_answer``: the model answers given questions in its own words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.gates import Neighbours, alike, failing
from learnable.diversifiers.kinds import Diversified, Ledger
from learnable.errors import DataError
from learnable.runs.identity import example_id, fingerprint
from learnable.settings import Sampling
from learnable.types import Example, Message


@dataclass(frozen=True, kw_only=True)
class SelfAnswer:
    """The questions of rows, answered again by the model.

    A question is the conversation up to its last answer. The rows are taken in an order drawn by the hash of each; the
    next row stands in for one that is refused, until there are enough or none is left. A question is refused when it
    has no user turn, does not fit the model, or is in a file to avoid; an answer when it is empty, cut off,
    repetitive, or in a file to avoid; and a conversation whose question and answer together are nearly one kept
    before: the same question may come twice if it is answered differently, as the buffer's worth is in its answers.

    Args:
        show_reference: Show the row's own answer before: question, that answer, and the question again.

    Source: the code of DELIA's authors (2408.10841), which shows the reference, has a system turn of its own before each
        question, cuts two characters off each answer and keeps all of them. Here the system turn is the row's, if any;
        nothing is cut off; answers are checked.
    """

    needs_examples: ClassVar[bool] = True
    needs_generator: ClassVar[bool] = True
    sampling: ClassVar[Sampling] = Sampling()
    show_reference: bool = True

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return ``n`` conversations, as many as there are rows when not given, fewer if too many are refused.

        Raises:
            DataError: If no row has a question.
        """
        rows = list({example.id: example for example in examples}.values())
        rows.sort(key=lambda row: fingerprint([seed, row.id]))
        if not any(question_of(row) for row in rows):
            raise DataError(
                f"none of the {len(rows):,} rows has a user turn before its answer",
                hint="is this the right file?",
            )
        wanted, taken = n or len(rows), 0
        ledger, before = Ledger(), Neighbours()
        kept: list[Example] = []
        while len(kept) < wanted and taken < len(rows):
            some = rows[taken : taken + wanted - len(kept)]
            taken += len(some)
            kept += self._answered(draw, self._answerable(draw, some, ledger), before, ledger, seed)
        notes = ledger.shortfall(wanted, len(kept), of=f"{taken:,} rows")
        if self.show_reference and (copies := _copies(rows, kept)):
            notes.append(f"{copies:,} of {len(kept):,} answers are nearly the reference that was shown")
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def texts(self, examples: Sequence[Example], n: int | None) -> int:
        """Return how many texts it draws, if none is refused."""
        return min(n or len(examples), len(examples))

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many texts it draws, in words."""
        return f"{n:,} to {rows:,} answers" if n and n < rows else f"{rows:,} answers"

    def _asked(self, row: Example) -> tuple[Message, ...]:
        """Return what the model is given."""
        question = question_of(row)
        if not self.show_reference or len(question) == len(row.messages):
            return question
        return (*question, row.messages[len(question)], question[-1])

    def _answerable(self, draw: Drawing, rows: Sequence[Example], ledger: Ledger) -> list[Example]:
        """Return the rows whose question can be asked."""
        passed = []
        for row, in_file in zip(rows, draw.avoided.reasons(list(map(question_of, rows))), strict=True):
            why = None if question_of(row) else "no user turn before the answer"
            why = "with tools, which a generator is not offered" if row.tools else why
            if why := why or in_file or draw.refusal(self._asked(row)):
                text = "\n".join(turn.content for turn in row.messages if turn.role == "user")
                ledger.refuse(f"question {why}", text=text, parent=row.id)
            else:
                passed.append(row)
        return passed

    def _answered(
        self, draw: Drawing, rows: Sequence[Example], before: Neighbours, ledger: Ledger, seed: int
    ) -> list[Example]:
        """Draw the answers; return the conversations that pass, and take them in among those before."""
        seeds = [seed_of(seed, "self_answer", row.id) for row in rows]
        answers = draw.answers(list(map(self._asked, rows)), seeds=seeds, label=f"{len(rows):,} answers")
        whole = [
            (*question_of(row), Message(role="assistant", content=answer.text.strip()))
            for row, answer in zip(rows, answers, strict=True)
        ]
        kept = []
        for row, row_seed, answer, messages, in_file in zip(
            rows, seeds, answers, whole, draw.avoided.reasons(whole), strict=True
        ):
            text = "\n".join(turn.content for turn in messages)
            if why := failing(answer) or in_file or before.why(text):
                ledger.refuse(f"answer {why}", text=answer.text, parent=row.id, seed=row_seed)
                continue
            before.add(text)
            meta = {"parent": row.id, "by": "self_answer", "seed": row_seed}
            kept.append(Example(id=example_id(messages), messages=messages, source=row.source, meta=meta))
        return kept


def question_of(row: Example) -> tuple[Message, ...]:
    """Return the turns before the last answer, all where there is none; nothing if they do not end with a user's."""
    last = max((place for place, turn in enumerate(row.messages) if turn.role == "assistant"), default=None)
    turns = row.messages[:last]
    return turns if turns and turns[-1].role == "user" else ()


def _copies(rows: Sequence[Example], kept: Sequence[Example]) -> int:
    """Return how many answers are near-duplicates of their row's own."""
    own = {row.id: row.messages[len(question_of(row)) :] for row in rows}
    pairs = ((own[each.meta["parent"]], each.messages[-1]) for each in kept)
    return sum(bool(reference) and alike(reference[0].content, answer.content) for reference, answer in pairs)
