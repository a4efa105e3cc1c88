"""The recipe ``merge``, from rows to report on a tiny model."""

import polars as pl
import pytest

from learnable import commands
from learnable.cli import app as cli
from learnable.experiments import imbalance
from learnable.experiments.singles import best_of, single_of
from learnable.recipes import merge
from learnable.recipes.run import Run
from learnable.recipes.target import ThreeEpochs
from learnable.settings import Loading, Tuning
from learnable.testing import toy_examples, write_messages

HOW = {"epochs": 2.0, "batch_size": 4, "rank": 2, "learning_rate": 1e-2}


def run_merge(rows, tiny, folder, *, dry_run=False, **more):
    given = {
        "orders": 3,
        "tuning": ThreeEpochs(**HOW),
        "holdout": 0.3,
        "loading": Loading(dtype="float32"),
    } | more
    return merge([str(rows)], model=str(tiny), run=Run(output=str(folder), dry_run=dry_run), **given)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_messages(toy_examples(40), tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="module")
def ran(rows, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_merge(rows, tiny, folder)


def frame(ran, name):
    return pl.read_parquet(ran[1]["merging"].folder / f"{name}.parquet")


def test_all_arms_stand_in_the_table(ran):
    table = frame(ran, "table")
    assert set(table["arm"]) == {"single", "best single", "untuned", "select", "average", "noise"}
    assert table["value"].is_finite().all()
    assert table.filter(pl.col("arm") != "single")["difference"].is_finite().all()
    assert set(frame(ran, "against_average")["arm"]) == {"select", "average", "noise"}


def test_a_single_training_is_the_mean_over_the_orders(ran):
    results = frame(ran, "results")
    orders = results.filter(pl.col("arm").str.starts_with("order"))
    single = results.filter(arm="single")
    assert orders["arm"].n_unique() == 3
    assert single["value"].mean() == pytest.approx(orders["value"].mean())
    arms = frame(ran, "arms")
    steps = dict(arms.select("arm", "steps").iter_rows())
    assert steps["select"] == steps["best single"] == 3 * steps["single"] == 3 * steps["order 1"]


def test_copies_begin_alike_and_differ_by_their_order(ran):
    merges = frame(ran, "merges")
    assert merges["merger"].to_list() == ["select", "average", "noise"]
    assert (merges["cosine"] > 0.2).all()
    assert frame(ran, "arms").filter(pl.col("arm").str.starts_with("order"))["model"].n_unique() == 3


def test_the_slope_is_that_of_the_stored_frame(ran):
    order = frame(ran, "order").sort("order", "id")
    places, losses = (order[name].to_numpy().reshape(3, -1) for name in ("first", "loss"))
    said = ran[1]["merging"].facts["slope, first epoch"]
    assert said.startswith(f"{imbalance(places, losses).slope:+.4f}")


def test_the_page_and_the_kept_model_are_there(ran, tmp_path):
    page = (ran[1]["report"].folder / "report.html").read_text()
    assert "Does merging help?" in page
    assert "Does the order show?" in page
    found = commands.evaluate(
        [f"heldout:{ran[1]['pool'].folder / 'heldout.jsonl'}"],
        model=str(ran[1]["merging"].folder / "model"),
        loading=Loading(dtype="float32"),
        store=str(tmp_path / "store"),
        output=str(tmp_path / "evaluation"),
    )
    selected = frame(ran, "results").filter(arm="select").sort("id")["value"]
    again = pl.read_parquet(found.folder / "results.parquet").sort("id")["value"]
    assert again.to_list() == pytest.approx(selected.to_list(), rel=1e-4)


def test_nothing_is_done_twice_and_another_merger_trains_nothing(ran, rows, tiny):
    assert not any(each.ran for each in run_merge(rows, tiny, ran[0]).values())
    before = sorted(path.name for path in (ran[0] / "store" / "arms").iterdir())
    run_merge(rows, tiny, ran[0], mergers=["average@p=0.5,0.25,0.25"])
    assert sorted(path.name for path in (ran[0] / "store" / "arms").iterdir()) == before


def test_the_first_order_is_what_a_comparison_trained_on_all_rows(ran, tiny):
    folder = ran[0]
    before = {path.name for path in (folder / "store" / "arms").iterdir() if path.is_dir()}
    commands.compare(
        [ran[1]["pool"].path],
        model=str(tiny),
        by=["full"],
        budget=["30%"],
        seeds=1,
        tuning=Tuning(**HOW),
        loading=Loading(dtype="float32"),
        store=str(folder / "store"),
        output=str(folder / "comparison"),
    )
    after = {path.name for path in (folder / "store" / "arms").iterdir() if path.is_dir()}
    assert len(after - before) == 1, "the random draw alone is trained"


def test_full_tuning_in_two_sets(rows, tiny, tmp_path):
    tuning = ThreeEpochs(**HOW | {"method": "full", "learning_rate": 1e-3, "epochs": 1.0})
    outcomes = run_merge(rows, tiny, tmp_path, orders=2, seeds=2, tuning=tuning, mergers=["average"])
    arms = pl.read_parquet(outcomes["merging"].folder / "arms.parquet")
    assert arms.filter(pl.col("arm").str.starts_with("order"))["model"].n_unique() == 4
    assert arms.filter(arm="average").height == 2
    assert not (outcomes["merging"].folder / "against_average.parquet").exists()
    assert len(outcomes["merging"].facts["notes"]) == 0


def test_a_dry_run_says_a_price_and_writes_nothing(rows, tiny, tmp_path):
    outcomes = run_merge(rows, tiny, tmp_path / "none", dry_run=True)
    assert outcomes["merging"].price.rows > 0
    assert not (tmp_path / "none" / "merge").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--orders", "1"], "2 or more orders"),
        (["--mergers", "mean"], "no way to merge"),
        (["--mergers", "select@p=0.5,0.5"], "2 probabilities for 4"),
        (["--tuning.epochs", "1.5"], "whole epochs"),
        (["--tuning.order-seed", "3"], "no effect"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    words, said, rows, tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.call(["run", "merge", str(rows), "--model", str(tiny), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.parquet"))


class TestSingles:
    def copies(self):
        """Two orders and four items; the first is better on items a and c, which are one half, the second on the other."""
        values = {"order 1": [1.0, 9.0, 1.0, 9.0], "order 2": [2.0, 3.0, 2.0, 3.0]}
        lines = [
            {
                "arm": arm,
                "budget_tokens": None,
                "seed": 0,
                "evaluation": "e",
                "id": item,
                "source": "s",
                "value": value,
            }
            for arm, found in values.items()
            for item, value in zip("abcd", found, strict=True)
        ]
        return pl.DataFrame(lines).with_columns(answer=pl.lit(""), why=pl.lit(""))

    def test_the_best_is_judged_on_other_items_than_it_is_chosen_by(self):
        found = best_of(self.copies(), higher_is_better={"e": False}).sort("id")
        assert found["value"].to_list() == [2.0, 9.0, 2.0, 9.0]

    def test_single_is_the_mean(self):
        assert single_of(self.copies()).sort("id")["value"].to_list() == [1.5, 6.0, 1.5, 6.0]
