"""Arms of a task side by side: how they are written, and their table against a calculation by hand."""

import math
from itertools import product

import polars as pl
import pytest

from learnable.errors import UsageError
from learnable.experiments import Measured, arm_table, parse_task_arms
from learnable.experiments.table import difference, interval

KNOWN = ("common", "delia")
ACCURACY = Measured(label="format", unit="share correct", higher_is_better=True)
LOSS = Measured(label="heldout", unit="nats per token", higher_is_better=False)


def parsed(*written, init="description"):
    return [
        (each.mixture, each.init, each.label) for each in parse_task_arms(written, init=init, known=KNOWN)
    ]


def test_an_arm_is_a_mixture_and_how_its_tokens_begin():
    assert parsed("untuned", "delia@init=mean", "delia", init="random") == [
        ("untuned", "random", "untuned"),
        ("delia", "mean", "delia@init=mean"),
        ("delia", "random", "delia"),
    ]


def test_an_arm_that_is_written_twice_is_there_once():
    assert len(parsed("delia", "common", "delia")) == 2


def test_an_unknown_arm_has_a_near_name():
    with pytest.raises(UsageError, match="no arm called 'comon'") as caught:
        parsed("comon")
    assert caught.value.hint == "did you mean 'common'?"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("delia@", "cannot read the arm 'delia@'"),
        ("delia@init", "cannot read the arm 'delia@init'"),
        ("delia@init=", "does not take init="),
        ("delia@init=zero", "does not take init=zero"),
        ("delia@ratio=many", "does not take ratio=many"),
        ("delia@mixture=common", "'mixture'"),
        ("delia@token_rate=0", "token_rate must be above 0"),
    ],
)
def test_an_arm_that_cannot_be_read_is_said_with_what_is_wrong(written, why):
    with pytest.raises(UsageError, match=why):
        parsed(written)


def test_an_arm_may_have_a_ratio_and_a_rate_of_its_own():
    (arm,) = parse_task_arms(["delia@ratio=2,token_rate=30"], init="mean", known=KNOWN)
    assert (arm.init, arm.ratio, arm.token_rate) == ("mean", 2.0, 30.0)


def results(values, evaluation="format"):
    """Return rows of values given as {arm: one list of values of items a, b, c for each seed}."""
    rows = [
        (arm, seed, evaluation, name, value)
        for arm, seeds in values.items()
        for seed, items in enumerate(seeds)
        for name, value in zip("abcdefgh", items, strict=False)
    ]
    schema = ["arm", "seed", "evaluation", "id", "value"]
    return pl.DataFrame(rows, schema=schema, orient="row", schema_overrides={"value": pl.Float32})


def arms(names, seeds=1):
    rows = [
        {
            "arm": name,
            "seed": seed,
            "examples": 10 * number + seed,
            "task_examples": 2 * number,
            "tokens": 100 * number + 10 * seed,
            "response_tokens": 40 * number + 10 * seed,
            "steps": 3 * number,
            "seconds": 0.5 * number,
        }
        for seed, (number, name) in product(range(seeds), enumerate(names))
    ]
    return pl.DataFrame(rows)


def table(values, *, seeds=1, evaluation=ACCURACY, **given):
    found = arm_table(
        results(values, evaluation.label),
        arms(values, seeds),
        evaluations=[evaluation],
        baseline="common",
        **given,
    )
    return {row["arm"]: row for row in found.iter_rows(named=True)}


ONE_SEED = {"untuned": [[0] * 8], "common": [[0, 1, 0, 1, 0, 1, 0, 0]], "delia": [[1] * 8]}


def beside(row, interval):
    return [row[name] for name in ("value_low", "value_high")] == [interval.low, interval.high]


def test_values_and_differences_of_one_seed_are_those_by_hand():
    row = table(ONE_SEED)["delia"]
    assert (row["value"], row["items"], row["seeds"]) == (1, 8, 1)
    assert row["difference"] == pytest.approx(5 / 8)
    # Student's t with seven degrees of freedom is 2.365; the interval reaches at least as far.
    assert row["high"] - row["difference"] >= 0.98 * 2.365 * math.sqrt(15 / 56 / 8)
    against = difference(ONE_SEED["delia"], ONE_SEED["common"], higher_is_better=True)
    assert (row["low"], row["high"], row["p"]) == (against.low, against.high, against.p)
    assert row["verdict"] == "no difference seen for this seed"  # 5 of 8 better: a sign test gives 0.06


def test_the_interval_of_a_value_is_its_own():
    assert beside(table(ONE_SEED)["common"], interval(ONE_SEED["common"]))


