"""Budgets, shares, thresholds and conditions: what is kept, what is dropped, and why."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choosing import Thresholds, choose
from learnable.errors import SelectionError, UsageError
from learnable.selectors import Middle, Random, TopK, count_asked
from learnable.selectors.budget import PASS_OVER
from learnable.types import Budget

NAN = float("nan")


def table(scores, **columns):
    """Return a frame with ids a, b, c ... and the score ``s``."""
    n = len(scores)
    given = {
        "id": [f"{chr(97 + i % 26)}{i // 26 or ''}" for i in range(n)],
        "source": ["one"] * n,
        "tokens": [10] * n,
    }
    return pl.DataFrame(given | {"s": pl.Series(scores, dtype=pl.Float32)} | columns)


def pick(frame, *, examples=None, tokens=None, fraction=None, **given):
    budget = Budget(examples=examples, tokens=tokens, fraction=fraction)
    return choose(frame, **({"by": "s", "budget": budget} | given))


def kept(frame, **given):
    return pick(frame, **given).kept["id"].to_list()


def reasons(frame, **given):
    return dict(pick(frame, **given).dropped.iter_rows())


# Selectors alone


def test_top_k_picks_the_highest_first():
    assert TopK()(np.float32([0.2, 0.9, 0.5]), k=2).index.tolist() == [1, 2]


def test_top_k_picks_equal_scores_in_the_order_given():
    assert TopK()(np.float32([0.5, 0.9, 0.5, 0.5]), k=3).index.tolist() == [1, 0, 2]


def test_top_k_gain_is_the_score():
    assert TopK()(np.float32([0.25, 0.75, NAN]), k=2).gain.tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("scores", "k", "picked"),
    [
        # Ranks of b, d, a, e, c are 0 to 4; the median is a.
        ([0.3, 0.1, 0.5, 0.2, 0.4], 1, "a"),
        ([0.3, 0.1, 0.5, 0.2, 0.4], 3, "ade"),
        ([0.3, 0.1, 0.5, 0.2, 0.4], 5, "adebc"),
        # Of an even number, the lower of the two in the middle comes first.
        ([0.1, 0.2, 0.3, 0.4], 2, "bc"),
        ([NAN, 0.9, NAN, 0.1, 0.5], 2, "ed"),
        ([0.5, 0.5, 0.5], 1, "b"),
        # An outlier moves a mean, not a rank.
        ([0.1, 0.2, 1000.0], 1, "b"),
    ],
)
def test_middle_picks_the_ranks_nearest_to_the_median(scores, k, picked):
    index = Middle()(np.float32(scores), k=k).index
    assert "".join("abcde"[i] for i in index) == picked


@pytest.mark.parametrize(("centre", "picked"), [(0, [0, 1]), (0.25, [1, 0]), (0.7, [3, 2]), (1, [4, 3])])
def test_middle_may_be_around_another_quantile(centre, picked):
    scores = np.float32([0.1, 0.2, 0.3, 0.4, 0.5])
    assert Middle(centre=centre)(scores, k=2).index.tolist() == picked


def test_middle_gain_is_minus_the_distance_in_ranks():
    assert Middle()(np.float32([1, 2, 3, 4, 50]), k=5).gain.tolist() == [0, -0.25, -0.25, -0.5, -0.5]


@pytest.mark.parametrize("centre", [-0.1, 1.1, NAN])
def test_middle_outside_the_ranks_is_refused(centre):
    with pytest.raises(UsageError, match="from 0 to 1"):
        Middle(centre=centre)


def test_random_gives_each_example_the_same_chance():
    scores = np.float32([9, 0, NAN, 0, 0])
    draws = Counter(
        int(i) for seed in range(2000) for i in Random()(scores, k=2, rng=np.random.default_rng(seed)).index
    )
    # Each of the 4 defined is in half of the draws; four standard deviations are 90.
    assert set(draws) == {0, 1, 3, 4}
    assert all(abs(count - 1000) < 90 for count in draws.values())


def test_random_draws_in_any_order():
    firsts = {
        int(Random()(np.zeros(3, np.float32), k=3, rng=np.random.default_rng(s)).index[0]) for s in range(50)
    }
    assert firsts == {0, 1, 2}


# Budgets


@given(st.integers(1, 10**9), st.integers(1, 1000))
def test_fraction_is_rounded_down_exactly_but_is_at_least_one(n, per_mille):
    assert count_asked(Budget(fraction=per_mille / 1000), n) == max(1, n * per_mille // 1000)


@pytest.mark.parametrize(("fraction", "n", "count"), [(1 / 3, 6, 2), (0.1 + 0.2, 10, 3), (0.7 + 0.1, 10, 8)])
def test_fraction_that_floats_cannot_hold_means_what_was_written(fraction, n, count):
    assert count_asked(Budget(fraction=fraction), n) == count


@pytest.mark.parametrize(("budget", "count"), [(Budget(examples=7), 7), (Budget(tokens=900), 900)])
def test_count_of_other_budgets_is_their_own(budget, count):
    assert count_asked(budget, 5) == count


def test_budget_in_examples_is_kept_exactly():
    assert kept(table([0.1, 0.4, 0.2, 0.3]), examples=3) == ["b", "d", "c"]


def test_fraction_is_of_all_examples_also_those_that_do_not_qualify():
    assert len(kept(table([NAN] * 5 + [0.1] * 5), fraction=0.4)) == 4


def test_small_fraction_keeps_one():
    assert kept(table([0.1, 0.2]), fraction=0.01) == ["b"]


def test_whole_pool_can_be_kept():
    assert kept(table([0.1, 0.2]), fraction=1.0) == ["b", "a"]


def test_when_fewer_qualify_than_asked_all_of_them_are_kept():
    assert kept(table([0.1, NAN, 0.2]), examples=3) == ["c", "a"]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"examples": 4}, "budget of 4 examples is above the pool, which has 3"),
        ({"tokens": 31}, "budget of 31 tokens is above the pool, which has 30"),
    ],
)
def test_budget_above_the_pool_is_refused(budget, said):
    with pytest.raises(SelectionError, match=said):
        pick(table([0.1, 0.2, 0.3]), **budget)


def test_empty_pool_is_refused():
    with pytest.raises(SelectionError, match="above the pool, which has 0"):
        pick(table([]), fraction=0.5)


def test_budget_equal_to_the_pool_in_tokens_keeps_all():
    assert kept(table([0.1, 0.2, 0.3]), tokens=30) == ["c", "b", "a"]


def test_single_row_is_kept():
    assert kept(table([0.1]), fraction=0.06, where="tokens < 11") == ["a"]


# Token budgets


def test_token_budget_passes_over_what_does_not_fit():
    assert kept(table([0.9, 0.8, 0.7], tokens=[6, 5, 4]), tokens=10) == ["a", "c"]


def test_token_budget_takes_what_fits_to_the_last_token():
    assert kept(table([0.9, 0.8, 0.7], tokens=[6, 4, 4]), tokens=10) == ["a", "b"]


def test_token_budget_goes_on_until_enough_picks_in_a_row_did_not_fit():
    long = PASS_OVER - 1
    frame = table(np.linspace(1, 0, 2 + long), tokens=[6, *[5] * long, 4])
    assert len(kept(frame, tokens=10)) == 2


def test_token_budget_ends_when_enough_picks_in_a_row_did_not_fit():
    frame = table(np.linspace(1, 0, 2 + PASS_OVER), tokens=[6, *[5] * PASS_OVER, 4])
    assert kept(frame, tokens=10) == ["a"]


def test_token_budget_counts_again_after_a_pick_that_fits():
    long = [50] * (PASS_OVER - 1)
    frame = table(np.linspace(1, 0, 3 + 2 * len(long)), tokens=[6, *long, 1, *long, 1])
    assert len(kept(frame, tokens=10)) == 3


def test_token_budget_that_nothing_fits_is_refused():
    with pytest.raises(SelectionError, match="none of the best examples fits the budget of 9 tokens"):
        pick(table([0.1, 0.2]), tokens=9)


@pytest.mark.parametrize("per_source", ["none", "equal", "proportional"])
def test_rows_without_tokens_always_fit(per_source):
    frame = table([0.1, NAN, 0.2], tokens=[0, 10, 0], source=["x", "x", "y"])
    assert kept(frame, tokens=5, per_source=per_source) == ["c", "a"]


def test_token_budget_needs_a_column_of_tokens():
    with pytest.raises(SelectionError, match="needs a column 'tokens'"):
        pick(table([0.1]).drop("tokens"), tokens=9)


@pytest.mark.parametrize(
    "tokens", [[None, 10], [-5, 10], [1.5, 10.0], ["5", "10"]], ids=["null", "negative", "half", "text"]
)
def test_token_budget_needs_a_count_for_every_row(tokens):
    with pytest.raises(SelectionError, match="whole number of tokens for every row"):
        pick(table([0.1, 0.2], tokens=tokens), tokens=9)


def test_budget_in_examples_does_not_read_the_tokens():
    assert kept(table([0.1, 0.2], tokens=["?", None]), examples=1) == ["b"]


rows = st.lists(
    st.tuples(st.sampled_from([NAN, 0.0, 0.25, 0.5, 1.0]), st.integers(0, 40), st.sampled_from("xyz")),
    min_size=1,
    max_size=60,
).filter(lambda rows: any(score == score for score, _, _ in rows))
methods = st.sampled_from([TopK(), Random(), Middle()])
sharing = st.sampled_from(["none", "equal", "proportional"])


def of_rows(rows):
    scores, tokens, sources = zip(*rows, strict=True)
    return table(scores, tokens=pl.Series(tokens, dtype=pl.Int64), source=list(sources))


@given(rows, st.floats(0.01, 1), methods, sharing)
def test_token_budget_is_never_exceeded(rows, share, method, per_source):
    frame = of_rows(rows)
    budget = max(1, int(share * frame["tokens"].sum()))
    try:
        selection = pick(frame, tokens=budget, selector=method, per_source=per_source)
    except SelectionError:
        return
    assert frame.join(selection.kept, on="id", how="semi")["tokens"].sum() <= budget


@given(rows, st.floats(0.01, 1), methods, sharing)
def test_budget_in_examples_is_met_or_all_that_qualify_are_kept(rows, share, method, per_source):
    frame = of_rows(rows)
    asked, qualify = max(1, int(share * len(rows))), sum(score == score for score, _, _ in rows)
    selection = pick(frame, examples=asked, selector=method, per_source=per_source)
    assert selection.kept.height == min(asked, qualify)


@given(rows, st.floats(0.01, 1), methods, sharing)
def test_kept_and_dropped_are_all_rows_once(rows, share, method, per_source):
    frame = of_rows(rows)
    selection = pick(
        frame, fraction=share, selector=method, per_source=per_source, thresholds=Thresholds(min_score=0.0)
    )
    assert sorted([*selection.kept["id"], *selection.dropped["id"]]) == sorted(frame["id"])


@given(rows, st.randoms(use_true_random=False), methods, sharing, st.booleans())
def test_selection_does_not_depend_on_the_order_of_the_rows(rows, random, method, per_source, by_tokens):
    frame = of_rows(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    total = int(frame["tokens"].sum())
    budget = Budget(tokens=total // 2) if by_tokens and total > 1 else Budget(fraction=0.5)

    def outcome(frame):
        try:
            selection = choose(frame, by="s", budget=budget, selector=method, per_source=per_source)
        except SelectionError as error:
            return str(error)
        return selection.kept.rows(), selection.dropped.rows()

    assert outcome(frame[order]) == outcome(frame)


# Order, ties, what is undefined


def test_ties_are_settled_by_id():
    frame = table([0.5, 0.5, 0.5, 0.5])[[2, 0, 3, 1]]
    assert kept(frame, examples=2) == ["a", "b"]


def test_lowest_prefers_low_scores():
    assert kept(table([0.3, 0.1, 0.2]), examples=2, lowest=True) == ["b", "c"]


def test_lowest_settles_ties_by_id_too():
    assert kept(table([0.3, 0.1, 0.1])[[2, 1, 0]], examples=1, lowest=True) == ["b"]


@pytest.mark.parametrize("lowest", [True, False])
@pytest.mark.parametrize("nothing", [NAN, None])
def test_undefined_scores_are_never_kept(lowest, nothing):
    assert kept(table([nothing, 0.1, nothing]), examples=3, lowest=lowest) == ["b"]


def test_undefined_score_is_dropped_for_the_reason_given():
    frame = table([NAN, NAN, 0.1], undefined=["too long", None, None])
    assert reasons(frame, examples=1) == {"a": "too long", "b": "s is undefined"}


def test_undefined_score_without_a_column_of_reasons_is_called_so():
    assert reasons(table([NAN, 0.1]), examples=1) == {"a": "s is undefined"}


def test_reason_of_a_defined_score_is_not_read():
    frame = table([0.1, 0.2], undefined=["too long", None])
    assert reasons(frame, examples=1) == {"a": "not among the best by s within the budget"}


def test_row_that_was_not_drawn_is_not_called_bad():
    frame = table([0.1, 0.2])
    assert set(reasons(frame, examples=1, selector=Random()).values()) == {
        "not picked by Random within the budget"
    }


@pytest.mark.parametrize("scores", [[NAN, NAN], [None, None]])
def test_nothing_defined_is_an_error_that_says_why(scores):
    with pytest.raises(SelectionError, match="no example qualifies") as caught:
        pick(table(scores), examples=1)
    assert "s is undefined" in caught.value.hint


def test_rank_counts_from_the_first_picked():
    assert pick(table([0.1, 0.3, 0.2]), examples=3).kept["rank"].to_list() == [0, 1, 2]


def test_gain_is_that_of_the_selector():
    assert pick(table([0.25, 0.75]), examples=2).kept["gain"].to_list() == [0.75, 0.25]


def test_same_seed_draws_the_same():
    frame = table(range(50))
    assert kept(frame, examples=10, selector=Random(), seed=3) == kept(
        frame, examples=10, selector=Random(), seed=3
    )


def test_another_seed_draws_another():
    frame = table(range(50))
    assert kept(frame, examples=10, selector=Random(), seed=3) != kept(
        frame, examples=10, selector=Random(), seed=4
    )


@pytest.mark.parametrize("kind", [pl.Float64, pl.Int64, pl.UInt8, pl.Decimal(6, 2)], ids=str)
def test_score_may_be_of_any_kind_of_number(kind):
    assert kept(table([0, 0, 0], n=pl.Series([1, 3, 2], dtype=kind)), examples=2, by="n") == ["b", "c"]


def test_unknown_score_gets_a_suggestion():
    with pytest.raises(SelectionError, match="no score column 'learnabilty'") as caught:
        pick(table([0.1], learnability=[0.1]), examples=1, by="learnabilty")
    assert caught.value.hint == "did you mean 'learnability'?"


def test_text_is_no_score():
    with pytest.raises(SelectionError, match="no score column 'source'"):
        pick(table([0.1]), examples=1, by="source")


@pytest.mark.parametrize(
    ("column", "per_source"), [("id", "none"), ("source", "equal"), ("source", "proportional")]
)
def test_missing_column_is_named(column, per_source):
    with pytest.raises(SelectionError, match=f"no column '{column}'"):
        pick(table([0.1]).drop(column), examples=1, per_source=per_source)


def test_sources_are_not_needed_where_all_compete():
    assert kept(table([0.1, 0.2]).drop("source", "tokens"), examples=1) == ["b"]


# Thresholds


LOSSES = {"loss_before": [1.0, 2.0, 3.0], "loss_after": [3.0, 2.0, 1.0]}


@pytest.mark.parametrize(
    ("thresholds", "left", "reason"),
    [
        (Thresholds(min_loss_before=2.0), ["c", "b"], {"a": "loss_before < 2"}),
        (Thresholds(max_loss_after=2.0), ["c", "b"], {"a": "loss_after > 2"}),
        (Thresholds(min_score=0.25), ["c", "b"], {"a": "s < 0.25"}),
        (Thresholds(max_score=0.25), ["b", "a"], {"c": "s > 0.25"}),
    ],
    ids=["min_loss_before", "max_loss_after", "min_score", "max_score"],
)
def test_threshold_drops_what_is_beyond_it_and_keeps_what_is_on_it(thresholds, left, reason):
    selection = pick(table([0.0, 0.25, 0.5], **LOSSES), examples=3, thresholds=thresholds)
    assert (selection.kept["id"].to_list(), dict(selection.dropped.iter_rows())) == (left, reason)


def test_thresholds_all_hold_and_the_first_that_fails_is_the_reason():
    thresholds = Thresholds(min_loss_before=1.5, max_loss_after=1.5, min_score=0.1)
    found = reasons(table([0.0, 0.25, 0.5], **LOSSES), examples=3, thresholds=thresholds)
    assert found == {"a": "loss_before < 1.5", "b": "loss_after > 1.5"}


@pytest.mark.parametrize("loss", [NAN, None])
@pytest.mark.parametrize("name", ["min_loss_before", "max_loss_after"])
def test_undefined_loss_meets_no_threshold(loss, name):
    column = name[4:]
    frame = table([0.9, 0.1], **{column: pl.Series([loss, 2.0], dtype=pl.Float32)})
    assert reasons(frame, examples=2, thresholds=Thresholds(**{name: 2.0})) == {"a": f"{column} is undefined"}


def test_undefined_loss_says_why_it_is_undefined():
    frame = table([0.9, 0.1], loss_after=[NAN, 1.0], undefined=["too long", None])
    assert reasons(frame, examples=2, thresholds=Thresholds(max_loss_after=2.0)) == {"a": "too long"}


@pytest.mark.parametrize(
    ("name", "column"), [("min_loss_before", "loss_before"), ("max_loss_after", "loss_after")]
)
def test_threshold_on_a_missing_column_is_named(name, column):
    with pytest.raises(SelectionError, match=f"threshold {name} needs a column '{column}'"):
        pick(table([0.1]), examples=1, thresholds=Thresholds(**{name: 1.0}))


def test_thresholds_that_nothing_meets_are_an_error():
    with pytest.raises(SelectionError, match="no example qualifies") as caught:
        pick(table([0.1, 0.2]), examples=1, thresholds=Thresholds(min_score=0.5))
    assert "s < 0.5" in caught.value.hint


# Conditions in SQL


ODD = {
    "my col": [1, 2, 3],
    "tokens": [5, 10, 20],
    "source": ["left", "it's", None],
    "loss_before": [0.2, NAN, 0.8],
    "holds": [3, 2, 1],
    "why": [3, 2, 1],
}


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("tokens < 20", "ab"),
        ("tokens BETWEEN 6 AND 30 AND s > 0.25", "c"),
        ("tokens IN (5, 20)", "ac"),
        ("NOT tokens = 5", "bc"),
        ('"my col" = 2', "b"),
        ("source = 'it''s'", "b"),
        ("source LIKE 'l%'", "a"),
        ("tokens < avg(tokens)", "ab"),
        ("source <> 'left'", "b"),
        ("source IS NULL", "c"),
        ("loss_before > 0.1", "ac"),
        ("NOT loss_before > 0.5", "a"),
        ("loss_before IS NULL", "b"),
        ("holds > 1", "ab"),
        ("why > 1", "ab"),
    ],
)
def test_where_keeps_the_rows_for_which_it_holds(where, left):
    assert sorted(kept(table([0.1, 0.2, 0.3], **ODD), examples=3, where=where)) == list(left)


def test_where_is_the_reason_in_its_own_words():
    where = "source = 'it''s' AND \"my col\" < 3"
    found = reasons(table([0.1, 0.2, 0.3], **ODD), examples=3, where=where)
    assert found == dict.fromkeys("ac", f"not where {where}")


def test_where_may_use_a_column_called_as_the_score():
    assert kept(table([0, 0, 0], **ODD), examples=3, by="holds", where="holds > 1") == ["a", "b"]


@pytest.mark.parametrize(
    "where",
    [
        "",
        "tokens <",
        "(((",
        "no_such > 1",
        'source = "left"',
        "foo(tokens) > 1",
        "tokens < 7; SELECT 1",
        "SELECT 1",
        "tokens < '7'",
    ],
)
def test_where_that_cannot_be_evaluated_is_quoted_with_the_columns(where):
    with pytest.raises(SelectionError, match="cannot evaluate where") as caught:
        pick(table([0.1, 0.2, 0.3], **ODD), examples=1, where=where)
    assert repr(where) in caught.value.message
    assert "my col" in caught.value.hint


@pytest.mark.parametrize("where", ["TRUE", "NULL", "max(tokens) > 3", "count(*)", "tokens", "source", "'a'"])
def test_where_that_is_no_condition_on_each_row_is_refused(where):
    with pytest.raises(SelectionError, match="is not a condition on each row"):
        pick(table([0.1, 0.2, 0.3], **ODD), examples=1, where=where)


def test_where_that_never_holds_is_an_error():
    with pytest.raises(SelectionError, match="no example qualifies") as caught:
        pick(table([0.1]), examples=1, where="tokens > 1000")
    assert "not where tokens > 1000" in caught.value.hint


# Shares


def sources(**sizes):
    """Return a frame with so many rows of each source, 10 tokens each, mixed scores."""
    names = [name for name, size in sizes.items() for _ in range(size)]
    return table(np.random.default_rng(0).random(len(names)), source=names)


def shares(frame, **given):
    selection = pick(frame, **given)
    return dict(Counter(frame.join(selection.kept, on="id", how="semi")["source"]))


def test_without_shares_all_sources_compete():
    frame = table([0.9, 0.8, 0.7, 0.6], source=["x", "x", "y", "y"])
    assert kept(frame, examples=2) == ["a", "b"]


@pytest.mark.parametrize(
    ("sizes", "examples", "found"),
    [
        ({"x": 10, "y": 10}, 8, {"x": 4, "y": 4}),
        ({"x": 10, "y": 30}, 8, {"x": 4, "y": 4}),
        ({"x": 1, "y": 10, "z": 10}, 9, {"x": 1, "y": 4, "z": 4}),
        ({"x": 1, "y": 3, "z": 20}, 14, {"x": 1, "y": 3, "z": 10}),
        ({"x": 2, "y": 2}, 4, {"x": 2, "y": 2}),
    ],
)
def test_equal_share_gives_what_a_small_source_cannot_use_to_the_others(sizes, examples, found):
    assert shares(sources(**sizes), examples=examples, per_source="equal") == found


@pytest.mark.parametrize(
    ("sizes", "examples", "found"),
    [
        ({"x": 6, "y": 3, "z": 1}, 10, {"x": 6, "y": 3, "z": 1}),
        ({"x": 60, "y": 30, "z": 10}, 10, {"x": 6, "y": 3, "z": 1}),
        # 1.5, 0.9 and 0.6 of 3: the greatest remainders are those of y and z.
        ({"x": 5, "y": 3, "z": 2}, 3, {"x": 1, "y": 1, "z": 1}),
        # 5.4, 2.7 and 0.9 of 9: y and z again.
        ({"x": 6, "y": 3, "z": 1}, 9, {"x": 5, "y": 3, "z": 1}),
    ],
)
def test_proportional_share_rounds_by_largest_remainder(sizes, examples, found):
    assert shares(sources(**sizes), examples=examples, per_source="proportional") == found


def test_proportional_share_is_of_what_is_left_after_thresholds():
    frame = table([0.9] * 4 + [0.9] * 2 + [0.1] * 6, source=["x"] * 4 + ["y"] * 8)
    found = shares(frame, examples=3, per_source="proportional", thresholds=Thresholds(min_score=0.5))
    assert found == {"x": 2, "y": 1}


pools = st.dictionaries(st.sampled_from("uvwxyz"), st.integers(1, 30), min_size=1)


@given(pools, st.floats(0.01, 1), st.sampled_from(["equal", "proportional"]))
def test_shares_add_up_to_the_budget(sizes, share, per_source):
    asked = max(1, int(share * sum(sizes.values())))
    assert sum(shares(sources(**sizes), examples=asked, per_source=per_source).values()) == asked


@given(pools, st.floats(0.01, 1))
def test_equal_shares_differ_by_one_at_most_unless_a_source_is_used_up(sizes, share):
    asked = max(1, int(share * sum(sizes.values())))
    found = dict.fromkeys(sizes, 0) | shares(sources(**sizes), examples=asked, per_source="equal")
    most = max(found.values())
    assert all(found[name] == sizes[name] or found[name] >= most - 1 for name in sizes)


@given(pools, st.floats(0.01, 1))
def test_proportional_shares_are_within_one_of_the_exact_ones(sizes, share):
    total = sum(sizes.values())
    asked = max(1, int(share * total))
    found = dict.fromkeys(sizes, 0) | shares(sources(**sizes), examples=asked, per_source="proportional")
    assert all(abs(found[name] - sizes[name] * asked / total) < 1 for name in sizes)


def test_shares_take_the_best_of_each_source():
    frame = table([0.9, 0.8, 0.2, 0.3], source=["x", "x", "y", "y"])
    assert set(kept(frame, examples=2, per_source="equal")) == {"a", "d"}


def test_shares_are_ranked_together_by_gain():
    frame = table([0.2, 0.9, 0.3, 0.8], source=["x", "x", "y", "y"])
    assert kept(frame, examples=4, per_source="equal") == ["b", "d", "c", "a"]


def test_ties_between_sources_are_settled_by_id():
    assert kept(table([0.5, 0.5, 0.5], source=["y", "x", "y"]), examples=3, per_source="equal") == [
        "a",
        "b",
        "c",
    ]


def test_rows_without_a_source_are_a_source_of_their_own():
    frame = table([0.9, 0.8, 0.7], source=["x", "x", None])
    assert kept(frame, examples=2, per_source="equal") == ["a", "c"]


def test_equal_shares_of_a_token_budget_are_in_tokens():
    frame = table([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], tokens=[10, 10, 10, 5, 5, 5], source=["x"] * 3 + ["y"] * 3)
    assert shares(frame, tokens=20, per_source="equal") == {"x": 1, "y": 2}


def test_proportional_shares_of_a_token_budget_are_in_tokens():
    frame = table([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], tokens=[10, 10, 10, 5, 5, 5], source=["x"] * 3 + ["y"] * 3)
    assert shares(frame, tokens=30, per_source="proportional") == {"x": 2, "y": 2}


def test_tokens_that_no_source_could_use_alone_are_used_together():
    # Ten tokens each: both take 6, and the 8 left over fit the best of the rest.
    frame = table([0.9, 0.8, 0.7, 0.6], tokens=[6, 7, 6, 8], source=["x", "x", "y", "y"])
    assert kept(frame, tokens=20, per_source="equal") == ["a", "b", "c"]
