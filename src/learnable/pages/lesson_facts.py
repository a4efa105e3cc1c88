"""What the page of a lesson is made from, and what that says in words: one sentence for each evaluation, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from learnable.experiments import FOR_THIS_SEED, UNTUNED, Measured, arm_table
from learnable.pages import contest_warnings as shared
from learnable.pages.contest import (
    ALWAYS_THE_SAME,
    ASKED,
    Asked,
    ContestFacts,
    Evaluated,
    Line,
    counted,
    line_of,
)
from learnable.pages.contest_warnings import NAMED
from learnable.pages.warnings import Found
from learnable.pages.words import count, decimal, enumeration, listing, plural
from learnable.runs.price import Cost

PAPER_RATIO = 260
"""Examples of the buffer for each row of the task, of DELIA's authors."""
BUFFERED = ("delia", "no_paraphrases")
"""Arms whose examples are the task once and the buffer, so that their numbers give its ratio."""


@dataclass(frozen=True, kw_only=True)
class LessonFacts(ContestFacts):
    """All that a report says about one lesson.

    Args:
        labels: The arms, in the order asked for; each begins with the name of its mixture.
        inits: How new tokens begin in each arm, where that was recorded.
        questions: Of each evaluation, by its label in the table, the name without what is asked, and how it asks.
        task: Rows that were trained on.
        tests: Rows that were asked.
        buffer: Rows of the buffer that could be mixed in.
        tokens: New tokens.
        concepts: ``arm``, ``seed``, ``token``, ``words``, ``layer``, ``distance``, ``prompts``; None without new tokens.
        samples: ``arm``, ``seed``, ``evaluation``, ``id``, ``prompt``, ``completion``, ``value``; None without texts.
        buffering: ``wording``, ``set``, ``ratio``, ``quantity``, ``estimate``, ``value``, ``error``; None when gradients
            were not measured.
        wordings: ``kind``, ``text``, and ``x``, ``y`` where there is a map; None when not known.
        diversity: Figures by kind: ``texts``, ``mean_distance``, ``distinct_1``, ``distinct_2``; one may be missing.
        general_from_buffer: Whether what was forgotten is asked on rows set aside of the buffer; None when not known.
        example: A test row as it is asked: conversations by ``seen`` and ``unseen``, those that there are.
        made: Steps that made the material, such as a buffer, by whom, and what they cost; where that is known.
        notes: What could not be asked, and why.
    """

    asked_of: str = "the task"
    labels: Sequence[str]
    inits: Mapping[str, str | None] = field(default_factory=dict)
    questions: Mapping[str, tuple[str, Asked]]
    task: int
    tests: int
    buffer: int
    tokens: Sequence[str]
    concepts: pl.DataFrame | None = None
    samples: pl.DataFrame | None = None
    buffering: pl.DataFrame | None = None
    wordings: pl.DataFrame | None = None
    diversity: Mapping[str, Mapping[str, float]]
    general_from_buffer: bool | None = None
    example: Mapping[Asked, Sequence[Mapping[str, str | None]]]
    made: Sequence[tuple[str, str, Cost]] = ()
    notes: Sequence[str] = ()

    def competes(self, row: Mapping[str, Any]) -> bool:
        """Tell whether an arm was trained."""
        return row["arm"] in self.trained

    def described(self, label: str) -> dict[str, Any]:
        """Return how an evaluation asks, and under which name."""
        setting, asked = self.questions[label]
        names = shortened([name for name, _ in self.questions.values()])
        return {"name": names[setting], "setting": setting, "asked": asked}

    def context_of(self, each: Evaluated) -> str:
        """Say beside what training did what DELIA came to against as many tokens."""
        said, equal = super().context_of(each), self.equal_tokens.get(each.label)
        if equal is not None and equal.outcome in ("better", "worse"):
            said += f" {equal.arm} was {equal.outcome} than as many tokens of the task alone, by {each.size(equal)}."
        elif equal is not None and equal.outcome == "no difference seen":
            size = each.between(equal.low, equal.high, signed=True)
            said += (
                f" Between {equal.arm} and as many tokens of the task alone no difference was seen ({size})."
            )
        return said.strip()

    @cached_property
    def equal_tokens(self) -> dict[str, Line]:
        """DELIA beside the arm that has as many tokens, by evaluation; nothing where one of them is missing."""
        delia, repeated = self.by_mixture.get("delia"), self.by_mixture.get("repeated")
        if delia is None or repeated in (None, self.baseline):
            return {}
        pair = pl.col("arm").is_in([delia, repeated])
        measured = self.table.unique("evaluation", maintain_order=True)
        measured = measured.select("evaluation", "unit", "higher_is_better").rename({"evaluation": "label"})
        table = arm_table(
            self.results.filter(pair),
            self.arms.filter(pair),
            evaluations=[Measured(**each) for each in measured.to_dicts()],
            baseline=str(repeated),
            confidence=self.confidence,
        )
        rows = table.filter(pl.col("arm") == delia).to_dicts()
        return {row["evaluation"]: line_of(row, baseline=str(repeated), competes=True) for row in rows}

    @cached_property
    def trainings(self) -> int:
        """Of each arm that was trained, one for each seed."""
        return max(1, self.arms.filter(pl.col("tokens") > 0)["seed"].n_unique())

    @cached_property
    def themes(self) -> list[list[Evaluated]]:
        """What each evaluation says in all the ways in which it was asked: unseen wordings first."""
        names: dict[tuple[bool, str], list[Evaluated]] = {}
        for each in self.evaluated:
            names.setdefault((each.is_general, each.name), []).append(each)
        return [sorted(each, key=lambda one: list(ASKED).index(one.asked)) for each in names.values()]

    @cached_property
    def by_mixture(self) -> dict[str, str]:
        """The first arm of each mixture."""
        return {mixture_of(label): label for label in reversed(self.labels)}

    @cached_property
    def trained(self) -> list[str]:
        """Labels of the arms that were trained, in the order asked for."""
        return self.ordered(self.arms.filter(pl.col("tokens") > 0))

    @cached_property
    def focus(self) -> str | None:
        """The arm that the headline is about: DELIA, or the only one beside the baseline."""
        others = [label for label in self.trained if label != self.baseline]
        delia = [label for label in others if mixture_of(label) == "delia"]
        return delia[0] if delia else others[0] if len(others) == 1 else None

    @cached_property
    def ratio(self) -> float | None:
        """Examples of the buffer for each row of the task that were trained on; None where none were."""
        names = [label for label in self.trained if mixture_of(label) in BUFFERED]
        here = self.arms.filter(pl.col("arm").is_in(names) & (pl.col("task_examples") > 0))
        mean = here.select((pl.col("examples") / pl.col("task_examples")).mean()).item()
        return None if mean is None else mean - 1

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """Means over the seeds of what each arm was trained on."""
        columns = ("examples", "task_examples", "tokens", "response_tokens", "steps", "seconds")
        frame = self.arms.group_by("arm").agg(pl.col(*columns).cast(pl.Float64).mean())
        return {row["arm"]: row for row in frame.iter_rows(named=True)}

    def ordered(self, frame: pl.DataFrame) -> list[str]:
        """Return the arms of a frame, in the order asked for."""
        there = set(frame["arm"])
        return [label for label in self.labels if label in there]


