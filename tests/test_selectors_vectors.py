"""Selectors that look at vectors, near-duplicates and clusters: against brute force, and worked by hand."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choosing import Thresholds, choose
from learnable.errors import SelectionError, UsageError
from learnable.selectors import (
    SELECTORS,
    DiverseTopK,
    FacilityLocation,
    KCenter,
    Random,
    TopK,
)
from learnable.selectors.budget import PASS_OVER
from learnable.selectors.vectors import KEPT, ROWS, clusters_of, distinct
from learnable.spec import build
from learnable.types import Budget, Picks

NAN = float("nan")
ALL = [build("selector", name, SELECTORS) for name in SELECTORS]
WITH_VECTORS = [KCenter(), FacilityLocation(), DiverseTopK()]


def by_name(value):
    return type(value).__name__


def on_circle(*degrees):
    """Return vectors in the plane, so that a cosine can be told from the angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def corners(n, d, seed):
    """Return vectors of +1 and -1: in 4 or 16 dimensions all cosines are exact, and many are equal."""
    return np.random.default_rng(seed).choice(np.float32([-1, 1]), size=(n, d))


def gaussians(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def table(scores, **columns):
    """Return a frame with ids id-00, id-01 ... and the score ``s``."""
    names = [f"id-{i:02}" for i in range(len(scores))]
    return pl.DataFrame({"id": names, "s": pl.Series(scores, dtype=pl.Float32)} | columns)


def select(frame, vectors, *, examples=None, tokens=None, **given):
    budget = Budget(tokens=tokens) if tokens else Budget(examples=examples or frame.height)
    return choose(frame, **({"by": "s", "budget": budget, "vectors": vectors} | given))


def kept(frame, vectors, **given):
    return [int(name[3:]) for name in select(frame, vectors, **given).kept["id"]]


def run(method, vectors, k, scores=None):
    given = np.zeros(len(vectors), np.float32) if scores is None else np.float32(scores)
    return method(given, k=k, vectors=vectors, groups=None, rng=np.random.default_rng(0))


# k-center


def farthest_first(vectors, k):
    """Do what k-center does, from the definition, in float64."""
    units = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    distance = np.linalg.norm(units[:, None] - units[None], axis=2)
    picks = [int(np.argmin(np.linalg.norm(units - units.mean(axis=0), axis=1).round(9)))]
    gains = [distance[picks[0]].max()]
    while len(picks) < min(k, len(vectors)):
        nearest = distance[picks].min(axis=0).round(9)
        nearest[picks] = -1
        picks.append(int(np.argmax(nearest)))
        gains.append(nearest[picks[-1]])
    return picks, gains


@pytest.mark.parametrize("make", [corners, gaussians])
@pytest.mark.parametrize(("n", "d"), [(1, 4), (3, 4), (7, 4), (25, 4), (40, 16)])
def test_k_center_is_farthest_first(make, n, d):
    for seed in range(20):
        vectors = make(n, d, seed)
        # With few distinct vectors all are used up; what is left is at distance 0, up to rounding.
        k = min(n, len(np.unique(vectors, axis=0)))
        picks, gains = farthest_first(vectors, k)
        found = run(KCenter(), vectors, k)
        assert found.index.tolist() == picks, (seed, vectors.tolist())
        np.testing.assert_allclose(found.gain, gains, atol=1e-3)


def test_k_center_worked_by_hand():
    # The mean points to 38 degrees: 20 is nearest. Then 180, 160 away; 90, 70 away; 0, 20 away; 10.
    assert run(KCenter(), on_circle(0, 10, 20, 90, 180), 5).index.tolist() == [2, 4, 3, 0, 1]


def test_k_center_gain_is_the_distance_to_the_picks_before():
    # Chords: 180 degrees are 2 apart, 90 are the root of 2.
    found = run(KCenter(), np.float32([[1, 0], [1, 0], [0, 1], [-1, 0]]), 3)
    assert found.index.tolist() == [0, 3, 2]
    np.testing.assert_allclose(found.gain, [2, 2, 2**0.5], rtol=1e-6)


def test_k_center_alone_has_gain_0():
    assert run(KCenter(), on_circle(10), 1).gain.tolist() == [0]


def test_k_center_takes_copies_last():
    found = run(KCenter(), on_circle(0, 0, 0, 90, 180), 5)
    assert set(found.index[:3].tolist()) == {0, 3, 4}


@pytest.mark.parametrize("method", [KCenter(), FacilityLocation()], ids=by_name)
def test_scores_only_tell_which_are_defined(method):
    vectors = gaussians(20, 8, 0)
    without = [0.0] * 10 + [NAN] * 10
    rising = [*range(10), *[NAN] * 10]
    found = run(method, vectors, 6, scores=without).index
    assert found.tolist() == run(method, vectors, 6, scores=rising).index.tolist()
    assert found.tolist() == run(method, vectors[:10], 6).index.tolist()


@pytest.mark.parametrize("method", WITH_VECTORS, ids=by_name)
def test_length_of_a_vector_does_not_matter(method):
    vectors = corners(30, 16, 0)
    # Powers of 2, so that the unit vectors are the same to the bit; the largest squares overflow in float32.
    scale = np.exp2(np.random.default_rng(0).integers(-60, 100, size=(30, 1))).astype(np.float32)
    scores = np.arange(30)
    assert (
        run(method, vectors * scale, 9, scores).index.tolist()
        == run(method, vectors, 9, scores).index.tolist()
    )


@pytest.mark.parametrize("method", WITH_VECTORS, ids=by_name)
def test_vectors_of_zeros_are_picked_like_others(method):
    found = run(method, np.zeros((4, 3), np.float32), 4)
    assert found.index.tolist() == [0, 1, 2, 3]
    assert np.isfinite(found.gain).all()


@pytest.mark.parametrize("method", WITH_VECTORS, ids=by_name)
def test_vectors_are_left_as_they_are(method):
    vectors = gaussians(20, 4, 0)
    before = vectors.copy()
    run(method, vectors, 5)
    np.testing.assert_array_equal(vectors, before)


# Facility location


def value_of(similarity, picks):
    return similarity[:, picks].max(axis=1).sum() if picks else 0.0


def similarities(vectors, neighbours):
    """Return max(0, cos) of each row to each of its nearest neighbours, else 0; (n, n)."""
    units = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosine = (units @ units.T).round(9)
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
    found = np.zeros_like(cosine)
    np.put_along_axis(found, near, np.maximum(np.take_along_axis(cosine, near, axis=1), 0), axis=1)
    return found


@pytest.mark.parametrize(("n", "d"), [(1, 4), (2, 4), (7, 4), (25, 4), (40, 16)])
def test_facility_location_is_greedy_and_settles_ties_in_the_order_given(n, d):
    for seed in range(20):
        similarity = similarities(corners(n, d, seed), n)
        picks = []
        for _ in range(n):
            added = [value_of(similarity, [*picks, j]) if j not in picks else -1 for j in range(n)]
            picks.append(int(np.argmax(added)))
        assert run(FacilityLocation(), corners(n, d, seed), n).index.tolist() == picks, seed


@pytest.mark.parametrize("neighbours", [1, 4, 12, 30, 99])
def test_facility_location_over_neighbours_picks_what_adds_most(neighbours):
    for seed in range(10):
        vectors = gaussians(30, 6, seed)
        similarity = similarities(vectors, neighbours)
        found = run(FacilityLocation(neighbours=neighbours), vectors, 30)
        picks = []
        for j, gain in zip(found.index.tolist(), found.gain, strict=True):
            now = value_of(similarity, picks)
            most = max(value_of(similarity, [*picks, other]) - now for other in range(30))
            picks.append(j)
            assert gain == pytest.approx(value_of(similarity, picks) - now, abs=1e-5)
            assert gain == pytest.approx(most, abs=1e-5)


def test_facility_location_worked_by_hand():
    # One stands for three: 1 + cos 10 + cos 10. Then the far one adds 1; the two at its side 1 - cos 10 each.
    found = run(FacilityLocation(), on_circle(0, 10, 20, 200), 4)
    assert found.index.tolist()[:2] == [1, 3]
    np.testing.assert_allclose(found.gain[:2], [1 + 2 * np.cos(np.deg2rad(10)), 1], rtol=1e-6)


def test_facility_location_needs_a_neighbour():
    with pytest.raises(UsageError, match="at least 1 neighbour, got 0"):
        FacilityLocation(neighbours=0)


# Diverse top-k and what is distinct


#                     0    1    2    3    4
SCORES = np.float32([0.9, 0.8, 0.7, 0.6, 0.5])
DEGREES = on_circle(0, 5, 90, 95, 180)


@pytest.mark.parametrize(
    ("k", "picked"),
    [
        (1, [0]),
        (2, [0, 2]),
        (3, [0, 2, 4]),
        # The ranking has ended: the skipped ones fill up, best first.
        (4, [0, 2, 4, 1]),
        (5, [0, 2, 4, 1, 3]),
    ],
)
def test_diverse_top_k_skips_what_resembles_a_better_one(k, picked):
    assert run(DiverseTopK(), DEGREES, k, SCORES).index.tolist() == picked


def test_diverse_top_k_compares_with_what_was_kept_only():
    # 25 degrees are 0.906: the second is skipped; the third is 50 from the first, and 25 from the skipped one.
    assert run(DiverseTopK(), on_circle(0, 25, 50), 2, [3, 2, 1]).index.tolist() == [0, 2]


def test_diverse_top_k_gain_is_the_score():
    assert run(DiverseTopK(), DEGREES, 3, SCORES).gain.tolist() == SCORES[[0, 2, 4]].tolist()


def test_diverse_top_k_walks_equal_scores_in_the_order_given():
    assert run(DiverseTopK(), DEGREES, 3).index.tolist() == [0, 2, 4]


def test_diverse_top_k_keeps_what_is_as_similar_as_allowed():
    # The cosine of these corners is exactly 0.5.
    vectors = np.float32([[1, 1, 1, 1], [1, 1, 1, -1]])
    assert run(DiverseTopK(max_similarity=0.5), vectors, 2, [1, 2]).index.tolist() == [1, 0]
    assert distinct(vectors, max_similarity=0.5)[0].tolist() == [0, 1]


def test_diverse_top_k_with_a_limit_of_1_is_top_k():
    vectors = corners(30, 4, 0)
    found = run(DiverseTopK(max_similarity=1.0), vectors, 30, np.arange(30))
    assert found.index.tolist() == list(range(29, -1, -1))


@pytest.mark.parametrize("limit", [-0.1, 1.1, NAN])
def test_similarity_outside_0_to_1_is_refused(limit):
    with pytest.raises(UsageError, match="max_similarity must be from 0 to 1"):
        DiverseTopK(max_similarity=limit)
    with pytest.raises(UsageError, match="max_similarity must be from 0 to 1"):
        select(table([1.0]), on_circle(0), max_similarity=limit)


def walk(vectors, limit):
    """Keep what is not too similar to any kept one, one at a time."""
    units = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    stay = []
    for i, row in enumerate(units):
        if not stay or (units[stay] @ row).max() <= limit:
            stay.append(i)
    return stay


@pytest.mark.parametrize("n", [1, 2, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 7])
@pytest.mark.parametrize("d", [3, 12])
def test_distinct_is_the_plain_walk(n, d):
    vectors = gaussians(n, d, n)
    stay = walk(vectors, 0.6)
    assert distinct(vectors, max_similarity=0.6)[0].tolist() == stay
    assert distinct(vectors, max_similarity=0.6, most=5)[0].tolist() == stay[:5]


def test_distinct_names_the_kept_one_it_resembles_most():
    _, twin, cosine = distinct(on_circle(0, 40, 5, 33, 90), max_similarity=0.9)
    assert twin.tolist() == [-1, 0, 0, 1, 1]
    np.testing.assert_allclose(cosine[1:4], np.cos(np.deg2rad([40, 5, 7])), rtol=1e-5)


def test_distinct_compares_across_tiles(monkeypatch):
    vectors = gaussians(900, 6, 1)
    whole = distinct(vectors, max_similarity=0.9)
    monkeypatch.setattr("learnable.selectors.vectors.KEPT", 50)
    assert KEPT > len(whole[0]) > 300
    tiled = distinct(vectors, max_similarity=0.9)
    for one, other in zip(whole[:2], tiled[:2], strict=True):
        assert one.tolist() == other.tolist()


# Near-duplicates


def test_near_duplicate_is_dropped_for_the_best_of_its_group():
    selection = select(table([0.1, 0.3, 0.2]), on_circle(0, 10, 90), max_similarity=0.9)
    assert selection.kept["id"].to_list() == ["id-01", "id-02"]
    assert dict(selection.dropped.iter_rows()) == {"id-00": "near-duplicate of id-01 (cosine 0.98)"}


def test_near_duplicate_is_named_by_8_letters_of_its_twin():
    frame = pl.DataFrame({"id": ["0123456789", "abcdefghij"], "s": [2.0, 1.0]})
    selection = select(frame, on_circle(0, 0), max_similarity=0.9)
    assert selection.dropped["reason"].to_list() == ["near-duplicate of 01234567 (cosine 1.00)"]


def test_near_duplicate_prefers_low_scores_with_lowest():
    assert kept(table([0.1, 0.3]), on_circle(0, 1), max_similarity=0.9, lowest=True) == [0]


def test_near_duplicates_of_equal_scores_leave_the_first_id():
    assert kept(table([0.5, 0.5, 0.5]), on_circle(0, 1, 2), max_similarity=0.9) == [0]


def test_near_duplicate_of_what_is_not_eligible_stays():
    frame = table([NAN, 0.9, 0.8])
    found = kept(frame, on_circle(0, 1, 2), max_similarity=0.9, thresholds=Thresholds(max_score=0.85))
    assert found == [2]


def test_near_duplicates_are_gone_before_a_selector_picks():
    frame = table([0.9, 0.8, 0.7])
    assert set(kept(frame, on_circle(0, 1, 90), max_similarity=0.9, selector=Random())) == {0, 2}


def test_without_max_similarity_near_duplicates_stay():
    assert kept(table([0.9, 0.8]), on_circle(0, 0)) == [0, 1]


# Clusters


CLOUDS = {"few": 2, "some": 6, "many": 12}


def clouds():
    """Return rows around three far directions, with the name of each row's cloud and scores that rise."""
    names = [name for name, size in CLOUDS.items() for _ in range(size)]
    centres = {name: np.eye(4, dtype=np.float32)[i] for i, name in enumerate(CLOUDS)}
    vectors = np.stack([centres[name] for name in names]) + 0.01 * gaussians(len(names), 4, 0)
    return table(range(len(names)), cloud=names, tokens=[10] * len(names)), vectors


def cloud_shares(**given):
    frame, vectors = clouds()
    selection = select(frame, vectors, clusters=3, **given)
    return dict(Counter(frame.join(selection.kept, on="id", how="semi")["cloud"]))


def test_clusters_are_the_clouds():
    frame, vectors = clouds()
    found = frame.select("cloud", cluster=clusters_of(vectors, clusters=3, seed=0)).unique()
    assert (found.height, found["cluster"].n_unique()) == (3, 3)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"per_cluster": "equal", "examples": 6}, {"few": 2, "some": 2, "many": 2}),
        ({"per_cluster": "equal", "examples": 10}, {"few": 2, "some": 4, "many": 4}),
        ({"per_cluster": "proportional", "examples": 10}, {"few": 1, "some": 3, "many": 6}),
        ({"per_cluster": "equal", "tokens": 60}, {"few": 2, "some": 2, "many": 2}),
        ({"per_cluster": "none", "examples": 10}, {"many": 10}),
    ],
)
def test_clusters_share_a_budget_like_sources(given, found):
    assert cloud_shares(**given) == found


