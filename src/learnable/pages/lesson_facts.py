"""What the page of a lesson is made from, in the form that its parts read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from learnable.experiments import Measured, arm_table
from learnable.pages.contest import Contest, Evaluated, Line, digits_of, judged
from learnable.pages.words import plural

Asked = Literal["unseen", "seen", "general", "elsewhere"]
"""How an evaluation asks: in wordings that no training saw, in that of the task, something else than the task, or on
rows of its own."""
PAPER_RATIO = 260
"""Examples of the buffer for each row of the task, of DELIA's authors."""
BUFFERED = ("delia", "no_paraphrases")
"""Arms whose examples are the task once and the buffer, so that their numbers give its ratio."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """An evaluation: its ``label`` in the table, its ``name`` without what is asked, and how it asks."""

    label: str
    name: str
    asked: Asked


@dataclass(frozen=True, kw_only=True)
class Way:
    """One arm: its label, the name of its mixture, what that is in words, and how new tokens begin.

    ``init`` is None where there are no new tokens, and where it was not recorded.
    """

    label: str
    mixture: str
    about: str
    init: str | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """A step that made part of the material, such as a buffer, with what it cost when it ran."""

    name: str
    about: str
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LessonFacts:
    """All that a report says about one lesson; the tables are those that `learnable teach` writes.

    Args:
        title: Heading of the page.
        command: Command that repeats the report.
        model: Display name of the model.
        confidence: Of all differences of an evaluation together, and of each value.
        settings: How every arm was trained, shown as a table.
        ways: The arms, in the order asked for.
        baseline: The arm that the others are compared with.
        questions: The evaluations, in the order of the table.
        task: Rows that were trained on.
        tests: Rows that were asked.
        buffer: Rows of the buffer that could be mixed in.
        tokens: New tokens.
        table: One line per evaluation and arm.
        results: One line per graded item.
        arms: One line per training.
        concepts: ``arm``, ``seed``, ``token``, ``words``, ``layer``, ``distance``, ``prompts``; None without new tokens.
        samples: ``arm``, ``seed``, ``evaluation``, ``id``, ``prompt``, ``completion``, ``value``; None without texts.
        buffering: ``wording``, ``set``, ``ratio``, ``quantity``, ``estimate``, ``value``, ``error``; None when gradients
            were not measured.
        wordings: ``kind``, ``text``, and ``x``, ``y`` where there is a map; None when not known.
        diversity: Figures by kind: ``texts``, ``mean_distance``, ``distinct_1``, ``distinct_2``; one may be missing.
        general_from_buffer: Whether what was forgotten is asked on rows set aside of the buffer; None when not known.
        example: A test row as it is asked: conversations by ``seen`` and ``unseen``, those that there are.
        made: Steps that made the material, where they are known.
        notes: What could not be asked, and why.
        computed: Tokens that the lesson computed when it ran.
        seconds: That it took when it ran.
    """

    title: str
    command: str
    model: str
    confidence: float
    settings: Mapping[str, Any]
    ways: Sequence[Way]
    baseline: str
    questions: Sequence[Question]
    task: int
    tests: int
    buffer: int
    tokens: Sequence[str]
    table: pl.DataFrame
    results: pl.DataFrame
    arms: pl.DataFrame
    concepts: pl.DataFrame | None = None
    samples: pl.DataFrame | None = None
    buffering: pl.DataFrame | None = None
    wordings: pl.DataFrame | None = None
    diversity: Mapping[str, Mapping[str, float]]
    general_from_buffer: bool | None = None
    example: Mapping[Asked, Sequence[Mapping[str, str | None]]]
    made: Sequence[Made] = ()
    notes: Sequence[str] = ()
    computed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ArmLine(Line):
    """One line of the table: an arm on an evaluation; ``by_seed`` are the means of its items, seed by seed."""

    is_trained: bool
    by_seed: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asking(Evaluated[ArmLine]):
    """All lines of one evaluation, in the order of the arms; ``equal_tokens`` is DELIA's against as many tokens.

    ``name`` is the evaluation without what all of its kind share, ``setting`` the whole of it.
    """

    name: str
    setting: str
    asked: Asked
    equal_tokens: ArmLine | None

    @property
    def title(self) -> str:
        """What was asked, and how: to be read in a sentence."""
        words = asked_words(self.asked)
        return f"{self.name} {'on' if self.asked == 'general' else 'in'} {words}" if words else self.label

    @property
    def is_general(self) -> bool:
        """Whether it is about what was forgotten."""
        return self.asked == "general"

    @property
    def baseline(self) -> ArmLine:
        """What the others are compared with."""
        return next(line for line in self.lines if line.outcome == "baseline")

    @property
    def untuned(self) -> tuple[ArmLine, ...]:
        """The model before training; several where new tokens begin in several ways."""
        return tuple(line for line in self.lines if not line.is_trained)

    def could_be_seen(self, line: ArmLine) -> bool:
        """Whether the largest difference to the baseline that there can be would have been seen."""
        if self.bounds is None or line.half is None or self.baseline.value is None:
            return True
        low, high = self.bounds
        return line.half < max(self.baseline.value - low, high - self.baseline.value)

    def of(self, arm: str) -> ArmLine | None:
        """Return the line of an arm."""
        return next((line for line in self.lines if line.arm == arm), None)


@dataclass(frozen=True, kw_only=True)
class Theme:
    """What one evaluation says in all the ways in which it was asked: unseen wordings first."""

    name: str
    evaluated: tuple[Asking, ...]

    @property
    def is_general(self) -> bool:
        """Whether it is about what was forgotten."""
        return self.evaluated[0].is_general

    def asked(self, how: Asked) -> Asking | None:
        """Return the evaluation that asks in one way."""
        return next((each for each in self.evaluated if each.asked == how), None)


@dataclass(frozen=True, kw_only=True)
class LessonContest(Contest):
    """The facts, read: ``evaluated`` in the order of the table, ``themes`` those of one name together."""

    facts: LessonFacts
    evaluated: tuple[Asking, ...]
    themes: tuple[Theme, ...]

    @cached_property
    def ways(self) -> dict[str, Way]:
        """The arms by label."""
        return {way.label: way for way in self.facts.ways}

    @cached_property
    def by_mixture(self) -> dict[str, str]:
        """The first arm of each mixture."""
        return first_of(self.facts.ways)

    @cached_property
    def trained(self) -> list[str]:
        """Labels of the arms that were trained, in the order asked for."""
        found = set(self.facts.arms.filter(pl.col("tokens") > 0)["arm"])
        return [label for label in self.ways if label in found]

    @cached_property
    def focus(self) -> str | None:
        """The arm that the headline is about: DELIA, or the only one beside the baseline."""
        others = [label for label in self.trained if label != self.facts.baseline]
        delia = [label for label in others if self.ways[label].mixture == "delia"]
        if delia:
            return delia[0]
        return others[0] if len(others) == 1 else None

    @cached_property
    def ratio(self) -> float | None:
        """Examples of the buffer for each row of the task that were trained on; None where none were."""
        names = [label for label in self.trained if self.ways[label].mixture in BUFFERED]
        here = self.facts.arms.filter(pl.col("arm").is_in(names) & (pl.col("task_examples") > 0))
        if here.is_empty():
            return None
        return float(np.mean(here["examples"].to_numpy() / here["task_examples"].to_numpy())) - 1

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """Means over the seeds of what each arm was trained on."""
        columns = ("examples", "task_examples", "tokens", "response_tokens", "steps", "seconds")
        frame = self.facts.arms.group_by("arm").agg(pl.col(name).cast(pl.Float64).mean() for name in columns)
        return {row["arm"]: row for row in frame.iter_rows(named=True)}

    def ordered(self, frame: pl.DataFrame) -> list[str]:
        """Return the arms of a frame, in the order asked for."""
        there = set(frame["arm"])
        return [label for label in self.ways if label in there]


def contest_of(facts: LessonFacts) -> LessonContest:
    """Sort the table by evaluation, with None for whatever is not finite."""
    trained = set(facts.arms.filter(pl.col("tokens") > 0)["arm"])
    equal = _equal_tokens(facts)
    names_of = shortened([question.name for question in facts.questions])
    means = _by_seed(facts.results)
    evaluated = tuple(
        _evaluated(facts, question, names_of[question.name], trained, equal, means)
        for question in facts.questions
    )
    names: dict[tuple[bool, str], list[Asking]] = {}
    for each in evaluated:
        names.setdefault((each.asked == "general", each.name), []).append(each)
    order: tuple[Asked, ...] = ("unseen", "seen", "general", "elsewhere")
    themes = tuple(
        Theme(name=name, evaluated=tuple(sorted(found, key=lambda each: order.index(each.asked))))
        for (_, name), found in names.items()
    )
    seeds = facts.arms.filter(pl.col("tokens") > 0)["seed"].n_unique()
    return LessonContest(
        facts=facts,
        evaluated=evaluated,
        themes=themes,
        arm_word="arm",
        baseline=facts.baseline,
        asked_of="the task",
        trainings=max(1, seeds),
    )


def first_of(ways: Sequence[Way]) -> dict[str, str]:
    """Return the label of the first arm by name of its mixture."""
    return {way.mixture: way.label for way in reversed(ways)}


def asked_words(asked: Asked) -> str:
    """Return how an evaluation asks, in words; "" for rows of its own."""
    words = {"unseen": "unseen wordings", "seen": "the wording of the task", "general": "general rows"}
    return words.get(asked, "")


def rows_words(ratio: float) -> str:
    """Write a ratio as rows of the buffer: ``1 row``, ``2.5 rows``."""
    return plural(round(ratio), "row") if ratio == round(ratio) else f"{ratio:,.3g} rows"


def shortened(names: Sequence[str]) -> dict[str, str]:
    """Return names of evaluations, each without the settings that all of its kind share."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for name in names:
        kind, _, settings = name.partition("@")
        kinds.setdefault(kind, {})[name] = [piece for piece in settings.split(",") if piece]
    found = {}
    for kind, settings_of in kinds.items():
        shared = set.intersection(*map(set, settings_of.values()))
        for name, pieces in settings_of.items():
            own = ",".join(piece for piece in pieces if piece not in shared)
            found[name] = f"{kind}@{own}" if own else kind
    return found