def mixture_of(label: str) -> str:
    """Return the name of an arm's mixture."""
    return label.partition("@")[0]


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


def headline(lesson: LessonFacts) -> str:
    """Whether the task could be taught, and what came of the arm in focus, in words that it has not seen."""
    return f"{_taught(lesson)}{_compared(lesson)}"


def _asked(lesson: LessonFacts) -> Sequence[Evaluated]:
    """The evaluations that the headline is about."""
    unseen = [each for each in lesson.evaluated if each.asked == "unseen"]
    return unseen or [each for each in lesson.evaluated if not each.is_general] or lesson.evaluated


def _taught(lesson: LessonFacts) -> str:
    """Say what training did to the task, beside the untuned model; nothing where that was not judged."""
    each = _asked(lesson)[0]
    line = next((line for line in each.beside if mixture_of(line.arm) == UNTUNED), None)
    said = {
        "worse": "The task was learnt",
        "no difference seen": "The task was not seen to be learnt",
        "better": "Training made the task worse",
    }.get("" if line is None or each.is_general else line.outcome)
    if line is None or said is None:
        return ""
    values = f"{line.arm} {decimal(line.value, 2)}, {lesson.baseline} {decimal(each.baseline.value, 2)}"
    return f"{said} ({values}, {each.side}). "


