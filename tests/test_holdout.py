"""Rows set aside for evaluation: a share of every source, never chosen, all accounted for."""

import json
from dataclasses import replace

import polars as pl
import pytest

from learnable import commands as verbs
from learnable.commands.select import Selecting
from learnable.data import HELD_OUT, hold_out, load_pool, read
from learnable.errors import UsageError
from learnable.settings import Reading
from learnable.testing import toy_examples, write_messages


@pytest.fixture
def pool(tmp_path):
    write_messages(toy_examples(40), tmp_path / "a.jsonl")
    write_messages(toy_examples(20, seed=9), tmp_path / "b.jsonl")
    return read([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


def test_a_share_of_every_source_is_set_aside(pool):
    rest, aside = hold_out(pool, share=0.25)
    assert sorted(example.source for example in aside) == ["a"] * 10 + ["b"] * 5
    assert len(rest) == 45


def test_nothing_is_in_both_and_nothing_is_lost(pool):
    rest, aside = hold_out(pool, share=0.25)
    assert set(rest.examples["id"]).isdisjoint(example.id for example in aside)
    assert {*rest.examples["id"], *(example.id for example in aside)} == set(pool.examples["id"])


def test_all_answers_to_a_prompt_go_together(tmp_path):
    first = toy_examples(30)
    again = [
        replace(each, messages=(each.messages[0], replace(each.messages[1], content="other")))
        for each in first
    ]
    write_messages(first, tmp_path / "a.jsonl")
    write_messages(again, tmp_path / "b.jsonl")
    rest, aside = hold_out(read([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]), share=0.2)
    held = {example.messages[0].content for example in aside}
    assert len(aside) == 2 * len(held) == 12
    assert held.isdisjoint(example.messages[0].content for example in rest.iter_examples())


def test_the_ledger_says_why(pool):
    rest, aside = hold_out(pool, share=0.25)
    held = rest.rows.filter(pl.col("reason") == HELD_OUT)
    assert set(held["id"]) == {example.id for example in aside}


def test_the_order_of_the_rows_does_not_matter(pool, tmp_path):
    other = read([str(tmp_path / "b.jsonl"), str(tmp_path / "a.jsonl")])
    first, second = (hold_out(each, share=0.25)[1] for each in (pool, other))
    assert {example.id for example in first} == {example.id for example in second}


def test_load_writes_what_it_sets_aside(tmp_path):
    data = write_messages(toy_examples(20), tmp_path / "mine.jsonl")
    loaded = verbs.load([str(data)], holdout=0.1, output=str(tmp_path / "pool"))
    lines = (loaded.folder / "heldout.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["mine", "mine"]
    assert (loaded.facts["examples"], loaded.facts["held out"], loaded.facts["duplicates"]) == (18, 2, 0)
    read_again = read([str(loaded.folder / "heldout.jsonl")])
    assert set(read_again.examples["id"]).isdisjoint(load_pool(loaded.folder).examples["id"])


def test_held_out_rows_are_in_the_ledger_of_a_selection(tmp_path, tiny):
    data = write_messages(toy_examples(20), tmp_path / "mine.jsonl")
    loaded = verbs.load([str(data)], holdout=0.1, output=str(tmp_path / "pool"))
    scores = verbs.score(
        [loaded.path], model=str(tiny), store=str(tmp_path / "store"), output=str(tmp_path / "s")
    )
    chosen = verbs.select(
        scores.path, choosing=Selecting(by="loss"), budget="5", output=str(tmp_path / "selection")
    )
    dropped = [json.loads(line) for line in (chosen.folder / "dropped.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in dropped].count(HELD_OUT) == 2
    assert len(dropped) == 15


@pytest.mark.parametrize("share", [-0.1, 1.0, 2])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    data = write_messages(toy_examples(4), tmp_path / "mine.jsonl")
    with pytest.raises(UsageError, match="holdout must be"):
        verbs.load([str(data)], reading=Reading(), holdout=share, output=str(tmp_path / "pool"))
