"""Drawing for many things at once until each has enough: what is refused is made up for, within limits."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.gates import UNANSWERED, failing
from learnable.diversifiers.kinds import Ledger
from learnable.types import Answer, Message

ROUNDS = 4
"""Most rounds, so at most this many times the draws that would do if none was refused."""
AGAIN = 3
"""Draws in a further round for each one that lacks: what was refused once is often refused again."""

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)

Made = TypeVar("Made")


class Refused(Exception):
    """Why a text is refused; what stands behind a colon tells single cases apart."""


class Thing(NamedTuple):
    """What is drawn for: its text, and the row it comes from, if any."""

    text: str
    parent: str | None = None


class Taken(NamedTuple, Generic[Made]):
    """What was made of an accepted draw, and its seed."""

    made: Made
    seed: int


def without_thoughts(text: str) -> str:
    """Return a text without the thoughts that some models write before it."""
    return _THOUGHTS.sub("", text).strip()


def _passed(answer: Answer) -> str:
    """Return the text of an answer without thoughts; ``Refused`` if it is not there, empty, cut off or repetitive."""
    text = without_thoughts(answer.text)
    if why := failing(answer if answer is UNANSWERED else answer._replace(text=text)):
        raise Refused(why)
    return text


def shown(pairs: Iterable[tuple[str, str]], question: str) -> tuple[Message, ...]:
    """Return a conversation that shows questions with answers, and asks another: a small model follows what it is shown."""
    turns = [
        Message(role=role, content=text)
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return (*turns, Message(role="user", content=question))


def until_enough(
    things: Sequence[Thing],
    *,
    n: int,
    seed: int,
    draw: Drawing,
    ask: Callable[[Thing, int], Sequence[Message]],
    take: Callable[[Thing, str, Sequence[Made]], Made],
    ledger: Ledger,
    label: str,
) -> list[list[Taken[Made]]]:
    """Return at most ``n`` accepted draws for each thing; draw i is the same whatever ``n`` is.

    The first round draws ``n`` times for each, the others ``AGAIN`` times for each that lacks, ``n`` times at most,
    until all have enough or ``ROUNDS`` are over. A thing that a round brought no answer for at all, because a server
    failed, is not asked for again. The things have distinct texts.

    ``ask`` gives the conversation of the draw of a thing with a number. ``take`` makes something of a thing, what was
    drawn and what was accepted for it before, or raises ``Refused``.
    """
    taken: list[list[Taken[Made]]] = [[] for _ in things]
    drawn, closed = [0] * len(things), set[int]()
    for round_number in range(ROUNDS):
        asked: dict[tuple[int, int], Sequence[Message]] = {}
        for place, done in enumerate(taken):
            thing, lacking = things[place], 0 if place in closed else n - len(done)
            count = min(n, lacking * AGAIN) if round_number else n
            for number in range(drawn[place], drawn[place] + count):
                turns, its_seed = ask(thing, number), seed_of(seed, thing.text, number)
                if why := draw.refusal(turns):
                    ledger.refuse(why, text=thing.text, parent=thing.parent, seed=its_seed)
                else:
                    asked[place, its_seed] = turns
            drawn[place] += count
        if not asked:
            break
        drawn_now = draw.answers(list(asked.values()), seeds=[each for _, each in asked], label=label)
        answers = dict(zip(asked, drawn_now, strict=True))
        answered = {place for (place, _), answer in answers.items() if answer is not UNANSWERED}
        closed |= set(range(len(things))) - answered
        for (place, its_seed), answer in answers.items():
            thing, done = things[place], taken[place]
            if len(done) == n:
                continue
            try:
                made = take(thing, _passed(answer), [one.made for one in done])
                done.append(Taken(made, its_seed))
            except Refused as refused:
                ledger.refuse(str(refused), text=answer.text, parent=thing.parent, seed=its_seed)
    return taken
