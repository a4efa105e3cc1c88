"""The recipe ``lobass`` from rows to report on a tiny model: what it leaves behind, and what it does not do twice."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import polars as pl
import pytest
import yaml
from pydantic_core import to_json

from learnable import commands as verbs
from learnable import recipes
from learnable.cli import app as cli
from learnable.cli import running
from learnable.errors import ModelError, StoreError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.recipes.run import as_written
from learnable.recipes.run import words as typed_words
from learnable.runs.records import read_outcome
from learnable.settings import Loading
from learnable.testing import toy_examples, write_messages
from processes import at_work

ROWS = 30


def started(*words):
    """Run a recipe as the command line would, and return its outcomes."""
    function, given = running.understood(cli._joined([str(word) for word in words]))
    return function(*given.args, **given.kwargs)


@pytest.fixture
def rows(tmp_path):
    return write_messages(toy_examples(ROWS), tmp_path / "mine.jsonl")


@pytest.fixture
def lobass(rows, tiny, tmp_path):
    """Run the recipe on the rows, with further settings, and return its outcomes."""
    return recipe_on(rows, tiny)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The same where the recipe has run already, for tests that only look, or add to it."""
    folder = tmp_path_factory.mktemp("finished")
    run = recipe_on(write_messages(toy_examples(ROWS), folder / "mine.jsonl"), tiny)
    run()
    return run


def recipe_on(rows, model):
    output = rows.parent / "runs"

    def run(*words, data=(rows,), dry_run=False):
        usual = {"--model": model, "--dtype": "float32", "--budget": "20%"}
        usual |= {"--reference.learning-rate": 0.01, "--reference.batch-size": 4}
        given = {str(word).removesuffix(".tokens") for word in words}
        typed = [
            *data,
            *[word for flag, value in usual.items() if flag not in given for word in (flag, value)],
        ]
        typed += [*words, "--output", output, *(["--dry-run"] if dry_run else [])]
        return started("lobass", *typed)

    return run


@pytest.fixture
def measured(monkeypatch):
    """Count the examples that went through a model; those that a report spells out are not measured."""
    counted = []
    monkeypatch.setattr(sys.modules["learnable.commands.report"], "TOKEN_EXAMPLES", 0)
    begin = LanguageModel.begin

    def counting(self, launch, batch):
        counted.extend(batch)
        return begin(self, launch, batch)

    monkeypatch.setattr(LanguageModel, "begin", counting)
    return counted


def kept(outcomes):
    return pl.read_parquet(outcomes["selection"].folder / "kept.parquet")


def test_chosen_rows_are_lines_of_the_input_in_their_order(finished, rows):
    outcomes = finished()
    lines = rows.read_text().splitlines()
    chosen = (outcomes["selection"].folder / "selected" / "mine.jsonl").read_text().splitlines()
    assert len(chosen) == ROWS * 20 // 100
    assert [line for line in lines if line in set(chosen)] == chosen


def test_every_row_is_chosen_or_in_the_ledger(lobass, rows, tmp_path):
    rows.write_text(rows.read_text() + rows.read_text().splitlines()[0] + "\n" + '{"messages": []}\n')
    outcomes = lobass("--on-error", "skip")
    folder = outcomes["selection"].folder
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    chosen = (folder / "selected" / "mine.jsonl").read_text().splitlines()
    assert len(dropped) + len(chosen) == ROWS + 2
    assert {row["line"] for row in dropped} | {
        rows.read_text().splitlines().index(line) + 1 for line in chosen
    } == set(range(1, ROWS + 3))
    assert dropped[-2]["reason"] == "duplicate of mine.jsonl:1"
    assert dropped[-1]["line"] == ROWS + 2


def test_the_scores_are_the_formula_over_the_losses(finished):
    frame = pl.read_parquet(finished()["scores"].folder / "scores.parquet")
    expected = 1 - frame["loss_after"].cast(pl.Float64) / frame["loss_before"].cast(pl.Float64)
    assert (frame["learnability"] - expected).abs().max() < 1e-6
    assert frame["learnability"].mean() > 0, "fine-tuning lowered the loss"


def test_a_second_run_does_nothing(finished, measured):
    first = finished()
    measured.clear()
    second = finished()
    assert [outcome.ran for outcome in second.values()] == [False] * 5
    assert {name: outcome.folder for name, outcome in second.items()} == {
        name: o.folder for name, o in first.items()
    }
    assert measured == []


