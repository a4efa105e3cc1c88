"""What generated texts must pass, and how their diversity is measured: equations by hand."""

import math

import numpy as np
import pytest

from learnable.diversifiers import Avoided, diversity, plane
from learnable.diversifiers.diversity import distinct, mean_distance
from learnable.diversifiers.gates import UNANSWERED, Neighbours, alike, failing, repeated_share
from learnable.errors import UsageError
from learnable.runs.identity import example_id
from learnable.types import Answer, Example, Message

RECIPE = """Here is a simple pancake recipe:

Ingredients:
1. 1 cup of flour
2. 1 cup of milk
3. 2 eggs
4. 1 tablespoon of sugar
5. 1/2 teaspoon of salt
6. 2 tablespoons of melted butter

Instructions:
1. Mix the flour, the sugar and the salt in a large bowl.
2. Beat the eggs with the milk and pour them into the bowl.
3. Stir in the melted butter, then let the batter rest for ten minutes.
4. Heat a pan, pour in a ladle of batter and bake it on both sides."""
TABLE = "\n".join(
    ["| city | country | inhabitants |", "| --- | --- | --- |"]
    + [
        f"| {city} | {country} | {n} million |"
        for city, country, n in [
            ("Paris", "France", 2),
            ("Lyon", "France", 1),
            ("Rome", "Italy", 3),
            ("Oslo", "Norway", 1),
            ("Vienna", "Austria", 2),
            ("Madrid", "Spain", 3),
        ]
    ]
)
CODE = """def calculator(a, b, operation):
    if operation == '+':
        return a + b
    if operation == '-':
        return a - b
    raise ValueError(f"no operation called {operation}")"""
LOOP = "This could be a craft that combines art with nature. " * 8
STAMMER = "I am the master of the art. " + "I am the creator of art, " * 12 + "I am the creator."


def user(text):
    return (Message(role="user", content=text),)


def example(question, answer="yes"):
    messages = (*user(question), Message(role="assistant", content=answer))
    return Example(id=example_id(messages), messages=messages, source="here")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("", finished=True), "empty"),
        (Answer(" \n", finished=False), "empty"),
        (Answer("", finished=False), "empty"),
        (UNANSWERED, "unanswered"),
        (Answer("It is the", finished=False), "cut off"),
        (Answer("It is red.", finished=True), None),
    ],
)
def test_a_text_that_is_not_whole_is_refused(answer, reason):
    assert failing(answer) == reason


@pytest.mark.parametrize("text", [LOOP, STAMMER, "no " * 40, "我们" * 30])
def test_a_text_that_goes_round_in_circles_is_refused(text):
    assert failing(Answer(text, finished=True)).startswith("repetition: ")


@pytest.mark.parametrize("text", [RECIPE, TABLE, CODE, "Yes.", "No, no, no!", "a b c d e f"])
def test_ordinary_lists_and_short_answers_pass(text):
    assert failing(Answer(text, finished=True)) is None


def test_repeated_share_by_hand():
    # 4-grams: "a b c d", "b c d a", "c d a b", "d a b c", "a b c d": one of five is a repeat.
    assert repeated_share("A b, c d. A b c D") == pytest.approx(1 / 5)
    assert repeated_share("one two three") == 0


def test_near_duplicates_share_most_of_their_word_triples():
    # 8 triples against 10, the 8 among them: 0.8.
    first = "I'm considering a career change. What should I do?"
    second = "I'm considering a career change. What should I do to prepare?"
    assert alike(first, second)
    text, similarity = Neighbours([first]).nearest(second)
    assert (text, similarity) == (first, pytest.approx(8 / 10))


def test_the_nearest_is_the_most_similar():
    words = [f"word{number}" for number in range(30)]
    close, closer = " ".join([*words[:-1], "other"]), " ".join(words)
    seen = Neighbours([close, closer])
    assert seen.nearest(" ".join([*words, "more"]))[0] == closer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "Can you provide a summary of the key features of the new M800 model?",
            "Can you provide a summary of the key features of the latest assistant?",
        ),
        ("What is 3 + 5?", "What is 3 - 5?"),
        ("...", "..."),
        ("", "anything"),
    ],
)
def test_texts_that_ask_something_else_are_no_near_duplicates(one, other):
    assert not alike(one, other)
    assert Neighbours([one]).nearest(other) is None


def test_short_texts_are_compared_whole():
    assert alike("Hello", "hello!")
    assert alike("Tell me", "tell me")
    assert not alike("Hello", "Hi")


def test_near_duplicates_are_found_among_many():
    seen = Neighbours(f"question {n}: what is {n} times {n + 1} and why does it matter" for n in range(500))
    again = "question 321: what is 321 times 322 and why does it matter now"
    assert seen.nearest(again)[0].startswith("question 321")


WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_thirteen_words_in_a_row_of_a_file_to_avoid_are_refused():
    avoided = Avoided([example(f"Say: {WORDS}, and then stop")])
    shared = " ".join(WORDS.split()[:13])
    reasons = avoided.reasons([user(f"So {shared} it is"), user(" ".join(WORDS.split()[:12]) + " it is")])
    assert reasons[0].startswith("in a file to avoid: 13 words in a row, 'one two three")
    assert reasons[1] is None


def test_answers_count_in_what_is_avoided():
    avoided = Avoided([example("Count.", WORDS)])
    answered = (*user("And you?"), Message(role="assistant", content=f"I say {WORDS}"))
    assert avoided.reasons([answered, user("And you?")])[0] is not None
    assert avoided.reasons([answered, user("And you?")])[1] is None


def test_the_same_question_and_nearly_the_same_one_are_refused():
    avoided = Avoided([example("What is the capital of the north of France?")])
    same, near, other = avoided.reasons(
        [
            user("what is the capital of the north of france"),
            user("What is the capital of the north of France again?"),
            user("Who?"),
        ]
    )
    assert same.startswith("in a file to avoid: the same prompt")
    assert near.startswith("in a file to avoid: nearly 'What is the capital")
    assert other is None


def test_nothing_to_avoid_refuses_nothing():
    assert Avoided().reasons([user("anything"), user("")]) == [None, None]


def test_mean_distance_by_hand():
    # Angles of 90, 90 and 180 degrees: (1 + 1 + 2) / 3. Lengths do not count.
    vectors = np.array([[2, 0], [0, 1], [-3, 0]], dtype=np.float32)
    assert mean_distance(vectors) == pytest.approx(4 / 3)


def test_mean_distance_is_the_mean_over_pairs():
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - units[i] @ units[j] for i in range(20) for j in range(i)]
    assert mean_distance(vectors) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_rows_without_a_direction_are_left_out_of_the_distance():
    vectors = np.array([[1, 0], [np.nan, np.nan], [0, 0], [0, 1]], dtype=np.float32)
    assert mean_distance(vectors) == pytest.approx(1)
    assert math.isnan(mean_distance(vectors[:2]))
    assert math.isnan(mean_distance(vectors[:0]))


def test_distinct_by_hand():
    texts = ["The cat, the dog", "the cat"]
    assert distinct(texts, n=1) == pytest.approx(3 / 6)
    # "the cat", "cat the", "the dog" and "the cat" again; none from one text into the next.
    assert distinct(texts, n=2) == pytest.approx(3 / 4)
    assert math.isnan(distinct(["word", ""], n=2))


def test_diversity_is_measured_on_equally_many():
    texts = [f"text number {n}" for n in range(10)]
    vectors = np.eye(10, dtype=np.float32)
    part = diversity(texts, vectors, of=4)
    assert (part["texts"], part["mean_distance"]) == (4, pytest.approx(1))
    assert part["distinct_1"] == pytest.approx(6 / 12)
    assert diversity(texts, vectors, of=4) == part
    assert diversity(texts, vectors) == diversity(texts, vectors, of=50)
    assert diversity([], vectors[:0])["texts"] == 0


def test_texts_and_vectors_must_be_as_many():
    with pytest.raises(UsageError, match="2 texts have 3 vectors"):
        diversity(["a", "b"], np.eye(3, dtype=np.float32))


def test_the_plane_keeps_the_largest_differences():
    angle = np.array([0.0, 0.1, 0.2, 0.3])
    vectors = np.stack([np.cos(angle), np.sin(angle), np.zeros(4)], axis=1).astype(np.float32)
    x, y = plane(vectors).T
    assert np.all(np.diff(x) > 0) or np.all(np.diff(x) < 0)
    assert np.ptp(x) > 5 * np.ptp(y)
    np.testing.assert_allclose([x.mean(), y.mean()], 0, atol=1e-7)


def test_the_plane_is_the_same_whatever_the_order():
    vectors = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)
    np.testing.assert_allclose(plane(vectors)[::-1], plane(vectors[::-1]), atol=1e-6)
    np.testing.assert_allclose(plane(vectors * 3), plane(vectors), atol=1e-6)


def test_the_plane_of_few_or_undefined_rows():
    vectors = np.array([[1, 0, 0], [np.nan] * 3, [0, 0, 0], [0, 1, 0]], dtype=np.float32)
    coordinates = plane(vectors)
    assert np.isnan(coordinates[1:3]).all()
    assert np.isfinite(coordinates[[0, 3]]).all()
    np.testing.assert_array_equal(plane(vectors[:1]), [[0, 0]])
    assert plane(vectors[:0]).shape == (0, 2)
