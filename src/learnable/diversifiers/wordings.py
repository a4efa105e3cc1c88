"""A task's rows in wordings that a training has not seen, for asking what was learned: the task, or the template."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from learnable.diversifiers.instructions import find_instructions, reworded
from learnable.runs.identity import fingerprint
from learnable.types import Example

RESERVED_SHARE = 0.2


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

    Args:
        task: Rows that are trained on.
        tests: Other rows of the same task.
        paraphrases: Rows of the task in other wordings, ``meta["instruction"]`` and ``meta["original"]`` saying which.
        reserve: Keep a fifth of the rewrites of each instruction that is asked out of training, at least one where
            there are two, and ask in them; rows whose instruction cannot be told apart are seen as they are. Else the
            test rows are in unseen wordings as they are, but for those in a wording of the task, and paraphrases in
            one of those wordings are left out.
    """
    where = find_instructions(task).where
    # Together, because rows that share an instruction tell how many paragraphs it has.
    found = find_instructions([*task, *tests], where=where).places
    own = Counter(place.instruction for place in found[: len(task)])
    places = found[len(task) :]
    told_apart = where != "whole" and all((place.before + place.after).strip() for place in places)
    usual = own.most_common(1)[0][0]
    pairs = list(zip(tests, places, strict=True))
    seen = []
    if told_apart:  # a row in a wording of the task keeps it: a task may have several instructions
        seen = [
            reworded(
                row,
                place.worded(place.instruction if place.instruction in own else usual),
                {"parent": row.id},
            )
            for row, place in pairs
        ]
    if not reserve:
        others = [(row, place) for row, place in pairs if not told_apart or place.instruction not in own]
        unseen = [row for row, _ in others]
        asked = {place.instruction for _, place in others}
    else:
        seen = seen or list(tests)
        reserved = _reserved(paraphrases, {place.instruction for place in places}, own)
        unseen = []
        for number, (row, place) in enumerate(pairs):
            if wordings := reserved.get(place.instruction):
                unseen.append(
                    reworded(row, place.worded(wordings[number % len(wordings)]), {"parent": row.id})
                )
        asked = {wording for wordings in reserved.values() for wording in wordings}
    left = [row for row in paraphrases if row.meta.get("instruction") not in asked]
    return Wordings(seen=seen, unseen=unseen, paraphrases=left)


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
