"""Where selection pays for itself, by hand."""

import math
import re

import pytest

from learnable.errors import UsageError
from learnable.experiments import payback

# Loss of random data; the untuned model is at 0 tokens.
CURVE = [(0, 3.0), (1_000, 2.0), (10_000, 1.5), (100_000, 1.0)]


def pay(value, curve=CURVE, **given):
    defaults = {"tokens": 1_000, "seconds_per_token": 0.01, "selection_s": 45, "higher_is_better": False}
    return payback(value, curve, **(defaults | given))


def random_tokens(said):
    """Return how many tokens of random data reach the value, rounded."""
    return int(re.search(r"random (?:needs|reaches .* with) ([\d,]+) tokens", said)[1].replace(",", ""))


# How many tokens of random data


@pytest.mark.parametrize(("value", "tokens"), [(2.0, 1_000), (1.5, 10_000), (1.0, 100_000)])
def test_at_a_measured_budget(value, tokens):
    assert random_tokens(pay(value)) == tokens


def test_between_budgets_it_is_linear_in_the_logarithm():
    assert random_tokens(pay(1.75)) == round(math.sqrt(1_000 * 10_000))


def test_below_the_first_budget_it_is_linear():
    assert random_tokens(pay(2.25)) == 750


def test_higher_may_be_better():
    curve = [(tokens, -loss) for tokens, loss in CURVE]
    assert random_tokens(pay(-2.25, curve, higher_is_better=True)) == 750


def test_the_order_of_the_points_does_not_matter():
    assert pay(1.75, CURVE[::-1]) == pay(1.75)


def test_of_several_places_the_fewest_tokens_count():
    curve = [(0, 3.0), (100, 2.0), (200, 2.8), (400, 1.0)]
    assert random_tokens(pay(2.5, curve)) == 50


def test_a_dip_before_the_value_is_reached_is_passed_over():
    curve = [(0, 3.0), (100, 2.0), (200, 2.5), (800, 1.5)]
    assert random_tokens(pay(2.0, curve)) == 100


def test_it_is_reached_on_the_way_up_from_a_dip():
    curve = [(0, 3.0), (100, 2.0), (200, 2.5), (800, 1.5)]
    # Seven tenths of the way from 200 to 800.
    assert random_tokens(pay(1.8, curve)) == round(200 * 4**0.7)


def test_points_that_could_not_be_graded_are_left_out():
    assert pay(1.75, [*CURVE, (5_000, math.nan)]) == pay(1.75)


# What it saves


def test_already_after_the_first_training():
    assert pay(1.5) == (
        "already after the first training: random needs 10,000 tokens for the same value, the selection 1,000, "
        "which saves 90 s per training; the selection cost 45 s once"
    )


def test_exactly_earned_back_by_the_first_training():
    assert pay(1.5, selection_s=90).startswith("already after the first training")


def test_after_several_trainings_a_part_counts_as_a_whole_one():
    assert pay(1.5, selection_s=225).startswith("after 3 trainings: random needs 10,000 tokens")


def test_a_selection_that_cost_nothing_pays_at_once():
    assert pay(1.5, selection_s=0).startswith("already after the first training")


# When it does not pay


def test_never_where_random_needs_fewer_tokens():
    assert pay(2.25) == "never: random reaches the same value with 750 tokens, the selection takes 1,000"


def test_never_where_random_needs_as_many_tokens():
    assert pay(2.0).startswith("never: ")


@pytest.mark.parametrize("value", [3.0, 3.5])
def test_never_where_the_untuned_model_is_as_good(value):
    assert pay(value) == "never: the untuned model is as good"


def test_not_reached_says_what_the_selection_cost_in_training_tokens():
    assert pay(0.9) == (
        "random does not reach it with up to 100,000 tokens, the most measured; "
        "the selection cost 45 s, as much as training on 4,500 tokens"
    )


def test_a_value_that_could_not_be_graded():
    assert pay(math.nan).startswith("not known: the value could not be graded")


def test_without_the_untuned_model_the_first_budget_is_only_a_bound():
    assert pay(2.1, CURVE[1:], tokens=500) == (
        "not known: random reaches it with 1,000 tokens, the least measured; "
        "the selection cost 45 s, as much as training on 4,500 tokens"
    )


def test_without_the_untuned_model_as_many_tokens_are_enough_to_say_never():
    assert pay(2.1, CURVE[1:]).startswith("never: random reaches the same value with 1,000 tokens")


# What is refused


@pytest.mark.parametrize("curve", [[], [(0, math.nan)], [(0, 3.0), (10, 2.0), (10, 2.1)], [(-1, 3.0)]])
def test_a_curve_that_is_none_is_refused(curve):
    with pytest.raises(UsageError, match="random's curve"):
        pay(1.0, curve)


@pytest.mark.parametrize("given", [{"tokens": -1}, {"seconds_per_token": 0}, {"selection_s": math.nan}])
def test_impossible_numbers_are_refused(given):
    with pytest.raises(UsageError, match="must not be negative"):
        pay(1.0, **given)
