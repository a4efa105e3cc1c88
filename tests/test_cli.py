"""The command line: what it prints, its exit codes, and one clear line for whatever is wrong."""

import errno
import importlib.util
import inspect
import json
import os
import pty
import re
import shlex
import subprocess
import sys

import polars as pl
import pyarrow.parquet
import pytest

import learnable
from learnable.cli import app as cli
from learnable.cli import printing, running
from learnable.runs.price import Cost
from learnable.runs.records import Outcome
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
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'altair', 'scipy.stats', 'scipy.special'}"
    code = f"import sys, learnable.cli.app; learnable.cli.app.app.help_print([]); sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_public_names_are_these():
    assert learnable.__all__ == [
        "Aim",
        "Budget",
        "LearnableError",
        "Loading",
        "Model",
        "Picked",
        "Reading",
        "RecordLosses",
        "Reference",
        "ReferenceModel",
        "Rows",
        "ScoreTable",
        "Store",
        "read",
        "report",
        "score",
        "select",
        "train",
    ]
    assert all(hasattr(learnable, name) for name in learnable.__all__)


@pytest.mark.parametrize("name", ["read", "report", "score", "select", "train"])
def test_no_room_hides_a_function_of_the_same_name(name):
    import learnable.pages
    import learnable.training

    assert callable(getattr(learnable, name))
    assert importlib.util.find_spec(f"learnable.{name}") is None


COMMANDS = [name for name in cli.app if not name.startswith("-")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_ends_with_examples(command, capsys):
    assert cli.call([command, "--help"]) == 0
    page = capsys.readouterr().out
    for example in cli.EXAMPLES[command]:
        assert example in page.partition("Examples:")[2]  # on one line, to be copied


@pytest.mark.parametrize("example", [line for lines in cli.EXAMPLES.values() for line in lines])
def test_examples_are_understood(example):
    words = cli._joined(shlex.split(example)[1:])
    if words[0] == running.NAME:
        running.understood(words[1:])
    else:
        cli.app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["version"], ["--version"]),
        (["help"], ["--help"]),
        (["help", "select"], ["select", "--help"]),
        (["help", "run", "lobass"], ["run", "lobass", "--help"]),
    ],
)
def test_help_and_version_are_words_too(words, flags, capsys):
    assert cli.call(flags) == 0
    page = capsys.readouterr().out
    assert page.strip()
    assert cli.call(words) == 0
    assert capsys.readouterr().out == page


@pytest.mark.parametrize("words", [["help", "slect"], ["slect", "--help"], ["--quiet", "slect", "-h"]])
def test_help_about_what_is_no_command_is_an_error(words, fails):
    assert fails(*words) == (2, "error: there is no command 'slect'", "hint: did you mean 'select'?")


@pytest.mark.parametrize("words", [["help", "run", "lobas"], ["run", "lobas", "--help"]])
def test_help_about_what_is_no_recipe_is_an_error(words, fails):
    assert fails(*words) == (2, "error: no recipe called 'lobas'", "hint: did you mean 'lobass'?")