def _compared(lesson: LessonFacts) -> str:
    baseline = lesson.baseline
    if not any(each.compared for each in lesson.evaluated):
        return "One arm, and nothing to compare it with"
    asked = _asked(lesson)
    where = "in unseen wordings" if asked[0].asked == "unseen" else "without unseen wordings"
    if lesson.trainings == 1:
        where += FOR_THIS_SEED
    focus = lesson.focus
    if focus is None:
        lines = [line for each in asked for line in each.compared]
        return f"{plural(len(lines), 'comparison')} with {baseline} {where}: {counted(lines)}"
    lines = [line for each in asked for line in each.compared if line.arm == focus]
    if len(lines) > 1 and all(line.outcome in ("no difference seen", ALWAYS_THE_SAME) for line in lines):
        return f"No difference between {focus} and {baseline} was seen on {len(lines):,} evaluations {where}"
    if len(lines) > 1:
        return f"{focus} against {baseline} on {len(lines):,} evaluations {where}: {counted(lines)}"
    return {
        "better": f"{focus} was better than {baseline} {where}",
        "worse": f"{focus} was worse than {baseline} {where}",
        "no difference seen": f"No difference between {focus} and {baseline} was seen {where}",
        ALWAYS_THE_SAME: f"Nothing that was graded can tell {focus} and {baseline} apart {where}",
    }.get(lines[0].outcome, f"{focus} and {baseline} could not be compared {where}")


def about_theme(theme: Sequence[Evaluated]) -> str:
    """Say what the values are of one evaluation, in all the ways in which it was asked."""
    each = theme[0]
    items = max(found.items for found in theme)
    said = f"{each.unit}, {each.side}; {plural(items, 'item')} graded"
    return said if each.name == each.setting else f"{each.setting}: {said}"


UNEQUAL = 1.1
FAR = 0.5
"""Of the ratio of DELIA's authors, whose sweep still gains between half of it and all of it."""
FEW_WORDINGS = 5
FEW_ASKED = 5


def _scattered(lesson: LessonFacts) -> Found:
    """The seeds of an arm scatter so that no difference could have been seen, however large."""
    found = []
    for each in lesson.evaluated:
        arms = [
            f"{line.arm} ({each.figure(min(line.by_seed))} to {each.figure(max(line.by_seed))})"
            for line in each.compared
            if len(line.by_seed) > 1 and not each.could_be_seen(line)
        ]
        if arms:
            found.append(
                f"On {each.title} the seeds of {listing(arms, NAMED)} differ so much that no difference to "
                f"{lesson.baseline}, however large, could have been seen: one training says little about the next. Take "
                "more seeds, more rows, or a lower learning rate."
            )
    return found


def _alone(lesson: LessonFacts) -> Found:
    """Only one arm was trained."""
    if len(lesson.trained) > 1:
        return ""
    return (
        f"Only {lesson.trained[0]} was trained: there is nothing to compare it with. Give a buffer and paraphrases, or "
        "several --arms."
    )


def _not_asked(lesson: LessonFacts) -> Found:
    """The lesson noted that something could not be asked."""
    return [f"{note[0].upper()}{note[1:].removesuffix('.')}." for note in lesson.notes]


def _unequal(lesson: LessonFacts) -> Found:
    """An arm has over `UNEQUAL` times the tokens of the baseline, or under its inverse."""
    base = lesson.means[lesson.baseline]["tokens"]
    off = [
        f"{arm} ({decimal(lesson.means[arm]['tokens'] / base, 1)} times)"
        for arm in lesson.trained
        if not 1 / UNEQUAL <= lesson.means[arm]["tokens"] / base <= UNEQUAL
    ]
    if not off:
        return ""
    mixtures = lesson.by_mixture
    if "repeated" not in mixtures:
        rest = "Add the arm repeated, which has as many tokens as delia, and only rows of the task."
    elif "delia" in mixtures:
        rest = (
            f"{mixtures['repeated']} is the arm with as many tokens as {mixtures['delia']}: the difference between "
            "these two is what a mix is worth, not what more training is worth."
        )
    else:
        rest = f"{mixtures['repeated']} is the one to hold beside the arms with a buffer."
    return (
        f"Trained on other numbers of tokens than {lesson.baseline} ({count(base)}): {listing(off, NAMED)}. They also "
        f"took more or fewer steps. {rest}"
    )


