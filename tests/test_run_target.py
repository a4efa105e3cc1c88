"""Recipes that choose towards a target or by usable information, from rows to report on a tiny model."""

import polars as pl
import pytest

from learnable.cli import app as cli
from learnable.cli.printing import show
from learnable.commands import train
from learnable.commands.select import Selecting
from learnable.errors import UsageError
from learnable.recipes import less, pds, target, vinfo
from learnable.recipes.run import Run
from learnable.recipes.target import _method, _share
from learnable.settings import Aim, Reading, Reference, WarmUp
from learnable.testing import toy_examples, write_messages


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return write_messages(toy_examples(30), folder / "pool.jsonl"), write_messages(
        toy_examples(5, seed=9), folder / "task.jsonl"
    )


def run_pds(rows, tiny, folder, *, proxy=None, **more):
    pool, task = map(str, rows)
    aim = Aim(steps=4, visit=2, rate=1.0, batch=8, proxy=proxy)
    run = Run(output=str(folder), **more)
    return pds([pool], target=task, model=str(tiny), budget="8", aim=aim, run=run)


def test_pds_chooses_within_the_budget_and_writes_a_page(rows, tiny, tmp_path):
    outcomes = run_pds(rows, tiny, tmp_path)
    assert list(outcomes) == ["pool", "target", "scores", "selection", "report"]
    assert pl.read_parquet(outcomes["selection"].folder / "kept.parquet").height == 8
    assert (outcomes["report"].folder / "report.html").is_file()


def test_pds_does_nothing_twice(rows, tiny, tmp_path):
    run_pds(rows, tiny, tmp_path)
    assert not any(each.ran for each in run_pds(rows, tiny, tmp_path).values())


def test_a_dry_run_says_a_price_and_writes_nothing(rows, tiny, tmp_path):
    outcomes = run_pds(rows, tiny, tmp_path / "none", dry_run=True)
    assert outcomes["scores"].price.rows > 0
    assert not (tmp_path / "none" / "pds").exists()


@pytest.mark.parametrize("proxy", [None, 20])
def test_pds_is_priced_with_its_steps_and_their_way_back(proxy, rows, tiny, tmp_path):
    planned, done = (
        run_pds(rows, tiny, tmp_path, proxy=proxy, dry_run=dry)["scores"] for dry in (True, False)
    )
    assert planned.price.tokens == pytest.approx(done.cost.tokens, rel=0.1)
    over = "30 examples" if proxy is None else "20 examples and 1 over 30 for their vectors"
    assert planned.facts["would run"] == [f"4 training steps, 3 back, and 4 passes over {over}"]


@pytest.mark.parametrize(
    ("head", "own"), [("nl,sh", None), ("prompt,completion", None), ("q,a", "prompt=q,response=a")]
)
def test_a_target_and_a_test_may_have_the_names_of_the_pool_or_usual_or_own_ones(head, own, tiny, tmp_path):
    files = [tmp_path / f"{name}.csv" for name in ("pool", "task", "test")]
    for file, words in zip(files, ("red", "green", "blue"), strict=True):
        rows = [f"say {words} {number},{words} {number}" for number in range(12)]
        file.write_text("\n".join(["nl,sh" if words == "red" else head, *rows]), encoding="utf-8")
    pool, task, test = map(str, files)
    outcomes = target(
        [pool],
        target=task,
        target_columns=own,
        test=test,
        model=str(tiny),
        budget="4",
        seeds=1,
        holdout=0.0,
        reading=Reading(columns="prompt=nl,response=sh"),
        run=Run(output=str(tmp_path / "runs"), dry_run=False),
    )
    assert outcomes["target"].facts["examples"] == 12
    assert (outcomes["verdict"].folder / "report.html").is_file()


def test_vinfo_trains_two_references_and_chooses(rows, tiny, tmp_path):
    outcomes = vinfo(
        [str(rows[0])],
        model=str(tiny),
        budget="6",
        reference=Reference(folds=2),
        run=Run(output=str(tmp_path)),
    )
    assert list(outcomes) == ["pool", "reference", "null", "scores", "selection", "report"]
    assert pl.read_parquet(outcomes["selection"].folder / "kept.parquet").height == 6
    assert outcomes["null"].facts["prompt"] == "none"
    page = (outcomes["report"].folder / "report.html").read_text()
    assert 'id="information"' in page
    assert "Vendi score" in page


