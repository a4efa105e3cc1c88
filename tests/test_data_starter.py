"""The starter rows."""

import importlib.util
from collections import Counter

import pytest

from learnable.data import read
from learnable.data.starter import (
    INSTALL,
    MAX_ANSWER_CHARACTERS,
    STARTER_ROWS,
    conversations,
    starter_rows,
    worked_answers,
)
from learnable.errors import DataError
from row_formats import read_row

if not all(importlib.util.find_spec(name) for name in ("chatterbot_corpus", "lm_eval")):
    pytest.skip("the packages of the starter rows are not installed", allow_module_level=True)
TESTS = ("mmlu", "bbh")


def test_the_subset_has_the_promised_size():
    assert len(list(starter_rows())) == STARTER_ROWS


def test_the_subset_is_always_the_same():
    assert list(starter_rows()) == list(starter_rows())


def test_the_subset_is_part_of_the_whole_in_the_same_order():
    chosen = [str(row) for row in starter_rows(limit=50)]
    everything = [str(row) for row in starter_rows(limit=None)]
    assert [row for row in everything if row in chosen] == chosen


def test_half_of_them_are_worked_answers():
    assert sum(row["source"] in TESTS for row in starter_rows()) == STARTER_ROWS // 2


@pytest.mark.parametrize("worked", [True, False])
def test_sources_of_a_half_are_in_proportion(worked):
    everything, chosen = (
        Counter(row["source"] for row in starter_rows(**limit) if (row["source"] in TESTS) == worked)
        for limit in ({"limit": None}, {})
    )
    share = chosen.total() / everything.total()
    assert all(abs(chosen[source] - size * share) < 1 for source, size in everything.items())


def test_worked_answers_do_not_begin_with_words_that_lead_a_model_on():
    assert not any("step by step" in answer[:40] for _, (_, answer) in worked_answers())


def test_a_question_of_big_bench_says_what_is_asked():
    assert any(
        question.startswith("Infer the date from context.\n\nToday is")
        for _, (question, _) in worked_answers()
    )


def test_every_row_is_a_conversation():
    assert all(read_row(row, "messages") for row in starter_rows(limit=None))


def test_no_answer_is_long():
    answers = [turn["content"] for row in starter_rows(limit=None) for turn in row["messages"][1::2]]
    assert max(map(len, answers)) <= MAX_ANSWER_CHARACTERS


def test_real_dialogues_keep_their_turns():
    turns = {
        row["source"]: len(row["messages"]) for row in starter_rows(limit=None) if len(row["messages"]) > 2
    }
    assert "conversations" in turns


def test_alternative_answers_are_no_turns():
    lengths = {len(row["messages"]) for row in starter_rows(limit=None) if row["source"] == "emotion"}
    assert lengths == {2}


def test_the_word_starter_reads_them_with_their_topics():
    pool = read(["starter"])
    assert (len(pool), "trivia" in pool.examples["source"].to_list()) == (STARTER_ROWS, True)


@pytest.mark.parametrize(
    ("rows", "package"), [(conversations, "chatterbot-corpus"), (worked_answers, "lm-eval")]
)
def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch, rows, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=package) as caught:
        list(rows())
    assert caught.value.hint == INSTALL[package]
