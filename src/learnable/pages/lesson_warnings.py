"""What to distrust in a lesson: plain sentences with the figure seen and what follows from it."""

from collections.abc import Callable

from learnable.pages import contest_warnings as shared
from learnable.pages.contest_warnings import NAMED
from learnable.pages.lesson_facts import (
    BUFFERED,
    PAPER_RATIO,
    LessonFacts,
    rows_words,
)
from learnable.pages.warnings import Found
from learnable.pages.words import count, decimal, enumeration, listing, plural

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
    arms = [arm for arm in lesson.trained if lesson.by_label[arm].mixture in (*BUFFERED, "dmt")]
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
    if any(way.init is None for way in lesson.ways):
        return None
    random = [label for label in lesson.trained if lesson.by_label[label].init == "random"]
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