def test_lowest_inside_each_cluster():
    frame, vectors = clouds()
    found = kept(frame, vectors, clusters=3, per_cluster="equal", examples=3, lowest=True)
    assert sorted(found) == [0, 2, 8]


def test_clusters_are_of_what_is_eligible():
    frame, vectors = clouds()
    low = Thresholds(min_score=2)
    found = kept(frame, vectors, clusters=2, per_cluster="equal", examples=4, thresholds=low)
    assert sorted(found) == [6, 7, 18, 19]


@pytest.mark.parametrize(("n", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4), (300, 100)])
def test_there_is_at_most_one_cluster_for_two_rows(n, most):
    found = clusters_of(gaussians(n, 5, 0), clusters=100, seed=0)
    assert len(found) == n
    assert len(set(found.tolist())) <= most


def test_clusters_go_by_the_direction_alone():
    frame, vectors = clouds()
    longer = vectors * np.exp2(np.arange(frame.height) % 5)[:, None].astype(np.float32)
    assert (
        clusters_of(longer, clusters=3, seed=0).tolist() == clusters_of(vectors, clusters=3, seed=0).tolist()
    )


def test_clusters_are_the_same_for_the_same_seed():
    vectors = gaussians(200, 8, 0)
    first, again, other = (
        clusters_of(vectors, clusters=20, seed=seed).tolist() for seed in (1, 1, 2**40 + 2)
    )
    assert first == again != other


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clusters_of_copies_are_some_clusters(value):
    assert len(clusters_of(np.full((40, 4), value, np.float32), clusters=9, seed=0)) == 40


