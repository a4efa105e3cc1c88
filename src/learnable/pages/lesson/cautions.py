"""What to distrust in a lesson: plain sentences with the figure seen and what follows from it.

| warning | fires when |
|---|---|
| models that did not move | every trained model is graded as its untuned one, item by item |
| evaluation that cannot tell | no arm differs from the baseline on a single item |
| training that shows no effect | between the untuned model and the baseline no difference was seen |
| seeds that differ too much | the seeds of an arm scatter so that no difference could have been seen, however large |
| nothing to compare with | only one arm was trained |
| parts that were not asked | the lesson noted that something could not be asked |
| unequal tokens | an arm has over `UNEQUAL` times the tokens of the baseline, or under its inverse |
| small buffer | the ratio that was trained on is below `FAR` of that of DELIA's authors |
| few wordings | fewer than `FEW_WORDINGS` rewrites of an instruction, or fewer than `FEW_ASKED` unseen wordings |
| forgetting asked on the buffer | what was forgotten is asked on rows set aside of the buffer, which some arms trained on |
| random rows | new tokens begin at random in an arm |
| ungraded answers | an answer could not be graded |
| few items | an evaluation has fewer than `FEW_ITEMS` graded items |
| few seeds | fewer than `FEW_SEEDS` trainings of each arm |
| only losses | all evaluations are losses |
"""

import numpy as np
import polars as pl

from learnable.pages.checks import Cautions, Check, checked
from learnable.pages.comparison.cautions import FEW_ITEMS, FEW_SEEDS, SAME
from learnable.pages.lesson.facts import BUFFERED, PAPER_RATIO, Lesson, LessonFacts, lesson_of, rows_words
from learnable.pages.words import count, decimal, enumeration, listing, plural

UNEQUAL = 1.1
FAR = 0.5
"""Of the ratio of DELIA's authors, whose sweep still gains between half of it and all of it."""
FEW_WORDINGS = 5
FEW_ASKED = 5
NAMED = 8


def warnings_of(facts: LessonFacts) -> list[str]:
    """Say what to distrust in a lesson, most damaging first.

    Args:
        facts: What the report is made from.

    Returns:
        Plain sentences; the module's table lists what is looked for.
    """
    return list(cautions_of(lesson_of(facts)).warnings)


def cautions_of(lesson: Lesson) -> Cautions:
    """Make every check."""
    return checked(CHECKS, lesson)


def _did_not_move(lesson: Lesson) -> list[str] | None:
    values = lesson.facts.results.filter(pl.col("value").is_finite())
    trained = pl.col("arm").is_in(lesson.trained)
    untuned = values.filter(~trained).select("evaluation", "id", base="value")
    if untuned.is_empty():
        return None
    pairs = values.filter(trained).join(untuned, on=["evaluation", "id"])
    value, base = pairs["value"].to_numpy(), pairs["base"].to_numpy()
    if not pairs.height or np.abs(value - base).max() > SAME * np.abs(base).max():
        return []
    steps = max(lesson.means[arm]["steps"] for arm in lesson.trained)
    return [
        f"Every trained model is graded exactly as the untuned one, on every item: {plural(round(steps), 'optimizer step')} "
        "changed nothing that can be seen, so nothing about the ways to train follows. Take more rows or epochs, or a "
        "higher learning rate."
    ]


def _cannot_tell(lesson: Lesson) -> list[str]:
    return [
        f"On {each.title} no arm differs from {lesson.facts.baseline} on a single item"
        + (f" (every value is {decimal(each.baseline.value, 2)})" if each.baseline.value is not None else "")
        + ": it cannot tell them apart, and “no difference seen” says nothing there. Take a task that is easier or "
        "harder for this model, or more rows to test on."
        for each in lesson.evaluated
        if each.compared and all(line.outcome == "always the same" for line in each.compared)
    ]


def _scattered(lesson: Lesson) -> list[str]:
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
                f"{lesson.facts.baseline}, however large, could have been seen: one training says little about the next. Take "
                "more seeds, more rows, or a lower learning rate."
            )
    return found


def _no_effect(lesson: Lesson) -> list[str] | None:
    if not any(each.untuned for each in lesson.evaluated):
        return None
    return [
        f"On {each.title} no difference was seen between {line.arm} ({each.figure(line.value)}) and {lesson.facts.baseline} "
        f"({each.figure(each.baseline.value)}): where training itself shows no effect, the way to train can hardly show one."
        for each in lesson.evaluated
        if each.asked != "general"
        for line in each.untuned[:1]
        if line.outcome == "no difference seen"
    ]


def _alone(lesson: Lesson) -> list[str]:
    if len(lesson.trained) > 1:
        return []
    return [
        f"Only {lesson.trained[0]} was trained: there is nothing to compare it with. Give a buffer and paraphrases, or "
        "several --arms."
    ]


def _not_asked(lesson: Lesson) -> list[str]:
    return [f"{note[0].upper()}{note[1:].removesuffix('.')}." for note in lesson.facts.notes]


