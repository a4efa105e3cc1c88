"""A comparison towards a target: its arms, what they are judged on, and what is refused."""

import polars as pl
import pytest

from learnable.commands.compare import apart, compare, held_back_words
from learnable.commands.load import load
from learnable.errors import UsageError
from learnable.evaluators import Evaluation
from learnable.settings import Aim, WarmUp
from learnable.testing import toy_examples, write_messages

AIM = Aim(epochs=1, check=False)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return (
        str(write_messages(toy_examples(30), folder / "pool.jsonl")),
        str(write_messages(toy_examples(8, seed=9), folder / "task.jsonl")),
        str(write_messages(toy_examples(4, seed=7), folder / "test.jsonl")),
    )


@pytest.fixture(scope="module")
def compared(rows, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    by = ["target_learnability", "relevance/round_robin", "dsir", "less", "hard_not_wrong@folds=2"]
    return compare(
        [rows[0]],
        model=str(tiny),
        target=rows[1],
        by=by,
        budget=["30%"],
        seeds=1,
        aim=AIM,
        store=str(folder / "store"),
        output=str(folder / "comparison"),
    )


def test_it_is_judged_on_a_part_of_the_target_and_on_the_pool(compared):
    evaluations = pl.read_parquet(compared.folder / "table.parquet")["evaluation"].unique().to_list()
    assert len(evaluations) == 2
    assert any("target" in each for each in evaluations)


def test_every_method_chooses_and_costs(compared):
    table = pl.read_parquet(compared.folder / "table.parquet")
    chosen = {"target_learnability", "relevance/round_robin", "dsir", "less", "hard_not_wrong@folds=2"}
    assert set(table["method"]) == {"untuned", "random", *chosen}
    costs = dict(table.filter(pl.col("method") != "untuned").select("method", "score_tokens").iter_rows())
    assert costs["dsir"] == 0
    assert costs["target_learnability"] == 2 * costs["relevance/round_robin"] > 0


def test_no_row_of_the_target_is_chosen_from(rows, tiny, tmp_path):
    both = write_messages([*toy_examples(6), *toy_examples(8, seed=9)], tmp_path / "both.jsonl")
    done = compare(
        [str(both)],
        model=str(tiny),
        target=rows[1],
        by=["dsir"],
        evaluate=[f"heldout:{rows[2]}"],
        budget=["60%"],
        seeds=1,
        store=str(tmp_path / "store"),
        output=str(tmp_path / "comparison"),
    )
    own = {each.id for each in toy_examples(8, seed=9)}
    assert not own & set(pl.read_parquet(done.folder / "selections.parquet")["id"])


def test_a_pool_with_all_rows_of_the_target_is_judged_on_others(rows, tiny, tmp_path):
    both = write_messages([*toy_examples(30), *toy_examples(8, seed=9)], tmp_path / "both.jsonl")
    done = compare(
        [str(both)],
        model=str(tiny),
        target=rows[1],
        by=["dsir"],
        budget=["60%"],
        seeds=1,
        store=str(tmp_path / "store"),
        output=str(tmp_path / "comparison"),
    )
    own = {each.id for each in toy_examples(8, seed=9)}
    assert not own & set(pl.read_parquet(done.folder / "selections.parquet")["id"])


def test_rows_of_the_target_that_are_held_out_of_the_data_are_not_judged_on(rows, tmp_path):
    target = load([rows[1]], output=str(tmp_path / "target"))
    held_out = [
        Evaluation(label="heldout", evaluator=None, examples=toy_examples(8, seed=9) + toy_examples(2))
    ]
    (found,) = apart(target, ["heldout"], held_out)
    assert [each.id for each in found.examples] == [each.id for each in toy_examples(2)]
    with pytest.raises(UsageError, match="has rows of the target"):
        apart(target, ["heldout:file.jsonl"], held_out)


def test_a_target_that_is_the_evaluation_is_refused(rows, tiny, tmp_path):
    with pytest.raises(UsageError, match="has rows of the target"):
        compare(
            [rows[0]],
            model=str(tiny),
            target=rows[1],
            evaluate=[f"heldout:{rows[1]}"],
            output=str(tmp_path / "comparison"),
        )


@pytest.mark.parametrize(("back", "of", "told"), [(3, 10, "give 17 rows or more"), (5, 17, "few rows, wide")])
def test_too_few_rows_of_a_target_for_a_verdict_are_said_before(back, of, told):
    assert told in held_back_words(back, of=of)


def test_a_method_that_needs_a_target_says_so_without_one(rows, tiny, tmp_path):
    with pytest.raises(UsageError, match="measures against a target"):
        compare(
            [rows[0]],
            model=str(tiny),
            by=["relevance"],
            seeds=1,
            store=str(tmp_path),
            output=str(tmp_path / "c"),
        )


def test_gradients_are_taken_at_a_warm_up_that_counts_as_a_cost(rows, tiny, tmp_path):
    by = ["less", "less@adam=exact,checkpoints=1/round_robin"]
    warmup = WarmUp(epochs=2, batch_size=4, rank=2)
    options = {
        "budget": ["30%"],
        "seeds": 1,
        "evaluate": [f"heldout:{rows[2]}"],
        "store": str(tmp_path / "store"),
    }
    compared = compare(
        [rows[0]],
        model=str(tiny),
        target=rows[1],
        by=by,
        warmup=warmup,
        output=str(tmp_path / "comparison"),
        **options,
    )
    table = pl.read_parquet(compared.folder / "table.parquet")
    assert set(table["method"]) == {"untuned", "random", *by}
    costs = table.filter(pl.col("method").is_in(by))
    assert (costs["reference_tokens"] > 0).all()
    assert (costs["score_tokens"] > 0).all()
    assert len(list((tmp_path / "store").glob("warmup-*"))) == 1