def _small_buffer(lesson: LessonFacts) -> Found:
    """The ratio that was trained on is below `FAR` of that of DELIA's authors."""
    ratio = lesson.ratio
    if ratio is None:
        return None
    if ratio >= FAR * PAPER_RATIO:
        return ""
    return (
        f"The buffer has {rows_words(ratio)} for each row of the task; DELIA's authors mix in {PAPER_RATIO}. What is "
        "not seen here may be there with a larger one: `learnable diversify --method self_sample "
        f"--n {round(PAPER_RATIO * lesson.task)}`."
    )


def _few_wordings(lesson: LessonFacts) -> Found:
    """Fewer than `FEW_WORDINGS` rewrites of an instruction, or fewer than `FEW_ASKED` unseen wordings."""
    known = {kind: figures["texts"] for kind, figures in lesson.diversity.items()}
    if not {"task", "paraphrases", "unseen"} & known.keys():
        return None
    found = []
    each = known.get("paraphrases", 0) / known.get("task", 1)
    if "paraphrases" in known and each < FEW_WORDINGS:
        found.append(
            f"Trainings with paraphrases saw {decimal(each, 0 if each == round(each) else 1)} other "
            f"{'wording' if each == 1 else 'wordings'} of each instruction, which is hardly diverse. Ask for more: `learnable diversify --method paraphrase --n 20`."
        )
    if known.get("unseen", FEW_ASKED) < FEW_ASKED:
        found.append(
            f"The task was asked in {plural(int(known['unseen']), 'unseen wording')} only: the intervals say nothing about "
            "how others would do. Give rows in more wordings with --test, or more paraphrases."
        )
    return found


def _from_buffer(lesson: LessonFacts) -> Found:
    """What was forgotten is asked on rows set aside of the buffer, which some arms trained on."""
    if lesson.general_from_buffer is None:
        return None
    arms = [arm for arm in lesson.trained if mixture_of(arm) in (*BUFFERED, "dmt")]
    if not lesson.general_from_buffer or not arms:
        return ""
    return (
        "What was forgotten is asked on rows set aside of the buffer: the arms that trained on the rest of it "
        f"({listing(arms, NAMED)}) have seen their like, so they look better there than on texts from elsewhere. "
        "Give rows of another origin: --general FILE."
    )


def _random_rows(lesson: LessonFacts) -> Found:
    """New tokens begin at random in an arm."""
    if not lesson.tokens:
        return ""
    if any(lesson.inits.get(label) is None for label in lesson.labels):
        return None
    random = [label for label in lesson.trained if lesson.inits[label] == "random"]
    if not random:
        return ""
    return (
        f"{enumeration([*lesson.tokens])} begins as a random row, another one with each seed, in "
        f"{listing(random, NAMED)}: the seeds differ by that too. Its distance to what it means begins large, as far as "
        "chance will have it."
    )


LESSON_CHECKS: dict[str, Callable[[LessonFacts], Found]] = {
    "models that did not move": shared.did_not_move,
    "evaluations that cannot tell arms apart": shared.cannot_tell,
    "training that shows no effect": shared.no_effect,
    "seeds that differ too much": _scattered,
    "a single arm": _alone,
    "parts that were not asked": _not_asked,
    "unequal tokens": _unequal,
    "a small buffer": _small_buffer,
    "few wordings": _few_wordings,
    "forgetting asked on the buffer": _from_buffer,
    "tokens that begin at random": _random_rows,
    "rows of the evaluation": shared.many_avoided,
    "ungraded answers": shared.ungraded,
    "few evaluation items": shared.few_items,
    "few seeds": shared.few_seeds,
    "losses only": shared.only_losses,
}
