"""Rows that stand in evaluation files are left out: which are found, how that is said, and that every recipe can."""

import json
from importlib.util import find_spec
from inspect import signature

import polars as pl
import pytest
import yaml

import learnable as ln
from learnable.cli import app as cli
from learnable.commands import load
from learnable.data import load_pool, read
from learnable.data.decontamination import IN_EVALUATION, EvaluationIndex, EvaluationRow
from learnable.errors import DataError, UsageError
from learnable.recipes import RECIPES, Run
from learnable.settings import Reading, told
from learnable.types import Message

SPAN = "one two three four five six seven eight nine ten eleven twelve thirteen"
PROMPT = "Which river flows through the old town of the capital of Austria"


def index(*texts):
    """Return an index of evaluation rows, each a question alone."""
    return EvaluationIndex(EvaluationRow(f"eval:{n}", [text], [text]) for n, text in enumerate(texts, 1))


def row(user, answer="It is so."):
    return [Message(role="user", content=user), Message(role="assistant", content=answer)]


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


def pair_of(prompt, response="It is so."):
    return {"prompt": prompt, "response": response}


def test_the_same_prompt_is_found_whatever_its_case_and_punctuation():
    found = index("What is a fig?").why(row("what is... a FIG"))
    assert found == "in an evaluation file: same prompt as eval:1"


def test_thirteen_words_in_a_row_are_found_in_prompts_and_answers():
    evaluation = index("Nothing of it.", f"Read this: {SPAN}, and go on.")
    expected = f"{IN_EVALUATION}13 words in a row of eval:2: {SPAN!r}"
    assert evaluation.why(row(f"Before it {SPAN} and after")) == expected
    assert evaluation.why(row("Count.", f"Well: {SPAN}.")) == expected


def test_twelve_words_in_a_row_are_not_enough():
    assert index(f"{SPAN} and on and on").why(row(" ".join(SPAN.split()[:12]))) is None


def test_a_near_duplicate_shares_seven_of_ten_word_grams():
    # 12 words have 10 grams; another first word changes one of them: 9 / 11 = 0.82.
    found = index(PROMPT).why(row(PROMPT.replace("Which", "What")))
    assert found == "in an evaluation file: near-duplicate of eval:1 (similarity 0.82)"


def test_another_word_in_the_middle_leaves_too_little_in_common():
    # It changes three grams: 7 / 13 = 0.54.
    assert index(PROMPT).why(row(PROMPT.replace("old", "new"))) is None


def test_of_several_evaluation_rows_the_most_similar_one_is_named():
    less = PROMPT.replace("Austria", "Peru")
    asked = f"{PROMPT} please"
    assert index(less, PROMPT).why(row(asked)).startswith(f"{IN_EVALUATION}near-duplicate of eval:2")


def test_a_paraphrase_is_not_found():
    assert index(PROMPT).why(row("Name the stream that crosses Vienna's centre")) is None


def test_every_turn_of_a_longer_conversation_is_compared():
    turns = [*row("Hello there"), *row("What is a fig?")]
    assert index("What is a fig?").why(turns).endswith("same prompt as eval:1")


def test_both_answers_of_a_pair_are_compared():
    rejected = Message(role="assistant", content=f"No: {SPAN}.")
    assert "13 words in a row" in index(f"So {SPAN} it is").why([*row("Say it."), rejected])


def test_the_wording_of_a_template_finds_nothing():
    template = (
        f"{SPAN} fourteen fifteen sixteen seventeen eighteen nineteen twenty. What is the word for {{}}?"
    )
    evaluation = index(*(template.format(f"thing{n}") for n in range(11)))
    assert evaluation.why(row(template.format("bread"))) is None
    assert evaluation.why(row(template.format("thing3"))).endswith("same prompt as eval:4")


def test_what_ten_rows_share_still_counts():
    evaluation = index(*(f"{SPAN} thing{n}" for n in range(10)))
    assert "13 words in a row of eval:1" in evaluation.why(row(f"{SPAN} bread"))


