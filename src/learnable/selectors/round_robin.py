"""Each row of a target in turn takes the example that is nearest to it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from learnable.errors import SelectionError
from learnable.selectors.vectors import Floats
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class RoundRobin:
    """The rows of a target take turns, each taking the example not yet taken that it values most.

    So no row of the target fills the budget with its neighbours. The scores only tell which examples are defined;
    equal values are settled by the order given.

    Source: RDS+ (2503.01807), selection "round robin"; the same for the subtasks of LESS is ours.
    """

    needs_vectors: ClassVar[bool] = True
    by_target: ClassVar[bool] = True

    def __call__(self, scores: Floats, *, k: int, vectors: Floats | None, **unused: Any) -> Picks:
        """Return the picks; their gain is how much the row whose turn it was values them.

        ``vectors`` is what each turn values each example with, (n, turns), see ``turns_of``.
        """
        if vectors is None:
            raise SelectionError(
                "round_robin needs what each row of a target says of each example",
                hint="score with --target FILE and the scorer that you select by, such as relevance or less",
            )
        defined = np.flatnonzero(~np.isnan(scores))
        k = min(k, len(defined))
        values = vectors[defined]
        ranking = np.argsort(-values, axis=0, kind="stable") if k else np.empty((0, 1), dtype=np.int64)
        taken, place = np.zeros(len(defined), dtype=np.bool_), np.zeros(vectors.shape[1], dtype=np.int64)
        index, gain = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.float32)
        for number in range(k):
            turn = number % vectors.shape[1]
            while taken[row := ranking[place[turn], turn]]:
                place[turn] += 1
            taken[row] = True
            index[number], gain[number] = row, values[row, turn]
        return Picks(index=defined[index].astype(np.int64), gain=gain)


def turns_of(subtasks: list[str]) -> list[int]:
    """Return whose turn it is, by position: subtask after subtask, and within each row after row.

    A subtask of few rows has as many turns as one of many: its rows come round more often. ``subtasks`` are those of
    each row of a target, (t,).
    """
    members = {name: [i for i, own in enumerate(subtasks) if own == name] for name in dict.fromkeys(subtasks)}
    rounds = max(map(len, members.values()), default=0)
    return [rows[turn % len(rows)] for turn in range(rounds) for rows in members.values()]