def _unequal(lesson: Lesson) -> list[str]:
    base = lesson.means[lesson.facts.baseline]["tokens"]
    off = [
        f"{arm} ({decimal(lesson.means[arm]['tokens'] / base, 1)} times)"
        for arm in lesson.trained
        if not 1 / UNEQUAL <= lesson.means[arm]["tokens"] / base <= UNEQUAL
    ]
    if not off:
        return []
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
    return [
        f"Trained on other numbers of tokens than {lesson.facts.baseline} ({count(base)}): {listing(off, NAMED)}. They also "
        f"took more or fewer steps. {rest}"
    ]


def _small_buffer(lesson: Lesson) -> list[str] | None:
    ratio = lesson.ratio
    if ratio is None:
        return None
    if ratio >= FAR * PAPER_RATIO:
        return []
    return [
        f"The buffer has {rows_words(ratio)} for each row of the task; DELIA's authors mix in {PAPER_RATIO}. What is "
        "not seen here may be there with a larger one: `learnable diversify --method self_sample "
        f"--n {round(PAPER_RATIO * lesson.facts.task)}`."
    ]


def _few_wordings(lesson: Lesson) -> list[str] | None:
    known = {kind: figures["texts"] for kind, figures in lesson.facts.diversity.items()}
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


def _from_buffer(lesson: Lesson) -> list[str] | None:
    if lesson.facts.general_from_buffer is None:
        return None
    arms = [arm for arm in lesson.trained if lesson.ways[arm].mixture in (*BUFFERED, "dmt")]
    if not lesson.facts.general_from_buffer or not arms:
        return []
    return [
        "What was forgotten is asked on rows set aside of the buffer: the arms that trained on the rest of it "
        f"({listing(arms, NAMED)}) have seen their like, so they look better there than on texts from elsewhere. "
        "Give rows of another origin: --general FILE."
    ]


def _random_rows(lesson: Lesson) -> list[str] | None:
    if not lesson.facts.tokens:
        return []
    if any(way.init is None for way in lesson.facts.ways):
        return None
    random = [label for label in lesson.trained if lesson.ways[label].init == "random"]
    if not random:
        return []
    return [
        f"{enumeration([*lesson.facts.tokens])} begins as a random row, another one with each seed, in "
        f"{listing(random, NAMED)}: the seeds differ by that too. Its distance to what it means begins large, as far as "
        "chance will have it."
    ]


def _ungraded(lesson: Lesson) -> list[str]:
    found = []
    for each in lesson.evaluated:
        if not any(line.ungraded for line in each.lines):
            continue
        if all(line.value is None for line in each.lines):
            found.append(
                f"Nothing of {each.title} could be graded: there is no answer from it. See `why` in results.parquet."
            )
            continue
        by_arm = [f"{line.arm} {line.ungraded:,}" for line in each.lines if line.ungraded]
        found.append(
            f"Answers on {each.title} that could not be graded are left out of the means, not counted as wrong: "
            f"{listing(by_arm, NAMED)}."
        )
    return found


def _few_items(lesson: Lesson) -> list[str]:
    few = [
        f"{each.title} ({most:,})"
        for each in lesson.evaluated
        if 0 < (most := max((line.items for line in each.lines), default=0)) < FEW_ITEMS
    ]
    if not few:
        return []
    return [
        f"Fewer than {FEW_ITEMS} graded items: {listing(few, NAMED)}. The intervals allow for it, but so few items "
        "hardly stand for the task."
    ]


def _few_seeds(lesson: Lesson) -> list[str]:
    seeds = lesson.seeds
    if seeds >= FEW_SEEDS:
        return []
    if seeds == 1:
        return [
            "Only one training of each arm: the noise of training is not in the intervals at all, so a difference may be "
            f"the luck of one seed. Use --seeds {FEW_SEEDS}."
        ]
    return [
        f"Only {seeds:,} trainings of each arm: the intervals are honest about it, but wide, so “no difference seen” often "
        f"means “not enough seeds”. With --seeds {FEW_SEEDS} they become much narrower; what is trained already is kept."
    ]


def _only_losses(lesson: Lesson) -> list[str]:
    if {each.unit for each in lesson.evaluated if each.asked != "general"} != {"nats per token"}:
        return []
    return [
        "The task is asked by losses alone: they say how likely the model finds the given answers, not whether what it "
        "writes is right. Add an evaluation that reads its answers, such as format or exact_match."
    ]


CHECKS = (
    Check(name="models that did not move", find=_did_not_move),
    Check(name="evaluations that cannot tell arms apart", find=_cannot_tell),
    Check(name="training that shows no effect", find=_no_effect),
    Check(name="seeds that differ too much", find=_scattered),
    Check(name="a single arm", find=_alone),
    Check(name="parts that were not asked", find=_not_asked),
    Check(name="unequal tokens", find=_unequal),
    Check(name="a small buffer", find=_small_buffer),
    Check(name="few wordings", find=_few_wordings),
    Check(name="forgetting asked on the buffer", find=_from_buffer),
    Check(name="tokens that begin at random", find=_random_rows),
    Check(name="ungraded answers", find=_ungraded),
    Check(name="few evaluation items", find=_few_items),
    Check(name="few seeds", find=_few_seeds),
    Check(name="losses only", find=_only_losses),
)