def test_a_quiet_command_says_its_result_alone(here, capsys):
    assert cli.call(["load", "good.jsonl", "-o", "loud"]) == 0
    loud = capsys.readouterr()
    assert "good.jsonl: " in loud.err
    assert cli.call(["load", "good.jsonl", "-o", "loud", "--quiet"]) == 0
    assert capsys.readouterr().out == f"was done already\n{loud.out}"
    assert cli.call(["--quiet", "load", "good.jsonl", "-o", "pool"]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out == loud.out.replace("loud", "pool")


def test_a_quiet_command_still_says_its_error(here, fails):
    assert fails("load", "god.jsonl", "--quiet")[1] == "error: there is no file god.jsonl"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_begins_with_one_sentence(command):
    first = inspect.getdoc(cli.app[command].default_command).partition("\n\n")[0]
    assert first.endswith(".")
    assert not re.search(r"[.!?] [A-Z]", first)


def test_without_a_command_the_help_groups_them_and_shows_where_to_start(capsys):
    assert cli.call([]) == 0
    page = capsys.readouterr().out
    places = [
        page.index(title)
        for title in (
            "learnable run lobass",
            "learnable run delia",
            "Choose data",
            "Teach a task",
            "Look",
            "Check",
        )
    ]
    assert places == sorted(places)
    assert (
        page.index("Choose data") < page.index("│ load") < page.index("│ select") < page.index("Teach a task")
    )


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["slect", "x"], "there is no command 'slect'", "did you mean 'select'?"),
        (["--jsn"], "there is no option --jsn", "did you mean '--json'?"),
        (
            ["select", "x", "--budgt", "5"],
            "`learnable select` has no option --budgt",
            "did you mean --budget?",
        ),
        (["select", "x", "--jsno"], "has no option --jsno", "did you mean --json?"),
        (["select", "x", "budget=5"], "has no use for 'budget=5'", "--budget 5"),
        (["select", "x", "--budget.tokns", "5"], "budget has no setting 'tokns'", "did you mean 'tokens'?"),
        (["load"], "`learnable load` needs DATA: files (", "for example: learnable load my.jsonl"),
        (["diversify"], "needs --method: NAME@key=value", "learnable diversify task.jsonl"),
        (["load", "--dat", "x"], "has no option --dat", "did you mean --data?"),
        (["load", "good.jsonl", "--format"], "--format needs a value", "alpaca, sharegpt"),
        (["train", "x", "--seed", "one"], "--seed takes a whole number, not 'one'", "learnable train pool"),
        (["train", "x", "--epochs", "few"], "--epochs takes a number, not 'few'", "learnable train pool"),
        (["train", "x", "--dtype", "flot32"], "--dtype is one of auto, float32", "did you mean 'float32'?"),
        (["train", "x", "--seed", "1", "--seed", "2"], "--seed is there twice", "once"),
        (["list", "IDF"], "nothing is called 'IDF'", "did you mean 'ifd'?"),
        (["list", "scorer"], "nothing is called 'scorer'", "did you mean 'scorers'?"),
        (["--install-completion", "bsh"], "is one of bash, zsh, fish", "did you mean 'bash'?"),
        (["select", "good.jsonl", "--selector", "Top-K"], "no selector called 'Top-K'", "'top_k'"),
        (
            ["run", "compare", "--evaluate", "exactmatch:x"],
            "no evaluator called 'exactmatch'",
            "'exact_match'",
        ),
        (
            ["run", "compare", "--evaluate", "exact_match:x@extrat=a"],
            "exact_match has no setting 'extrat'",
            "'extract'",
        ),
        (["diversify", "x", "--method", "parafrase"], "called 'parafrase'", "'paraphrase'"),
        (["diversify", "x", "--method", "hints@fil=a"], "hints has no setting 'fil'", "'file'"),
        (["run", "delia", "--arms", "comon"], "no arm called 'comon'", "'common'"),
        (["run", "lobas"], "no recipe called 'lobas'", "did you mean 'lobass'?"),
        (["run"], "`learnable run` needs a recipe", "lobass"),
        (["run", "lobass", "--modle", "x"], "`learnable run lobass` has no option --modle", "--model?"),
        (["run", "lobass", "--reference.fold", "2"], "no option --reference.fold", "--reference.folds?"),
        (["run", "lobass", "--epochs", "2"], "no option --epochs", "did you mean --reference.epochs?"),
        (["run", "lobass", "data=a.jsonl"], "no use for 'data=a.jsonl': settings", "write a.jsonl"),
        (["run", "lobass", "model=M"], "no use for 'model=M'", "write --model M"),
        (["run", "lobass", "reference.folds=2"], "no use for", "write --reference.folds 2"),
        (["run", "lobass", "loading.dtype=x", "--dry-run"], "no use for", "write --dtype x"),
        (["run", "lobass", "select.where=tokens < 9"], "no use for", "write --where 'tokens < 9'"),
        (["run", "lobass", "budget.tokens=9"], "no use for", "write --budget.tokens 9"),
        (["run", "compare", "by=[ifd, longest]"], "no use for", "write --by ifd  longest"),
        (["run", "lobass", "--reference.folds", "1"], "folds must be 0 or at least 2", "2 is cross-fitted"),
        (["run", "lobass", "--reference.folds", "two"], "--reference.folds takes a whole number", ""),
        (["run", "lobass", "--budget", "six"], "cannot read the budget 'six'", "6%"),
        (["run", "lobass", "--budget.rows", "6"], "budget has no setting 'rows'", ""),
        (["run", "lobass", "--by", "nope"], "--by is 'nope'", ""),
        (["run", "lobass", "--selector", "nope"], "no selector called 'nope'", ""),
        (["run", "lobass", "--scorers", "nope"], "no scorer called 'nope'", ""),
        (["run", "nothere.yaml"], "there is no run file", ""),
        (["run", "nothere.py:it"], "there is no file nothere.py", ""),
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
    code, error, hint = fails("run", "lobass", "bad.jsonl")
    assert code == 1
    assert "bad.jsonl:2: the answer is empty" in error
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
    code, error, hint = fails("run", "lobass", "good.jsonl", "--model", "./nothere")
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
    assert "selected rows: out/selected.parquet" in capsys.readouterr().out
    assert pl.read_parquet(here / "out" / "selected.parquet")["id"].to_list() == ["c", "a"]
    assert cli.call(["report", "out", "-o", "page"]) == 0
    assert (here / "page" / "report.html").stat().st_size > 0


