"""Intervals on simulated data with a known effect, and by hand on data small enough for it."""

import math
import time

import numpy as np
import pytest

from learnable.errors import UsageError
from learnable.experiments import difference, interval
from learnable.experiments.statistics import _skewed, _squares

NAN = math.nan
N = 60
# Standard deviations of items, seeds and residual.
NOISE = {
    "items dominate": (1.0, 0.02, 0.3),
    "seeds dominate": (0.3, 1.0, 0.3),
    "items and seeds matter alike": (1.0, 0.2, 0.3),
    "only residual": (0.0, 0.0, 1.0),
}


def simulate(rng, seeds, noise, *, effect=0.0, n=N):
    """Return (S, n) of a two-way random model around the effect."""
    item, seed, residual = noise
    return (
        effect
        + item * rng.normal(size=n)
        + seed * rng.normal(size=(seeds, 1))
        + residual * rng.normal(size=(seeds, n))
    )


def compare(values, baseline=None, **given):
    base = np.zeros_like(np.asarray(values, dtype=float)) if baseline is None else baseline
    return difference(values, base, **({"higher_is_better": True, "draws": 2000} | given))


def experiments(seeds, noise, *, effect, count, holes=0.0):
    rng = np.random.default_rng(seeds)
    for number in range(count):
        values = simulate(rng, seeds, noise, effect=effect)
        values[rng.random(values.shape) < holes] = NAN
        yield compare(values, seed=number, draws=2_000)


# On simulated data


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_interval_covers_the_true_effect(noise):
    found = list(experiments(5, noise, effect=0.4, count=700))
    # Nominal 0.95, and three standard errors are 0.025; up to 0.993 where only the residual is left.
    assert 0.925 <= np.mean([d.low <= 0.4 <= d.high for d in found]) <= 0.997


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_no_effect_is_seldom_called_one(noise):
    found = list(experiments(3, noise, effect=0.0, count=1500))
    # Nominal 0.05, and two and a half standard errors are 0.014; down to 0.007 where only the residual is left.
    assert 0.003 <= np.mean([d.verdict != "no difference seen" for d in found]) <= 0.064


def test_interval_covers_the_true_effect_when_a_sixth_is_missing():
    found = list(experiments(3, NOISE["items and seeds matter alike"], effect=0.4, count=700, holes=1 / 6))
    assert 0.925 <= np.mean([d.low <= 0.4 <= d.high for d in found]) <= 0.997


def test_eight_comparisons_together_seldom_call_no_effect_one():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        arms = [compare(simulate(rng, 3, (1.0, 0.1, 0.3)), comparisons=8, draws=2_000) for _ in range(8)]
        wrong += any(d.verdict != "no difference seen" for d in arms)
    assert wrong <= 0.07 * 200


@pytest.mark.parametrize(("n", "least"), [(10, 0.90), (20, 0.93), (60, 0.93)])
def test_interval_covers_the_mean_of_skewed_items(n, least):
    """Lognormal items, on which Student's t covers 84, 87 and 89 %."""
    rng = np.random.default_rng(n)
    mean = math.exp(0.5)
    found = [interval(rng.lognormal(size=(1, n)), seed=number, draws=2_000) for number in range(600)]
    # Two standard errors are 0.015.
    assert least <= np.mean([d.low <= mean <= d.high for d in found]) <= 0.985


def test_an_interval_is_hardly_wider_than_students_t_for_normal_items():
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(100):
        values = rng.normal(size=(1, N))
        found = interval(values, draws=5_000)
        widths.append((found.high - found.low) / (2 * 2.001 * values.std(ddof=1) / math.sqrt(N)))
    assert np.mean(widths) < 1.08


def test_an_interval_reaches_further_to_the_side_of_the_long_tail():
    found = interval(np.random.default_rng(0).lognormal(size=(1, 30)))
    assert found.high - found.mean > 1.2 * (found.mean - found.low)


def test_a_clear_effect_is_found():
    # The standard error is about 0.13.
    found = list(experiments(3, NOISE["items dominate"], effect=0.6, count=100))
    assert np.mean([d.verdict == "better" for d in found]) >= 0.95


def test_an_interval_is_hardly_wider_than_need_be_where_items_dominate():
    found = list(experiments(3, NOISE["items dominate"], effect=0.0, count=100))
    # A normal interval with all variances known.
    ideal = 2 * 1.96 * math.sqrt(1.0 / N + 0.02**2 / 3 + 0.3**2 / (3 * N))
    assert np.mean([d.high - d.low for d in found]) < 1.15 * ideal


