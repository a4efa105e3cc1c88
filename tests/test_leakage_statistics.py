"""What orders of options say of a leak: worked by hand, and where nothing was leaked."""

import numpy as np
import pytest
from scipy import stats

from learnable.errors import UsageError
from learnable.experiments.leakage import (
    AT,
    Seen,
    adjusted,
    forest_on_noise,
    order_statistics,
    residuals,
    roc,
    set_verdict,
    top_probabilities,
)

ITEMS, ORDERS = 200, 24


def seen(levels, hits, chance=1 / ORDERS):
    levels = np.asarray(levels, dtype=float)
    return Seen(levels=levels, hits=np.asarray(hits, dtype=float), chance=np.full(len(levels), chance))


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((2_000, ORDERS))


def test_of_two_orders_the_likelier_original_has_one_half():
    found = order_statistics(np.array([-3.0, -5.0]))
    assert (found.rank, found.p, found.gap) == (1, 0.5, 2.0)
    assert found.z == pytest.approx(1 / np.sqrt(2))
    assert np.isnan(found.top)  # one other has no spread


def test_three_orders_by_hand():
    found = order_statistics(np.array([-2.0, -1.0, -3.0]))
    assert (found.rank, found.z, found.gap) == (2, 0.0, 1.0)
    assert found.p == pytest.approx(2 / 3)
    assert found.top == pytest.approx((-1 + 2.5) / np.sqrt(0.5))


def test_ties_are_no_leak():
    found = order_statistics(np.full(ORDERS, -7.0))
    assert found.p == 1.0
    assert np.isnan(found.z)
    assert np.isnan(found.top)


def test_a_memorized_order_is_first_and_its_z_grows(noise):
    sums = noise[0]
    found = [order_statistics(np.append(sums[0] + more, sums[1:])) for more in (5.0, 10.0, 20.0)]
    assert [each.rank for each in found] == [1, 1, 1]
    assert found[0].z < found[1].z < found[2].z


def test_other_names_of_the_orders_leave_the_likeliest_as_it_is(noise):
    order = np.random.default_rng(1).permutation(ORDERS)
    one, other = order_statistics(noise[1]), order_statistics(noise[1][order])
    assert (one.top, one.gap) == (other.top, other.gap)


def test_ranks_of_noise_are_even(noise):
    found = [order_statistics(sums) for sums in noise]
    counts = np.bincount([int(each.rank) for each in found], minlength=ORDERS + 1)[1:]
    assert stats.chisquare(counts).pvalue > 0.01
    first = sum(each.rank == 1 for each in found)
    assert stats.binomtest(first, len(noise), 1 / ORDERS).pvalue > 0.01


def test_the_likeliest_of_noise_stands_out_as_often_as_said(noise):
    tops = np.array([order_statistics(sums).top for sums in noise])
    orders = np.full(len(tops), ORDERS)
    for pool in (None, residuals(list(noise))):
        p = top_probabilities(tops, orders, pool=pool)
        assert stats.kstest(p, "uniform").pvalue > 0.001
        assert (p <= AT).mean() == pytest.approx(AT, abs=0.02)


def test_the_forest_calls_pure_noise_leaked():
    scores = forest_on_noise(ORDERS, items=12)
    assert (scores < -0.2).mean() > 0.05
    assert (scores < -0.15).mean() > 0.3


def test_adjusted_probabilities_are_those_of_benjamini_and_hochberg():
    found = adjusted(np.array([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(found, [0.03, np.nan, 0.04, 0.04])


@pytest.mark.parametrize(("first", "leaked"), [(16, False), (17, True)])
def test_against_chance_seventeen_of_two_hundred_are_too_many(first, leaked):
    """At 1 %, of which one test has all there is when there is no other."""
    found = set_verdict(seen(np.zeros(ITEMS), np.arange(ITEMS) < first), confidence=0.98)
    assert found.leaked is leaked
    assert "uncorrected" in found.beside


def test_a_set_is_held_against_the_reference_item_by_item(noise):
    reference = seen(noise[:100, 0], np.zeros(100))
    same = set_verdict(reference, reference=reference)
    assert same.leaked is False
    assert same.rate == (0.0, 0.0, 0.0)
    leaked = seen(noise[:100, 0] + 1 + 0.1 * noise[:100, 1], np.arange(100) < 60)
    found = set_verdict(leaked, reference=reference)
    assert found.leaked
    assert found.rate[0] == pytest.approx(0.6)
    levels, hits = found.tests
    assert levels.value == pytest.approx(1, abs=0.1)
    assert hits.p == pytest.approx(0.5**60)


def test_mcnemar_counts_what_one_model_alone_has():
    model, reference = (
        seen(np.zeros(10), [1] * 5 + [0] * 5),
        seen(np.zeros(10), [0] * 4 + [1] + [0] * 4 + [1]),
    )
    (_, hits) = set_verdict(model, reference=reference).tests
    assert hits.counted == "4 hits of the model alone, 1 of the reference alone"
    assert hits.p == pytest.approx((1 + 5) / 2**5)


def test_a_set_is_held_against_clean_items(noise):
    clean = seen(noise[:150, 0], np.arange(150) < 15)
    assert not set_verdict(seen(noise[150:300, 0], np.arange(150) < 15), clean=clean).leaked
    found = set_verdict(seen(noise[150:300, 0] + 1, np.arange(150) < 60), clean=clean)
    assert found.leaked
    share, low, high = found.rate
    assert share == pytest.approx((0.4 - 0.1) / 0.9)
    assert low < share < high


def test_with_both_differences_to_the_reference_are_compared(noise):
    """The benchmark is easier for any model: the reference shows that, and no leak is seen."""
    easier = noise[:150, 0] + 2
    given = {
        "reference": seen(easier, np.zeros(150)),
        "clean_reference": seen(noise[150:300, 0], np.zeros(150)),
    }
    moved = 0.3 * noise[300:450, 0]
    model = seen(easier + moved, np.zeros(150))
    clean = seen(noise[150:300, 0] + 0.3 * noise[300:450, 1], np.zeros(150))
    assert set_verdict(model, clean=clean).leaked
    assert not set_verdict(model, clean=clean, **given).leaked


def test_without_chance_or_comparison_there_is_no_verdict():
    found = set_verdict(seen(np.ones(20), np.ones(20), chance=np.nan))
    assert found.leaked is None


def test_undefined_items_count_nowhere():
    levels = np.append(np.nan, np.zeros(ITEMS))
    found = set_verdict(
        Seen(levels=levels, hits=np.append(np.nan, np.zeros(ITEMS)), chance=np.full(ITEMS + 1, 0.1))
    )
    assert found.tests[0].counted == f"0 hits in {ITEMS} items, {0.1 * ITEMS:.1f} by chance"


def test_the_false_alarm_rate_of_the_verdict_is_what_was_allowed(noise):
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(100):
        one, other = (rng.standard_normal(60) for _ in range(2))
        alarms += bool(set_verdict(seen(one, one > 1.7), clean=seen(other, other > 1.7)).leaked)
    assert stats.binomtest(alarms, 100, 0.05).pvalue > 0.001


def test_the_curve_by_hand():
    found = roc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]))
    assert found.area == 0.75
    np.testing.assert_allclose(found.false_alarms, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(found.found, [0, 0.5, 0.5, 1, 1])


def test_a_curve_needs_both_kinds():
    with pytest.raises(UsageError, match="2 and 0"):
        roc(np.array([1.0, 2.0]), np.array([True, True]))
