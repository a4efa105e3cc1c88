"""Formulas at their edges: nothing to learn, undefined losses, ties and lengths."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnable.scorers import Difference, Learnability, LengthMatched, Loss

NAN, INF = float("nan"), float("inf")


def losses(before, after, tokens=None):
    columns = {"loss_before": before, "loss_after": after, "response_tokens": tokens or [1] * len(before)}
    schema = {"loss_before": pl.Float32, "loss_after": pl.Float32, "response_tokens": pl.Int64}
    return pl.DataFrame(columns, schema=schema)


@pytest.mark.parametrize(
    ("before", "after", "score"),
    [(2.0, 0.0, 1.0), (2.0, 2.0, 0.0), (2.0, 3.0, -0.5), (2.0, 1.5, 0.25)],
    ids=["known by heart", "unchanged", "worse", "a quarter"],
)
def test_learnability_is_the_share_of_the_loss_that_went(before, after, score):
    assert Learnability()(losses([before], [after])).tolist() == [score]


@pytest.mark.parametrize(("before", "defined"), [(0.0, False), (0.25, False), (0.26, True)])
def test_learnability_is_undefined_at_and_under_the_floor(before, defined):
    assert np.isfinite(Learnability(floor=0.25)(losses([before], [0.1]))).tolist() == [defined]


def test_learnability_of_a_zero_loss_is_undefined_by_default():
    assert np.isnan(Learnability()(losses([0.0], [0.0])))


def test_learnability_keeps_small_differences_that_float32_would_lose():
    before = np.float32(1.0)
    after = np.nextafter(before, np.float32(0))
    assert Learnability()(losses([before], [after])).tolist() == [float(before) - float(after)]


@pytest.mark.parametrize(
    "scorer", [Learnability(), Difference(), LengthMatched()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize(
    ("before", "after"),
    [(NAN, 1.0), (1.0, NAN), (None, 1.0), (1.0, None), (INF, 1.0), (1.0, INF), (INF, INF)],
)
def test_score_is_nan_where_a_loss_is_no_number(scorer, before, after):
    assert np.isnan(scorer(losses([1.0, before], [0.5, after]))).tolist() == [False, True]


@pytest.mark.parametrize("loss", [NAN, None, INF])
def test_loss_is_nan_where_it_is_no_number(loss):
    assert np.isnan(Loss()(losses([1.0, loss], [1.0, 1.0]))).tolist() == [False, True]


def test_loss_is_the_base_loss():
    assert Loss()(losses([1.5, 0.0], [9.0, 9.0])).tolist() == [1.5, 0.0]


def test_difference_may_be_negative():
    assert Difference()(losses([1.0], [1.5])).tolist() == [-0.5]


def matched(scores, tokens, **given):
    """Score by learnability among equal lengths; a base loss of 1 makes the learnability ``1 - loss_after``."""
    return LengthMatched(**given)(
        losses([1.0] * len(scores), [1 - score for score in scores], tokens)
    ).tolist()


def test_length_matched_ranks_within_the_bin():
    found = matched([0.1, 0.3, 0.2, 0.9, 0.7, 0.8], [5, 5, 5, 80, 80, 80], bins=2)
    np.testing.assert_allclose(found, [1 / 3, 3 / 3, 2 / 3, 3 / 3, 1 / 3, 2 / 3], rtol=1e-6)


def test_length_matched_with_one_bin_is_the_plain_rank():
    np.testing.assert_allclose(
        matched([0.1, 0.3, 0.2], [5, 50, 500], bins=1), [1 / 3, 3 / 3, 2 / 3], rtol=1e-6
    )


def test_length_matched_gives_ties_their_average_rank():
    np.testing.assert_allclose(matched([0.5, 0.5, 0.1, 0.9], [5] * 4), [2.5 / 4, 2.5 / 4, 1 / 4, 4 / 4])


def test_length_matched_keeps_equal_lengths_in_one_bin():
    # Six of eight lengths are equal: cut by position alone, two bins would part them.
    found = matched([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [5, 5, 5, 5, 5, 5, 80, 90], bins=2)
    np.testing.assert_allclose(found, np.arange(1, 9) / 8, rtol=1e-6)


def test_length_matched_leaves_undefined_rows_out_of_the_ranks():
    found = matched([NAN, 0.1, NAN, 0.3], [5, 5, 5, 5])
    np.testing.assert_array_equal(found, [NAN, 0.5, NAN, 1.0])


def test_length_matched_leaves_undefined_rows_out_of_the_bins():
    found = matched([NAN] * 4 + [0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1, 5, 6, 7, 8], bins=2)
    np.testing.assert_array_equal(found[4:], [0.5, 1.0, 0.5, 1.0])


def test_length_matched_is_nan_without_a_length():
    np.testing.assert_array_equal(matched([0.1, 0.2], [5, None]), [1.0, NAN])


def test_length_matched_passes_its_floor_on():
    found = LengthMatched(floor=0.25)(losses([0.2, 1.0], [0.1, 0.1]))
    np.testing.assert_array_equal(found, [NAN, 1.0])


@pytest.mark.parametrize("bins", [1, 2, 5, 10, 50, 100])
def test_length_matched_bins_have_equal_sizes(bins):
    # The best of each bin, and only it, scores 1.
    rng = np.random.default_rng(bins)
    assert matched(rng.permutation(100) / 100, list(range(100)), bins=bins).count(1.0) == bins


def test_length_matched_takes_as_many_from_each_bin():
    rng = np.random.default_rng(0)
    lengths = rng.permutation(200)
    found = matched(1 - lengths / 200, lengths.tolist(), bins=10)
    best = np.argsort(found)[-40:]
    assert Counter(lengths[best] // 20) == dict.fromkeys(range(10), 4)


def brute_force(scores, lengths, bins):
    """Do what the docstring says, one example at a time."""
    defined = [i for i, score in enumerate(scores) if not np.isnan(score)]

    def bin_of(i):
        return (sum(lengths[j] <= lengths[i] for j in defined) - 1) * bins // len(defined)

    found = [NAN] * len(scores)
    for i in defined:
        members = [scores[j] for j in defined if bin_of(j) == bin_of(i)]
        lower, equal = (
            sum(score < scores[i] for score in members),
            sum(score == scores[i] for score in members),
        )
        found[i] = (lower + (equal + 1) / 2) / len(members)
    return found


rows = st.lists(
    st.tuples(st.sampled_from([NAN, 0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 12)), min_size=1, max_size=25
)


@given(rows, st.integers(1, 12))
def test_length_matched_is_what_its_docstring_says(rows, bins):
    scores, lengths = map(list, zip(*rows, strict=True))
    np.testing.assert_allclose(
        matched(scores, lengths, bins=bins), brute_force(scores, lengths, bins), rtol=1e-6
    )