def test_ten_seeds_of_five_thousand_items_take_well_under_a_second():
    values = np.random.default_rng(0).normal(size=(10, 5000))
    begun = time.process_time()
    difference(values, np.zeros_like(values), higher_is_better=True)
    assert time.process_time() - begun < 0.5


# By hand


def test_one_seed_is_at_least_students_t_over_items():
    # Mean 3, standard deviation sqrt(2.5), and Student's t for 4 degrees of freedom is 2.776.
    found = interval([[1, 2, 3, 4, 5]])
    assert 1.0 <= (found.high - 3) / (2.776 * math.sqrt(2.5 / 5)) * 1.02 <= 1.5


def test_many_normal_items_of_one_seed_are_students_t():
    values = np.random.default_rng(0).normal(size=(1, 2_000))
    found = interval(values)
    assert found.high - found.mean == pytest.approx(1.961 * values.std(ddof=1) / math.sqrt(2_000), rel=0.04)


def test_half_samples_are_studentized_with_a_prior_by_hand():
    """Of items 0, 0, 4 (off by -4/3, -4/3, 8/3; variance 16/3) three are drawn: 0 to 3 of them are the 4."""
    drawn = _skewed(np.array([[0.0, 0.0, 4.0]]), draws=4_000, rng=np.random.default_rng(0))
    prior, variance = 0.5 / 3, 16 / 3
    means, spreads = [-4 / 3, 0, 4 / 3, 8 / 3], [0, 16 / 3, 16 / 3, 0]
    by_hand = [
        mean / math.sqrt((spread + prior * variance) / (1 + prior) / 3) * math.sqrt(variance / 3)
        for mean, spread in zip(means, spreads, strict=True)
    ]
    values, counts = np.unique(drawn.round(9), return_counts=True)
    np.testing.assert_allclose(values, by_hand)
    np.testing.assert_allclose(counts / 4_000, [8 / 27, 12 / 27, 6 / 27, 1 / 27], atol=0.03)


def test_where_only_seeds_vary_it_is_students_t_over_seeds():
    # Seed means -1, 0, 1: standard deviation 1, and Student's t for 2 degrees of freedom is 4.303.
    found = compare(np.repeat([[-1.0], [0.0], [1.0]], 50, axis=1), draws=100_000)
    assert found.high == pytest.approx(4.303 / math.sqrt(3), rel=0.03)


def test_squares_without_holes_are_the_textbook_ones():
    # Row means 2 and 4; column means 1, 3, 5; mean 3; residuals 1, -1, 0 and -1, 1, 0.
    values = np.array([[1.0, 1.0, 4.0], [1.0, 5.0, 6.0]])
    squares, degrees = _squares(values)
    # Items 2 * (4 + 0 + 4), seeds 3 * (1 + 1), residual 4 * 1.
    assert (squares, degrees) == (pytest.approx((16, 6, 4)), (2, 1, 2))


def test_residual_with_holes_is_that_of_the_additive_fit():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 8))
    values[[0, 1, 1], [0, 0, 5]] = NAN
    seed, item = np.nonzero(~np.isnan(values))
    design = np.hstack([np.eye(3)[seed], np.eye(8)[item]])
    fitted = design @ np.linalg.lstsq(design, values[seed, item], rcond=None)[0]
    residual = ((values[seed, item] - fitted) ** 2).sum()
    assert _squares(values)[0][2] == pytest.approx(residual)


def test_residual_with_holes_has_as_many_degrees_fewer():
    values = np.random.default_rng(0).normal(size=(3, 8))
    values[[0, 1, 1], [0, 0, 5]] = NAN
    assert _squares(values)[1][2] == 2 * 7 - 3


# What it says


@pytest.mark.parametrize(("higher_is_better", "verdict"), [(True, "better"), (False, "worse")])
def test_direction(higher_is_better, verdict):
    values = simulate(np.random.default_rng(0), 3, NOISE["items dominate"], effect=2.0)
    assert compare(values, higher_is_better=higher_is_better).verdict == verdict


def test_less_is_better_for_losses():
    values = simulate(np.random.default_rng(0), 3, NOISE["items dominate"], effect=-2.0)
    assert compare(values, higher_is_better=False).verdict == "better"


@pytest.mark.parametrize("effect", [0.0, 0.2, 0.25, 0.3, 0.35, 0.4, 1.0])
@pytest.mark.parametrize("comparisons", [1, 7])
def test_verdict_interval_and_p_agree(effect, comparisons):
    values = simulate(np.random.default_rng(1), 3, NOISE["items dominate"], effect=effect)
    found = compare(values, comparisons=comparisons)
    excluded = found.low > 0 or found.high < 0
    assert (found.verdict != "no difference seen", found.p <= 0.05) == (excluded, excluded)