@pytest.mark.parametrize("text", ["", "...", "?!"])
def test_prompts_without_a_word_are_nobodys(text):
    assert index(text, "What is a fig?").why(row(text)) is None


@pytest.mark.parametrize(
    "asked",
    [
        {"question": PROMPT, "choices": ["Danube", "Rhine"], "answer": 0},
        {"key": 7, "prompt": PROMPT, "instruction_id_list": ["length"]},
        {"messages": [{"role": "user", "content": PROMPT}]},
        {"question_id": 3, "turns": [PROMPT, "And why is that?"]},
        {"instruction": PROMPT, "output": "The Danube."},
    ],
    ids=["choices", "instructions", "prompt alone", "turns", "alpaca"],
)
def test_evaluation_files_of_any_form_are_read(tmp_path, asked):
    held = write(tmp_path / "eval.jsonl", [asked])
    pool = read([write(tmp_path / "a.jsonl", [pair_of(PROMPT), pair_of("Other?")])], avoid=[held])
    assert pool.rows["reason"].to_list() == [f"{IN_EVALUATION}same prompt as eval.jsonl:1", None]


def test_a_question_with_its_choices_in_the_prompt_is_found(tmp_path):
    held = write(
        tmp_path / "eval.jsonl", [{"question": "Who was it?", "choices": ["Ada the first", "Bob the last"]}]
    )
    asked = pair_of("Who was it?\nAda the first\nBob the last")
    pool = read([write(tmp_path / "a.jsonl", [asked, pair_of("Other?")])], avoid=[held])
    assert pool.examples.height == 1


def test_a_file_without_any_text_is_refused(tmp_path):
    held = write(tmp_path / "eval.jsonl", [{"id": 1}])
    with pytest.raises(DataError, match=r"eval\.jsonl has no text"):
        read([write(tmp_path / "a.jsonl", [pair_of("One?")])], avoid=[held])


def test_nothing_left_is_an_error(tmp_path):
    data = write(tmp_path / "a.jsonl", [pair_of("One?")])
    with pytest.raises(DataError, match="no other is left"):
        read([data], avoid=[data])


@pytest.fixture
def loaded(tmp_path, capsys):
    data = write(
        tmp_path / "a.jsonl", [*(pair_of(f"Question {n}?") for n in range(9)), pair_of("Question 3?")]
    )
    held = write(tmp_path / "eval.jsonl", [pair_of("Question 3?", "Another answer.")])
    outcome = load([data], reading=Reading(avoid=(held,)), output=str(tmp_path / "pool"))
    return outcome, capsys.readouterr().err


def test_load_counts_and_says_what_it_left_out(loaded):
    outcome, said = loaded
    assert [outcome.facts[name] for name in ("rows", "examples", "in the evaluation", "duplicates")] == [
        10,
        8,
        2,
        0,
    ]
    assert "  a.jsonl:4: same prompt as eval.jsonl:1" in said
    assert "2 of 10 rows stand in the evaluation files (1 row) and are left out: 2 same prompt" in said


def test_load_warns_of_a_large_share(loaded):
    assert "warning: 20% of the rows stand in the evaluation files" in loaded[1]


def test_the_ledger_names_the_evaluation_row(loaded):
    pool = load_pool(loaded[0].folder)
    lines = pool.rows.filter(pl.col("reason").is_not_null())
    assert lines.select("line", "reason").rows() == [
        (4, "in an evaluation file: same prompt as eval.jsonl:1"),
        (10, "in an evaluation file: same prompt as eval.jsonl:1"),
    ]


def test_another_evaluation_is_another_step(tmp_path):
    data = write(tmp_path / "a.jsonl", [pair_of(f"Question {n}?") for n in range(4)])
    folders, pools = set(), set()
    for number in range(3):
        held = write(tmp_path / "eval.jsonl", [pair_of(f"Question {number}?")])
        outcome = load([data], reading=Reading(avoid=(held,)), output=str(tmp_path / "pool-{fingerprint}"))
        folders.add(outcome.folder)
        pools.add(outcome.identity)
    assert len(folders) == len(pools) == 3


