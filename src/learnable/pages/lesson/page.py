"""The page of a lesson."""

from learnable.pages.document import document
from learnable.pages.excerpts import turns_of
from learnable.pages.lesson import answers, concepts, costs, gradients, pictures, samples, wordings
from learnable.pages.lesson.cautions import cautions_of
from learnable.pages.lesson.facts import PAPER_RATIO, Lesson, LessonFacts, lesson_of, rows_words
from learnable.pages.lesson.palette import styles
from learnable.pages.verdicts import probability
from learnable.pages.words import count, plural

BEGINNINGS = {
    "random": "a random row",
    "mean": "the mean of all rows of the embedding",
    "description": "the mean of the words that describe it",
}


def render(facts: LessonFacts) -> str:
    """Write the report of one lesson as a self-contained page.

    Args:
        facts: What the report is made from.

    Returns:
        HTML of about 1 MB, whatever the number of items, and 0.3 kB per question drawn.
    """
    lesson = lesson_of(facts)
    style = styles(lesson)
    drawn, panels = pictures.values(lesson)
    curves, near = concepts.concepts(lesson, style)
    lines, buffering = gradients.buffering(lesson)
    places = wordings.wordings_map(lesson)
    found = drawn | curves | lines | ({places.name: places} if places else {})
    return document(
        "lesson.html.j2",
        pictures=found,
        styles=["comparison.css", "lesson.css"],
        facts=facts,
        lesson=lesson,
        headline=answers.headline(lesson),
        tiles=_tiles(lesson),
        inits={way.init: BEGINNINGS[way.init] for way in facts.ways if way.init and facts.tokens},
        example={how: turns_of(messages)[0] for how, messages in facts.example.items()},
        answers=answers.answers(lesson),
        panels=panels,
        probability=probability,
        paper_ratio=PAPER_RATIO,
        concepts=near,
        keys=[each for each in style.values() if near],
        buffering=buffering,
        diverse=wordings.diverse(lesson),
        shelves=samples.shelves(lesson),
        costs=costs.costs(lesson),
        cautions=cautions_of(lesson),
    )


def _tiles(lesson: Lesson) -> list[tuple[str, str, str]]:
    """The first figures to see: name, value, remark."""
    facts = lesson.facts
    trained = facts.arms.filter(facts.arms["tokens"] > 0)
    models = trained.unique("model")
    return [
        ("rows of the task", count(facts.task), "to train on"),
        ("rows asked", count(facts.tests), "that no training saw"),
        (
            "buffer",
            count(facts.buffer or None),
            f"{rows_words(lesson.ratio)} for each of the task" if lesson.ratio else "",
        ),
        ("ways to train", count(len(lesson.trained)), ""),
        ("seeds", count(lesson.seeds), "trainings of each way"),
        (
            "models trained",
            count(models.height),
            f"on {plural(int(models['tokens'].sum()), 'token')}",
        ),
    ]
