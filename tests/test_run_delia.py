"""The recipe ``delia`` from the command line, on a tiny model; kills in every step change nothing."""

import json
import signal
import time

import polars as pl
import pytest

from learnable import recipes
from learnable.cli import app as cli
from learnable.cli import running
from learnable.commands.teach import Teaching
from learnable.errors import UsageError
from learnable.models import generation
from learnable.recipes import Run
from learnable.recipes.run import words as typed_words
from learnable.runs.identity import example_id
from learnable.testing import toy_examples, write_messages
from learnable.types import Message
from processes import OFTEN, at_work

SMALL_BATCHES = OFTEN | {"learnable.models.generation.BATCH_TOKENS": {"cpu": 600}}
"""Which change what is drawn."""


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
    task = files["task"]
    usual = {f"--{name}": [str(path)] for name, path in files.items() if name != "task"}
    usual |= {
        "--paraphrase": ["constraints"],
        "--wordings": ["2"],
        "--buffer": ["self_answer"],
        "--rows": ["0"],
    }
    usual |= {"--tokens": ["<sep>=blue sky"], "--max-new-tokens": ["24"], "--gradients": ["4"]}
    usual |= {"--evaluate": ["format@max_new_tokens=4", "heldout"], "--arms": ["common", "no_paraphrases"]}
    usual |= {"--batch-size": ["4"], "--rank": ["2"], "--dtype": ["float32"]}
    words = [word for flag, values in usual.items() if flag not in more for word in (flag, *values)]
    return ["run", "delia", str(task), "--model", str(model), *words, *more, "-o", str(output)]


def table_of(output):
    (path,) = output.glob("delia/lesson-*/table.parquet")
    return pl.read_parquet(path).drop("training_s")


@pytest.fixture(scope="module")
def ran(files, tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    words = words_of(files, tiny, output)
    with pytest.MonkeyPatch.context() as often:
        often.setattr(generation, "BATCH_TOKENS", {"cpu": 600})
        assert cli.call(words) == 0
    return output, words


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


def test_a_second_run_does_nothing(ran, capsys):
    assert cli.call(ran[1]) == 0
    assert capsys.readouterr().err.count("was done already") == 4


class _StopError(Exception):
    """Ends a run after its first step."""


def test_a_second_task_has_a_pool_of_its_own(files, tiny, tmp_path, monkeypatch):
    step = Run.step

    def first_alone(self, name, verb, /, *inputs, **options):
        step(self, name, verb, *inputs, **options)
        raise _StopError

    monkeypatch.setattr(Run, "step", first_alone)
    other = task_file(
        tmp_path / "other.jsonl", toy_examples(24, seed=5)[:16], instruction="Name it in <sep>."
    )
    for task in (files["task"], other):
        with pytest.raises(_StopError):
            cli.call(words_of({**files, "task": task}, tiny, tmp_path / "runs"))
    assert len(list((tmp_path / "runs").glob("delia/paraphrases-pool-*"))) == 2


def test_words_without_tokens_are_said_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match="about new tokens, and there are none"):
        recipes.delia(teaching=Teaching(words=["json"]), run=Run(output=str(tmp_path / "runs")))


def test_the_buffer_is_kept_from_all_rows_that_are_given(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(
        Run, "step", lambda run, name, verb, /, *inputs, **options: given.setdefault(name, options) and run
    )
    monkeypatch.setattr(Run, "path", "made", raising=False)
    run = Run(output=str(tmp_path))
    recipes.delia(["a.jsonl", "b.jsonl"], general="c.jsonl", run=run)
    assert given["buffer"]["reading"].avoid == ("a.jsonl", "b.jsonl", "c.jsonl")


@pytest.mark.parametrize(
    "words",
    [
        ["--tokens", "<sep>=answer in JSON: a thought", "<end> # no more"],
        ["--tokens", "[SEP]=a, b", "--words", "no", "3"],
        ["--model", "no", "--max-length", "512"],
        ["a.jsonl", "--learning-rate", "1e-05", "--init", "mean"],
        ["--tokens=-x=a", "--questions", "q 1.jsonl"],
    ],
)
def test_the_shown_command_repeats_lists_and_odd_texts(words):
    function, given = running.understood(["delia", *words])
    given.apply_defaults()
    _, again = running.understood(["delia", *typed_words(function, given.arguments)])
    again.apply_defaults()
    assert again.arguments == given.arguments


def test_a_dry_run_prices_every_step_and_writes_nothing(files, tiny, tmp_path, capsys):
    words = words_of(files, tiny, tmp_path / "runs", "--dry-run")
    assert cli.call(words) == cli.DONE
    said = capsys.readouterr().err
    assert all(f"{step}: " in said for step in ("paraphrases", "buffer", "lesson", "report"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "commom"], "did you mean 'common'"),
        (["--tokens", "=blue"], "cannot be a token"),
        (["--paraphrase", "paraphase"], "did you mean 'paraphrase'"),
        (["--mixing", "3"], "no option --mixing"),
        (["--arms", "common", "fact_based"], "'fact_based' needs facts, which this recipe does not make"),
        (["--arms", "controlled"], "'controlled' needs constrained, which this recipe does not make"),
        (["--seed", "1"], "--order-seed and --steps have no effect"),
        (["--order-seed", "1"], "--order-seed and --steps have no effect"),
        (["--steps", "9"], "--order-seed and --steps have no effect"),
    ],
)
def test_what_is_mistyped_is_said_before_anything_runs(files, tiny, tmp_path, capsys, words, said):
    assert cli.call(words_of(files, tiny, tmp_path / "runs", *words)) != cli.DONE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_self_answer_without_questions_is_said_before_anything_runs(tmp_path, capsys):
    assert cli.call(["run", "delia", "--buffer", "self_answer", "-o", str(tmp_path / "runs")]) == 2
    assert "self_answer needs rows to start from\nhint: give --questions FILE" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def killed(words, output, *, when):
    """Start a command and kill it as soon as a file is there; return whether it was still running."""
    process = at_work(words, output.parent, SMALL_BATCHES)
    while process.is_alive() and not list(output.glob(when)):
        time.sleep(0.002)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_a_kill_in_every_step_changes_nothing(files, tiny, ran, tmp_path):
    output = tmp_path / "runs"
    words = words_of(files, tiny, output)
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
    hits = [killed(words, output, when=when) for when in moments]
    process = at_work(words, tmp_path, SMALL_BATCHES)
    process.join()
    assert process.exitcode == 0
    assert sum(hits) >= len(moments) - 2  # a step of milliseconds may be over before it is seen
    (broken,), (whole,) = (folder.glob("delia/lesson-*/results.parquet") for folder in (output, ran[0]))
    # Not the table: its intervals are drawn less often in the process of the tests.
    assert pl.read_parquet(broken).equals(pl.read_parquet(whole))


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