def _by_seed(results: pl.DataFrame) -> dict[tuple[str, str], tuple[float, ...]]:
    """Return the mean of what could be graded of each seed, by evaluation and arm."""
    graded = results.with_columns(pl.col("value").cast(pl.Float64)).filter(pl.col("value").is_finite())
    means = graded.group_by("evaluation", "arm", "seed").agg(pl.col("value").mean()).sort("seed")
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for evaluation, arm, value in means.select("evaluation", "arm", "value").iter_rows():
        found[evaluation, arm] = (*found.get((evaluation, arm), ()), value)
    return found


def _evaluated(
    facts: LessonFacts,
    question: Question,
    name: str,
    trained: set[str],
    equal: Mapping[str, ArmLine],
    means: Mapping[tuple[str, str], tuple[float, ...]],
) -> Asking:
    rows = facts.table.filter(pl.col("evaluation") == question.label).to_dicts()
    lines = tuple(
        ArmLine(
            arm=row["arm"],
            is_trained=row["arm"] in trained,
            is_compared=row["arm"] in trained and row["arm"] != facts.baseline,
            by_seed=means.get((question.label, row["arm"]), ()),
            **judged(row, baseline=row["arm"] == facts.baseline),
        )
        for row in rows
    )
    return Asking(
        label=question.label,
        unit=rows[0]["unit"],
        higher_is_better=rows[0]["higher_is_better"],
        digits=digits_of([line for line in lines if line.is_trained]),
        name=name,
        setting=question.name,
        asked=question.asked,
        lines=lines,
        equal_tokens=equal.get(question.label),
    )


def _equal_tokens(facts: LessonFacts) -> dict[str, ArmLine]:
    """Compare DELIA with the arm that has as many tokens, by evaluation; nothing where one of them is missing."""
    by_mixture = first_of(facts.ways)
    if not {"delia", "repeated"} <= by_mixture.keys() or by_mixture["repeated"] == facts.baseline:
        return {}
    delia, repeated = by_mixture["delia"], by_mixture["repeated"]
    pair = pl.col("arm").is_in([delia, repeated])
    measured = facts.table.unique("evaluation", maintain_order=True).select(
        "evaluation", "unit", "higher_is_better"
    )
    table = arm_table(
        facts.results.filter(pair),
        facts.arms.filter(pair),
        evaluations=[
            Measured(label=label, unit=unit, higher_is_better=higher)
            for label, unit, higher in measured.iter_rows()
        ],
        baseline=repeated,
        confidence=facts.confidence,
    )
    return {
        row["evaluation"]: ArmLine(
            arm=delia, is_compared=True, is_trained=True, **judged(row, baseline=False)
        )
        for row in table.filter(pl.col("arm") == delia).iter_rows(named=True)
    }