def test_clusters_say_nothing(capfd):
    clusters_of(gaussians(50, 4, 0), clusters=20, seed=0)
    assert capfd.readouterr() == ("", "")


def test_shares_are_per_source_or_per_cluster():
    frame, vectors = clouds()
    frame = frame.rename({"cloud": "source"})
    with pytest.raises(UsageError, match="per source or per cluster"):
        select(frame, vectors, examples=3, per_source="equal", per_cluster="equal")


def test_number_of_clusters_is_at_least_one():
    with pytest.raises(UsageError, match="at least 1, got 0"):
        select(table([1.0]), on_circle(0), clusters=0)


# Vectors that are missing, undefined or misplaced


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"selector": KCenter()}, "the selector KCenter needs a vector"),
        ({"selector": FacilityLocation()}, "the selector FacilityLocation needs a vector"),
        ({"selector": DiverseTopK()}, "the selector DiverseTopK needs a vector"),
        ({"max_similarity": 0.9}, "max_similarity needs a vector"),
        ({"per_cluster": "equal"}, "per_cluster=equal needs a vector"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_missing_vectors_are_asked_for(given, said):
    with pytest.raises(SelectionError, match=said) as caught:
        select(table([1.0, 2.0]), None, **given)
    assert "--vectors" in caught.value.hint


@pytest.mark.parametrize("method", WITH_VECTORS, ids=by_name)
def test_selector_called_without_vectors_asks_for_them(method):
    with pytest.raises(SelectionError, match="needs a vector for every example"):
        method(np.zeros(3, np.float32), k=1, vectors=None, rng=np.random.default_rng(0))


def test_selectors_say_whether_they_need_vectors():
    assert {name for name, method in SELECTORS.items() if method.needs_vectors} == {
        "k_center",
        "facility_location",
        "diverse_top_k",
        "round_robin",
        "spread_top",
    }


@pytest.mark.parametrize("method", ALL, ids=by_name)
@pytest.mark.parametrize("wrong", [NAN, float("inf"), -float("inf")])
def test_row_with_an_undefined_vector_is_not_eligible(method, wrong):
    vectors = gaussians(8, 4, 0)
    vectors[3, 2] = wrong
    selection = select(table(range(8)), vectors, examples=8, selector=method, max_similarity=1.0)
    assert selection.kept.height == 7
    assert dict(selection.dropped.iter_rows()) == {"id-03": "its vector is undefined"}


def test_undefined_score_is_the_reason_before_an_undefined_vector():
    vectors = np.float32([[NAN, 0], [1, 0]])
    assert select(table([NAN, 1.0]), vectors).dropped["reason"].to_list() == ["s is undefined"]


def test_vectors_are_not_read_where_none_are_given():
    assert kept(table([1.0, 2.0]), None) == [1, 0]


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (3,), (3, 0), (3, 1, 1)])
def test_vectors_that_do_not_fit_the_scores_are_refused(shape):
    with pytest.raises(SelectionError, match="do not fit 3 rows"):
        select(table([1.0, 2.0, 3.0]), np.ones(shape, np.float32), selector=KCenter())


