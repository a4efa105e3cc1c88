"""A comparison from rows to table on a tiny model: what it trains, what it does not do twice, and that it can be killed."""

import json
import random
import shutil
import signal
import time

import numpy as np
import polars as pl
import pytest

from learnable import commands as verbs
from learnable.cli import app as cli
from learnable.errors import LearnableError, UsageError
from learnable.experiments import FULL, RANDOM, UNTUNED
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.settings import Loading, Reference, Tuning
from learnable.testing import toy_examples, write_messages
from learnable.training import fine_tune
from learnable.types import ModelRef
from processes import at_work

ROWS, SEEDS = 48, 2
METHODS = ("learnability@folds=2", "ifd", "k_center", "in_best", "longest", "length", "full")
TUNING = Tuning(learning_rate=0.02, batch_size=2, rank=2)
TIMES = ("training_s", "score_s", "reference_s", "payback")
"""Columns that tell how long something took, here and now."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a pool of rows, a third of which ``in_best`` marks, and rows to evaluate on."""
    folder = tmp_path_factory.mktemp("compare")
    rows = write_messages(toy_examples(ROWS), folder / "mine.jsonl")
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    marked = [line | {"in_best": number % 3 == 0} for number, line in enumerate(lines)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in marked))
    write_messages(toy_examples(10, seed=7), folder / "eval.jsonl")
    write_messages(toy_examples(6, seed=8), folder / "other.jsonl")
    verbs.load([str(rows)], output=str(folder / "pool"))
    return folder


@pytest.fixture(scope="module")
def compare(place, tiny):
    """Compare with usual settings, or others, and return the outcome."""

    def run(output, *, evaluate=("eval",), by=METHODS, **given):
        usual = {"model": str(tiny), "budget": ["30%"], "seeds": SEEDS, "tuning": TUNING}
        usual |= {"reference": Reference(learning_rate=0.02, batch_size=4, rank=2)}
        usual |= {"loading": Loading(dtype="float32"), "store": str(place / "store")}
        return verbs.compare(
            [str(place / "pool")],
            evaluate=[name if ":" in name else f"heldout:{place / name}.jsonl" for name in evaluate],
            by=list(by),
            output=str(place / output),
            **(usual | given),
        )

    return run


@pytest.fixture(scope="module")
def compared(compare):
    return compare("usual")


def read(outcome, name):
    return pl.read_parquet(outcome.folder / f"{name}.parquet")


