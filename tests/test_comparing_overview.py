"""The table of a comparison, on results that are made up."""

import math

import numpy as np
import polars as pl
import pytest

from learnable.experiments import Measured, SelectionCost, arm_table
from learnable.experiments.table import difference, interval

NAN = math.nan
LOSS = Measured(label="heldout:a", unit="nats per token", higher_is_better=False)
RIGHT = Measured(label="exact_match:b", unit="share", higher_is_better=True)
ITEMS = 30
BUDGETS = (100, 200)
TOKENS = {("untuned", None): 0, ("full", None): 1000}
VALUES = {
    # method, budget: mean loss
    ("untuned", None): 3.0,
    ("random", 100): 2.0,
    ("random", 200): 1.5,
    ("ifd", 100): 1.5,
    ("ifd", 200): 1.2,
    ("longest", 100): 2.0,
    ("longest", 200): 1.9,
    ("full", None): 1.0,
}


def results(values=VALUES, *, seeds=3, evaluation=LOSS.label, noise=0.01):
    """Return values around the means, the items' own difficulty the same for all."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=ITEMS)
    lines = [
        {
            "arm": method,
            "budget_tokens": budget,
            "seed": seed,
            "evaluation": evaluation,
            "id": f"item{item:02}",
            "value": mean + hard[item] - hard.mean() + noise * rng.normal(),
        }
        for (method, budget), mean in values.items()
        for seed in range(1 if method == "untuned" else seeds)
        for item in range(ITEMS)
    ]
    return pl.DataFrame(lines, schema_overrides={"budget_tokens": pl.Int64})


def arms(values=VALUES, *, seeds=3):
    lines = [
        {
            "arm": method,
            "budget_tokens": budget,
            "seed": seed,
            "examples": 10 + seed,
            "tokens": TOKENS.get((method, budget), budget),
            "response_tokens": TOKENS.get((method, budget), budget) // 2 if budget or method == "full" else 0,
            "steps": 5,
            "seconds": TOKENS.get((method, budget), budget) / 10,
        }
        for method, budget in values
        for seed in range(1 if method == "untuned" else seeds)
    ]
    return pl.DataFrame(lines, schema_overrides={"budget_tokens": pl.Int64})


def table(found=None, trained=None, *, evaluations=(LOSS,), costs=None, **given):
    return arm_table(
        results() if found is None else found,
        arms() if trained is None else trained,
        evaluations=list(evaluations),
        baseline="random",
        costs=costs or {"ifd": SelectionCost(score_tokens=50, score_s=4.0)},
        **given,
    )


def line(frame, method, budget=None, evaluation=LOSS.label):
    here = frame.filter(
        (pl.col("arm") == method)
        & pl.col("budget_tokens").eq_missing(pl.lit(budget, pl.Int64))
        & (pl.col("evaluation") == evaluation)
    )
    assert here.height == 1
    return here.row(0, named=True)


def matrix(found, method, budget):
    here = found.filter(
        (pl.col("arm") == method) & pl.col("budget_tokens").eq_missing(pl.lit(budget, pl.Int64))
    )
    return np.stack(
        [
            one.sort("id")["value"].to_numpy()
            for _, one in here.sort("seed").group_by("seed", maintain_order=True)
        ]
    )


@pytest.fixture(scope="module")
def usual():
    return table()


def test_there_is_a_line_for_each_method_and_budget(usual):
    assert usual.select("arm", "budget_tokens").rows() == list(VALUES)


def test_a_line_tells_what_was_measured(usual):
    row = line(usual, "ifd", 100)
    assert (row["evaluation"], row["unit"], row["higher_is_better"]) == (LOSS.label, LOSS.unit, False)
    assert (row["items"], row["seeds"], row["ungraded"]) == (ITEMS, 3, 0)
    assert row["value"] == pytest.approx(1.5, abs=0.01)


def test_the_value_has_the_interval_of_the_method_alone(usual):
    alone, row = interval(matrix(results(), "ifd", 100)), line(usual, "ifd", 100)
    assert (row["value"], row["value_low"], row["value_high"]) == (alone.mean, alone.low, alone.high)


def test_a_line_tells_what_was_trained_on(usual):
    row = line(usual, "ifd", 100)
    assert (row["examples"], row["tokens"], row["response_tokens"], row["steps"], row["training_s"]) == (
        11,
        100,
        50,
        5,
        10,
    )


def test_differences_are_paired_with_the_random_draw_of_the_budget(usual):
    found = results()
    for budget in BUDGETS:
        against = difference(
            matrix(found, "ifd", budget),
            matrix(found, "random", budget),
            higher_is_better=False,
            comparisons=4,
        )
        row = line(usual, "ifd", budget)
        assert (row["difference"], row["low"], row["high"], row["p"]) == (
            against.mean,
            against.low,
            against.high,
            against.p,
        )


def test_pairing_makes_a_difference_sure_where_items_differ_much(usual):
    row = line(usual, "ifd", 100)
    assert row["value_high"] - row["value_low"] > 10 * (row["high"] - row["low"])
    assert row["verdict"] == "better"


def test_the_verdict_knows_what_is_better(usual):
    assert line(usual, "longest", 200)["verdict"] == "worse"
    assert line(usual, "longest", 100)["verdict"] == "no difference seen"
    other = table(results(evaluation=RIGHT.label), evaluations=[RIGHT])
    assert line(other, "ifd", 100, RIGHT.label)["verdict"] == "worse"


def test_the_order_of_the_results_does_not_matter(usual):
    shuffled = results().sample(fraction=1, shuffle=True, seed=1)
    found = table(shuffled)
    for method, budget in VALUES:
        mine, theirs = line(found, method, budget), line(usual, method, budget)
        for name in ("value", "difference", "low", "p"):
            assert mine[name] == (
                theirs[name] if theirs[name] is None else pytest.approx(theirs[name], abs=1e-9)
            )


def test_random_has_no_difference_to_itself(usual):
    for budget in BUDGETS:
        row = line(usual, "random", budget)
        assert [row[name] for name in ("difference", "low", "high", "p", "verdict", "payback")] == [None] * 6


@pytest.mark.parametrize("method", ["untuned", "full"])
def test_untuned_and_full_stand_beside_the_largest_budget(usual, method):
    row = line(usual, method)
    assert row["difference"] == pytest.approx(VALUES[method, None] - 1.5, abs=0.02)
    assert row["verdict"] == ("better" if method == "full" else "worse")
    assert row["payback"] is None


def test_one_untuned_model_is_paired_with_every_seed(usual):
    assert (line(usual, "untuned")["seeds"], line(usual, "untuned")["tokens"]) == (1, 0)


def width(frame, method, budget):
    row = line(frame, method, budget)
    return row["high"] - row["low"]


def test_more_methods_and_budgets_widen_the_intervals(usual):
    few = {key: value for key, value in VALUES.items() if key in [("random", 100), ("ifd", 100)]}
    alone = table(results(few), arms(few))
    wide = matrix(results(few), "ifd", 100), matrix(results(few), "random", 100)
    for frame, comparisons in ((alone, 1),):
        expected = difference(*wide, higher_is_better=False, comparisons=comparisons)
        assert width(frame, "ifd", 100) == expected.high - expected.low
    assert width(usual, "ifd", 100) > 1.2 * width(alone, "ifd", 100)


def test_untuned_and_full_are_not_counted_as_comparisons():
    kept = {key: value for key, value in VALUES.items() if key[0] in ("random", "ifd", "untuned", "full")}
    without = {key: value for key, value in kept.items() if key[1] is not None}
    found = results(kept)
    some = found.filter(pl.col("budget_tokens").is_not_null())
    assert (
        line(table(found, arms(kept)), "ifd", 100)["p"] == line(table(some, arms(without)), "ifd", 100)["p"]
    )


def test_another_confidence_changes_the_width(usual):
    assert width(table(confidence=0.8), "ifd", 100) < width(usual, "ifd", 100)


def test_what_could_not_be_graded_is_counted_and_not_averaged():
    lost = (pl.col("arm") == "ifd") & (pl.col("budget_tokens") == 100) & (pl.col("id") < "item05")
    found = results().with_columns(value=pl.when(lost).then(NAN).otherwise("value"))
    row = line(table(found), "ifd", 100)
    assert (row["ungraded"], row["items"]) == (15, ITEMS - 5)
    assert row["difference"] == pytest.approx(-0.5, abs=0.02)


def test_an_item_that_is_missing_is_one_that_was_not_graded():
    found = results().filter(~((pl.col("arm") == "ifd") & (pl.col("id") == "item03")))
    assert line(table(found), "ifd", 100)["ungraded"] == 3


def test_an_evaluation_that_graded_nothing_is_no_crash():
    found = table(results().with_columns(value=pl.lit(NAN)))
    row = line(found, "ifd", 100)
    assert math.isnan(row["value"])
    assert row["verdict"] == "not graded"
    assert row["ungraded"] == 3 * ITEMS
    assert row["payback"] == "not known: no random draw could be graded"


def test_evaluations_stand_one_after_the_other_in_their_order():
    both = pl.concat([results(evaluation=RIGHT.label), results()])
    found = table(both, evaluations=[LOSS, RIGHT])
    assert found["evaluation"].unique(maintain_order=True).to_list() == [LOSS.label, RIGHT.label]
    assert found.height == 2 * len(VALUES)


def test_evaluations_may_have_items_of_the_same_name():
    both = pl.concat([results(), results(dict.fromkeys(VALUES, 1.0), evaluation=RIGHT.label)])
    found = table(both, evaluations=[LOSS, RIGHT])
    assert line(found, "ifd", 100)["value"] == line(table(), "ifd", 100)["value"]


def test_the_cost_of_a_method_stands_beside_it(usual):
    row = line(usual, "ifd", 100)
    assert (row["score_tokens"], row["score_s"], row["reference_tokens"], row["reference_s"]) == (
        50,
        4.0,
        0,
        0.0,
    )
    assert line(usual, "longest", 100)["score_tokens"] == 0


def test_payback_counts_the_trainings_that_earn_the_selection_back(usual):
    # Random reaches 1.5 with 200 tokens, the selection with 100: 10 s saved per training, for 4 s once.
    assert line(usual, "ifd", 100)["payback"].startswith("already after the first training")
    dear = table(costs={"ifd": SelectionCost(score_s=4.0, reference_s=21.0)})
    assert line(dear, "ifd", 100)["payback"].startswith("after 3 trainings")


def test_a_method_that_is_worse_never_pays(usual):
    assert line(usual, "longest", 200)["payback"].startswith("never")


def test_payback_is_not_known_where_the_selection_was_not_timed():
    found = table(costs={"ifd": SelectionCost(score_tokens=50, score_s=NAN)})
    assert line(found, "ifd", 100)["payback"].startswith(
        "not known: what the selection needs was measured before"
    )


def test_a_random_draw_of_all_tokens_beside_the_full_pool_is_no_crash():
    trained = arms().with_columns(
        tokens=pl.when((pl.col("arm") == "random") & (pl.col("budget_tokens") == 200))
        .then(1000)
        .otherwise("tokens")
    )
    assert line(table(trained=trained), "ifd", 100)["payback"]