def test_outside_selector_is_given_the_vectors_of_its_rows():
    seen = []

    def outside(scores, *, k, vectors, groups, rng):
        seen.append((scores.tolist(), vectors[:, 0].tolist()))
        return TopK()(scores, k=k)

    frame = table([2.0, NAN, 1.0, 3.0])[[3, 1, 0, 2]]
    select(frame, np.float32([[30], [0], [20], [10]]), selector=outside, examples=1)
    assert seen == [([2.0, 1.0, 3.0], [20.0, 10.0, 30.0])]


@pytest.mark.parametrize("method", ALL, ids=by_name)
@pytest.mark.parametrize(
    "given",
    [{}, {"max_similarity": 0.6}, {"per_cluster": "equal", "clusters": 5}, {"tokens": 900}],
    ids=lambda given: "-".join(given) or "plain",
)
def test_selection_with_vectors_does_not_depend_on_the_order_of_the_rows(method, given):
    rng = np.random.default_rng(0)
    frame = table(rng.choice([0.0, 0.5, NAN, 1.0], 90), tokens=rng.integers(1, 40, 90))
    vectors = corners(90, 16, 0)
    order = rng.permutation(90)
    given = {"examples": 30, "selector": method} | given
    first, second = select(frame, vectors, **given), select(frame[order], vectors[order], **given)
    assert first.kept.equals(second.kept)
    assert first.dropped.equals(second.dropped)


