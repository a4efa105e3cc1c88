"""The target: its subtasks, the rows of the pool that are rows of it, and what is measured and chosen towards it."""

import json
import math

import numpy as np
import polars as pl
import pytest

from learnable.data import load_pool, read, save_pool
from learnable.data.target import Target, shared_with_target, target_of
from learnable.errors import UsageError
from learnable.measures.importance import BUCKETS, log_importance
from learnable.scorers import Relevance, TargetDrop, TargetLearnability
from learnable.selectors import GumbelTopK, RoundRobin, turns_of

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def pool_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read([str(path)], on_error="skip")


def row(prompt, answer, **more):
    return {"instruction": prompt, "output": answer, **more}


def test_subtasks_are_the_column_else_the_source(tmp_path):
    pool = pool_of(tmp_path / "task.jsonl", [row("a?", "one", subtask="sums"), row("b?", "two")])
    assert target_of(pool).subtasks == ["sums", "task"]


def test_a_target_is_the_same_from_a_folder(tmp_path):
    pool = pool_of(tmp_path / "task.jsonl", [row("a?", "one", subtask="sums"), row("b?", "two")])
    save_pool(pool, tmp_path / "pool")
    again = target_of(load_pool(tmp_path / "pool"))
    assert (again.subtasks, again.identity) == (target_of(pool).subtasks, target_of(pool).identity)


def test_another_subtask_is_another_target(tmp_path):
    one = pool_of(tmp_path / "a.jsonl", [row("a?", "one", subtask="sums")])
    other = pool_of(tmp_path / "b.jsonl", [row("a?", "one", subtask="products")])
    assert target_of(one).identity != target_of(other).identity


def test_rows_of_the_target_are_found_in_the_pool(tmp_path):
    target = target_of(pool_of(tmp_path / "task.jsonl", [row("What is it?", "one"), row("b?", LONG)]))
    rows = [
        row("What is it?", "one"),
        row("what is IT", "else"),
        row("c?", f"so {LONG}"),
        row("d?", "nothing shared"),
    ]
    reasons = shared_with_target(pool_of(tmp_path / "pool.jsonl", rows), target)
    assert [reason and reason.split(",")[0] for reason in reasons] == [
        "in the target: the same row",
        "in the target: same prompt",
        "in the target: shared 13-gram",
        None,
    ]


def test_few_rows_are_said_to_be_few(tmp_path, capsys):
    assert len(target_of(pool_of(tmp_path / "task.jsonl", [row("a?", "one")]))) == 1
    assert "fewer than 3" in capsys.readouterr().err


def test_its_ids_are_those_of_its_examples(tmp_path):
    target = target_of(pool_of(tmp_path / "task.jsonl", [row("a?", "one"), row("b?", "two")]))
    assert isinstance(target, Target)
    assert target.ids == [each.id for each in target.examples]


def test_target_scores_compare_the_base_with_the_model_after_the_target():
    frame = pl.DataFrame({"loss_before": [2.0, 2.0, 0.0], "loss_target": [1.5, 3.0, 0.0]})
    assert TargetLearnability()(frame).tolist()[:2] == pytest.approx([0.25, -0.5])
    assert np.isnan(TargetLearnability()(frame)[2])
    assert TargetDrop()(frame).tolist() == pytest.approx([0.5, -1.0, 0.0])


def test_relevance_is_the_largest_similarity():
    lists = pl.Series([[0.1, 0.9], [-0.5, -0.2], None, [0.3, float("nan")]], dtype=pl.List(pl.Float32))
    scores = Relevance()(pl.DataFrame({"similarities": lists}))
    np.testing.assert_allclose(scores, [0.9, -0.2, np.nan, np.nan], rtol=1e-6)


def test_log_importance_by_hand():
    # One word each, so that its bucket alone counts: half of the target's 1/1, half of the pool's (1 + 1) / (2 + buckets).
    pool = 2 / (2 + BUCKETS)
    near, far = log_importance(["cat", "dog"], ["cat"])
    assert near == pytest.approx(math.log((0.5 + 0.5 * pool) / pool))
    assert far == pytest.approx(math.log(0.5))


def test_a_text_without_words_has_no_importance():
    assert np.isnan(log_importance(["", "dog"], ["cat"])[0])


def test_turns_go_round_subtasks_then_rows():
    assert turns_of(["sums", "sums", "odd", "sums"]) == [0, 2, 1, 2, 3, 2]


def test_round_robin_gives_each_row_of_the_target_its_turn():
    values = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.0]], dtype=np.float32)
    picks = RoundRobin()(np.ones(4, dtype=np.float32), k=3, vectors=values)
    assert picks.index.tolist() == [0, 2, 1]
    assert picks.gain.tolist() == pytest.approx([0.9, 0.3, 0.8])


def test_gumbel_top_k_draws_by_the_exponential_of_the_score():
    # The first of two with scores 1 and 0: 1 / (1 + exp(-1 / T)).
    scores, rng = np.array([1.0, 0.0], dtype=np.float32), np.random.default_rng(0)
    first = [GumbelTopK(temperature=0.5)(scores, k=1, rng=rng).index[0] == 0 for _ in range(4_000)]
    assert np.mean(first) == pytest.approx(1 / (1 + math.exp(-2)), abs=0.02)


def test_gumbel_top_k_without_noise_is_top_k():
    scores = np.array([0.1, 0.3, np.nan, 0.2], dtype=np.float32)
    assert GumbelTopK(temperature=0)(scores, k=3, rng=np.random.default_rng(0)).index.tolist() == [1, 3, 0]


def test_a_negative_temperature_is_refused():
    with pytest.raises(UsageError, match="temperature"):
        GumbelTopK(temperature=-0.1)
