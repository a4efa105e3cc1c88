"""The target: its subtasks, the rows of the pool that are rows of it, and what is measured and chosen towards it."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import learnable as ln
from learnable.data.target import shared_with_target
from learnable.errors import SelectionError, UsageError
from learnable.measures.importance import BUCKETS, log_importance
from learnable.runs.progress import say_once
from learnable.scorers.target import Relevance, TargetDrop, TargetLearnability
from learnable.selectors import GumbelTopK, RoundRobin, turns_of
from learnable.settings import Aim
from learnable.testing import toy_examples

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def rows_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ln.read(str(path))


def row(prompt, answer, **more):
    return {"instruction": prompt, "output": answer, **more}


def test_subtasks_are_the_column_else_the_source(tmp_path):
    rows = rows_of(tmp_path / "task.jsonl", [row("a?", "one", subtask="sums"), row("b?", "two")])
    assert rows.as_target.subtasks == ["sums", "task"]


def test_rows_in_memory_have_subtasks_too():
    rows = ln.read([row("a?", "one", subtask="sums"), row("a?", "one"), row("b?", "two", subtask=3)])
    assert rows.as_target.subtasks == ["sums", "3"]


def test_another_subtask_is_another_target(tmp_path):
    one = rows_of(tmp_path / "a.jsonl", [row("a?", "one", subtask="sums")])
    other = rows_of(tmp_path / "b.jsonl", [row("a?", "one", subtask="products")])
    assert one.as_target.identity != other.as_target.identity


def test_rows_of_the_target_are_found_in_the_pool(tmp_path):
    target = rows_of(tmp_path / "task.jsonl", [row("What is it?", "one"), row("b?", LONG)]).as_target
    rows = [
        row("What is it?", "one"),
        row("what is IT", "else"),
        row("c?", f"so {LONG}"),
        row("d?", "nothing shared"),
    ]
    reasons = shared_with_target(rows_of(tmp_path / "pool.jsonl", rows).pool, target)
    assert [reason and reason.split(",")[0] for reason in reasons] == [
        "in the target: the same row",
        "in the target: same prompt",
        "in the target: shared 13-gram",
        None,
    ]


def test_what_is_held_back_of_a_target_is_not_chosen_from_either(tmp_path):
    target = rows_of(tmp_path / "task.jsonl", [row("a?", "one")])
    held_back = ln.read([row("b?", "two")]).examples
    pool = ln.read([row("b?", "two"), row("c?", "three")]).pool
    found = shared_with_target(pool, replace(target, set_aside=held_back).as_target)
    assert found == ["in the target: the same row", None]
    assert target.as_target.identity != replace(target, set_aside=held_back).as_target.identity


def test_few_rows_are_said_to_be_few(capsys):
    say_once.cache_clear()
    assert len(ln.read([row("a?", "one")]).as_target) == 1
    assert "fewer than 3" in capsys.readouterr().err


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


ALL = ["target_learnability", "target_drop", "relevance", "dsir", "pds", "loss"]


@pytest.fixture(scope="module")
def pool():
    return rows_in_memory(toy_examples(24))


@pytest.fixture(scope="module")
def task():
    return rows_in_memory(toy_examples(5, seed=9))


@pytest.fixture(scope="module")
def scores(pool, task, tiny, tmp_path_factory):
    aim = Aim(epochs=2, steps=3, visit=1, rate=1.0, batch=8)
    model = ln.Model(str(tiny), dtype="float32")
    store = tmp_path_factory.mktemp("store")
    return ln.score(pool, model, target=[*task, pool[0]], scorers=ALL, aim=aim, store=store)


def rows_in_memory(examples):
    return [row(each.messages[0].content, each.messages[1].content) for each in examples]


def test_a_row_of_the_target_has_no_score_and_says_why(scores):
    assert scores.frame["undefined"].to_list()[0].startswith("in the target")
    assert all(np.isnan(scores.frame[name][0]) for name in ALL)
    assert scores.frame.select(ALL)[1:].to_numpy().shape == (23, len(ALL))
    assert np.isfinite(scores.frame.select(ALL)[1:].to_numpy()).all()


def test_target_learnability_is_learnability_with_a_reference_trained_on_the_target(scores, pool, task, tiny):
    model = ln.Model(str(tiny), dtype="float32")
    after = ln.train([*task, pool[0]], model, epochs=2)
    plain = ln.score(pool, model, reference=after, scorers=["learnability"])
    np.testing.assert_allclose(
        scores.frame["target_learnability"][1:], plain.frame["learnability"][1:], rtol=1e-4, atol=1e-6
    )


def test_relevance_of_a_row_is_its_largest_cosine_to_a_target_row(scores, pool, task, tiny):
    model = ln.Model(str(tiny), dtype="float32")
    vectors = ln.score([*pool, *task], model, scorers=["loss"], vectors="model").vectors
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = (units[1:24] @ np.concatenate([units[24:], units[:1]]).T).max(axis=1)
    np.testing.assert_allclose(scores.frame["relevance"][1:], expected, rtol=1e-4)


def test_a_copy_of_a_target_row_with_another_answer_is_not_chosen_from(task, tiny):
    model = ln.Model(str(tiny), dtype="float32")
    pool = [row(task[0]["instruction"], "something else"), row("who is it?", "one two")]
    scored = ln.score(pool, model, target=task, scorers=["dsir"])
    assert np.isnan(scored.frame["dsir"][0])


def test_the_same_target_is_trained_on_once(pool, task, tiny, capsys, tmp_path):
    model = ln.Model(str(tiny), dtype="float32")
    aim = Aim(epochs=2, steps=3, visit=1, rate=1.0, batch=8)
    first = ln.score(pool, model, target=task, scorers=["target_drop"], aim=aim, store=tmp_path)
    capsys.readouterr()
    again = ln.score(pool, model, target=task, scorers=["target_drop"], aim=aim, store=tmp_path)
    assert first.frame.equals(again.frame, null_equal=True)
    assert "training pass" not in capsys.readouterr().err


def test_round_robin_takes_each_target_row_s_nearest(scores):
    picked = ln.select(scores, 6, by="relevance", selector="round_robin")
    said = scores.says["relevance"]
    places = {name: place for place, name in enumerate(scores.frame["id"])}
    first = picked.kept.sort("rank")["id"][0]
    assert said[places[first], 0] == np.nanmax(said[1:, 0])


def test_round_robin_by_a_score_that_no_target_row_tells_is_refused(scores):
    with pytest.raises(SelectionError, match="dsir does not tell"):
        ln.select(scores, 6, by="dsir", selector="round_robin")


def test_scorers_that_need_a_target_say_so_without_one(pool, tiny):
    with pytest.raises(UsageError, match="relevance measures against a target"):
        ln.score(pool, ln.Model(str(tiny)), scorers=["relevance"])


def test_a_target_row_whose_answer_is_cut_off_is_refused(pool, tiny):
    long = row("one two three " * 200, "four")
    with pytest.raises(UsageError, match="no answer to learn from"):
        ln.score(pool, ln.Model(str(tiny)), target=[long], scorers=["dsir"])


def test_a_target_of_one_prompt_is_trained_on_without_a_check_by_halves(pool, tiny):
    task = [row("say a word", answer) for answer in ("one two", "three", "four", "five six")]
    model = ln.Model(str(tiny), dtype="float32")
    scored = ln.score(pool, model, target=task, scorers=["target_drop"], aim=Aim(epochs=1))
    assert scored.frame["target_drop"].is_finite().all()


def test_rows_of_the_target_are_not_in_the_short_training(pool, task, tiny):
    model, aim = ln.Model(str(tiny), dtype="float32"), Aim(steps=2, visit=1, rate=1.0, batch=8)
    alone, mixed = (
        ln.score(each, model, target=task, scorers=["pds"], aim=aim).frame["pds"]
        for each in (pool, [*task, *pool])
    )
    assert mixed[: len(task)].is_nan().all()
    np.testing.assert_allclose(mixed[len(task) :], alone, rtol=1e-5)


class Worth:
    needs, higher_is_better = ("worth",), True

    def __call__(self, frame):
        return frame["worth"].to_numpy()


def test_a_proxy_is_valued_as_in_the_whole_pool(pool, task, tiny, tmp_path, capsys):
    model, how = ln.Model(str(tiny), dtype="float32"), {"steps": 2, "visit": 1, "rate": 1.0, "batch": 8}
    whole, some = (
        ln.score(pool, model, target=task, scorers=[Worth()], aim=Aim(**how, proxy=proxy), store=tmp_path)
        for proxy in (len(pool), 10)
    )
    said = capsys.readouterr().err
    assert f"a proxy of {len(pool)} rows is not below the pool of {len(pool)}: all are valued" in said
    assert "10 rows of a proxy are too few to tell the worth of others" in said
    assert some.facts["proxy"] == {"rows valued": 10, "others told": 0, "rank correlation": None}
    valued = some.frame["Worth"].is_not_nan()
    assert valued.sum() == 10
    np.testing.assert_allclose(
        some.frame["Worth"].filter(valued), whole.frame["Worth"].filter(valued), rtol=0.05, atol=0.01
    )
    assert not list(tmp_path.glob("**/*.pt"))


def test_one_visit_has_no_halves_that_agree_and_counts_its_tokens(pool, task, tiny):
    model = ln.Model(str(tiny), dtype="float32")
    aim = Aim(steps=2, visit=5, rate=1.0, batch=4)
    scored = ln.score(pool, model, target=task, scorers=["pds"], aim=aim)
    assert "halves of the visits agree" not in scored.facts
    assert scored.costs["score"].tokens > 2 * scored.facts["tokens"]