# Token budgets: the selector is not asked for more than is looked at


def taken(index, tokens, budget):
    """Walk over all picks, as the rule is written."""
    found, passed_over = [], 0
    for row in index.tolist():
        if tokens[row] <= budget:
            found.append(row)
            budget -= tokens[row]
            passed_over = 0
        elif (passed_over := passed_over + 1) == PASS_OVER:
            break
    return found


lengths = st.lists(st.sampled_from([0, 1, 2, 3, 10, 11, 50, 400]), min_size=1, max_size=120)


# The picks of the others depend on how many are asked for.
STEADY = [method for method in ALL if not getattr(method, "by_count", False)]


@pytest.mark.parametrize("method", STEADY, ids=by_name)
@given(lengths, st.floats(0.001, 1))
def test_token_budget_takes_what_it_would_of_all_picks(method, tokens, share):
    n, budget = len(tokens), max(1, int(share * sum(tokens)))
    vectors, scores = corners(n, 4, n), np.random.default_rng(n).permutation(n)
    if budget > sum(tokens):
        return
    expected = taken(run(method, vectors, n, scores).index, tokens, budget)
    try:
        found = kept(table(scores, tokens=tokens), vectors, tokens=budget, selector=method)
    except SelectionError:
        found = []
    assert found == expected


