"""``self_sample`` and ``self_answer``: the model answers questions, its own or given ones, in its own words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.gates import Neighbours, alike, failing
from learnable.diversifiers.kinds import Diversified, Diversifier, Ledger
from learnable.errors import DataError, UsageError
from learnable.runs.identity import example_id, fingerprint
from learnable.types import Example, Message


@dataclass(frozen=True, kw_only=True)
class SelfSample(Diversifier):
    """Conversations of one turn that the model makes up alone: it writes a user's turn, then answers it.

    A question is refused when it is empty, cut off, repetitive, nearly one that came before it, or in a file to avoid;
    then its answer when it is empty, cut off, repetitive, or in a file to avoid. New ones are drawn for those that
    were refused. Whether a draw is kept depends on its number and those before it: asking for more keeps what is there.

    Args:
        tries: At most so many times ``n`` questions are drawn.

    Source: Xu et al. 2024 (Magpie, 2406.08464) for the questions; DELIA (2408.10841) for what they are for and for
        temperature, top-p and length. Its authors' code answers given questions instead: see ``self_answer``.
    """

    needs_examples: ClassVar[bool] = False
    tries: int = 3

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise UsageError(f"tries must be at least 1, got {self.tries}")

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return ``n`` conversations, fewer if too many are refused; they have no parent."""
        if examples:
            raise UsageError(
                f"self_sample takes no rows, got {len(examples):,}",
                hint="self_answer answers the questions of rows; --avoid keeps away from them",
            )
        if n is None:
            raise UsageError("self_sample needs n", hint="say how many: --n 500")
        if draw.sampling.temperature == 0:
            raise UsageError(
                "temperature 0 invents the same question again and again", hint="give --temperature 0.7"
            )
        ledger, before = Ledger(), Neighbours()
        kept: list[Example] = []
        drawn, most = 0, self.tries * n
        while len(kept) < n and drawn < most:
            more = min(n - len(kept), most - drawn)
            seeds = [seed_of(seed, "self_sample", number) for number in range(drawn, drawn + more)]
            drawn += more
            kept += _answered(_invented(seeds, draw, ledger, before), draw, ledger)
        notes = ledger.shortfall(n, len(kept), of=f"{drawn:,} draws")
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def texts(self, examples: Sequence[Example], n: int | None) -> int:
        """Return how many texts it draws, if none is refused."""
        return 2 * (n or 0)

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many texts it draws, in words."""
        most = f" to {self.tries * (n or 0):,}" if self.tries > 1 else ""
        return f"{n or 0:,}{most} questions, and an answer to each,"


@dataclass(frozen=True, kw_only=True)
class SelfAnswer(Diversifier):
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

    show_reference: bool = True

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return ``n`` conversations, as many as there are rows when not given, fewer if too many are refused."""
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
            kept += _answered(self._asked(some, draw, ledger, seed), draw, ledger, before)
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

    def _asked(self, rows: Sequence[Example], draw: Drawing, ledger: Ledger, seed: int) -> list["_Question"]:
        """Return the questions of the rows that can be asked."""
        passed = []
        for row, in_file in zip(rows, draw.avoided.reasons(list(map(question_of, rows))), strict=True):
            asked = turns = question_of(row)
            if self.show_reference and len(turns) < len(row.messages) and turns:
                asked = (*turns, row.messages[len(turns)], turns[-1])
            why = None if turns else "no user turn before the answer"
            why = "with tools, which a generator is not offered" if row.tools else why
            if why := why or in_file or draw.refusal(asked):
                text = "\n".join(turn.content for turn in row.messages if turn.role == "user")
                ledger.refuse(f"question {why}", text=text, parent=row.id)
                continue
            drawn_by = seed_of(seed, "self_answer", row.id)
            meta = {"parent": row.id, "by": "self_answer", "seed": drawn_by}
            passed.append(_Question(turns, asked, drawn_by, row.source, meta))
        return passed


class _Question(NamedTuple):
    """A question: its turns, what the model is given, the seed of the answer; and source and meta of what it becomes."""

    turns: tuple[Message, ...]
    asked: tuple[Message, ...]
    seed: int
    source: str
    meta: Mapping[str, Any]


def _invented(seeds: Sequence[int], draw: Drawing, ledger: Ledger, before: Neighbours) -> list[_Question]:
    """Draw questions; return those that pass, and take them in among those before."""
    answers = draw.questions(seeds=seeds, label=f"{len(seeds):,} questions")
    turns = [(Message(role="user", content=answer.text.strip()),) for answer in answers]
    passed = []
    for seed, turn, answer, in_file in zip(seeds, turns, answers, draw.avoided.reasons(turns), strict=True):
        text = turn[0].content
        if why := failing(answer) or in_file or before.why(text) or draw.refusal(turn):
            ledger.refuse(f"question {why}", text=answer.text, seed=seed)
            continue
        before.add(text)
        meta = {"parent": None, "by": "self_sample", "seed": seed}
        # Not the question's own seed: the same noise would fall on the same words.
        passed.append(_Question(turn, turn, seed_of(seed, "answer"), "self_sample", meta))
    return passed


def _answered(
    questions: Sequence[_Question], draw: Drawing, ledger: Ledger, before: Neighbours | None = None
) -> list[Example]:
    """Draw the answers; return the conversations that pass, and take them in among those before."""
    conversations, seeds = [one.asked for one in questions], [one.seed for one in questions]
    answers = draw.answers(conversations, seeds=seeds, label=f"{len(questions):,} answers")
    whole = [
        (*one.turns, Message(role="assistant", content=answer.text.strip()))
        for one, answer in zip(questions, answers, strict=True)
    ]
    kept, reasons = [], draw.avoided.reasons(whole)
    for one, answer, messages, in_file in zip(questions, answers, whole, reasons, strict=True):
        text = "\n".join(turn.content for turn in messages)
        if why := failing(answer) or in_file or (before.why(text) if before is not None else None):
            # A question that the model invented stands nowhere else.
            said = answer.text if before is not None else f"{one.turns[0].content}\n\n{answer.text}"
            ledger.refuse(f"answer {why}", text=said, parent=one.meta["parent"], seed=one.meta["seed"])
            continue
        if before is not None:
            before.add(text)
        kept.append(Example(id=example_id(messages), messages=messages, source=one.source, meta=one.meta))
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
