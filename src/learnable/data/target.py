"""The target: a few rows of the task that training is aimed at, and what they share with the pool."""

from collections.abc import Sequence
from dataclasses import dataclass

from learnable.data.overlap import contamination, spoken
from learnable.data.pool import pool_identity
from learnable.pools import Pool
from learnable.runs.identity import fingerprint
from learnable.runs.progress import say_once
from learnable.types import Example

SUBTASK = "subtask"
"""Column of a target's rows that names the part of the task they belong to."""
FEW = 3
"""Rows under which a target says little."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """t rows of a task, the ``subtasks`` that each belongs to (t,), and other rows, ``held_back`` to judge on."""

    examples: Sequence[Example]
    subtasks: Sequence[str]
    identity: str
    held_back: Sequence[Example] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def ids(self) -> list[str]:
        """The ids of the rows, (t,)."""
        return [each.id for each in self.examples]


def target_of(pool: Pool, named: Sequence[str | None], *, held_back: Sequence[Example] = ()) -> Target:
    """Return t rows as a target, with their column ``subtask``, (t,); a row without one belongs to its source."""
    if len(pool) < FEW:
        rows = "1 row" if len(pool) == 1 else f"{len(pool)} rows"
        say_once(f"the target has {rows}: fewer than {FEW} say little about a task")
    subtasks = [name or source for name, source in zip(named, pool.examples["source"], strict=True)]
    return Target(
        examples=list(pool.iter_examples()),
        subtasks=subtasks,
        identity=fingerprint([pool_identity(pool), subtasks, *(each.id for each in held_back)]),
        held_back=held_back,
    )


def shared_with_target(pool: Pool, target: Target) -> list[str | None]:
    """Return for each row of the pool why it counts as a row of the target; None where it does not, (n,).

    It does when it is the same conversation, asks the same, or shares 13 words in a row with one; also with one that is
    held back to judge on.
    """
    rows, reasons = [*target.examples, *target.held_back], dict[str, str]()
    own = {each.id for each in rows}
    theirs = spoken((each.id, each.messages) for each in rows)
    ours = spoken((each.id, each.messages) for each in pool.iter_examples())
    # The roles are turned around, so that each row of the pool gets a line of its own.
    for item, kind, shared in contamination(theirs, ours).select("item", "kind", "shared").iter_rows():
        reasons[item] = f"in the target: {kind}, {shared!r}"
    ids = pool.examples["id"].to_list()
    found = ["in the target: the same row" if name in own else reasons.get(name) for name in ids]
    if count := len(found) - found.count(None):
        say_once(
            f"{count:,} of {len(pool):,} rows of the pool are rows of the target: neither chosen from nor trained on"
        )
    return found