def test_token_budget_asks_on_when_many_are_passed_over_between_those_that_fit():
    long = [50] * (PASS_OVER - 1)
    tokens = [6, *long, 1, *long, 1, *long, 1, *long, 1]
    found = kept(table(-np.arange(len(tokens)), tokens=tokens), None, tokens=10)
    assert found == [i for i, length in enumerate(tokens) if length < 50]


@dataclass(frozen=True)
class Counting:
    """Top-k that notes how many it was asked for; it has no ``needs_vectors``."""

    asked: list
    best: ClassVar = TopK()

    def __call__(self, scores, *, k, vectors, groups, rng):
        self.asked.append(k)
        return self.best(scores, k=k)


def test_token_budget_does_not_ask_for_the_whole_pool():
    method = Counting([])
    select(table(range(1000), tokens=[10] * 1000), None, tokens=500, selector=method)
    assert method.asked == [50 + PASS_OVER]


def test_token_budget_takes_few_from_a_selector_that_gives_few():
    @dataclass(frozen=True)
    class One(Counting):
        def __call__(self, scores, *, k, vectors, groups, rng):
            super().__call__(scores, k=k, vectors=vectors, groups=groups, rng=rng)
            return Picks(index=np.array([3]), gain=np.float32([1]))

    assert kept(table(range(100), tokens=[10] * 100), None, tokens=500, selector=One([])) == [3]


@pytest.mark.parametrize("method", WITH_VECTORS, ids=by_name)
@pytest.mark.parametrize("per_cluster", ["none", "equal", "proportional"])
def test_token_budget_is_never_exceeded_with_vectors(method, per_cluster):
    rng = np.random.default_rng(0)
    frame, vectors = table(rng.random(99), tokens=rng.integers(1, 80, 99)), gaussians(99, 6, 0)
    for budget in (80, 300, 1000, int(frame["tokens"].sum())):
        given = {"tokens": budget, "selector": method, "per_cluster": per_cluster, "clusters": 7}
        found = select(frame, vectors, **given).kept
        assert frame.join(found, on="id", how="semi")["tokens"].sum() <= budget