def test_shared_item_effects_cancel():
    rng = np.random.default_rng(0)
    hard = 100 * rng.normal(size=N)
    values, baseline = (simulate(rng, 3, (0.1, 0.01, 0.1), effect=e) + hard for e in (0.5, 0.0))
    assert compare(values, baseline).verdict == "better"


def test_shared_seed_effects_cancel():
    rng = np.random.default_rng(0)
    order = 100 * rng.normal(size=(3, 1))
    values, baseline = (simulate(rng, 3, (0.1, 0.01, 0.1), effect=e) + order for e in (0.5, 0.0))
    assert compare(values, baseline).verdict == "better"


def test_same_seed_same_interval():
    values = simulate(np.random.default_rng(0), 3, NOISE["only residual"])
    assert compare(values, seed=3) == compare(values, seed=3)


def test_another_seed_gives_nearly_the_same_interval():
    values = simulate(np.random.default_rng(0), 3, NOISE["items and seeds matter alike"])
    one, other = (compare(values, seed=seed, draws=100_000) for seed in (1, 2))
    assert one.high - one.mean == pytest.approx(other.high - other.mean, rel=0.03)


def test_more_comparisons_make_the_interval_wider():
    values = simulate(np.random.default_rng(0), 3, NOISE["items dominate"])
    assert compare(values, comparisons=8).high > compare(values).high


def test_p_is_times_the_comparisons():
    values = simulate(np.random.default_rng(0), 3, NOISE["items dominate"], effect=0.4)
    assert compare(values, comparisons=3).p == pytest.approx(3 * compare(values).p, rel=0.3)


def test_p_is_at_most_1():
    values = simulate(np.random.default_rng(0), 3, NOISE["items dominate"])
    assert compare(values, comparisons=50, draws=10_000).p == 1


def test_less_confidence_makes_the_interval_narrower():
    values = simulate(np.random.default_rng(0), 3, NOISE["items dominate"])
    assert compare(values, confidence=0.5).high < compare(values).high


@pytest.mark.parametrize("pairs", [1, 2, 3, 4])
def test_fewer_than_five_pairs_are_no_verdict(pairs):
    found = compare(5 + 0.01 * np.random.default_rng(0).normal(size=(1, pairs)))
    assert (found.verdict, found.words) == ("no difference seen", "too few items")
    assert math.isnan(found.low)
    assert math.isnan(found.p)


def test_five_pairs_may_be_one():
    assert compare(5 + 0.01 * np.random.default_rng(0).normal(size=(3, 5))).verdict == "better"


@pytest.mark.parametrize("value", [1.0, 0.1 + 0.2])
def test_pairs_that_are_all_equal_are_no_verdict(value):
    found = compare(np.full((3, N), value) + 5, np.full((3, N), 5.0))
    assert (found.verdict, found.words) == ("no difference seen", "all pairs differ alike")
    assert found.mean == pytest.approx(value)
    assert math.isnan(found.high)


def test_differences_of_rounding_are_none():
    rng = np.random.default_rng(0)
    values = 2 + rng.normal(size=(3, N)) ** 2
    found = compare(values * (1 + 3e-7 * rng.random((3, N))), values)
    assert (found.mean, found.low, found.high, found.verdict) == (0, 0, 0, "no difference seen")


def test_small_differences_above_rounding_count():
    rng = np.random.default_rng(0)
    values = 1e-3 + rng.random((3, N))
    assert compare(values * (1 + 1e-4 * (1 + rng.random((3, N)))), values).verdict == "better"


@pytest.mark.parametrize(("seeds", "ending"), [(1, " for this seed"), (3, "")])
def test_a_verdict_of_one_seed_says_so(seeds, ending):
    values = simulate(np.random.default_rng(0), seeds, (1.0, 0.0, 0.0), effect=2.0)
    found = compare(values)
    assert found.words == "better" + ending


