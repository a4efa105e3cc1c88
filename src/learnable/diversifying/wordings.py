"""A task's rows in wordings that a training has not seen, for asking what was learned: the task, or the template."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from learnable.diversifying.instructions import find_instructions, with_user_turn
from learnable.fingerprint import example_id, fingerprint
from learnable.types import Example

RESERVED_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """Test rows in two wordings, and the paraphrases that are left for training.

    ``seen``: the test rows in the task's most frequent wording; empty where the instruction cannot be told apart.
    ``unseen``: the same rows in wordings that no training row has; empty where there are none.
    """

    seen: list[Example]
    unseen: list[Example]
    paraphrases: list[Example]


def worded_tests(
    task: Sequence[Example], tests: Sequence[Example], paraphrases: Sequence[Example], *, reserve: bool
) -> Wordings:
    """Return the test rows in the wording of the task, and in wordings that were kept out of training.

    Args:
        task: Rows that are trained on.
        tests: Other rows of the same task.
        paraphrases: Rows of the task in other wordings, ``meta["instruction"]`` and ``meta["original"]`` saying which.
        reserve: Keep a fifth of the rewrites of each instruction out of training, at least one where there are two,
            and ask in them; else the test rows are in unseen wordings as they are, and paraphrases in one of those
            wordings are left out.
    """
    found = find_instructions(task)
    places = find_instructions(tests, where=found.where).places
    usual = Counter(place.instruction for place in found.places).most_common(1)[0][0]
    told_apart = found.where != "whole"
    seen = [_worded(row, place.worded(usual)) for row, place in zip(tests, places, strict=True)]
    if not reserve:
        asked = {place.instruction for place in places}
        left = [row for row in paraphrases if row.meta.get("instruction") not in asked]
        return Wordings(seen=seen if told_apart else [], unseen=list(tests), paraphrases=left)
    reserved = _reserved(paraphrases)
    left = [row for row in paraphrases if row.meta.get("instruction") not in set().union(*reserved.values())]
    unseen = []
    for number, (row, place) in enumerate(zip(tests, places, strict=True)):
        wordings = reserved.get(place.instruction)
        if wordings:
            unseen.append(_worded(row, place.worded(wordings[number % len(wordings)])))
    return Wordings(seen=seen, unseen=unseen, paraphrases=left)


def _reserved(paraphrases: Sequence[Example]) -> dict[str, list[str]]:
    """Return by original instruction the rewrites that no training sees."""
    rewrites: dict[str, set[str]] = {}
    for row in paraphrases:
        if "instruction" in row.meta and "original" in row.meta:
            rewrites.setdefault(str(row.meta["original"]), set()).add(str(row.meta["instruction"]))
    return {
        original: sorted(found, key=fingerprint)[: max(1, round(RESERVED_SHARE * len(found)))]
        for original, found in rewrites.items()
        if len(found) > 1
    }


def _worded(row: Example, turn: str) -> Example:
    messages = with_user_turn(row.messages, turn)
    return replace(row, id=example_id(messages), messages=messages, meta={"parent": row.id})
