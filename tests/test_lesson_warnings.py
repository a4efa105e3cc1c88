"""What to distrust in a lesson: each warning fires on a lesson that deserves it, and on no other."""

import re
from dataclasses import replace

import polars as pl
import pytest

from learnable.pages import LESSON_CHECKS, LessonFacts, look
from learnable.pages.lesson import render_lesson
from test_lesson_report import LOSS, QUESTIONS, alone, make_lesson, small, usual, with_table
from test_reporting import Page


def test_a_clean_lesson_has_few_warnings() -> None:
    assert [said.split(" ")[0] for said in look(LESSON_CHECKS, usual()).warnings] == [
        "Trained",
        "The",
        "Only",
    ]


def did_not_move() -> LessonFacts:
    facts = small()
    return replace(facts, results=facts.results.with_columns(value=pl.lit(2.0)))


def cannot_tell() -> LessonFacts:
    return with_table(small(), difference=pl.lit(0.0), low=pl.lit(0.0), high=pl.lit(0.0))


def scattered() -> LessonFacts:
    delia = pl.col("arm") == "delia"
    wide = {
        "low": pl.when(delia).then(-2.0).otherwise("low"),
        "high": pl.when(delia).then(2.0).otherwise("high"),
    }
    return with_table(small(), verdict=pl.lit("no difference seen"), **wide)


def no_effect() -> LessonFacts:
    untuned = pl.col("arm") == "untuned"
    return with_table(
        usual(), verdict=pl.when(untuned).then(pl.lit("no difference seen")).otherwise("verdict")
    )


def not_asked() -> LessonFacts:
    return replace(small(), notes=["no wordings to ask in that training has not seen: give paraphrases"])


def without_repeated() -> LessonFacts:
    return small()


def one_wording() -> LessonFacts:
    facts = small()
    one = {"texts": 1, "distinct_1": 1.0, "distinct_2": 1.0}
    return replace(facts, diversity={**facts.diversity, "paraphrases": one, "unseen": one})


def general_from_buffer() -> LessonFacts:
    return replace(usual(), general_from_buffer=True)


def random_rows() -> LessonFacts:
    facts = small()
    return replace(facts, inits=dict.fromkeys(facts.labels, "random"))


def some_ungraded() -> LessonFacts:
    return with_table(small(), ungraded=pl.when(pl.col("arm") == "delia").then(3).otherwise(0))


def few_items() -> LessonFacts:
    return make_lesson(("common", "delia"), items=12, questions=QUESTIONS[:1])


def single_seed() -> LessonFacts:
    return make_lesson(("common", "delia"), seeds=1, questions=QUESTIONS[:1])


def only_losses() -> LessonFacts:
    return make_lesson(("common", "delia"), questions=tuple(each for each in QUESTIONS if each.name == LOSS))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (did_not_move, "Every trained model is graded exactly as the untuned one"),
        (cannot_tell, "On format in unseen wordings (every value is 0.92) no arm differs from common on a single item"),
        (scattered, "On format in unseen wordings the seeds of delia ("),
        (no_effect, f"{LOSS} in unseen wordings (3.502 and 3.298)"),
        (alone, "Only common was trained: there is nothing to compare it with."),
        (not_asked, "No wordings to ask in that training has not seen: give paraphrases."),
        (usual, "than common (1,000): repeated (5.0 times), no_paraphrases (5.0 times), delia (5.0 times)"),
        (usual, "repeated is the arm with as many tokens as delia"),
        (without_repeated, "Add the arm repeated"),
        (usual, "The buffer has 4 rows for each row of the task; DELIA's authors mix in 260."),
        (one_wording, "Trainings with paraphrases saw 1 other wording of each instruction"),
        (one_wording, "The task was asked in 1 unseen wording only"),
        (general_from_buffer, "the arms that trained on the rest of it (no_paraphrases, delia)"),
        (random_rows, "<sep> begins as a random row"),
        (some_ungraded, "could not be graded (0.0% to 2.5% by arm: delia 3) and are left out of the means"),
        (few_items, "Fewer than 30 graded items: format in unseen wordings (12)"),
        (usual, "Only 3 trainings of each arm"),
        (single_seed, "Only one training of each arm"),
        (only_losses, "Only losses stand for the task"),
    ],
)  # fmt: skip
def test_what_to_distrust(make, said: str) -> None:
    assert said in " ".join(look(LESSON_CHECKS, make()).warnings)


def test_what_could_not_be_looked_for_is_said() -> None:
    facts = small()
    unknown = replace(facts, general_from_buffer=None, diversity={}, inits={})
    page = Page(render_lesson(unknown))
    assert "few wordings, forgetting asked on the buffer, tokens that begin at random" in page.plain


def test_the_page_lists_the_same_warnings() -> None:
    shown = re.search(r'<ul class="warnings">(.*?)</ul>', render_lesson(usual()), re.DOTALL)
    assert shown is not None
    assert shown[1].count("<li>") == len(look(LESSON_CHECKS, usual()).warnings)