def test_without_evaluation_files_a_step_is_what_it_was():
    assert "avoid" not in told(Reading())
    assert Reading(avoid=()) == Reading()


def test_a_pool_that_was_loaded_can_be_avoided_and_not_be_cleaned_again(tmp_path, loaded):
    data = write(tmp_path / "b.jsonl", [pair_of("Question 5?"), pair_of("New?")])
    again = load([data], reading=Reading(avoid=(loaded[0].path,)), output=str(tmp_path / "again"))
    assert again.facts["in the evaluation"] == 1
    with pytest.raises(UsageError, match="avoid have no effect"):
        read([loaded[0].path], avoid=[data])


def test_rows_in_memory_are_kept_from_rows_in_memory():
    rows = ln.read([pair_of("One?"), pair_of("Two?")], avoid=[pair_of("Two?", "Another.")])
    assert [each.messages[0].content for each in rows.examples] == ["One?"]
    assert rows.pool.rows["reason"][1] == "in an evaluation file: same prompt as evaluation row 1"


NEEDS = {"rft": "trl", "slora": "flwr"}
"""Packages that a recipe asks for before its first step."""


class _StopError(Exception):
    """Ends a recipe before its first step."""


def test_a_path_a_list_of_them_and_nothing_can_be_avoided(tmp_path):
    held = tmp_path / "eval.jsonl"
    write(held, [pair_of("Two?")])
    for avoid, left in ((held, 1), ([str(held)], 1), (None, 2), ([], 2)):
        assert len(ln.read([pair_of("One?"), pair_of("Two?", "Another.")], avoid=avoid)) == left


# run clean shows such rows among the suspects.
@pytest.mark.parametrize("name", sorted({*RECIPES} - {"clean"}))
def test_every_recipe_keeps_its_rows_from_evaluation_files(name, tiny, monkeypatch):
    def first(_run, _name, _command, /, *_inputs, **options):
        raise _StopError(options["reading"].avoid)

    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    monkeypatch.setattr(Run, "step", first)
    needs = {"target": "task.jsonl"} if "target" in signature(RECIPES[name]).parameters else {}
    with pytest.raises(_StopError) as stopped:
        RECIPES[name](["a.jsonl"], model=str(tiny), reading=Reading(avoid=("eval.jsonl",)), **needs)
    assert stopped.value.args[0] == ("eval.jsonl",)


@pytest.fixture
def files(tmp_path):
    rows = [pair_of(f"Question {n}?", f"Answer {n}.") for n in range(12)]
    held = [write(tmp_path / f"eval-{n}.jsonl", [pair_of(f"Question {n}?")]) for n in (3, 5)]
    return write(tmp_path / "a.jsonl", rows), *held


def test_the_command_line_takes_several_files_and_a_run_file_has_them(tmp_path, tiny, files):
    data, *held = files
    output = tmp_path / "runs"
    words = ["run", "lobass", data, "--model", str(tiny), "--budget", "4", "--reference.fraction", "0.5"]
    assert cli.call([*words, "--avoid", *held, "--by", "loss", "--scorers", "loss", "-o", str(output)]) == 0
    (written,) = output.glob("lobass/report-*/run.yaml")
    assert yaml.safe_load(written.read_text())["lobass"]["avoid"] == held
    (dropped,) = output.glob("lobass/selection-*/dropped.jsonl")
    reasons = [json.loads(line)["reason"] for line in dropped.read_text().splitlines()]
    assert [each for each in reasons if each.startswith(IN_EVALUATION)] == [
        f"{IN_EVALUATION}same prompt as eval-{n}.jsonl:1" for n in (3, 5)
    ]
    page = (written.parent / "report.html").read_text(encoding="utf-8")
    assert "2 rows of 12 read stood in the evaluation files" in page
    assert "16.7% of the rows read (2 of 12)" in page