def test_a_loss_column_that_is_not_there(here, fails):
    losses(here)
    code, error, hint = fails("select", "losses.parquet", "--before", "frist", "--after", "last")
    assert (code, hint) == (1, "hint: did you mean 'first'?")
    assert "no column of numbers called 'frist'" in error


SELECTING = ["select", "losses.parquet", "--before", "first", "--after", "last", "--budget", "2"]


def test_losses_below_0_are_refused(here, fails):
    losses(here)
    frame = pl.read_parquet("losses.parquet")
    frame.with_columns(last=-pl.col("last")).write_parquet("losses.parquet")
    code, error, hint = fails(*SELECTING)
    assert (code, error) == (
        1,
        "error: losses.parquet: 4 of 4 losses in the column 'last' are below 0",
    )
    assert "change the sign" in hint


def test_losses_that_are_missing_are_told(here, capsys):
    losses(here)
    frame = pl.read_parquet("losses.parquet")
    gone = pl.when(pl.col("id") != "d").then(pl.col("last"))
    frame.with_columns(last=gone).write_parquet("losses.parquet")
    assert cli.call([*SELECTING, "-o", "out"]) == 0
    told = capsys.readouterr().err
    assert told.count("warning:") == 1
    assert "1 of 4 rows have no loss in the column 'last'" in told


@pytest.mark.parametrize("swapped", [True, False], ids=["swapped", "in order"])
def test_losses_before_and_after_that_look_swapped_are_told(here, capsys, swapped):
    losses(here)
    words = ["--before", "last", "--after", "first"] if swapped else SELECTING[2:6]
    assert cli.call(["select", "losses.parquet", *words, "--budget", "2", "-o", "out"]) == 0
    told = capsys.readouterr().err
    assert ("rose in 4 of 4 rows, from 1.500 to 2.000 on the mean; are --before last" in told) == swapped


def test_rows_that_were_not_scored_are_sent_to_score(here, fails):
    code, error, hint = fails("select", "good.jsonl", "--budget", "5")
    assert (code, error) == (1, "error: there is no score column 'learnability'")
    assert hint == "hint: score it first with `learnable score`"


def test_a_table_with_nothing_but_counts_has_no_score_but_its_counts_can_be_meant(here, fails):
    pl.DataFrame({"id": ["a", "b"], "tokens": [3, 4]}).write_parquet(here / "counts.parquet")
    hints = [fails("select", "counts.parquet", "--by", by, "--budget", "1")[2] for by in ("loss", "tokns")]
    assert hints == ["hint: score it first with `learnable score`", "hint: did you mean 'tokens'?"]


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
    code, error, _ = fails("run", "lobass", "good.jsonl", "--model", str(tiny), "--budget", "11")
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


def test_an_outside_scorer_where_lower_is_better_keeps_the_lowest(here, tiny, monkeypatch):
    monkeypatch.syspath_prepend(here)
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
    assert cli.call(["score", "good.jsonl", *words]) == 0
    assert cli.call(["select", "scored", "--by", "outside:Lower", "--budget", "1"]) == 0
    scores = pl.read_parquet(here / "scored" / "scores.parquet").sort("loss_before")
    assert pl.read_parquet(here / "selection" / "kept.parquet")["id"].to_list() == [scores["id"][0]]