def test_a_seed_with_most_items_ungraded_does_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    values = simulate(rng, 3, NOISE["seeds dominate"])
    values[2, rng.permutation(N)[: N * 3 // 5]] = NAN
    found, without = compare(values), compare(values[:2])
    assert (found.seeds, found.ungraded) == (2, N * 3 // 5)
    assert (found.mean, found.low, found.high) == (without.mean, without.low, without.high)


def test_a_seed_with_most_items_graded_counts():
    values = simulate(np.random.default_rng(0), 3, NOISE["seeds dominate"])
    values[2, : N // 3] = NAN
    assert compare(values).seeds == 3


def test_no_differences_at_all():
    values = np.random.default_rng(0).normal(size=(3, N))
    found = compare(values, values)
    assert (found.mean, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1, "no difference seen")


# One model against several seeds


def test_a_model_without_seeds_is_paired_with_each_seed():
    found = compare([[1.0, 2.0]], [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert (found.mean, found.seeds) == (0.5, 3)


def test_seeds_against_a_baseline_without_seeds():
    found = compare([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], [[1.0, 2.0]])
    assert (found.mean, found.seeds) == (-0.5, 3)


def test_ungraded_of_a_model_without_seeds_count_once():
    assert compare([[1.0, NAN, 2.0]], np.zeros((3, 3))).ungraded == 1


# What could not be graded


def test_a_pair_with_a_hole_is_left_out():
    found = compare([[1.0, NAN, 5.0], [2.0, 4.0, 6.0]])
    assert found.mean == pytest.approx((1 + 5 + 2 + 4 + 6) / 5)


def test_a_hole_in_the_baseline_leaves_the_pair_out():
    found = compare([[1.0, 9.0, 5.0], [2.0, 4.0, 6.0]], [[0.0, NAN, 0.0], [0.0, 0.0, 0.0]])
    assert found.mean == pytest.approx((1 + 5 + 2 + 4 + 6) / 5)


def test_a_hole_in_the_baseline_is_not_ungraded():
    assert compare([[1.0, 2.0, 3.0]], [[0.0, NAN, 0.0]]).ungraded == 0


def test_counts():
    found = compare([[1.0, NAN, NAN, 5.0], [2.0, NAN, 4.0, 6.0], [NAN, NAN, NAN, NAN]])
    assert (found.items, found.seeds, found.ungraded) == (3, 2, 7)


def test_an_item_missing_in_some_seeds_gives_a_finite_interval():
    assert math.isfinite(compare([[1.0, NAN, 5.0, 2.0, 3.0], [2.0, 4.0, 6.0, 1.0, 3.0]]).high)


def test_items_that_no_two_seeds_share_give_a_finite_interval():
    values = [[1.0, 2.0, 4.0, NAN, NAN, NAN], [NAN, NAN, NAN, 3.0, 5.0, 4.0]]
    assert math.isfinite(compare(values).high)


@pytest.mark.parametrize("values", [[[NAN, 2.0], [NAN, 3.0]], [[NAN, NAN]], np.empty((2, 0))])
def test_under_two_items_nothing_is_seen(values):
    found = compare(values)
    assert (math.isnan(found.low), math.isnan(found.high), math.isnan(found.p), found.verdict) == (
        True,
        True,
        True,
        "no difference seen",
    )


def test_the_mean_of_one_item_is_given():
    assert compare([[NAN, 2.0], [NAN, 3.0]]).mean == 2.5


# One method alone


def test_interval_is_the_difference_to_zero():
    values = simulate(np.random.default_rng(0), 3, NOISE["items dominate"])
    alone, against = interval(values), difference(values, np.zeros((3, N)), higher_is_better=True)
    assert (alone.mean, alone.low, alone.high) == (against.mean, against.low, against.high)


def test_interval_counts_what_is_missing():
    found = interval([[1.0, NAN, 2.0]])
    assert (found.items, found.seeds, found.ungraded) == (2, 1, 1)


# What is refused


@pytest.mark.parametrize("shape", [(3, 4), (2, 5)])
def test_what_cannot_be_paired_is_refused(shape):
    with pytest.raises(UsageError, match="cannot be paired"):
        compare(np.zeros((3, 5)), np.zeros(shape))


def test_a_list_without_seeds_is_refused():
    with pytest.raises(UsageError, match=r"\(seeds, items\), got shape \(2,\)"):
        compare([1.0, 2.0])


def test_infinite_values_are_refused():
    with pytest.raises(UsageError, match="finite"):
        compare([[1.0, math.inf]])


def test_too_few_draws_for_the_level_are_refused():
    with pytest.raises(UsageError, match="100 draws cannot give an interval"):
        compare(np.zeros((3, 5)), draws=100, comparisons=10)


@pytest.mark.parametrize("given", [{"confidence": 1.0}, {"confidence": 0.0}, {"confidence": -1}])
def test_impossible_confidence_is_refused(given):
    with pytest.raises(UsageError, match="cannot give an interval"):
        compare(np.zeros((3, 5)), **given)