def test_scores_of_a_killed_run_cost_what_those_of_an_unbroken_one_do(lobass, monkeypatch, tmp_path):
    monkeypatch.setattr("learnable.measures.keep.STORE_EVERY_S", 0.0)
    usual = ("--batch-tokens", "200", "--scorers", "loss", "--by", "loss")
    unbroken = lobass(*usual)["scores"].cost
    shutil.rmtree(tmp_path / "runs")
    begin, batches = LanguageModel.begin, []

    def killed(self, launch, batch):
        batches.append(batch)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return begin(self, launch, batch)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModel, "begin", killed)
        with pytest.raises(KeyboardInterrupt):
            lobass(*usual)
    resumed = lobass(*usual)["scores"].cost
    assert (resumed.tokens, resumed.passes) == (unbroken.tokens, unbroken.passes)


def test_a_second_run_writes_nothing(finished):
    folder = finished()["pool"].folder.parents[1]

    def seen():
        return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = seen()
    finished()
    assert seen() == before


def test_outputs_that_were_removed_are_made_again(lobass, measured, capsys):
    first = lobass()
    lost = {
        "pool": "rows.parquet",
        "reference": "part-0/adapter_model.safetensors",
        "scores": "scores.parquet",
        "selection": "selected/mine.jsonl",
        "report": "report.html",
    }
    for name, inside in lost.items():
        path = first[name].folder / inside
        content = path.read_bytes()
        path.unlink()
        measured.clear()
        again = lobass()
        assert [step for step, outcome in again.items() if outcome.ran] == [name]
        assert f"{inside} is missing, and is made again" in capsys.readouterr().err
        assert measured == []
        if name != "report":  # which tells what its steps cost
            assert path.read_bytes() == content


def test_a_recipe_selects_by_any_column_that_its_scorers_measure(finished):
    outcomes = finished("--scorers", "ifd", "--by", "loss_alone")
    assert outcomes["selection"].facts["kept"] > 0
    with pytest.raises(UsageError, match="--by is 'loss_alone'"):
        finished("--by", "loss_alone")


def test_another_budget_costs_no_pass(finished, measured):
    outcomes = finished("--budget.tokens", "300")
    assert [name for name, outcome in outcomes.items() if outcome.ran] == ["selection", "report"]
    assert measured == []
    assert outcomes["selection"].facts["kept_tokens"] <= 300


def test_added_rows_are_the_only_ones_measured_by_the_base(lobass, rows, tmp_path, measured):
    lobass("--scorers", "loss", "--by", "loss")
    measured.clear()
    more = write_messages(toy_examples(5, seed=9), tmp_path / "more.jsonl")
    lobass("--scorers", "loss", "--by", "loss", data=(rows, more))
    assert len(measured) == 5


def test_a_moved_file_costs_no_pass(lobass, rows, tmp_path, measured):
    lobass()
    measured.clear()
    (tmp_path / "elsewhere").mkdir()
    outcomes = lobass(data=(rows.rename(tmp_path / "elsewhere" / "mine.jsonl"),))
    assert not outcomes["reference"].ran
    assert not outcomes["scores"].ran
    assert measured == []


def test_a_moved_file_is_written_from_where_it_is_now(lobass, rows, tmp_path, measured):
    lobass()
    (tmp_path / "elsewhere").mkdir()
    moved = rows.rename(tmp_path / "elsewhere" / "mine.jsonl")
    outcomes = lobass("--budget", "10%", data=(moved,))
    assert outcomes["selection"].facts["kept"] == ROWS // 10


def test_another_process_in_the_same_folder_is_refused(lobass, tmp_path):
    folder = lobass()["scores"].folder
    (folder / "step.json").unlink()
    holder = "import filelock, sys, time; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(folder / "run.lock")], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="another run is at work in"):
            lobass()
    finally:
        process.kill()
        process.communicate()
    assert lobass()["scores"].ran


