"""The recipe ``delia`` from the command line, on a tiny model; kills in every step change nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import polars as pl
import pytest

from learnable import recipe
from learnable.cli import app as cli
from learnable.errors import UsageError
from learnable.recipe_arguments import checked_arguments
from learnable.runs.identity import example_id
from learnable.testing import toy_examples, write_messages
from learnable.types import Message

OFTEN = (
    "import learnable.measures.keep as keep, learnable.models.generation as generation; "
    "import learnable.training.checkpoints as checkpoints; keep.STORE_EVERY_S = checkpoints.CHECKPOINT_EVERY_S = 0; "
    "generation.BATCH_TOKENS = {'cpu': 600}; from learnable.cli.app import main; main()"
)
"""Stores parts all the time, so that the kills meet them; in small batches, which change what is drawn."""


def task_file(path, examples, *, instruction):
    """Write rows of a task: content, then the instruction; answers in JSON."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{each.messages[0].content}\n\n{instruction}"},
                {"role": "assistant", "content": json.dumps({"colour": each.messages[1].content})},
            ]
        }
        for each in examples
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delia")
    toys = toy_examples(24)
    return {
        "task": task_file(folder / "task.jsonl", toys[:16], instruction="Name the colour in <sep>."),
        "test": task_file(folder / "test.jsonl", toys[16:], instruction="Give me <sep>."),
        "questions": write_messages(toy_examples(60, seed=7), folder / "questions.jsonl"),
        "general": write_messages(toy_examples(6, seed=8), folder / "general.jsonl"),
    }


def words_of(files, model, output, *more):
    """Return the command; rules instead of paraphrases, as the tiny model cannot write any."""
    given = [f"{name}={path}" for name, path in files.items()]
    settings = [
        "paraphrase=constraints",
        "wordings=2",
        "buffer=self_answer",
        "rows=null",
        "tokens=<sep>=blue sky",
    ]
    settings += ["sampling.max_new_tokens=24", "evaluate=[format@max_new_tokens=4, heldout]", "gradients=4"]
    settings += [
        "tuning.batch_size=4",
        "tuning.rank=2",
        "loading.dtype=float32",
        "arms=[common, no_paraphrases]",
    ]
    names = {setting.partition("=")[0] for setting in more}
    usual = [setting for setting in [*given, *settings] if setting.partition("=")[0] not in names]
    return ["run", "delia", f"model={model}", *usual, *more, "-o", str(output)]


def table_of(output):
    (path,) = output.glob("delia/lesson-*/table.parquet")
    return pl.read_parquet(path).drop("training_s")


@pytest.fixture(scope="module")
def ran(files, tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    words = words_of(files, tiny, output)
    command = [sys.executable, "-c", OFTEN, *words]
    subprocess.run(command, capture_output=True, check=True)
    return output, command


def test_the_recipe_asks_in_both_wordings_and_what_was_forgotten(ran):
    table = table_of(ran[0])
    asked = {label.rpartition(", ")[2] for label in table["evaluation"]}
    assert asked == {"unseen wording", "seen wording", "heldout on general rows"}
    assert set(table["arm"]) == {"common", "no_paraphrases"}


def test_the_buffer_keeps_away_from_the_task(ran):
    (path,) = ran[0].glob("delia/buffer-[!p]*/begun.json")
    assert "avoided" in path.read_text() or "avoid" in path.read_text()


def test_the_recipe_ends_with_a_report(ran):
    (page,) = ran[0].glob("delia/report-*/report.html")
    assert "no_paraphrases" in page.read_text(encoding="utf-8")


def test_a_second_run_does_nothing(ran):
    again = subprocess.run(ran[1], capture_output=True, check=True, text=True)
    assert again.stderr.count("was done already") == 4


def test_a_second_task_has_a_pool_of_its_own(files, tiny, tmp_path):
    other = task_file(
        tmp_path / "other.jsonl", toy_examples(24, seed=5)[:16], instruction="Name it in <sep>."
    )
    for task in (files["task"], other):
        words = words_of({**files, "task": task}, tiny, tmp_path)
        chosen = recipe.override(recipe.find("delia"), words[2:-2])
        first = {"paraphrases": chosen.steps["paraphrases"]}
        recipe.run(replace(chosen, steps=first), root=tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("delia/paraphrases-pool-*"))) == 2


def test_words_without_tokens_are_said_before_anything_runs(tmp_path):
    chosen = recipe.override(recipe.find("delia"), ["words=json"])
    with pytest.raises(UsageError, match="about new tokens, and there are none"):
        recipe.run(chosen, root=tmp_path / "runs")


