"""Budgets are read and written without loss; settings that make no sense are refused."""

import dataclasses
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnable.data.names import parse_columns
from learnable.errors import LearnableError, UsageError, did_you_mean
from learnable.pools import Pool
from learnable.settings import Reading, Reference, Tuning
from learnable.types import Budget, Message

counts = st.integers(1, 10**12)
shares = st.floats(0, 1, exclude_min=True)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("6%", Budget(fraction=0.06)),
        ("0.5%", Budget(fraction=0.005)),
        ("100%", Budget(fraction=1.0)),
        (" 6 % ", Budget(fraction=0.06)),
        ("500", Budget(examples=500)),
        ("500 examples", Budget(examples=500)),
        ("1 example", Budget(examples=1)),
        ("50000tokens", Budget(tokens=50_000)),
        ("50000 token", Budget(tokens=50_000)),
        ("1,234,567 tokens", Budget(tokens=1_234_567)),
        ("50_000tokens", Budget(tokens=50_000)),
    ],
)
def test_parse_reads(text, budget):
    assert Budget.parse(text) == budget


@given(
    st.one_of(st.builds(lambda n: Budget(examples=n), counts), st.builds(lambda n: Budget(tokens=n), counts))
)
def test_parse_is_the_inverse_of_str_for_counts(budget):
    assert Budget.parse(str(budget)) == budget


@given(shares)
def test_parse_is_the_inverse_of_str_for_every_fraction(share):
    assert Budget.parse(str(Budget(fraction=share))) == Budget(fraction=share)


@given(st.decimals("0.0001", 100, places=4))
def test_parse_gives_the_fraction_nearest_to_the_percentage(percent):
    assert Budget.parse(f"{percent}%").fraction == float(Decimal(percent) / 100)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(fraction=0.06), "6% of the examples"),
        (Budget(fraction=1), "100% of the examples"),
        (Budget(fraction=np.float64(0.125)), "12.5% of the examples"),
        (Budget(fraction=1e-7), "0.00001% of the examples"),
        (Budget(examples=1500), "1,500 examples"),
        (Budget(tokens=50_000), "50,000 tokens"),
    ],
)
def test_budget_reads_like_a_phrase(budget, text):
    assert str(budget) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "six",
        "-5",
        "6%%",
        "1e3",
        "1/3",
        "5 rows",
        "6% of the tokens",
        "\u0665",
        "5\n6",
        "nan%",
        "inf",
    ],
)
def test_parse_refuses_other_words_with_a_hint(text):
    with pytest.raises(UsageError, match="cannot read the budget") as caught:
        Budget.parse(text)
    assert caught.value.hint == "write 6%, 500 or 50000tokens"


@pytest.mark.parametrize("text", ["6,5%", "1,0", "1,00,000", ",500", "5_", "5__0", "1_0,000"])
def test_parse_takes_separators_between_thousands_only(text):
    with pytest.raises(UsageError, match="cannot read the budget"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["5.0", "5.5 tokens", "0.06"])
def test_parse_refuses_a_count_with_decimals(text):
    with pytest.raises(UsageError, match="a count has no decimals"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["0", "0%", "0 tokens", "100.0001%", "101%"])
def test_parse_refuses_what_is_out_of_range(text):
    with pytest.raises(UsageError, match="must be above 0"):
        Budget.parse(text)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"examples": 1, "tokens": 1},
        {"tokens": 1, "fraction": 0.5},
        {"examples": 1, "tokens": 1, "fraction": 1},
    ],
)
def test_budget_is_exactly_one_of_three(given):
    with pytest.raises(UsageError, match="one of examples, tokens or fraction"):
        Budget(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"examples": 0},
        {"examples": -1},
        {"tokens": 0},
        {"fraction": 0.0},
        {"fraction": -0.1},
        {"fraction": 1.5},
        {"fraction": float("nan")},
        {"fraction": float("inf")},
        {"examples": float("nan")},
    ],
)
def test_budget_out_of_range_names_the_field(given):
    (name,) = given
    with pytest.raises(UsageError, match=rf"budget\.{name} must be above 0"):
        Budget(**given)


@pytest.mark.parametrize("given", [{"examples": 2.5}, {"tokens": 0.5}])
def test_budget_counts_are_whole(given):
    with pytest.raises(UsageError, match="whole number"):
        Budget(**given)


def test_types_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget(examples=1).examples = 2


def test_types_take_keywords_only():
    with pytest.raises(TypeError):
        Message("user", "hello")


@pytest.mark.parametrize(
    ("tuning", "rate"),
    [
        (Tuning(), 2e-4),
        (Tuning(method="full"), 2e-5),
        (Tuning(learning_rate=1e-3), 1e-3),
        (Tuning(learning_rate=0.0), 0.0),
    ],
)
def test_learning_rate_is_the_given_one_else_that_of_the_method(tuning, rate):
    assert tuning.peak_learning_rate == rate


@pytest.mark.parametrize(
    "given", [{"folds": 1}, {"folds": -1}, {"fraction": 0}, {"fraction": 1.1}, {"epochs": 0}, {"rank": 0}]
)
def test_reference_refuses_what_cannot_be_trained(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        Reference(**given)


@pytest.mark.parametrize(
    ("reference", "passes"),
    [
        (Reference(), 1.0),
        (Reference(epochs=3), 3.0),
        (Reference(fraction=0.5), 0.5),
        (Reference(folds=2), 1.0),
        (Reference(folds=5), 4.0),
        (Reference(model="mine", folds=5), 0.0),
    ],
)
def test_reference_counts_its_passes_over_the_pool(reference, passes):
    assert reference.passes == passes


@pytest.fixture
def pool():
    examples = pl.DataFrame(
        {
            "id": ["b", "a"],
            "source": ["one", "two"],
            "messages": [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], []],
        }
    )
    return Pool(conversations=examples.lazy(), ledger=pl.LazyFrame(), files=())


def test_pool_is_as_long_as_its_examples(pool):
    assert len(pool) == 2


def test_pool_gives_examples_in_the_order_first_seen(pool):
    assert [(example.id, example.source) for example in pool.iter_examples()] == [("b", "one"), ("a", "two")]


def test_pool_gives_whole_conversations(pool):
    assert next(pool.iter_examples()).messages == (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Ho"),
    )


def test_error_shows_its_hint_on_a_line_of_its_own():
    assert str(LearnableError("it broke", hint="mend it")) == "it broke\nhint: mend it"


def test_error_without_a_hint_is_one_line():
    assert str(LearnableError("it broke")) == "it broke"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("learnabilty", "did you mean 'learnability'?"),
        ("xyz", "known: learnability, loss"),
    ],
)
def test_hint_names_the_closest_word_else_all(name, hint):
    assert did_you_mean(name, ["loss", "learnability"]) == hint


def test_hint_says_when_nothing_is_known():
    assert did_you_mean("xyz", []) == "none are known"


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"prompt": "q", "response": "a"}, "prompt=q,response=a"),
        ({"prompt": ["q", "p"], "ignore": "b=c"}, "prompt=q,prompt=p,ignore=b=c"),
        ({"prompt": "a, b"}, '{"prompt": "a, b"}'),
        ("prompt=q", "prompt=q"),
    ],
)
def test_named_columns_have_one_form_that_is_read_as_the_same(columns, text):
    assert Reading(columns=columns).columns == text
    assert parse_columns(text) == parse_columns(columns)
