"""What evaluation set and pool share, and what selections share."""

import math

import polars as pl
import pytest

from learnable.data.overlap import EXCERPT, contamination, jaccard
from learnable.errors import DataError, UsageError

GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron"
WORDS = GREEK.split()
THIRTEEN = " ".join(WORDS[:13])
TWELVE = " ".join(WORDS[:12])


def texts(prompts, answers=None, prefix="p"):
    frame = pl.DataFrame(
        {"id": [f"{prefix}{i}" for i in range(len(prompts))], "text": prompts},
        schema={"id": pl.String, "text": pl.String},
    )
    return frame if answers is None else frame.with_columns(answer=pl.Series(answers, dtype=pl.String))


def items(prompts, answers=None):
    return texts(prompts, answers, prefix="i")


def found(pool, evaluation, **given):
    return contamination(pool, evaluation, **given).select("item", "pool", "kind").rows()


# The same prompt


def test_the_same_prompt_is_found():
    assert found(texts(["Hello?", "Who?"]), items(["Why?", "Who?"])) == [("i1", "p1", "same prompt")]


@pytest.mark.parametrize("other", ["who are you", "Who are  you?!", "WHO\nARE\tYOU", "«Who» are - you…"])
def test_case_spaces_and_punctuation_do_not_matter(other):
    assert found(texts([other]), items(["Who are you?"])) == [("i0", "p0", "same prompt")]


@pytest.mark.parametrize("other", ["what is 3 - 5?", "what is 3 * 5?", "what is 3 + 6?", "what is 3 5?"])
def test_another_sum_is_another_prompt(other):
    assert found(texts([other]), items(["what is 3 + 5?"])) == []


def test_a_part_of_a_short_prompt_is_not_found():
    assert found(texts([f"{TWELVE} omega"]), items([TWELVE])) == []


def test_prompts_without_a_word_are_not_the_same():
    assert found(texts(["...", ""]), items(["?!", ""])) == []


def test_a_missing_prompt_is_not_found():
    assert found(texts([None, "Who?"]), items([None, "Why?"])) == []


def test_the_answer_of_the_pool_is_not_a_prompt():
    assert found(texts(["a"], ["Who are you?"]), items(["Who are you?"])) == []


def test_every_item_with_that_prompt_is_found():
    assert [row[0] for row in found(texts(["Who?"]), items(["who", "Why?", "WHO"]))] == ["i0", "i2"]


def test_characters_of_languages_without_spaces_are_words():
    assert found(
        texts(["请问:从北京到上海的火车需要多长时间"]), items(["从北京到上海的火车需要多长时间?"])
    ) == [("i0", "p0", "shared 13-gram")]


# Shared n-grams


def test_thirteen_words_in_a_row_are_found():
    pool = texts(["nothing", f"before, {THIRTEEN.upper()}; after"])
    assert found(pool, items([f"Other words: {THIRTEEN}."])) == [("i0", "p1", "shared 13-gram")]


def test_twelve_words_in_a_row_are_not_found():
    assert found(texts([f"before {TWELVE} after"]), items([f"other {TWELVE} words"])) == []


def test_thirteen_words_with_another_between_are_not_found():
    assert found(texts([THIRTEEN]), items([THIRTEEN.replace("zeta", "zeta omega")])) == []


def test_thirteen_words_in_another_order_are_not_found():
    assert found(texts([" ".join(reversed(WORDS))]), items([" ".join(WORDS)])) == []


def test_an_answer_of_the_pool_that_holds_the_item_is_found():
    assert found(texts(["a"], [f"as in {THIRTEEN}"]), items([f"{THIRTEEN} x"])) == [
        ("i0", "p0", "shared 13-gram")
    ]


def test_an_answer_of_the_items_is_looked_up():
    assert found(texts([f"a {THIRTEEN}"]), items(["b"], [f"{THIRTEEN} c"])) == [
        ("i0", "p0", "shared 13-gram")
    ]


def test_words_do_not_run_on_from_prompt_to_answer():
    half, rest = " ".join(WORDS[:7]), " ".join(WORDS[7:])
    assert found(texts([half], [rest]), items([f"{half} {rest}"])) == []


def test_an_answer_may_be_missing():
    assert found(texts(["Who?"], [None]), items(["Who?"], [None])) == [("i0", "p0", "same prompt")]


def test_n_is_heeded():
    assert found(texts(["x a b c"]), items(["a b c y"]), n=3) == [("i0", "p0", "shared 3-gram")]


def test_a_gram_of_one_word():
    assert found(texts(["x", "b c"]), items(["a b"]), n=1) == [("i0", "p1", "shared 1-gram")]


# What comes out


def test_of_several_pool_rows_the_first_is_named():
    assert found(texts(["no", "Who?", "who"]), items(["who"])) == [("i0", "p1", "same prompt")]


def test_the_same_prompt_comes_before_a_shared_gram():
    pool = texts([f"x {THIRTEEN}", THIRTEEN, f"{THIRTEEN} y"])
    assert found(pool, items([THIRTEEN])) == [("i0", "p1", "same prompt")]


def test_pool_rows_are_counted_once_each():
    pool = texts([f"x {THIRTEEN} {THIRTEEN}", THIRTEEN, "no"])
    assert contamination(pool, items([THIRTEEN]))["pool_rows"].to_list() == [2]


def test_items_come_in_their_order():
    assert [row[0] for row in found(texts(["b", "a"]), items(["a", "b"]))] == ["i0", "i1"]


def test_the_shared_words_are_shown():
    pool = texts([f"Before, {THIRTEEN.upper()}! after"])
    assert contamination(pool, items([f"other {THIRTEEN}"]))["shared"].to_list() == [THIRTEEN]


def test_a_long_shared_text_is_cut():
    shared = contamination(texts(["long " * 100]), items(["long " * 100]))["shared"][0]
    assert (len(shared), shared[-1]) == (EXCERPT, "…")


def test_nothing_found_has_the_same_columns():
    assert (
        contamination(texts(["a"]), items(["b"])).schema == contamination(texts(["a"]), items(["a"])).schema
    )


def test_nothing_to_look_for():
    assert found(texts(["a"]), items([])) == []


def test_empty_pool():
    assert found(texts([]), items(["a"])) == []


def test_a_pool_without_text_is_refused():
    with pytest.raises(DataError, match="the pool has no column 'text'"):
        contamination(texts(["a"]).drop("text"), items(["a"]))


def test_items_without_an_id_are_refused():
    with pytest.raises(DataError, match="the evaluation set has no column 'id'"):
        contamination(texts(["a"]), items(["a"]).drop("id"))


def test_a_gram_of_no_words_is_refused():
    with pytest.raises(UsageError, match="n=0"):
        contamination(texts(["a"]), items(["a"]), n=0)


# Selections


@pytest.mark.parametrize(
    ("other", "expected"),
    [(["3", "2", "4", "5"], 2 / 5), (["9"], 0.0), ({"3", "1", "2"}, 1.0)],
    ids=["half", "nothing", "a set"],
)
def test_jaccard_by_hand(other, expected):
    assert jaccard(["1", "2", "3"], other) == expected


def test_jaccard_of_nothing_is_undefined():
    assert math.isnan(jaccard([], []))