def test_intervals_are_wider_where_more_trained_arms_are_compared():
    row = table(ONE_SEED | {"no_buffer": [[1, 1, 0, 0, 0, 1, 0, 0]]})["delia"]
    against = difference(ONE_SEED["delia"], ONE_SEED["common"], higher_is_better=True, comparisons=2)
    assert (row["low"], row["high"]) == (against.low, against.high)
    assert row["high"] > table(ONE_SEED)["delia"]["high"]


def test_an_untuned_arm_is_not_counted_however_its_tokens_begin():
    one, two = (table(ONE_SEED | more) for more in ({}, {"untuned@init=mean": [[0, 0, 1, 0, 0, 0, 0, 0]]}))
    assert one["delia"]["high"] == two["delia"]["high"]


def test_a_lower_loss_is_better():
    values = {"common": [[1.0, 1.1, 0.9, 1.0, 1.0, 1.0]], "delia": [[0.1, 0.25, 0.0, 0.15, 0.05, 0.1]]}
    row = table(values, evaluation=LOSS)["delia"]
    assert (row["verdict"], row["higher_is_better"]) == ("better for this seed", False)
    assert row["difference"] == pytest.approx(-5.35 / 6)


def test_differences_are_paired_by_item_and_seed():
    # Items and seeds differ far more than the arms: unpaired, nothing would be seen.
    common = [
        [1.0, 5.0, 9.0, 3.0, 7.0, 2.0],
        [2.0, 6.0, 10.0, 4.0, 8.0, 3.0],
        [11.0, 15.0, 19.0, 13.0, 17.0, 12.0],
    ]
    delia = [[value + 0.5 + 0.01 * (number % 2) for number, value in enumerate(items)] for items in common]
    row = table({"common": common, "delia": delia}, seeds=3)["delia"]
    assert row["difference"] == pytest.approx(0.505, abs=1e-4)
    assert (row["verdict"], row["seeds"], row["items"]) == ("better", 3, 6)


def test_the_order_of_the_rows_does_not_matter():
    values = {"common": [[1.0, 5.0, 9.0], [2.0, 6.0, 8.0]], "delia": [[2.0, 7.0, 9.0], [1.0, 9.0, 8.0]]}
    rows = results(values)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
    one, two = (
        arm_table(each, arms(values, 2), evaluations=[ACCURACY], baseline="common")
        for each in (rows, shuffled)
    )
    assert one.equals(two)


def test_an_untuned_model_of_one_seed_is_paired_with_every_seed():
    values = {"untuned": [[0.0, 0.0]], "common": [[1.0, 3.0], [2.0, 4.0]]}
    found = arm_table(
        results(values),
        arms(values).vstack(arms(values, 2).filter(arm="common", seed=1)),
        evaluations=[ACCURACY],
        baseline="common",
    )
    assert found.filter(arm="untuned")["difference"].item() == pytest.approx(-2.5)


def test_what_could_not_be_graded_is_counted_and_left_out():
    row = table({"common": [[0, 1, 0, 0]], "delia": [[1, float("nan"), 1, 0]]})["delia"]
    assert row["ungraded"] == 1
    assert row["value"] == pytest.approx(2 / 3)
    assert row["difference"] == pytest.approx(2 / 3)


def test_costs_are_means_over_the_seeds():
    values = {"untuned": [[0, 1]] * 3, "common": [[0, 1]] * 3, "delia": [[1, 1]] * 3}
    row = table(values, seeds=3)["delia"]
    costs = ("examples", "task_examples", "tokens", "response_tokens", "steps", "training_s")
    assert [row[name] for name in costs] == [21, 4, 210, 90, 6, 1.0]


def test_the_baseline_has_no_difference():
    row = table(ONE_SEED)["common"]
    assert [row[name] for name in ("difference", "low", "high", "p", "verdict")] == [None] * 5


def test_a_baseline_alone_has_the_same_columns():
    alone, beside = (
        arm_table(results(values), arms(values), evaluations=[ACCURACY], baseline="common")
        for values in ({"common": [[0, 1]]}, ONE_SEED)
    )
    assert alone.schema == beside.schema


def test_the_lines_are_in_the_order_of_evaluations_and_arms():
    rows = pl.concat([results(ONE_SEED), results(ONE_SEED, "heldout")])
    found = arm_table(rows, arms(ONE_SEED), evaluations=[LOSS, ACCURACY], baseline="common")
    assert found.select("evaluation", "arm").rows() == list(product(("heldout", "format"), ONE_SEED))
    assert found["unit"].unique(maintain_order=True).to_list() == ["nats per token", "share correct"]
