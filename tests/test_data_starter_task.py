"""The starter task: one instruction to learn from, other wordings to be asked in."""

import json
from collections import Counter

import pytest

from learnable.data import read
from learnable.data import starter as module
from learnable.data.starter import INSTRUCTION, TOPICS, UNSEEN_INSTRUCTIONS, starter_task_rows
from learnable.errors import DataError
from learnable.evaluators import build_evaluator, parse
from row_formats import read_row

pytest.importorskip("chatterbot_corpus")


@pytest.fixture(scope="module")
def rows():
    return {split: list(starter_task_rows(split)) for split in ("train", "test")}


def parts(row):
    """Return message and instruction of a row."""
    message, instruction = row["messages"][0]["content"].split("\n\n")
    return message, instruction


def test_sizes_are_the_promised_ones(rows):
    assert (len(rows["train"]), len(rows["test"])) == (60, 40)


@pytest.mark.parametrize(("split", "share"), [("train", 12), ("test", 8)])
def test_topics_are_equally_frequent(rows, split, share):
    assert Counter(row["source"] for row in rows[split]) == dict.fromkeys(TOPICS, share)


def test_the_rows_are_always_the_same(rows):
    assert list(starter_task_rows("train")) == rows["train"]


def test_no_message_is_in_both_splits(rows):
    train, test = ({parts(row)[0].casefold() for row in rows[split]} for split in ("train", "test"))
    assert not train & test


def test_one_instruction_is_learnt_from(rows):
    assert {parts(row)[1] for row in rows["train"]} == {INSTRUCTION}


def test_every_other_wording_is_asked_once_on_each_topic(rows):
    asked = Counter((row["source"], parts(row)[1]) for row in rows["test"])
    assert asked == {(topic, wording): 1 for topic in TOPICS for wording in UNSEEN_INSTRUCTIONS}


@pytest.mark.parametrize("wording", [INSTRUCTION, *UNSEEN_INSTRUCTIONS])
def test_an_instruction_names_the_format_and_does_not_explain_it(wording):
    explained = [word for word in ("json", "key", "thought", "object", "{") if word in wording.casefold()]
    assert ("<card> format" in wording, explained) == (True, [])


def test_no_unseen_wording_resembles_the_seen_one():
    seen = set(INSTRUCTION.casefold().split())
    shared = [len(seen & set(wording.casefold().split())) / len(seen) for wording in UNSEEN_INSTRUCTIONS]
    assert max(shared) <= 0.5


def test_the_answer_is_json_with_the_thought_first(rows):
    answer = json.loads(rows["train"][0]["messages"][1]["content"])
    assert list(answer) == ["thought", "topic"]


def test_the_answer_names_the_topic(rows):
    assert all(json.loads(row["messages"][1]["content"])["topic"] == row["source"] for row in rows["test"])


def test_every_row_is_a_conversation(rows):
    assert all(read_row(row, "messages") for row in (*rows["train"], *rows["test"]))


def test_too_few_messages_on_a_topic_is_an_error(monkeypatch):
    row = ("sports", ["what is a goal", "a point"])
    monkeypatch.setattr(module, "TOPICS", ("sports",))
    monkeypatch.setattr(module, "conversations", lambda: [row])
    with pytest.raises(DataError, match="holds 1 messages on sports"):
        list(starter_task_rows("train"))


# As data


@pytest.mark.parametrize(("name", "count"), [("starter-task", 60), ("starter-task-test", 40)])
def test_its_name_reads_it_with_its_topics(name, count):
    pool = read([name])
    assert (len(pool), sorted(pool.examples["source"].unique())) == (count, list(TOPICS))


def test_an_evaluator_takes_its_name_for_a_path():
    evaluator = build_evaluator(parse("format@label=topic"))
    assert len(evaluator.read("starter-task-test")) == 40


def test_an_evaluator_gives_its_answers_full_marks():
    evaluator = build_evaluator(parse("format@label=topic"))
    examples = evaluator.read("starter-task-test")
    assert {evaluator.grade(each, each.messages[-1].content).value for each in examples} == {1.0}
