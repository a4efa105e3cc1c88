"""The command line: what it prints, its exit codes, and one clear line for whatever is wrong."""

import errno
import importlib.util
import json
import subprocess
import sys

import polars as pl
import pyarrow.parquet
import pytest

import learnable
from learnable import cli
from learnable.testing import toy_examples, write_messages


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder with a good file of ten rows."""
    monkeypatch.chdir(tmp_path)
    write_messages(toy_examples(10), tmp_path / "good.jsonl")
    return tmp_path


@pytest.fixture
def fails(capsys):
    """Run a command that must fail, and return its exit code, error line and hint."""

    def run(*words):
        code = cli.call([str(word) for word in words])
        error, hint = capsys.readouterr().err.splitlines()[-2:]
        assert error.startswith("error: ")
        assert hint.startswith("hint: ")
        return code, error, hint

    return run


def test_help_and_import_load_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'altair'}"
    code = f"import sys, learnable.cli; learnable.cli.app.help_print([]); sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_public_names_are_these():
    assert learnable.__all__ == [
        "Budget",
        "LearnableError",
        "Loading",
        "Outcome",
        "Reading",
        "Reference",
        "Store",
        "compare",
        "diversify",
        "evaluate",
        "load",
        "report",
        "score",
        "select",
        "show",
        "teach",
        "train",
    ]
    assert all(hasattr(learnable, name) for name in learnable.__all__)


@pytest.mark.parametrize("name", ["load", "report", "score", "select", "show", "train"])
def test_no_room_hides_a_verb_of_the_same_name(name):
    import learnable.reporting
    import learnable.training

    assert callable(getattr(learnable, name))
    assert importlib.util.find_spec(f"learnable.{name}") is None


@pytest.mark.parametrize("command", ["load", "show", "train", "score", "select", "report", "run", "list"])
def test_every_command_explains_itself(command, capsys):
    cli.call([command, "--help"])
    assert f"learnable {command}" in capsys.readouterr().out


def test_list_names_recipes_scorers_selectors_and_formats(capsys):
    assert cli.call(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("lobass", "learnability", "top_k", "alpaca"):
        assert name in printed


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["slect", "x"], "Unknown command", "--help"),
        (["select", "x", "--budgt", "5"], "--budgt", "--help"),
        (["run", "lobas"], "no recipe called 'lobas'", "did you mean 'lobass'?"),
        (["run", "lobass", "modle=x"], "no parameter 'modle'", "did you mean 'model'?"),
        (["run", "lobass", "reference.fold=2"], "no parameter 'reference.fold'", "did you mean 'folds'?"),
        (["run", "lobass", "reference.folds=1"], "folds must be 0 or at least 2", "2 is cross-fitted"),
        (["run", "lobass", "reference.folds=two"], "reference.folds: Input should be a valid integer", ""),
        (["run", "lobass", "budget=six"], "cannot read the budget 'six'", "6%"),
        (["run", "lobass", "budget.rows=6"], "budget has no setting 'rows'", ""),
        (["run", "lobass", "data=[a.jsonl"], "cannot read the value of 'data=[a.jsonl'", "quotes"),
        (["run", "lobass", "select.by=nope"], "select.by is 'nope'", ""),
        (["run", "lobass", "select.selector=nope"], "no selector called 'nope'", ""),
        (["run", "lobass", "score.scorers=nope"], "no scorer called 'nope'", ""),
        (["run", "lobass", "data"], "'data' is not name=value", "data=..."),
        (["run", "nothere.yaml"], "there is no recipe file", ""),
        (
            ["score", "good.jsonl", "--scorers", "learnabilty"],
            "no scorer called 'learnabilty'",
            "'learnability'",
        ),
        (
            ["score", "good.jsonl", "--scorers", "learnability"],
            "compares with a reference model",
            "learnable train",
        ),
    ],
)
def test_wrong_usage_ends_with_code_2_and_a_hint(here, capsys, words, error, hint):
    assert cli.call(words) == 2
    said = capsys.readouterr().err
    assert error in said
    assert hint in said


def test_a_missing_file(here, fails):
    assert fails("load", "god.jsonl") == (
        1,
        "error: there is no file god.jsonl",
        "hint: did you mean good.jsonl?",
    )


def test_an_empty_file(here, fails):
    (here / "empty.jsonl").touch()
    code, error, _ = fails("load", "empty.jsonl")
    assert code == 1
    assert "empty.jsonl" in error


def test_a_row_without_an_answer_names_file_line_and_keys(here, fails):
    row = {"instruction": "why?", "output": ""}
    (here / "bad.jsonl").write_text('{"instruction": "why?", "output": "so"}\n' + json.dumps(row) + "\n")
    code, error, hint = fails("run", "lobass", "data=bad.jsonl")
    assert code == 1
    assert error.startswith("error: bad.jsonl:2: ")
    assert "instruction, output" in error
    assert "--on-error skip" in hint


def test_a_format_that_does_not_exist(here, fails):
    code, error, hint = fails("load", "good.jsonl", "--format", "alpacca")
    assert (code, error, hint) == (2, "error: no format called 'alpacca'", "hint: did you mean 'alpaca'?")


def test_the_wrong_format(here, fails):
    code, error, _ = fails("load", "good.jsonl", "--format", "alpaca")
    assert code == 1
    assert "good.jsonl:1" in error
    assert "messages" in error


def test_a_model_that_does_not_exist(here, fails):
    code, error, hint = fails("run", "lobass", "data=good.jsonl", "model=./nothere")
    assert (code, error) == (1, "error: there is no model './nothere'")
    assert "hub id" in hint


def test_a_hub_model_without_a_network(here, fails):
    code, error, hint = fails("score", "good.jsonl", "--model", "some-owner/some-model")
    assert code == 1
    assert "cannot get the model 'some-owner/some-model'" in error
    assert "HF_HUB_OFFLINE" in hint


def test_a_template_that_fails(here, fails, tiny, tmp_path):
    import shutil

    shutil.copytree(tiny, tmp_path / "strict")
    (tmp_path / "strict" / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    code, error, _ = fails("show", "good.jsonl", "--model", tmp_path / "strict")
    assert code == 1
    assert "roles must alternate" in error


def test_a_length_above_the_model(here, fails, tiny):
    code, error, _ = fails("show", "good.jsonl", "--model", tiny, "--max-length", "999")
    assert code == 1
    assert "takes 2 to 256 tokens" in error


def losses(folder, **more):
    frame = pl.DataFrame(
        {"id": list("abcd"), "first": [2.0, 2.0, 1.0, 3.0], "last": [1.0, 1.9, 0.2, 2.9], **more}
    )
    frame.write_parquet(folder / "losses.parquet")


def test_losses_from_elsewhere_are_selected_from(here, capsys):
    losses(here)
    words = [
        "select",
        "losses.parquet",
        "--before",
        "first",
        "--after",
        "last",
        "--budget",
        "50%",
        "-o",
        "out",
    ]
    assert cli.call(words) == 0
    assert pl.read_parquet(here / "out" / "selected.parquet")["id"].to_list() == ["c", "a"]
    assert cli.call(["report", "out", "-o", "page"]) == 0
    assert (here / "page" / "report.html").stat().st_size > 0


def test_a_loss_column_that_is_not_there(here, fails):
    losses(here)
    code, error, hint = fails("select", "losses.parquet", "--before", "frist", "--after", "last")
    assert (code, hint) == (1, "hint: did you mean 'first'?")
    assert "no column of numbers called 'frist'" in error


def test_a_budget_above_the_pool(here, fails):
    losses(here)
    code, error, _ = fails(
        "select", "losses.parquet", "--before", "first", "--after", "last", "--budget", "5"
    )
    assert (code, error) == (1, "error: the budget of 5 examples is above the pool, which has 4")


def test_budgets_can_be_written_nested(here):
    losses(here, tokens=[10, 10, 10, 10])
    words = [
        "select",
        "losses.parquet",
        "--before",
        "first",
        "--after",
        "last",
        "--budget.tokens",
        "25",
        "-o",
        "out",
    ]
    assert cli.call(words) == 0
    assert pl.read_parquet(here / "out" / "kept.parquet").height == 2


def test_a_budget_above_the_pool_is_said_before_anything_is_trained(here, fails, tiny):
    code, error, _ = fails("run", "lobass", "data=good.jsonl", f"model={tiny}", "budget=11")
    assert (code, error) == (1, "error: the budget of 11 examples is above the pool, which has 10")
    assert not list(here.glob("runs/lobass/reference-*"))


def test_a_failed_command_does_not_keep_its_output_folder(here):
    (here / "half.jsonl").write_text((here / "good.jsonl").read_text() + "{broken\n")
    assert cli.call(["load", "half.jsonl", "-o", "out"]) == 1
    assert cli.call(["load", "half.jsonl", "--on-error", "skip", "-o", "out"]) == 0


def test_several_scorers_follow_one_flag(here, tiny, capsys):
    words = ["score", "good.jsonl", "--model", str(tiny), "--scorers", "loss", "loss", "--dry-run"]
    assert cli.call(words) == 0
    assert "would run: 1 base pass over 10 examples" in capsys.readouterr().out


def test_a_device_that_is_not_there(here, fails, tiny):
    code, error, _ = fails("score", "good.jsonl", "--model", tiny, "--device", "cuda9x")
    assert code == 1
    assert "there is no device 'cuda9x' here" in error


def test_a_reference_of_another_base_is_refused(here, fails, tiny_models):
    words = ["train", "good.jsonl", "--model", str(tiny_models["chatml"]), "--dtype", "float32"]
    assert cli.call(words) == 0
    score = ["score", "good.jsonl", "--model", tiny_models["generation"], "--dtype", "float32"]
    code, error, _ = fails(*score, "--reference", "reference")
    assert code == 1
    assert "the reference reference was trained from" in error


def test_an_outside_scorer_where_lower_is_better_keeps_the_lowest(here, tiny):
    (here / "outside.py").write_text(
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Lower:\n"
        "    needs = ('loss_before',)\n"
        "    higher_is_better = False\n"
        "    def __call__(self, frame):\n"
        "        return frame['loss_before'].to_numpy()\n"
    )
    words = ["--scorers", "outside:Lower", "--model", str(tiny), "--dtype", "float32", "-o", "scored"]
    assert (
        subprocess.run(
            [sys.executable, "-m", "learnable", "score", "good.jsonl", *words], check=False
        ).returncode
        == 0
    )
    assert cli.call(["select", "scored", "--by", "outside:Lower", "--budget", "1"]) == 0
    scores = pl.read_parquet(here / "scored" / "scores.parquet").sort("loss_before")
    assert pl.read_parquet(here / "selection" / "kept.parquet")["id"].to_list() == [scores["id"][0]]


def test_ctrl_c_says_that_the_run_goes_on(here, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("learnable.data.save_pool", interrupted)
    assert cli.call(["load", "good.jsonl"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_an_output_folder_of_another_command_is_not_overwritten(here, fails):
    losses(here)
    words = ["select", "losses.parquet", "--before", "first", "--after", "last", "-o", "out"]
    assert cli.call([*words, "--budget", "2"]) == 0
    code, error, _ = fails(*words, "--budget", "3")
    assert code == 1
    assert "budget was '2 examples', now '3 examples'" in error


def test_a_full_disk_is_said_in_one_line(here, fails, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    code, error, hint = fails("load", "good.jsonl")
    assert code == 1
    assert "the disk is full" in error
    assert "free some space" in hint


def test_debug_shows_where_an_error_came_from(here, capsys):
    assert cli.call(["load", "nothere.jsonl", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_results_go_to_standard_output_and_logs_to_standard_error(here, capsys):
    (here / "half.jsonl").write_text((here / "good.jsonl").read_text() + "{broken\n")
    assert cli.call(["load", "half.jsonl", "--on-error", "skip"]) == 0
    said = capsys.readouterr()
    assert "examples: 10" in said.out
    assert "1 of 11 rows cannot be used" in said.err


def test_show_marks_the_scored_tokens(here, tiny, capsys):
    assert cli.call(["show", "good.jsonl", "--model", str(tiny), "--n", "1"]) == 0
    answer = toy_examples(1)[0].messages[1].content
    assert f"⟦{answer}<|im_end|>⟧" in capsys.readouterr().out


def test_show_marks_what_is_cut_off(here, tiny, capsys):
    assert cli.call(["show", "good.jsonl", "--model", str(tiny), "--n", "1", "--max-length", "20"]) == 0
    printed = capsys.readouterr().out
    assert "✂⟨" in printed
    assert "cut off at 20" in printed


def test_markup_in_the_data_is_shown_as_it_is(here, tiny, capsys):
    row = {"prompt": "[red]x[/red] [/", "completion": "\\[bold]y"}
    (here / "markup.jsonl").write_text(json.dumps(row) + "\n")
    assert cli.call(["show", "markup.jsonl", "--model", str(tiny)]) == 0
    assert "[red]x[/red] [/" in capsys.readouterr().out