def arm_folders(place):
    """Return when each training in the store was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in place.glob("store/arms/*/training.json")}


def test_the_table_has_a_line_for_each_method(compared):
    table = read(compared, "table")
    assert sorted(table["method"]) == sorted([*METHODS, RANDOM, UNTUNED])
    assert table["value"].is_finite().all()
    assert table.filter(pl.col("method") != RANDOM)["verdict"].null_count() == 0


def test_every_arm_was_evaluated_on_every_item(compared):
    counts = read(compared, "results").group_by("method", "seed").len()
    assert set(counts["len"]) == {10}
    assert counts.height == SEEDS * (len(METHODS) + 1) + 1


def test_the_untuned_value_is_the_loss_of_the_base(compared, place, tiny):
    network = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    rendered = network.renderer.render(toy_examples(10, seed=7), max_length=256)
    losses = network.nll(rendered) / [example.mask.sum() for example in rendered]
    table = read(compared, "table")
    assert table.filter(pl.col("method") == UNTUNED)["value"].item() == pytest.approx(losses.mean(), abs=1e-5)


def test_training_moved_every_model(compared):
    table = read(compared, "table")
    untuned = table.filter(pl.col("method") == UNTUNED)["value"].item()
    assert (table.filter(pl.col("method") != UNTUNED)["value"] - untuned).abs().min() > 1e-3


def test_all_arms_of_a_budget_trained_for_the_same_steps(compared):
    arms = read(compared, "arms").filter(pl.col("budget_tokens").is_not_null())
    assert arms["steps"].n_unique() == 1
    assert arms["examples"].n_unique() > 1, "selections of differing sizes"


def test_no_arm_takes_more_tokens_than_the_budget(compared):
    arms = read(compared, "arms").filter(pl.col("budget_tokens").is_not_null())
    assert (arms["tokens"] <= arms["budget_tokens"]).all()
    assert (arms["tokens"] > 0.85 * arms["budget_tokens"]).all()


def test_equal_selections_are_trained_once(compared, place):
    arms = read(compared, "arms")
    folders = {name: arms.filter(pl.col("method") == name)["model"].to_list() for name in arms["method"]}
    assert folders["longest"] == folders["length"]
    assert len(set(folders["longest"])) == SEEDS
    assert compared.facts["trainings"] == arms["model"].drop_nulls().n_unique() < arms.height - 1


def test_a_published_selection_is_chosen_from_its_rows(compared, place):
    pool = pl.read_parquet(place / "pool" / "examples.parquet")["id"].to_list()
    chosen = read(compared, "selections").filter(pl.col("method") == "in_best")
    assert {pool.index(name) % 3 for name in chosen["id"]} == {0}


def test_the_selections_are_in_the_order_of_the_scores(compared):
    scores, chosen = read(compared, "scores"), read(compared, "selections")
    mine = chosen.filter((pl.col("method") == "ifd") & (pl.col("seed") == 0)).sort("rank")
    ifd = mine.join(scores.select("id", "ifd"), on="id", how="left", maintain_order="left")["ifd"]
    assert ifd.to_list() == sorted(ifd, reverse=True)
    assert ifd.max() <= 1


def test_the_full_pool_is_trained_on_whole(compared):
    arms = read(compared, "arms").filter(pl.col("method") == FULL)
    assert set(arms["examples"]) == {ROWS}


def test_a_second_run_does_nothing(compare, compared, place):
    before = arm_folders(place)
    again = compare("usual")
    assert not again.ran
    assert arm_folders(place) == before


def test_another_evaluation_reuses_all_trainings(compare, compared, place):
    before = arm_folders(place)
    other = compare("other", evaluate=("other", "eval"))
    assert arm_folders(place) == before
    assert read(other, "table")["evaluation"].unique(maintain_order=True).to_list() == [
        "heldout:other.jsonl",
        "heldout:eval.jsonl",
    ]
    both = pl.concat([read(other, "table"), read(compared, "table")])
    values = both.filter(pl.col("evaluation") == "heldout:eval.jsonl").group_by("method").agg("value")
    assert all(np.ptp(found) == 0 for found in values["value"].to_list())


def test_a_further_method_trains_only_its_own(compare, compared, place):
    before = arm_folders(place)
    compare("further", by=(*METHODS, "shortest"))
    after = arm_folders(place)
    assert len(after.keys() - before.keys()) == SEEDS
    assert {name: after[name] for name in before} == before


def test_a_dry_run_tells_the_price_and_leaves_nothing(compare, place, monkeypatch):
    compare(
        "dry", by=("learnability@folds=2", "learnability", "full", "perplexity"), dry_run=True
    )  # times the model
    monkeypatch.setattr(LanguageModel, "__init__", lambda *_: pytest.fail("a model was loaded"))
    before = sorted(place.rglob("*"))
    planned = compare("dry", by=("learnability@folds=2", "learnability", "full", "perplexity"), dry_run=True)
    assert sorted(place.rglob("*")) == before
    price = "; ".join(planned.facts["would run"])
    assert f"2 reference training passes over {ROWS} examples" in price
    assert "at most 8 trainings of 30%" in price
    assert f"2 trainings on all {ROWS} examples" in price
    assert "10 evaluation items for each model" in price
    assert not planned.ran
    assert (
        min(planned.price.tokens, planned.price.seconds, planned.price.peak_gib, planned.price.disk_gib) > 0
    )


def test_methods_without_a_pass_can_be_compared(compare, place):
    # Nothing is measured, so nothing is timed: the table says so instead of failing at its end.
    outcome = compare("unmeasured", by=("longest",), store=str(place / "empty-store"), seeds=1)
    assert read(outcome, "table").filter(pl.col("method") == "longest")["payback"].item()


def test_what_was_scored_before_can_be_compared(compare, place, tiny):
    store = str(place / "scored-store")
    verbs.score(
        [str(place / "pool")],
        model=str(tiny),
        scorers=["ifd"],
        loading=Loading(dtype="float32"),
        store=store,
        output=str(place / "scored"),
    )
    outcome = compare("measured", by=("ifd",), store=store, seeds=1)
    assert read(outcome, "table").filter(pl.col("method") == "ifd")["payback"].item()


def test_several_budgets_make_a_curve(compare, place):
    outcome = compare("curve", by=("longest",), budget=["20%", "30%"])
    table = read(outcome, "table")
    assert table.filter(pl.col("method") == "longest")["budget_tokens"].n_unique() == 2
    assert table.filter(pl.col("method") == UNTUNED).height == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": ("learnabilty",)}, "no way to choose called 'learnabilty'"),
        ({"budget": ["10"]}, "equal tokens, not equal numbers of examples"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"confidence": 1.0}, "confidence between 0 and 1"),
        ({"evaluate": ("nothing:x.jsonl",)}, "no evaluator called 'nothing'"),
        ({"by": ("ifd", "ifd")}, "there twice"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_an_error_at_the_start(compare, place, given, said):
    with pytest.raises(UsageError, match=said):
        compare("wrong", **given)
    assert not (place / "wrong").exists()


def test_a_budget_above_the_pool_is_an_error_before_anything_is_trained(compare, place):
    before = arm_folders(place)
    with pytest.raises(LearnableError, match="above the pool"):
        compare("large", budget=["9999999tokens"])
    assert arm_folders(place) == before


def test_a_full_fine_tuning_can_be_compared(compare):
    whole = Tuning(method="full", learning_rate=1e-3, batch_size=8)
    table = read(compare("whole", by=("longest",), tuning=whole, seeds=1), "table")
    untuned = table.filter(pl.col("method") == UNTUNED)["value"].item()
    assert (table.filter(pl.col("method") != UNTUNED)["value"] - untuned).abs().min() > 1e-3


def test_selections_of_different_sizes_train_for_the_same_steps(tiny, tmp_path):
    ref = ModelRef(name=str(tiny), dtype="float32")
    rendered = Renderer.of(ref).render(toy_examples(20), max_length=128)
    tuning = Tuning(steps=3, epochs=2, batch_size=8)
    steps = []
    for size in (3, 7, 20):
        folder = tmp_path / str(size)
        fine_tune(ref, rendered[:size], folder, tuning=tuning, label="training")
        steps.append(json.loads((folder / "training.json").read_text())["steps"])
    assert steps == [6, 6, 6]


def kill(words, folder, *, kills, duration_s):
    """Start the command again and again, and kill it so many times, at random moments of its work."""
    rng, hits = random.Random(kills), 0
    while hits < kills:
        process = at_work(words, folder)
        process.join(rng.uniform(0.1, 0.9) * duration_s)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            hits += 1
        else:
            shutil.rmtree(folder)  # it ended first: what follows must be killed on the way, too
            folder.mkdir()


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_killing_a_comparison_at_random_moments_changes_nothing(
    compare, place, tiny, tmp_path, monkeypatch, kills
):
    by = ("ifd", "learnability")
    started = time.monotonic()
    unbroken = compare(f"unbroken-{kills}", by=by, store=str(tmp_path / "store"), seeds=1)
    inside_s = time.monotonic() - started
    words = ["compare", str(place / "pool"), "--model", str(tiny)]
    words += ["--evaluate", f"heldout:{place / 'eval.jsonl'}", "--by", *by, "--budget", "30%"]
    words += ["--seeds", "1", "--dtype", "float32", "--tuning.learning-rate", "0.02"]
    words += ["--tuning.batch-size", "2", "--tuning.rank", "2", "--reference.learning-rate", "0.02"]
    words += ["--reference.batch-size", "4", "--reference.rank", "2"]
    work = tmp_path / "work"
    work.mkdir()
    kill(words, work, kills=kills, duration_s=inside_s)
    monkeypatch.chdir(work)
    assert cli.call(words) == 0
    found = pl.read_parquet(work / "comparison" / "table.parquet")
    assert found.drop(TIMES).equals(read(unbroken, "table").drop(TIMES))
