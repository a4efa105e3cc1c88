"""``self_sample``: the model invents the questions, and answers them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.gates import Neighbours, failing
from learnable.diversifiers.kinds import Diversified, Ledger
from learnable.errors import UsageError
from learnable.runs.identity import example_id
from learnable.settings import Sampling
from learnable.types import Example, Message


@dataclass(frozen=True, kw_only=True)
class SelfSample:
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
    needs_generator: ClassVar[bool] = True
    sampling: ClassVar[Sampling] = Sampling()
    tries: int = 3

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise UsageError(f"tries must be at least 1, got {self.tries}")

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return ``n`` conversations, fewer if too many are refused; they have no parent.

        Raises:
            UsageError: If rows are given, ``n`` is not, or the draws could not differ.
        """
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
            kept += _answered(draw, _asked(draw, seeds, before, ledger), ledger)
        notes = ledger.shortfall(n, len(kept), of=f"{drawn:,} draws")
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def texts(self, examples: Sequence[Example], n: int | None) -> int:
        """Return how many texts it draws, if none is refused."""
        del examples
        return 2 * (n or 0)

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many texts it draws, in words."""
        del rows
        most = f" to {self.tries * (n or 0):,}" if self.tries > 1 else ""
        return f"{n or 0:,}{most} questions, and an answer to each,"


def _asked(draw: Drawing, seeds: Sequence[int], before: Neighbours, ledger: Ledger) -> dict[int, Message]:
    """Draw questions; return those that pass by their seeds, and take them in among those before."""
    answers = draw.questions(seeds=seeds, label=f"{len(seeds):,} questions")
    turns = [Message(role="user", content=answer.text.strip()) for answer in answers]
    avoided = draw.avoided.reasons([(turn,) for turn in turns])
    passed: dict[int, Message] = {}
    for seed, turn, answer, in_file in zip(seeds, turns, answers, avoided, strict=True):
        if why := failing(answer) or in_file or before.why(turn.content) or draw.refusal((turn,)):
            ledger.refuse(f"question {why}", text=answer.text, seed=seed)
        else:
            before.add(turn.content)
            passed[seed] = turn
    return passed


def _answered(draw: Drawing, asked: dict[int, Message], ledger: Ledger) -> list[Example]:
    """Draw the answers; return the conversations that pass."""
    # Not the question's own seed: the same noise would fall on the same words.
    seeds = [seed_of(seed, "answer") for seed in asked]
    conversations = [(turn,) for turn in asked.values()]
    answers = draw.answers(conversations, seeds=seeds, label=f"{len(asked):,} answers")
    whole = [
        (turn, Message(role="assistant", content=answer.text.strip()))
        for turn, answer in zip(asked.values(), answers, strict=True)
    ]
    kept = []
    for seed, answer, messages, in_file in zip(
        asked, answers, whole, draw.avoided.reasons(whole), strict=True
    ):
        if why := failing(answer) or in_file:
            text = f"{messages[0].content}\n\n{answer.text}"
            ledger.refuse(f"answer {why}", text=text, seed=seed)
            continue
        meta = {"parent": None, "by": "self_sample", "seed": seed}
        kept.append(Example(id=example_id(messages), messages=messages, source="self_sample", meta=meta))
    return kept
