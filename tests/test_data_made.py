"""Rows that were made of other rows: what is read of them, from which files, and what is refused."""

import json

import polars as pl
import pytest

from learnable.commands import load
from learnable.data import read_made
from learnable.errors import DataError
from learnable.runs.identity import example_id
from learnable.testing import toy_examples, write_messages
from learnable.types import Message


def made(question, answer="four", **beside):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **beside}


ROWS = [
    made("two and two?", source="task", parent="aa", by="paraphrase", seed=3, instruction="add"),
    made("what is it?", source="task", parent="bb", by="paraphrase", seed=4, instruction="say"),
]


@pytest.fixture(params=["made.parquet", "made.jsonl", "folder"])
def given(request, tmp_path):
    """Return the same rows as a table, as lines, and as what `learnable diversify` leaves."""
    frame, path = pl.DataFrame(ROWS), tmp_path / request.param
    if request.param == "folder":
        path.mkdir()
        frame.with_columns(id=pl.lit("x")).write_parquet(path / "generated.parquet")
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        write(path, ROWS)
    return str(path)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_columns_beside_the_messages_are_meta(given):
    found = read_made(given)
    assert [dict(row.meta) for row in found] == [
        {"parent": "aa", "by": "paraphrase", "seed": 3, "instruction": "add"},
        {"parent": "bb", "by": "paraphrase", "seed": 4, "instruction": "say"},
    ]


def test_messages_source_and_identity_are_those_of_the_row(given):
    first = read_made(given)[0]
    assert first.messages == (
        Message(role="user", content="two and two?"),
        Message(role="assistant", content="four"),
    )
    assert (first.source, first.id) == ("task", example_id(first.messages))


def test_rows_without_a_parent_have_no_meta(tmp_path):
    found = read_made(write(tmp_path / "rows.jsonl", [made("two and two?", instruction="add")]))
    assert [(row.source, dict(row.meta)) for row in found] == [("rows", {})]


def test_a_parent_that_is_null_is_no_meta_but_the_rest_is(tmp_path):
    (found,) = read_made(write(tmp_path / "rows.jsonl", [made("two?", parent=None, by="self_sample")]))
    assert dict(found.meta) == {"by": "self_sample"}


def test_columns_that_come_late_are_read(tmp_path):
    rows = [made(f"what is {number}?") for number in range(200)]
    found = read_made(write(tmp_path / "rows.jsonl", [*rows, made("last?", parent="aa", word="z")]))
    assert dict(found[-1].meta) == {"parent": "aa", "word": "z"}


def test_a_column_may_have_values_of_several_kinds(tmp_path):
    rows = [made("two?", parent="aa", word=2), made("three?", parent="aa", word="three")]
    assert [row.meta["word"] for row in read_made(write(tmp_path / "rows.jsonl", rows))] == [2, "three"]


def test_a_row_that_is_there_twice_counts_once_with_what_stands_beside_the_first(tmp_path):
    rows = [made("two?", parent="aa"), made("three?", parent="bb"), made("two?", parent="cc")]
    found = read_made(write(tmp_path / "rows.jsonl", rows))
    assert [row.meta["parent"] for row in found] == ["aa", "bb"]


def test_rows_of_another_format_are_read(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"instruction": "add", "output": "four", "parent": "aa"}])
    (found,) = read_made(path)
    assert [turn.content for turn in found.messages] == ["add", "four"]
    assert not found.meta


def test_a_pool_is_read(tmp_path):
    rows = write_messages(toy_examples(3), tmp_path / "rows.jsonl")
    loaded = load([str(rows)], output=str(tmp_path / "pool"))
    assert [row.id for row in read_made(loaded.path)] == [row.id for row in toy_examples(3)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("broken.jsonl", json.dumps(ROWS[0]) + "\n{no json\n", "broken.jsonl:2: "),
        ("broken.parquet", "no table", "cannot read .*broken.parquet"),
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("cut.jsonl", json.dumps({"messages": None, "parent": "aa"}), "cut.jsonl:1: 'messages' is missing"),
        (
            "open.jsonl",
            json.dumps({"messages": ROWS[0]["messages"][:1], "parent": "aa"}),
            "open.jsonl:1: the conversation ends with a user turn",
        ),
        ("rows.txt", "two", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_made(str(tmp_path / name))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*made\.parquet"):
        read_made(str(tmp_path / "made.parquet"))


def test_a_folder_of_an_unfinished_step_is_refused(tmp_path):
    (tmp_path / "begun.json").write_text("{}")
    with pytest.raises(DataError, match="output of an earlier step"):
        read_made(str(tmp_path))
