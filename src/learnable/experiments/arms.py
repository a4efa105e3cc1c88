"""Arms: what one training sees, and how."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import polars as pl

from learnable.deferred import training
from learnable.errors import UsageError, did_you_mean
from learnable.objectives import NLL, Objective
from learnable.runs.identity import fingerprint
from learnable.settings import Tuning
from learnable.spec import settings_in, settings_of, typed
from learnable.types import ModelRef, Rendered

UNTUNED = "untuned"
Init = Literal["random", "mean", "description"]
SETTINGS = ("init", "ratio", "token_rate")
"""What an arm of a task may set for itself."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One training, or a model as it is. Arms that see the same in the same way share one training.

    Args:
        label: Names it in tables; arms of several budgets or seeds share a label.
        seed: Of what was drawn, and of the training.
        base: The model that it starts from.
        stages: What it trains on, one stage after the other; none for a model as it is. Where an example has several
            answers, they lie one after the other.
        tuning: How it trains; its seed and steps are those of this arm.
        objective: What is lowered.
        stored: What the objective reads of each answer, by its ``id``.
        sampler: Which examples each step takes, as for ``fine_tune``; a frozen dataclass, so that it has an identity.
            Examples of about one length when not given.
        given: The training, where it is done already; ``stages`` say what it saw.
        budget_tokens: What was asked for; None for what has no budget.
        token_ids: Tokens whose rows of the embedding are trained beside the adapters.
        token_rate: How many times the learning rate these rows learn at.
        columns: Figures to show beside the numbers of examples and tokens.
    """

    label: str
    seed: int
    base: ModelRef
    stages: tuple[tuple[Rendered, ...], ...]
    tuning: Tuning
    objective: Objective = NLL()
    stored: pl.DataFrame | None = None
    sampler: "Callable[[Sequence[tuple[Rendered, ...]], Tuning], training.Sampler] | None" = None
    given: "training.Trained | None" = None
    budget_tokens: int | None = None
    token_ids: tuple[int, ...] = ()
    token_rate: float = 1.0
    columns: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> list[Rendered]:
        """The answers of all stages, in the order picked."""
        return [row for stage in self.stages for row in stage]

    @property
    def ids(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(row.id for row in self.rows)

    @property
    def examples_by_stage(self) -> list[list[tuple[Rendered, ...]]]:
        """The examples of each stage, each with its answers."""
        answers = self.objective.answers
        return [
            [stage[start : start + answers] for start in range(0, len(stage), answers)]
            for stage in self.stages
        ]

    @property
    def tokens(self) -> int:
        """Their prompt and response tokens, each example once."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def response_tokens(self) -> int:
        """Their response tokens, which the loss counts, each example once."""
        return sum(int(row.mask.sum()) for row in self.rows)

    def names(self, *, base: str, rendering: str, max_length: int) -> list[str]:
        """Return the name of each stage's folder: a fingerprint of all that its model depends on, in any order of examples.

        Args:
            base: Identity of the model that it starts from.
            rendering: Identity of what made the tokens.
            max_length: Longest example in tokens.
        """
        made: list[object] = [base, rendering, max_length, self.tuning]
        made += [{"token_ids": self.token_ids}] if self.token_ids else []
        made += [{"token_rate": self.token_rate}] if self.token_rate != 1 else []
        made += [{"objective": self.objective}] if self.objective != NLL() else []
        if self.stored is not None:
            made.append({"stored": self.stored.sort("id").to_dict(as_series=False)})
        made += [{"sampler": self.sampler}] if self.sampler is not None else []
        ids = list[list[Any]]()
        for stage in self.examples_by_stage:
            examples = [[answer.id for answer in example] for example in stage]
            ids.append(sorted(examples if self.objective.answers > 1 else [each[0] for each in examples]))
        return [fingerprint([*made, *ids[:end]])[:16] for end in range(1, len(ids) + 1)]


def check_settings(tuning: Tuning, *, seeds: int, confidence: float) -> None:
    """Say what no experiment can do.

    Raises:
        UsageError: If there are no seeds, the confidence is none, or the tuning sets what an arm does.
    """
    if seeds < 1 or not 0 < confidence < 1:
        raise UsageError(
            f"seeds must be at least 1 and confidence between 0 and 1, got {seeds} and {confidence}"
        )
    if tuning.seed or (tuning.steps, tuning.order_seed) != (None, None):
        raise UsageError(
            "the seeds and steps of the trainings are set here: --seed, --order-seed and --steps have no effect",
            hint="give --seeds",
        )


@dataclass(frozen=True, kw_only=True)
class TaskArm:
    """An arm of a task as written.

    Args:
        mixture: The name of a mixture, or ``untuned``.
        label: As written.
        init: How the row of a new token begins.
        ratio: Examples of the buffer for each row of the task, in place of the lesson's.
        token_rate: How many times the learning rate the rows of new tokens learn at.
    """

    mixture: str
    label: str
    init: Init
    ratio: float | None = None
    token_rate: float = 1.0

    @property
    def sets_more(self) -> bool:
        """Whether more than the beginning of new tokens is its own."""
        return self.ratio is not None or self.token_rate != 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.token_rate) and self.token_rate > 0):
            raise UsageError(f"token_rate must be above 0 and finite, got {self.token_rate:g}")


def parse_task_arms(written: Sequence[str], *, init: Init, known: Collection[str]) -> list[TaskArm]:
    """Return the arms of ``NAME`` or ``NAME@init=mean,ratio=10``, distinct and in order.

    New tokens begin by ``init`` where an arm does not say; ``known`` are the names of mixtures.

    Raises:
        UsageError: If one cannot be read.
    """
    if init not in get_args(Init):
        raise UsageError(f"init is random, mean or description, got {init!r}")
    arms = []
    for text in dict.fromkeys(written):
        name, at, settings = text.partition("@")
        if name not in (UNTUNED, *known):
            raise UsageError(f"no arm called {name!r}", hint=did_you_mean(name, (UNTUNED, *known)))
        pairs = settings_in(settings) if at else {}
        if pairs is None:
            raise UsageError(f"cannot read the arm {text!r}", hint=f"write {name}@init=mean,ratio=10")
        given = typed(
            name, {key: kind for key, kind in settings_of(TaskArm).items() if key in SETTINGS}, pairs
        )
        arms.append(TaskArm(**{"mixture": name, "label": text, "init": init, **given}))
    return arms
