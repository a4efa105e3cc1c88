"""Which part of a task's user turn is the instruction, which is what it is about; and rows in other wordings of it."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from learnable.diversifiers.kinds import variant
from learnable.errors import DataError
from learnable.runs.identity import fingerprint
from learnable.types import Example, Message

Where = Literal["auto", "first", "last", "whole"]

RECURRING = 0.5
"""Share of rows whose paragraph must stand in another row too, for an end to hold the instruction."""
ALIKE = 3
"""Rows that must share a second paragraph, and all of them, for it to belong to the instruction."""

RESERVED_SHARE = 0.2
"""Share of the rewrites of an instruction that no training sees."""

_PARAGRAPH = re.compile(r"\S(?:.*?\S)??(?=\s*\Z|[^\S\n]*\n[^\S\n]*\n)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class LocatedInstruction:
    """A user turn in three pieces: ``before + instruction + after`` is the turn, character by character."""

    before: str
    instruction: str
    after: str

    def worded(self, instruction: str) -> str:
        """Return the turn with another instruction in the same place."""
        return self.before + instruction + self.after


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """The instructions of a task: the end at which they stand, or ``whole``, and the place in each example.

    ``uncertain``: how many turns of several paragraphs are taken whole because nothing told the instruction apart.
    """

    where: Literal["first", "last", "whole"]
    places: tuple[LocatedInstruction, ...]
    uncertain: int = 0

    @property
    def distinct(self) -> list[str]:
        """The instructions that differ, in the order first seen."""
        return list(dict.fromkeys(place.instruction for place in self.places))


def find_instructions(examples: Sequence[Example], *, where: Where = "auto") -> Instructions:
    """Return where the instruction stands in the first user turn of each example.

    A turn is cut into paragraphs at empty lines; the instruction is one or more of them at its beginning (``first``)
    or end (``last``), or the ``whole`` turn. ``auto`` takes the end that says the same again and again: with fewer
    distinct paragraphs over all rows (with as many at both, more text), if at least ``RECURRING`` of the rows share
    theirs with another row; else, or where no turn has more than one paragraph, the whole turn. The next paragraph
    belongs to the instruction too when all rows that share the first, at least ``ALIKE`` of them, share that one as
    well, and so on. Later user turns, and system turns, are left alone.

    Raises:
        DataError: If a row has no user turn with a word in it, or there is one row of several paragraphs and ``auto``
            has nothing to compare it with.
    """
    turns = [first_user_turn(example) for example in examples]
    spans = [[match.span() for match in _PARAGRAPH.finditer(turn)] for turn in turns]
    paragraphs = [
        [turn[slice(*span)] for span in of_turn] for turn, of_turn in zip(turns, spans, strict=True)
    ]
    end = _recurring_end(paragraphs) if where == "auto" else where
    if end is None or end == "whole":
        lengths = list(map(len, spans))
    else:
        lengths = _lengths([found[:: 1 if end == "first" else -1] for found in paragraphs])
    places = []
    for turn, of_turn, count in zip(turns, spans, lengths, strict=True):
        start = len(of_turn) - count if end == "last" else 0
        first, last = of_turn[start][0], of_turn[start + count - 1][1]
        places.append(
            LocatedInstruction(before=turn[:first], instruction=turn[first:last], after=turn[last:])
        )
    uncertain = sum(length > 1 for length in lengths) if end is None else 0
    return Instructions(where=end or "whole", places=tuple(places), uncertain=uncertain)


def first_user_turn(example: Example) -> str:
    """Return the first user turn of an example; ``DataError`` if there is none, or it has no text."""
    turn = next((turn.content for turn in example.messages if turn.role == "user"), "")
    if not turn.strip():
        raise DataError(
            f"row {example.id} of {example.source} has no user turn with a text, so there is no instruction in it",
            hint="a task row is a user turn with the instruction, and an answer",
        )
    return turn


def with_user_turn(messages: Sequence[Message], content: str) -> tuple[Message, ...]:
    """Return the turns with another first user turn."""
    place = next(place for place, turn in enumerate(messages) if turn.role == "user")
    return (*messages[:place], replace(messages[place], content=content), *messages[place + 1 :])


def _recurring_end(paragraphs: Sequence[Sequence[str]]) -> Literal["first", "last"] | None:
    """Return the end at which the paragraphs of turns recur; None where the whole turn has to do."""
    if all(len(of_turn) == 1 for of_turn in paragraphs):
        return None
    if len(paragraphs) == 1:
        raise DataError(
            f"the task has one row, of {len(paragraphs[0])} paragraphs: nothing tells which of them is the instruction",
            hint="say where it stands (where=first or where=last), or give more rows",
        )
    ends: dict[Literal["first", "last"], Counter[str]] = {
        "first": Counter(of_turn[0] for of_turn in paragraphs),
        "last": Counter(of_turn[-1] for of_turn in paragraphs),
    }
    # The more text: a fixed closing such as "Answer:" may recur beside the instruction proper.
    end = min(ends, key=lambda name: (len(ends[name]), -sum(map(len, ends[name].elements()))))
    shared = sum(count for count in ends[end].values() if count > 1)
    return end if shared >= RECURRING * len(paragraphs) else None


def _lengths(paragraphs: Sequence[Sequence[str]]) -> list[int]:
    """Return of how many paragraphs the instruction of each turn is made; they are given from its end on."""
    groups: dict[str, list[Sequence[str]]] = {}
    for found in paragraphs:
        groups.setdefault(found[0], []).append(found)
    shared = {
        first: sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
        for first, rows in groups.items()
        if len(rows) >= ALIKE
    }
    return [shared.get(found[0], 1) for found in paragraphs]


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """Test rows in two wordings, and the paraphrases that are left for training.

    ``seen``: the test rows in the task's most frequent wording; where the instruction cannot be told apart, as they are
    if they come from the task's own rows, else empty.
    ``unseen``: the same rows in wordings that no training row has; only those for which there is one.
    """

    seen: list[Example]
    unseen: list[Example]
    paraphrases: list[Example]


def worded_tests(
    task: Sequence[Example], tests: Sequence[Example], paraphrases: Sequence[Example], *, reserve: bool
) -> Wordings:
    """Return the test rows in the wording of the task, and in wordings that were kept out of training.

    The ``meta`` of paraphrases has their ``instruction`` and its ``original``. With ``reserve``, a fifth of the rewrites
    of each instruction that is asked, at least one of two, are kept out of training, and asked in. Else the test rows are
    in unseen wordings as they are, but for those in a wording of the task, and paraphrases in one of those wordings are
    left out.
    """
    where = find_instructions(task).where
    # Together, because rows that share an instruction tell how many paragraphs it has.
    found = find_instructions([*task, *tests], where=where).places
    own = Counter(place.instruction for place in found[: len(task)])
    places = found[len(task) :]
    told_apart = where != "whole" and all((place.before + place.after).strip() for place in places)
    usual = own.most_common(1)[0][0]
    seen, unseen, asked = list[Example](), list[Example](), set[str]()
    reserved = _reserved(paraphrases, {place.instruction for place in places}, own) if reserve else {}
    for number, (row, place) in enumerate(zip(tests, places, strict=True)):
        wording = place.instruction
        if told_apart:  # a row in a wording of the task keeps it: a task may have several instructions
            seen.append(_worded(row, place, wording if wording in own else usual))
        if wordings := reserved.get(wording):
            unseen.append(_worded(row, place, wordings[number % len(wordings)]))
            asked.update(wordings)
        elif not reserve and not (told_apart and wording in own):
            unseen.append(row)
            asked.add(wording)
    left = [row for row in paraphrases if row.meta.get("instruction") not in asked]
    return Wordings(seen=seen or (list(tests) if reserve else []), unseen=unseen, paraphrases=left)


def _reserved(
    paraphrases: Sequence[Example], originals: Collection[str], own: Collection[str]
) -> dict[str, list[str]]:
    """Return by original instruction the rewrites that no training sees; none is a wording of the task itself."""
    rewrites: dict[str, set[str]] = {}
    for row in paraphrases:
        original, rewrite = row.meta.get("original"), row.meta.get("instruction")
        if original in originals and rewrite is not None and rewrite not in own:
            rewrites.setdefault(str(original), set()).add(str(rewrite))
    return {
        original: sorted(found, key=fingerprint)[: max(1, round(RESERVED_SHARE * len(found)))]
        for original, found in rewrites.items()
        if len(found) > 1
    }


def _worded(row: Example, place: LocatedInstruction, wording: str) -> Example:
    return variant(row, with_user_turn(row.messages, place.worded(wording)))