def test_ctrl_c_says_that_the_run_goes_on(here, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("learnable.data.pool_identity", interrupted)
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

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
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
    assert "pool/rows.parquet" in said.err
    assert (
        "half.jsonl:11: not valid JSON: Expecting property name enclosed in double quotes at character 2"
        in said.err
    )


def test_rows_that_cannot_be_used_are_named_by_a_quiet_command_too(here, capsys):
    (here / "half.jsonl").write_text((here / "good.jsonl").read_text() + "{broken\n")
    assert cli.call(["load", "half.jsonl", "--on-error", "skip", "--quiet"]) == 0
    assert "warning: half.jsonl: 1 of 11 rows cannot be used" in capsys.readouterr().err


def test_show_marks_the_scored_tokens(here, tiny, capsys):
    assert cli.call(["show", "good.jsonl", "--model", str(tiny), "--n", "1"]) == 0
    answer = toy_examples(1)[0].messages[1].content
    assert f"⟦{answer}<|im_end|>⟧" in capsys.readouterr().out


def test_show_marks_what_is_cut_off(here, tiny, capsys):
    assert cli.call(["show", "good.jsonl", "--model", str(tiny), "--n", "1", "--max-length", "33"]) == 0
    assert capsys.readouterr().out == (
        "⟦scored⟧ ✂⟨truncated⟩ tokens; the rest is masked\n"
        "\n"
        "── 730bb8a68e57 from good: 43 tokens, 4 scored, 10 cut off at 33\n"
        "<|im_start|>user\n"
        "eight two sky red a to the who fish eight?<|im_end|>\n"
        "<|im_start|>assistant\n"
        "⟦two six song⟧✂⟨ small eight four four river sky fish nine<|im_end|>\n"
        "⟩\n"
        "\n"
    )


def test_markup_in_the_data_is_shown_as_it_is(here, tiny, capsys):
    row = {"prompt": "[red]x[/red] [/", "completion": "\\[bold]y"}
    (here / "markup.jsonl").write_text(json.dumps(row) + "\n")
    assert cli.call(["show", "markup.jsonl", "--model", str(tiny)]) == 0
    assert "[red]x[/red] [/" in capsys.readouterr().out


def test_one_json_document_stands_for_a_step(here, capsys):
    assert cli.call(["load", "good.jsonl", "-o", "pool", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["command"], said["folder"], said["ran"]) == ("load", "pool", True)
    assert said["facts"]["examples"] == 10
    assert said["cost"]["seconds"] > 0


def test_one_json_document_stands_for_a_run(here, tiny, capsys):
    losses(here)
    words = ["select", "losses.parquet", "--before", "first", "--after", "last", "--budget", "2"]
    assert cli.call(["--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["kept"] == 2
    words = [
        "run",
        "lobass",
        *["good.jsonl", "--model", str(tiny), "--dtype", "float32"],
        "--dry-run",
        "--json",
    ]
    assert cli.call(words) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert steps["reference"]["facts"]["would run"] == [
        "1 base pass to choose the rows",
        "0.5 training passes over 10 examples",
    ]


def test_what_a_command_prints_itself_is_in_the_document(monkeypatch, capsys):
    monkeypatch.setattr(cli.app["doctor"], "default_command", lambda: print("said"))
    assert cli.call(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"text": "said\n"}


def test_the_document_of_a_comparison_has_its_table(tmp_path):
    pl.DataFrame({"method": ["random", "full"], "value": [float("nan"), 0.5]}).write_parquet(
        tmp_path / "table.parquet"
    )
    facts = {"seeds": 3, "worst": float("inf")}
    outcome = Outcome(
        verb="compare", folder=tmp_path, identity="x", inputs={}, facts=facts, links={}, cost=Cost(), ran=True
    )
    said = json.loads(json.dumps(printing.document(outcome), allow_nan=False))
    assert said["table"] == [{"method": "random", "value": None}, {"method": "full", "value": 0.5}]
    assert said["facts"] == {"seeds": 3, "worst": None}


def test_an_error_is_a_json_object_on_standard_error(here, capsys):
    assert cli.call(["load", "god.jsonl", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {
        "error": "there is no file god.jsonl",
        "hint": "did you mean good.jsonl?",
        "exit": 1,
    }


def test_the_doctor_ends_with_code_1_where_something_is_wrong(monkeypatch, capsys):
    from learnable.commands.doctor import Diagnosis
    from learnable.diagnosis.checks import CheckResult

    wrong = CheckResult(name="mask", verdict="wrong", found="all zero", remedy="another template")
    told = Diagnosis(model="m", machine={"device": "cpu"}, rows=1, checks=(wrong,))
    monkeypatch.setattr(cli.app["doctor"], "default_command", lambda: told)
    assert cli.call(["doctor"]) == 1
    assert "wrong: mask: all zero" in capsys.readouterr().out
    assert cli.call(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def offered(capsys, *words):
    """Return what the shell is told to offer for the last word."""
    assert cli.call(["__complete", *words]) == 0
    records = capsys.readouterr().out.partition("\x1fbegin\n")[2].splitlines()
    return [record.partition("\t")[0] for record in records]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (["list", ""], {"scorers", "ifd", "lobass"}),
        (["score", "good.jsonl", "--scorers", ""], {"learnability", "loss"}),
        (["score", "good.jsonl", "--scorers", "loss", ""], {"ifd"}),
        (["select", "x", "--selector", ""], {"top_k"}),
        (["select", "x", "--per-source", ""], {"equal"}),
        (["train", "x", "--method", ""], {"lora"}),
        (["diversify", "--method", ""], {"self_sample"}),
        (["teach", "x", "--arms", ""], {"delia", "untuned"}),
        (["teach", "x", "--buffer", ""], {"good.jsonl"}),
        (["evaluate", ""], {"exact_match:"}),
        (["evaluate", "heldout:g"], {"heldout:good.jsonl"}),
        (["evaluate", "heldout", ":", "g"], {"good.jsonl"}),
        (["load", "g"], {"good.jsonl"}),
        (["load", "good.jsonl", "--format", ""], {"alpaca"}),
        (["run", "lobass", ""], {"starter", "good.jsonl"}),
        (["run", "lobass", "--selector", ""], {"k_center"}),
        (["run", "lobass", "--by", ""], {"length_matched"}),
        (["run", "lobass", "--scorers", "loss", ""], {"ifd"}),
        (["run", "compare", "--evaluate", "heldout:g"], {"heldout:good.jsonl"}),
        (["run", "delia", "--paraphrase", "p"], {"paraphrase"}),
    ],
)
def test_the_shell_is_offered(here, capsys, words, some):
    assert some <= set(offered(capsys, *words))


def test_nothing_is_offered_for_a_number(here, capsys):
    assert offered(capsys, "train", "good.jsonl", "--seed", "") == []


def test_completion_is_installed_for_bash_without_a_space_behind_what_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.call(["--install-completion", "bash", "--json"]) == 0
    script = json.loads(capsys.readouterr().out)["script"]
    assert script in (tmp_path / ".bashrc").read_text()
    assert tells_recipes_and_options((tmp_path / script).read_text())
    stand_in = tmp_path / "learnable"
    stand_in.write_text("#!/bin/sh\nprintf '\\nheldout:\\tRows\\n'\n")
    stand_in.chmod(0o755)
    ask = (
        f'. "{script}"; compopt() {{ echo "compopt $*"; }}; '
        f'COMP_WORDS=("{stand_in}" evaluate h); COMP_CWORD=2; _learnable_open; echo "$COMPREPLY"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["compopt -o nospace", "heldout:"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_written_for_other_shells(tmp_path, monkeypatch, capsys, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.call(["--install-completion", shell, "--output", str(tmp_path / "script")]) == 0
    script = (tmp_path / "script").read_text()
    assert "learnable __complete" in script.replace('"', "").replace("$_cyc_cmd", "learnable")
    assert tells_recipes_and_options(script)


def tells_recipes_and_options(script):
    return {"lobass", "delia", "compare"} <= set(re.findall(r"\w+", script)) and "reference.folds" in script


COLOUR = re.compile(r"\x1b\[[\d;]*\b(3|4|9|10)[0-7]\b")


SESSION = """
from learnable.cli import app as cli
cli.call(["list", "scorers"])
print("=====", flush=True)
cli.call(["load", "--help"])
"""


@pytest.fixture(scope="module", params=[{}, {"NO_COLOR": "1"}], ids=["plain", "no color"])
def terminal(request):
    """What a terminal of 40 columns gets of a list and of a help page, and whether colours are welcome there."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    settings = inherited | {"TERM": "xterm-256color", "COLUMNS": "40"} | request.param
    with subprocess.Popen(
        [sys.executable, "-c", SESSION], stdout=theirs, stderr=theirs, env=settings
    ) as process:
        os.close(theirs)
        said = b""
        while piece := received(ours):
            said += piece
    os.close(ours)
    assert process.returncode == 0
    return (*said.decode().split("====="), not request.param)


def received(descriptor):
    """Return what a pseudo-terminal has next; nothing when its other end is closed."""
    try:
        return os.read(descriptor, 65_536)
    except OSError:
        return b""


def test_a_narrow_terminal_gets_no_line_that_is_too_long(terminal):
    listed, _, _ = terminal
    lines = re.sub(r"\x1b\[[\d;]*m", "", listed).splitlines()
    assert "learnability" in lines
    assert max(map(len, lines)) <= 40
    assert not any("…" in line for line in lines)


def test_colour_is_shown_in_a_terminal_unless_it_is_not_wanted(terminal):
    _, page, welcome = terminal
    assert bool(COLOUR.search(page)) is welcome


def test_what_is_piped_has_no_marks_and_one_line_for_each_name(capsys):
    assert cli.call(["list", "scorers"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("ifd ")]
    assert "loss_before, loss_alone" in line
    assert line.rstrip().endswith("2 passes (base, answer-alone)")


def test_a_reader_that_stops_early_is_no_error():
    code = "import sys; sys.argv[1:] = ['list']; from learnable.cli.app import main; main()"
    done = subprocess.run(
        f'"{sys.executable}" -c "{code}" | head -n 1', shell=True, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
