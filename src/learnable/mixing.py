"""What one training sees: a task, its rewordings, and a buffer of other questions and answers, mixed.

No row is weighted: a mixture is a list of examples, and what is in it twice is trained on twice. A training shuffles
each stage once per epoch, by its seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from learnable.errors import SelectionError, UsageError, did_you_mean
from learnable.runs.identity import example_id
from learnable.types import Example

ANCHOR = "Below is a request of one particular task. Recall what this task asks for, and answer as it wants to be answered."


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How to mix.

    Args:
        ratio: Examples of the buffer for each row of the task; all of the buffer when not given. DELIA's is 260.
        anchor: Leading prompt of `leverage`.
        replay: Share of the task that the second stage of `dmt` sees again: one row at least, unless it is 0.
    """

    ratio: float | None = None
    anchor: str = ANCHOR
    replay: float = 1 / 256

    def __post_init__(self) -> None:
        if self.ratio is not None and not (math.isfinite(self.ratio) and self.ratio > 0):
            raise UsageError(f"ratio must be above 0 and finite, got {self.ratio:g}", hint="260 is DELIA's")
        if not 0 <= self.replay <= 1:
            raise UsageError(f"replay must be between 0 and 1, got {self.replay:g}")


@dataclass(frozen=True, kw_only=True)
class Material:
    """What mixtures are made of.

    Args:
        task: The rows of the task, in their own wording.
        paraphrases: Rows of the task in other wordings; ``meta["parent"]`` is the id of the row that each rewords.
        buffer: Questions and answers that have nothing to do with the task.
        facts: Questions and answers about facts of the task (fact-based tuning).
        constrained: Rows of the task whose instruction also states what the answer looks like.
        tokens: Length of every example, by id.
        mixing: How to mix.
    """

    task: Sequence[Example]
    paraphrases: Sequence[Example] = ()
    buffer: Sequence[Example] = ()
    facts: Sequence[Example] = ()
    constrained: Sequence[Example] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    mixing: Mixing = Mixing()


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The stages of a training, one after the other; how many of their examples are of the task, and not."""

    stages: tuple[tuple[Example, ...], ...]
    task: int
    others: int

    @property
    def examples(self) -> list[Example]:
        """All examples of all stages."""
        return [example for stage in self.stages for example in stage]


def _repeated(material: Material, seed: int) -> Mixture:
    wanted = sum(material.tokens[each.id] for each in mixture("delia", material, seed=seed).examples)
    rows: list[Example] = []
    tokens, rng = 0, _draw(seed, "repeated")
    if not any(material.tokens[example.id] for example in material.task):
        raise SelectionError(
            "the rows of the task have no tokens to repeat", hint="look at them with `learnable show`"
        )
    while True:
        for position in rng.permutation(len(material.task)):
            example = material.task[position]
            if rows and tokens + material.tokens[example.id] / 2 > wanted:
                return _one_stage(rows)
            rows.append(example)
            tokens += material.tokens[example.id]


def _dmt(material: Material, seed: int) -> Mixture:
    replay = material.mixing.replay
    count = max(1, round(replay * len(material.task))) if replay else 0
    replayed = [material.task[p] for p in _draw(seed, "replay").permutation(len(material.task))[:count]]
    others = _from_buffer(material, seed)
    return Mixture(
        stages=(tuple(material.task), (*others, *replayed)),
        task=len(material.task) + count,
        others=len(others),
    )


def _leverage(material: Material, seed: int) -> Mixture:
    rows = []
    for example in material.task:
        messages = list(example.messages)
        first = next(position for position, turn in enumerate(messages) if turn.role == "user")
        anchored = f"{material.mixing.anchor}\n\n{messages[first].content}"
        messages[first] = replace(messages[first], content=anchored)
        identity, meta = example_id(messages, tools=example.tools), {"parent": example.id, "by": "leverage"}
        rows.append(replace(example, id=identity, messages=tuple(messages), meta=meta))
    return _one_stage(rows)


class Blend(NamedTuple):
    """What a mixture is in words, and what it takes beside the task, as ``Material`` names it.

    ``make`` makes one that is more than the task, in the wording that its material has, beside the rest of it.
    """

    about: str
    needs: tuple[str, ...] = ()
    make: Callable[[Material, int], Mixture] | None = None


_DELIA = ("paraphrases", "buffer")
MIXTURES: Mapping[str, Blend] = {
    "common": Blend("the task alone, in its own wording"),
    "repeated": Blend(
        "the task alone, again and again until it has as many tokens as `delia`", _DELIA, _repeated
    ),
    "no_buffer": Blend("DELIA without its buffer: the task in many wordings", ("paraphrases",)),
    "no_paraphrases": Blend(
        "DELIA without its paraphrases: the task and the buffer, one shuffle", ("buffer",)
    ),
    "delia": Blend("the task in many wordings and the buffer, one shuffle", _DELIA),
    "leverage": Blend("the task alone behind a fixed leading prompt (Leverage Learning)", make=_leverage),
    "dmt": Blend("two stages: the task, then the buffer with a little of the task (DMT)", ("buffer",), _dmt),
    "fact_based": Blend("the task and questions about its facts", ("facts",)),
    "controlled": Blend(
        "the task with what an answer looks like in words (controlled generation)", ("constrained",)
    ),
}
"""Arms of a task, by name."""


def mixture(name: str, material: Material, *, seed: int) -> Mixture:
    """Return what a training by this name sees.

    Every row of the task is in it once, in its own wording or one drawn from that and its paraphrases. The seed is of
    the wordings and of the draw from the buffer.

    Raises:
        UsageError: If there is no such mixture, or it lacks its material.
        SelectionError: If the buffer is smaller than the ratio asks for.

    Source: DELIA (arXiv 2408.10841; their code draws ``ratio`` times the task from the buffer, silently fewer where it
        is smaller, which is an error here); DMT (2310.05492); Leverage Learning (2404.00914), which also mixes in
        general data: that is ``no_paraphrases``, so ``leverage`` is its leading prompt alone.
    """
    if name not in MIXTURES:
        raise UsageError(f"no arm called {name!r}", hint=did_you_mean(name, MIXTURES))
    _, needs, make = MIXTURES[name]
    if make is not None:
        return make(material, seed)
    task, others = material.task, list[Example]()
    if "paraphrases" in needs:
        rows = _needed(material.paraphrases, "paraphrases", "rewording")
        task = _one_for_each(task, rows, "paraphrases", seed, own=True)
    if "constrained" in needs:
        rows = _needed(material.constrained, "constrained", name)
        task = _one_for_each(task, rows, "constrained", seed, own=False)
    if "facts" in needs:
        others = list(_needed(material.facts, "facts", name))
    return _one_stage(task, _from_buffer(material, seed) if "buffer" in needs else others)


def _draw(seed: int, purpose: str) -> np.random.Generator:
    """Return random numbers of one purpose: mixtures of one seed share their buffer, and their wordings."""
    return np.random.default_rng([seed, *purpose.encode()])


def _one_stage(task: Sequence[Example], others: Sequence[Example] = ()) -> Mixture:
    return Mixture(stages=((*task, *others),), task=len(task), others=len(others))


def _one_for_each(
    task: Sequence[Example], rows: Sequence[Example], what: str, seed: int, *, own: bool
) -> list[Example]:
    """Return one example for each row of the task: drawn from those made of it, and with ``own`` from itself too."""
    made: dict[str, list[Example]] = {example.id: [example] if own else [] for example in task}
    for row in rows:
        if row.meta.get("parent") in made:
            made[str(row.meta["parent"])].append(row)
    if all(len(each) <= own for each in made.values()):
        raise UsageError(
            f"none of the {len(rows):,} {what} was made of a row of this task",
            hint="make them of this very file with `learnable diversify`",
        )
    rng = _draw(seed, what)
    return [
        (made[example.id] or [example])[int(rng.integers(max(1, len(made[example.id]))))] for example in task
    ]


def _from_buffer(material: Material, seed: int) -> list[Example]:
    buffer = _needed(material.buffer, "buffer", "buffering")
    if material.mixing.ratio is None:
        return list(buffer)
    wanted = round(material.mixing.ratio * len(material.task))
    if wanted < 1:
        raise SelectionError(
            f"the ratio {material.mixing.ratio:g} asks for less than one example of the buffer, with "
            f"{len(material.task):,} rows of the task",
            hint="raise --ratio, or choose an arm without a buffer",
        )
    if wanted > len(buffer):
        raise SelectionError(
            f"the ratio {material.mixing.ratio:g} asks for {wanted:,} examples of the buffer, which has {len(buffer):,}",
            hint="draw more with `learnable diversify --method self_sample --n N`, or leave --ratio out to take them "
            f"all ({len(buffer) / len(material.task):.3g} for each row of the task)",
        )
    return [buffer[position] for position in _draw(seed, "buffer").permutation(len(buffer))[:wanted]]


def _needed(rows: Sequence[Example], option: str, purpose: str) -> Sequence[Example]:
    if not rows:
        raise UsageError(
            f"{purpose} needs --{option}, and there are none",
            hint="make them with `learnable diversify`, or leave that arm out",
        )
    return rows