def test_the_buffer_is_kept_from_all_rows_that_are_given():
    chosen = recipe.override(recipe.find("delia"), ["task=[a.jsonl, b.jsonl]", "general=c.jsonl"])
    _, buffer, *_ = checked_arguments(chosen.parameters, chosen.steps)
    assert buffer["avoid"] == ["a.jsonl", "b.jsonl", "c.jsonl"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("tokens=<sep>=answer in JSON: a thought", ["<sep>=answer in JSON: a thought"]),
        ("tokens=<sep>=C # or D", ["<sep>=C # or D"]),
        ("words=no", ["no"]),
        ('words=["no", 3]', ["no", 3]),
        ('tokens=["[SEP]=a, b"]', ["[SEP]=a, b"]),
        ("evaluate=", []),
        ("model=007", 7),
    ],
)
def test_a_text_of_a_list_is_taken_as_it_stands(setting, expected):
    name = setting.partition("=")[0]
    assert recipe.override(recipe.find("delia"), [setting]).parameters[name] == expected


@pytest.mark.parametrize(
    "settings",
    [
        ["tokens=<sep>=answer in JSON: a thought", "tokens=<end> # no more"],
        ['tokens=["[SEP]=a, b"]', "words=no"],
        ['model="no"', "max_length=512"],
        ["task=[a.jsonl]", "tuning.learning_rate=1.0e-05"],
    ],
)
def test_the_shown_command_repeats_lists_and_odd_texts(settings):
    chosen = recipe.override(recipe.find("delia"), settings)
    words = shlex.split(recipe.command(chosen))
    assert recipe.override(recipe.find("delia"), words[3:]) == chosen


def test_a_dry_run_prices_every_step_and_writes_nothing(files, tiny, tmp_path, capsys):
    words = words_of(files, tiny, tmp_path / "runs", "--dry-run")
    assert cli.call(words) == cli.DONE
    said = capsys.readouterr().err
    assert all(f"{step}: " in said for step in ("paraphrases", "buffer", "lesson", "report"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("arms=[commom]", "did you mean 'common'"),
        ("tokens==blue", "cannot be a token"),
        ("paraphrase=paraphase", "did you mean 'paraphrase'"),
        ("mixing=3", "no parameter 'mixing'"),
        ("questions=", "self_answer needs rows to start from\nhint: give questions=FILE"),
        ("arms=[common, fact_based]", "'fact_based' needs facts, which this recipe does not make"),
        ("arms=controlled", "'controlled' needs constrained, which this recipe does not make"),
        ("tuning.seed=1", "tuning.seed and tuning.steps have no effect"),
        ("tuning.steps=9", "tuning.seed and tuning.steps have no effect"),
        ("arms=[{a: b}]", "arms: {'a': 'b'} is not text"),
    ],
)
def test_what_is_mistyped_is_said_before_anything_runs(files, tiny, tmp_path, capsys, setting, said):
    assert cli.call(words_of(files, tiny, tmp_path / "runs", setting)) != cli.DONE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def killed(command, output, *, when):
    """Start a command and kill it as soon as a file is there; return whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(output.glob(when)):
        time.sleep(0.002)
    hit = process.poll() is None
    if hit:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return hit


@pytest.mark.slow
def test_a_kill_in_every_step_changes_nothing(files, tiny, ran, tmp_path):
    output = tmp_path / "runs"
    command = [sys.executable, "-c", OFTEN, *words_of(files, tiny, output)]
    moments = [
        "delia/paraphrases-*/begun.json",
        "store/draw-*/*.parquet",
        "delia/buffer-*/generated.parquet",
        "store/tokens-*/config.json",
        "store/arms/*/checkpoints/last.pt",
        "store/arms/*/training.json",
        "store/completion-*/*.parquet",
        "store/nll-*/*.parquet",
        "delia/lesson-*/results.parquet",
        "delia/lesson-*/model/config.json",
        "delia/report-*/begun.json",
    ]
    hits = [killed(command, output, when=when) for when in moments]
    subprocess.run(command, capture_output=True, check=True)
    assert sum(hits) >= len(moments) - 2  # a step of milliseconds may be over before it is seen
    assert table_of(output).equals(table_of(ran[0]))


def test_the_trained_model_is_whole(ran):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (folder,) = ran[0].glob("delia/lesson-*/model")
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<sep>") < network.get_input_embeddings().weight.shape[0]


def test_what_the_kept_model_saw_is_written(ran):
    (path,) = ran[0].glob("delia/lesson-*/mixture.jsonl")
    (buffer,) = ran[0].glob("delia/buffer-*/generated.parquet")
    assert len(path.read_text().splitlines()) == 16 + pl.read_parquet(buffer).height


def test_paraphrases_belong_to_rows_of_the_task(ran, files):
    (path,) = ran[0].glob("delia/paraphrases-*/generated.parquet")
    parents = set(pl.read_parquet(path)["parent"])
    rows = [json.loads(line)["messages"] for line in files["task"].read_text().splitlines()]
    assert parents <= {example_id(Message(**turn) for turn in messages) for messages in rows}
