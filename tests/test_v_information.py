"""V-information: by hand, and the choice that is hard, not wrong, and spread."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import learnable as ln
from choosing import choose
from learnable.errors import UsageError
from learnable.pages.selection_facts import information
from learnable.scorers.v_information import PVI, Hardness, HardNotWrong, PVIZero
from learnable.selectors import SpreadTop
from learnable.selectors.vectors import vendi
from learnable.testing import toy_examples
from learnable.types import Budget
from test_reporting import make_facts


def frame(null, after, tokens):
    return pl.DataFrame({"loss_null": null, "loss_after": after, "response_tokens": tokens})


def test_pvi_is_in_bits_and_changes_its_sign_with_the_two_models():
    # Of two tokens: 4 bits without the question, 1.5 with it.
    bit = math.log(2)
    assert PVI()(frame([2 * bit], [0.75 * bit], [2])).tolist() == pytest.approx([2.5])
    assert PVI()(frame([0.75 * bit], [2 * bit], [2])).tolist() == pytest.approx([-2.5])
    assert PVI(per_token=True)(frame([2 * bit], [0.75 * bit], [2])).tolist() == pytest.approx([1.25])


def test_a_pool_has_the_mean_of_its_rows():
    nats = math.log(2)
    information = PVI()(frame([2.5 * nats, 0.5 * nats, 2 * nats], [0.0, nats, nats], [1, 1, 1]))
    assert information.tolist() == pytest.approx([2.5, -0.5, 1.0])
    assert float(information.mean()) == pytest.approx(1.0)


def test_a_page_has_the_information_of_pool_selection_and_sources():
    rows = {"id": list("abcd"), "source": list("xxxy"), "pvi": [2.5, -0.5, float("nan"), 1.0]}
    facts = replace(
        make_facts(), scores=pl.DataFrame(rows), kept=pl.DataFrame({"id": ["a", "d"], "rank": [0, 1]})
    )
    found = {name: (pool.mean(), kept.mean()) for name, pool, kept in information(facts)}
    assert found == {"all": (1.0, 1.75), "x": (1.0, 2.5), "y": (1.0, 1.0)}


def test_spread_is_that_of_so_many_vectors_without_anything_in_common():
    apart = np.eye(4, 7, dtype=np.float32)
    assert vendi(apart) == pytest.approx(4)
    assert vendi(5 * apart[[0, 0, 0]]) == pytest.approx(1)
    assert vendi(apart[[0, 0, 1, 1, 2, 2, 3, 3]]) == pytest.approx(4)
    assert vendi(apart[[0, 0, 0, 1]]) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


def test_the_same_model_on_both_sides_has_no_information():
    assert PVI()(frame([1.7], [1.7], [9])).tolist() == [0.0]


def test_pvi_of_the_untrained_model_compares_the_answer_alone_with_the_whole_row():
    rows = pl.DataFrame({"loss_alone": [2.0], "loss_before": [1.0], "response_tokens": [3]})
    assert PVIZero()(rows).tolist() == pytest.approx([3 / math.log(2)])


def test_hardness_is_in_bits_per_token():
    assert Hardness()(frame([0.0], [math.log(4)], [7])).tolist() == pytest.approx([2.0])


def test_the_hardest_come_first_and_the_wrong_ones_last():
    rows = frame([9.0, 9.0, 9.0, 1.0, 1.0], [1.0, 3.0, 2.0, 5.0, 4.0], [6] * 5)
    order = np.argsort(-HardNotWrong()(rows), kind="stable").tolist()
    assert order == [1, 2, 0, 4, 3]


def test_length_does_not_decide_which_is_hard():
    # Long answers are easier per token; within each length the harder half comes first.
    rows = frame([9.0] * 8, [4.0, 3.0, 2.0, 1.0, 0.4, 0.3, 0.2, 0.1], [2] * 4 + [50] * 4)
    chosen = set(np.argsort(-HardNotWrong(bins=2)(rows), kind="stable")[:4].tolist())
    assert chosen == {0, 1, 4, 5}


def test_no_bin_is_refused():
    with pytest.raises(UsageError, match="at least 1 bin"):
        HardNotWrong(bins=0)


def test_of_duplicates_one_is_picked_while_others_remain():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.6, -0.8]], dtype=np.float32)
    picks = SpreadTop(multiple=2)(np.array([4, 3, 2, 1], dtype=np.float32), k=2, vectors=vectors)
    assert sorted(picks.index.tolist()) == [0, 2]


def test_only_the_best_are_spread():
    vectors = np.eye(4, dtype=np.float32)
    picks = SpreadTop(multiple=1)(np.array([1, 4, 3, 2], dtype=np.float32), k=2, vectors=vectors)
    assert sorted(picks.index.tolist()) == [1, 2]


def test_only_the_best_are_spread_within_a_budget_in_tokens():
    # Of the shortest rows alone, a fifth of the tokens would hold most of the pool.
    rng = np.random.default_rng(0)
    tokens = rng.lognormal(4, 1, size=100).astype(int).tolist()
    names = [f"{place:03}" for place in range(100)]
    frame = pl.DataFrame({"id": names, "tokens": tokens, "score": np.arange(100.0) / 100})
    vectors = rng.normal(size=(100, 4)).astype(np.float32)
    budget = sum(tokens) // 5
    kept = choose(frame, by="score", budget=Budget(tokens=budget), selector=SpreadTop(), vectors=vectors).kept
    spent = frame.filter(pl.col("id").is_in(kept["id"].to_list()))["tokens"].sum()
    assert 0.9 * budget <= spent <= budget
    assert min(kept["id"]) >= "020"


@pytest.fixture(scope="module")
def model(tiny):
    return ln.Model(str(tiny), dtype="float32")


@pytest.fixture(scope="module")
def pool():
    return [
        {"instruction": each.messages[0].content, "output": each.messages[1].content}
        for each in toy_examples(16)
    ]


def test_pvi_compares_two_models_that_have_not_seen_the_row(model, pool):
    after = ln.train(pool, model, folds=2)
    null = ln.train(pool, model, folds=2, prompt="none")
    scored = ln.score(pool, model, reference=after, null=null, scorers=["pvi", "hardness", "hard_not_wrong"])
    bits = (
        (scored.frame["loss_null"] - scored.frame["loss_after"])
        * scored.frame["response_tokens"]
        / math.log(2)
    )
    np.testing.assert_allclose(scored.frame["pvi"], bits, rtol=1e-4)
    assert np.isfinite(scored.frame.select("hardness", "hard_not_wrong").to_numpy()).all()


def test_a_null_reference_with_questions_is_refused(model, pool):
    after = ln.train(pool, model, folds=2)
    with pytest.raises(UsageError, match="trained with its questions"):
        ln.score(pool, model, reference=after, null=after, scorers=["pvi"])


def test_a_null_reference_of_other_settings_is_refused(model, pool):
    after, null = ln.train(pool, model, folds=2), ln.train(pool, model, folds=2, prompt="none", epochs=2)
    with pytest.raises(UsageError, match="trained otherwise"):
        ln.score(pool, model, reference=after, null=null, scorers=["pvi"])


@pytest.mark.parametrize("other", ["seed", "pool"])
def test_a_null_reference_of_another_seed_or_pool_is_refused(other, model, pool):
    after = ln.train(pool, model, folds=2)
    rows, settings = (pool[1:], {}) if other == "pool" else (pool, {"seed": 1})
    null = ln.train(rows, model, folds=2, prompt="none", **settings)
    with pytest.raises(UsageError, match=f"trained otherwise.*{other}"):
        ln.score(pool, model, reference=after, null=null, scorers=["pvi"])


def test_references_that_have_seen_the_rows_are_refused(model, pool):
    after, null = ln.train(pool, model), ln.train(pool, model, prompt="none")
    with pytest.raises(UsageError, match="have seen the rows"):
        ln.score(pool, model, reference=after, null=null, scorers=["pvi"])


def test_pvi_without_a_null_reference_says_how_to_make_one(model, pool):
    with pytest.raises(UsageError, match="trained on answers alone") as error:
        ln.score(pool, model, reference=ln.train(pool, model, folds=2), scorers=["pvi"])
    assert "--prompt none" in error.value.hint