@pytest.mark.parametrize("on_error", ["skip", "5%"])
def test_an_example_that_the_template_refuses_is_dropped_with_its_reason(
    lobass, rows, tiny, tmp_path, on_error
):
    strict = tmp_path / "strict"
    shutil.copytree(tiny, strict)
    template = (strict / "chat_template.jinja").read_text()
    refuse = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn, please') }}{% endif %}"
    )
    (strict / "chat_template.jinja").write_text(refuse + template)
    refused = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "y"},
        {"role": "assistant", "content": "z"},
    ]
    rows.write_text(json.dumps({"messages": refused}) + "\n" + rows.read_text())
    with pytest.raises(ModelError, match="no system turn, please"):
        lobass("--model", strict)
    outcomes = lobass("--model", strict, "--on-error", on_error)
    assert outcomes["scores"].facts["undefined"] == 1
    assert (
        "no system turn, please"
        in (outcomes["selection"].folder / "dropped.jsonl").read_text().splitlines()[0]
    )


def test_a_template_that_cuts_answers_is_a_warning_of_the_run_and_its_report(
    lobass, rows, tiny, tmp_path, capsys
):
    cutting = tmp_path / "cutting"
    shutil.copytree(tiny, cutting)
    template = (cutting / "chat_template.jinja").read_text()
    (cutting / "chat_template.jinja").write_text(
        template.replace("message['content']", "message['content'].split('<cut>')[-1]")
    )
    turns = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "lost <cut>kept"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n" + rows.read_text())
    outcomes = lobass("--model", cutting)
    assert capsys.readouterr().err.count("warning: the chat template leaves out") == 1
    assert f"in 1 of {ROWS + 1} rows" in outcomes["scores"].facts["left out"]
    assert "neither scored nor learned" in (outcomes["report"].folder / "report.html").read_text()


def test_a_whole_reference_with_a_template_of_its_own_leaves_no_wrong_numbers(rows, tiny_models, tmp_path):
    store, loading = str(tmp_path / "store"), Loading(dtype="float32")
    base, other = str(tiny_models["chatml"]), str(tiny_models["base"])
    pool = verbs.load([str(rows)], output=str(tmp_path / "pool")).path
    common = {"loading": loading, "store": store}
    verbs.score([pool], model=base, reference=other, output=str(tmp_path / "a"), **common)
    after = verbs.score([pool], model=other, output=str(tmp_path / "b"), **common)
    fresh = verbs.score(
        [pool], model=other, output=str(tmp_path / "c"), loading=loading, store=str(tmp_path / "new")
    )
    losses = [
        pl.read_parquet(outcome.folder / "scores.parquet")["loss_before"].to_list()
        for outcome in (after, fresh)
    ]
    assert losses[0] == losses[1]


def test_a_dry_run_does_not_fetch_the_model(lobass, monkeypatch, capsys):
    monkeypatch.setattr("learnable.models.source.is_here", lambda ref: False)
    monkeypatch.setattr("learnable.models.source.identify", lambda ref: pytest.fail("fetched"))
    lobass(dry_run=True)
    assert "fetch or convert" in capsys.readouterr().err