def test_vinfo_refuses_references_that_have_seen_the_rows_before_it_trains_any(rows, tiny, tmp_path):
    with pytest.raises(UsageError, match="have not seen the rows"):
        vinfo([str(rows[0])], model=str(tiny), reference=Reference(), run=Run(output=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_comparison_chooses_as_the_selection_does():
    by = Selecting(by="less@adam=exact", selector="k_center", per_source="equal", lowest=True)
    assert _method(by) == "less@adam=exact,per_source=equal,lowest=true/k_center"
    assert _method(Selecting(by="relevance", where="tokens < 80")) == "relevance@where=tokens < 80"
    by = Selecting(by="hard_not_wrong", min_score=0.0, selector="spread_top")
    assert _method(by) == "hard_not_wrong@min_score=0.0/spread_top"
    with pytest.raises(UsageError, match="--min-loss-before"):
        _method(Selecting(by="dsir", min_loss_before=0.0))


def test_a_number_of_examples_is_priced_as_its_share():
    assert (_share("50", 1_000), _share("7%", 1_000)) == ("5%", "7%")


def run_less(rows, tiny, folder, **more):
    pool, task = map(str, rows)
    warmup = Reference(epochs=2, batch_size=4, rank=2)
    return less(
        [pool], target=task, model=str(tiny), budget="6", warmup=warmup, run=Run(output=str(folder), **more)
    )


def test_less_warms_up_and_chooses(rows, tiny, tmp_path):
    outcomes = run_less(rows, tiny, tmp_path)
    assert list(outcomes) == ["pool", "target", "warmup", "scores", "selection", "report"]
    scores = pl.read_parquet(outcomes["scores"].folder / "scores.parquet")
    kept = pl.read_parquet(outcomes["selection"].folder / "kept.parquet")
    best = scores.sort("less", descending=True).head(6)["id"]
    assert sorted(kept["id"]) == sorted(best)
    facts = outcomes["scores"].facts
    assert sum(facts["less: epochs"].values()) == pytest.approx(1, abs=1e-3)
    assert 0 <= facts["less: moments below epsilon"] <= 1
    assert (outcomes["report"].folder / "report.html").is_file()
    assert not any(each.ran for each in run_less(rows, tiny, tmp_path).values())


def test_a_dry_run_of_less_prices_what_is_not_made_yet(rows, tiny, tmp_path):
    outcomes = run_less(rows, tiny, tmp_path / "none", dry_run=True)
    assert outcomes["warmup"].price.rows == 2 * 30
    assert outcomes["scores"].price.rows > 0
    assert not (tmp_path / "none" / "less").exists()


def test_nothing_is_left_out_of_a_training_that_is_done_already(rows, tiny, tmp_path):
    given = {"target": str(rows[1]), "reference": Reference(model=str(tiny)), "output": str(tmp_path / "r")}
    with pytest.raises(UsageError, match="nothing is trained where a model is given"):
        train([str(rows[0])], model=str(tiny), **given)


def test_a_warm_up_is_priced_as_it_is_drawn():
    warmup = WarmUp(epochs=4, fraction=0.05, batch_size=8)
    assert warmup.passes_over(400, keep_epochs=True) == 4 * 64 / 400
    assert warmup.passes_over(4_000, keep_epochs=True) == pytest.approx(4 * 0.05)
    assert warmup.passes_over(400, keep_epochs=False) == pytest.approx(4 * 0.05)


def run_target(rows, tiny, folder, **more):
    pool, task = map(str, rows)
    aim = Aim(epochs=1, check=False)
    given = {"model": str(tiny), "budget": "8", "aim": aim, "seeds": 1} | more
    return target(
        [pool], target=task, run=Run(output=str(folder), dry_run=given.pop("dry_run", False)), **given
    )


def test_target_chooses_and_compares_with_a_random_draw(rows, tiny, tmp_path, capsys):
    outcomes = run_target(rows, tiny, tmp_path)
    show(outcomes)
    said = capsys.readouterr().out
    for step, file in (
        ("selection", "selected/pool.jsonl"),
        ("report", "report.html"),
        ("verdict", "report.html"),
    ):
        assert str(outcomes[step].folder / file) in said
    steps = ["pool", "target", "scores", "selection", "report", "comparison", "verdict"]
    assert list(outcomes) == steps
    table = pl.read_parquet(outcomes["comparison"].folder / "table.parquet")
    assert set(table["method"]) == {"untuned", "random", "relevance/round_robin"}
    assert set(table["evaluation"]) == {"target, held back", "heldout"}


def test_target_takes_another_score_and_selector(rows, tiny, tmp_path):
    by = Selecting(by="relevance", selector="round_robin")
    outcomes = run_target(rows, tiny, tmp_path, scorers=["relevance"], choosing=by)
    methods = pl.read_parquet(outcomes["comparison"].folder / "table.parquet")["method"]
    assert "relevance/round_robin" in methods.to_list()
    assert "What the target pulled in" in (outcomes["report"].folder / "report.html").read_text()


def test_target_without_seeds_trains_nothing(rows, tiny, tmp_path):
    outcomes = run_target(rows, tiny, tmp_path, seeds=0)
    assert list(outcomes)[-1] == "report"


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_target_that_leaves_nothing_to_judge_on_is_refused_before_anything_is_measured(
    dry_run, rows, tiny, tmp_path
):
    task = write_messages(toy_examples(1, seed=9), tmp_path / "one.jsonl")
    with pytest.raises(UsageError, match="held back to judge on"):
        run_target((rows[0], task), tiny, tmp_path / "runs", dry_run=dry_run)


def test_how_many_rows_of_a_target_are_held_back_is_said_before_anything_is_measured(
    rows, tiny, tmp_path, capsys
):
    run_target(rows, tiny, tmp_path, dry_run=True)
    assert "rows of the target are held back to judge on" in capsys.readouterr().err


def test_a_test_that_is_the_target_is_refused_before_anything_is_measured(rows, tiny, tmp_path):
    with pytest.raises(UsageError, match="has rows of the target"):
        run_target(rows, tiny, tmp_path, test=str(rows[1]), dry_run=True)


def test_a_dry_run_of_target_prices_the_comparison(rows, tiny, tmp_path):
    outcomes = run_target(rows, tiny, tmp_path / "none", dry_run=True)
    assert outcomes["comparison"].price.tokens > 0
    assert not (tmp_path / "none" / "target").exists()


@pytest.mark.parametrize("name", ["less", "pds", "target", "vinfo"])
def test_one_option_of_a_group_leaves_the_others_of_the_recipe(name, rows, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run", name, str(rows[0]), "--model", str(tiny), "--per-source", "equal", "--dry-run"]
    words += {
        "vinfo": ["--reference.epochs", "2"],
        "less": ["--warmup.epochs", "2"],
        "target": ["--tuning.rank", "2"],
        "pds": [],
    }[name]
    assert cli.call([*words, *([] if name == "vinfo" else ["--target", str(rows[1])])]) == 0
