"""Values that are told by vectors: ridge regression, tried on rows that it has not seen."""

import numpy as np
import polars as pl
import pytest

from learnable.measures import extrapolated

N, KNOWN = 300, 200


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(N, 16)).astype(np.float32)


@pytest.fixture
def planted(vectors):
    return vectors @ np.random.default_rng(1).normal(size=16)


def half_known(values):
    return np.where(np.arange(N) < KNOWN, values, np.nan)


def test_a_planted_linear_value_is_found_again(vectors, planted):
    noisy = planted + np.random.default_rng(2).normal(size=N)
    found = extrapolated(half_known(noisy), vectors, seed=0)
    told = pl.DataFrame({"told": found.values[KNOWN:], "true": planted[KNOWN:]})
    assert told.select(pl.corr("told", "true", method="spearman")).item() > 0.9
    assert found.agreement > 0.8
    np.testing.assert_array_equal(found.values[:KNOWN], noisy[:KNOWN])


def test_nothing_is_told_where_vectors_say_nothing(vectors):
    values = half_known(np.random.default_rng(3).normal(size=N))
    found = extrapolated(values, vectors, seed=0)
    assert found.agreement < 0.1
    np.testing.assert_array_equal(found.values, values)


def test_few_known_rows_cannot_be_tried(vectors, planted):
    found = extrapolated(np.where(np.arange(N) < 19, planted, np.nan), vectors, seed=0)
    assert np.isnan(found.agreement)
    assert np.isfinite(found.values).sum() == 19


def test_only_known_rows_set_the_scale(vectors, planted):
    values, outlier = half_known(planted), vectors.copy()
    outlier[-1] *= 1e4
    one, other = (extrapolated(values, each, seed=0).values for each in (vectors, outlier))
    np.testing.assert_array_equal(one[:-1], other[:-1])


def test_a_unit_of_values_or_vectors_changes_nothing(vectors, planted):
    one = extrapolated(half_known(planted), vectors, seed=0).values
    other = extrapolated(half_known(7 * planted), 100 * vectors, seed=0).values
    np.testing.assert_allclose(7 * one, other, rtol=1e-3)


def test_a_row_without_a_vector_has_no_value(vectors, planted):
    vectors[-1] = np.nan
    found = extrapolated(half_known(planted), vectors, seed=0).values
    assert np.isnan(found[-1])
    assert np.isfinite(found[:-1]).all()