def test_two_folds_score_every_example_by_the_other_fold(lobass, measured):
    outcomes = lobass("--reference.folds", "2")
    parts = pl.read_parquet(outcomes["reference"].folder / "assignment.parquet")["part"]
    assert sorted(parts.value_counts()["count"].to_list()) == [ROWS // 2, ROWS // 2]
    assert len(measured) == 2 * ROWS


def test_in_sample_and_cross_fitted_scores_differ(finished):
    inside = pl.read_parquet(finished()["scores"].folder / "scores.parquet")
    outside = pl.read_parquet(finished("--reference.folds", "2")["scores"].folder / "scores.parquet")
    assert inside["learnability"].mean() > outside["learnability"].mean()
    assert inside["loss_before"].to_list() == outside["loss_before"].to_list()


def test_a_given_model_is_the_reference(finished):
    trained = finished()
    adapter = trained["reference"].folder / "part-0"
    given = finished("--reference.model", adapter)
    assert given["reference"].facts["kind"] == "given"
    assert kept(given)["id"].to_list() == kept(trained)["id"].to_list()


def test_full_fine_tuning_works_as_reference(finished):
    outcomes = finished("--reference.method", "full", "--reference.learning-rate", "0.001")
    assert outcomes["scores"].facts["undefined"] == 0
    assert pl.read_parquet(outcomes["scores"].folder / "scores.parquet")["learnability"].mean() > 0


def test_equal_shares_per_source(lobass, rows, tmp_path):
    more = write_messages(toy_examples(6, seed=9), tmp_path / "more.jsonl")
    outcomes = lobass("--per-source", "equal", data=(rows, more))
    frame = pl.read_parquet(outcomes["scores"].folder / "scores.parquet").join(kept(outcomes), on="id")
    assert sorted(frame["source"].value_counts()["count"].to_list()) == [3, 4]
    assert (outcomes["selection"].folder / "selected" / "more.jsonl").exists()


def test_a_prompt_that_fills_the_limit_is_undefined_and_never_chosen(finished):
    outcomes = finished("--max-length", "24")
    scores = pl.read_parquet(outcomes["scores"].folder / "scores.parquet")
    undefined = scores.filter(pl.col("undefined").is_not_null())
    assert 0 < undefined.height < ROWS
    assert undefined["learnability"].is_nan().all()
    assert not set(undefined["id"]) & set(kept(outcomes)["id"])
    assert "no response token is left" in (outcomes["selection"].folder / "dropped.jsonl").read_text()


def test_the_written_run_file_repeats_the_run(lobass, tmp_path, measured, monkeypatch):
    outcomes = lobass("--reference.folds", "2")
    monkeypatch.chdir("/")
    measured.clear()
    repeated = started(outcomes["report"].folder / "run.yaml", "-o", tmp_path / "other")
    assert kept(repeated)["id"].to_list() == kept(outcomes)["id"].to_list()
    assert {name: o.identity for name, o in repeated.items() if name != "report"} == {
        name: o.identity for name, o in outcomes.items() if name != "report"
    }


def test_what_is_typed_goes_before_what_a_run_file_says(lobass, tmp_path):
    outcomes = lobass()
    path = outcomes["report"].folder / "run.yaml"
    more = ("--budget", "10%", "-o", tmp_path / "runs")
    for words in ((path, *more), ("lobass", "--config", path, *more)):
        assert cli.call(["run", *map(str, words)]) == 0
    budgets = [
        read_outcome(folder).facts["budget"] for folder in (tmp_path / "runs" / "lobass").glob("selection-*")
    ]
    assert sorted(budgets) == ["10% of the examples", "20% of the examples"]


def test_the_shown_command_repeats_the_run():
    words = ["a b.jsonl", "c.csv", "--budget.tokens", "50", "--where", "tokens < 9", "--min-score=-1"]
    words += ["--reference.last-epoch-loss", "--lowest", "--scorers", "loss", "ifd", "--by", "loss"]
    function, given = running.understood(cli._joined(["lobass", *words]))
    given.apply_defaults()
    said = typed_words(function, given.arguments)
    again = running.understood(["lobass", *said])[1]
    again.apply_defaults()
    assert again.arguments == given.arguments


def test_a_recipe_is_called_from_python_with_the_same_words(rows, tiny, tmp_path):
    outcomes = recipes.lobass(
        [str(rows)],
        model=str(tiny),
        budget="20%",
        loading=Loading(dtype="float32"),
        run=recipes.Run(output=str(tmp_path / "runs")),
    )
    command = outcomes["report"].folder / "run.yaml"
    assert yaml.safe_load(command.read_text())["lobass"]["budget"] == "20%"
    typed = (
        "lobass",
        rows,
        "--model",
        tiny,
        "--budget",
        "20%",
        "--dtype",
        "float32",
        "-o",
        tmp_path / "runs",
    )
    assert not any(outcome.ran for outcome in started(*typed).values())


OWN = '''
from typing import Annotated
from learnable.commands import load
from learnable.commands.options import Flat
from learnable.recipes import Run

def looked(data: list[str], *, share: float = 0.0, run: Annotated[Run, Flat] = Run()) -> None:
    """Only read rows.

    Args:
        data: What to read.
        share: What to set aside.
    """
    run.step("pool", load, data, holdout=share)

def plain(data: list[str]) -> None:
    return load(data, output="plain")
'''


def test_a_function_of_the_user_is_a_recipe(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    words = ["run", "own.py:looked", str(rows), "--share", "0.1"]
    assert cli.call([*words, "--help"]) == 0
    assert "What to set aside" in capsys.readouterr().out
    assert cli.call([*words, "--dry-run"]) == 0
    assert not Path("runs").exists()
    assert cli.call(words) == 0
    (folder,) = Path("runs").glob("looked/pool-*")
    assert read_outcome(folder).facts["held out"] == 3
    assert cli.call(["run", str(folder / "run.yaml")]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert cli.call(["run", str(folder / "run.yaml"), "--allow-code"]) == 0
    assert cli.call(["run", "own.py:plain", str(rows)]) == 0
    assert read_outcome(Path("plain")).facts["rows"] == ROWS


def test_a_dry_run_tells_the_price_and_leaves_nothing(lobass, tmp_path, capsys):
    lobass(dry_run=True)
    said = capsys.readouterr().err
    assert f"0.5 training passes over {ROWS} examples" in said
    assert f"1 base pass over {ROWS} examples" in said
    assert f"1 reference pass over {ROWS} examples" in said
    assert not (tmp_path / "runs").exists()


def test_the_report_says_what_was_chosen(finished):
    outcomes = finished()
    page = Path(outcomes["report"].facts["report"]).read_text()
    assert "learnability" in page
    assert kept(outcomes)["id"][0][:8] in page


def test_a_run_that_breaks_while_measuring_goes_on_there(lobass, measured, monkeypatch):
    monkeypatch.setattr("learnable.measures.keep.STORE_EVERY_S", 0.0)
    monkeypatch.setattr(LanguageModel, "batch_tokens", 100)
    whole = LanguageModel.begin

    def breaking(self, launch, batch):
        if len(measured) > ROWS // 2:
            raise KeyboardInterrupt
        return whole(self, launch, batch)

    monkeypatch.setattr(LanguageModel, "begin", breaking)
    with pytest.raises(KeyboardInterrupt):
        lobass()
    before = len(measured)
    monkeypatch.setattr(LanguageModel, "begin", whole)
    lobass()
    assert len(measured) == 2 * ROWS
    assert before > ROWS // 2


def kill(words, folder, *, kills, duration_s):
    """Start the command again and again, and kill it so many times, at random moments of its work."""
    rng, hits = random.Random(kills), 0
    while hits < kills:
        process = at_work(words, folder)
        process.join(rng.uniform(0.0, 0.9) * duration_s)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            hits += 1
        else:
            shutil.rmtree(folder / "runs")  # it ended first: what follows must be killed on the way, too


def selected(folder):
    (found,) = folder.glob("runs/lobass/selection-*/selected/mine.jsonl")
    return found.read_text()


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killing_the_run_at_random_moments_changes_nothing(tiny, tmp_path, monkeypatch, kills):
    words = [
        "run",
        "lobass",
        "mine.jsonl",
        "--model",
        str(tiny),
        "--reference.folds",
        "2",
        "--dtype",
        "float32",
    ]
    words += ["--reference.batch-size", "2", "--budget", "10%"]
    duration_s = 0.0
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        write_messages(toy_examples(80), tmp_path / name / "mine.jsonl")
        monkeypatch.chdir(tmp_path / name)
        if name == "killed":
            kill(words, tmp_path / name, kills=kills, duration_s=duration_s)
        started = time.monotonic()
        assert cli.call(words) == 0
        duration_s = time.monotonic() - started
    assert selected(tmp_path / "killed") == selected(tmp_path / "unbroken")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_what_a_run_file_keeps_is_what_the_recipe_takes(name, tmp_path):
    function = recipes.RECIPES[name]
    needed = {"data": ["pool.jsonl"], "target": "task.jsonl"}
    given = {
        key: needed[key] if one.default is one.empty else one.default
        for key, one in signature(function).parameters.items()
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({name: as_written(function, given)}))
    _, bound = running.understood([str(tmp_path / "run.yaml")])
    kept = {key: bound.arguments.get(key, given[key]) for key in given}
    assert to_json(kept) == to_json(given)  # a list or a tuple alike


def test_the_command_line_ends_with_table_and_paths(rows, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["run", "lobass", str(rows), "--model", str(tiny), "--budget", "20%", "--dtype", "float32"]
    words += ["--export", "trl"]
    assert cli.call(words) == 0
    printed = capsys.readouterr().out
    assert "mean learnability" in printed
    assert "exported: " in printed
    assert "look around: learnable explore runs/lobass/selection-" in printed
    for path in [
        line.split(": ", 1)[1]
        for line in printed.splitlines()
        if line.startswith(("selected rows", "exported", "report"))
    ]:
        assert Path(path).is_file()
    assert cli.call(words) == 0
    assert "nothing to do: every step was done already" in capsys.readouterr().out
