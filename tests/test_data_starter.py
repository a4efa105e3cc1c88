"""The starter conversations."""

import importlib.metadata
from collections import Counter

import pytest

from learnable.data import read
from learnable.data.starter import MAX_ANSWER_CHARACTERS, STARTER_ROWS, starter_rows
from learnable.errors import DataError
from row_formats import read_row

pytest.importorskip("chatterbot_corpus")


def test_the_subset_has_the_promised_size():
    assert len(list(starter_rows())) == STARTER_ROWS


def test_the_subset_is_always_the_same():
    assert list(starter_rows()) == list(starter_rows())


def test_the_subset_is_part_of_the_whole_in_the_same_order():
    chosen = [str(row) for row in starter_rows(limit=50)]
    everything = [str(row) for row in starter_rows(limit=None)]
    assert [row for row in everything if row in chosen] == chosen


def test_topics_are_in_proportion():
    everything = Counter(row["source"] for row in starter_rows(limit=None))
    chosen = Counter(row["source"] for row in starter_rows())
    share = STARTER_ROWS / everything.total()
    assert all(abs(chosen[topic] - size * share) < 1 for topic, size in everything.items())


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


def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(DataError) as caught:
        list(starter_rows())
    assert caught.value.hint == "pip install chatterbot-corpus==1.3.3"
