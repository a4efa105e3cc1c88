"""A pool on disk: what a turn has beyond role and content comes back; plain pools have no column for it."""

import json

import polars as pl
import pytest

from learnable.data import load_pool, pool_identity, read, readable, save_pool
from learnable.errors import DataError
from learnable.runs.files import FrameWriter
from learnable.types import Conversation, Message, ToolCall
from row_formats import WRITTEN

PLAIN = Conversation(
    messages=(Message(role="user", content="a?"), Message(role="assistant", content="b")),
)
CALLING = Conversation(
    messages=(
        Message(role="user", content="How warm is it in Rome?"),
        Message(
            role="assistant",
            content="",
            reasoning="A tool knows.",
            tool_calls=(
                ToolCall(name="weather", arguments='{"city": "Roma"}', id="c1"),
                ToolCall(name="weather", arguments='{"city": "Ostia", "days": 2}'),
            ),
        ),
        Message(role="tool", content='{"celsius": 21}', tool_call_id="c1", name="weather"),
        Message(role="assistant", content="21 degrees – “mild”."),
    ),
    tools='[{"type": "function", "function": {"name": "weather"}}]',
)
UNTRAINED = Conversation(
    messages=(
        Message(role="user", content="Where is it?"),
        Message(role="assistant", content="I lost it.", trained=False),
        Message(role="user", content="Try again."),
        Message(role="assistant", content="In the drawer."),
    )
)


def asked(n, *, first=0):
    """Return n plain conversations, no two of them the same."""
    return [
        Conversation(messages=(Message(role="user", content=f"{i}?"), Message(role="assistant", content="b")))
        for i in range(first, first + n)
    ]


@pytest.fixture
def pool_of(tmp_path):
    """Reads rows that mean the given conversations."""

    def read_them(*conversations):
        rows = [WRITTEN["messages"](conversation) for conversation in conversations]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read([str(tmp_path / "rows.jsonl")])

    return read_them


@pytest.mark.parametrize(
    "conversations",
    [(PLAIN, CALLING, UNTRAINED), (CALLING, PLAIN), (UNTRAINED, CALLING), (UNTRAINED,), (CALLING,)],
)
def test_everything_of_a_turn_survives_the_disk(pool_of, tmp_path, conversations):
    pool = pool_of(*conversations)
    save_pool(pool, tmp_path / "pool")
    for found in (pool, load_pool(tmp_path / "pool")):
        kept = [Conversation(messages=each.messages, tools=each.tools) for each in found.iter_examples()]
        assert kept == list(conversations)


def test_a_plain_pool_holds_role_and_content_alone(pool_of):
    pool = pool_of(PLAIN)
    turn = pl.Struct({"role": pl.String, "content": pl.String})
    assert pool.examples.schema == {"id": pl.String, "source": pl.String, "messages": pl.List(turn)}


def test_a_pool_holds_only_what_some_turn_has(pool_of):
    pool = pool_of(PLAIN, UNTRAINED)
    turn = pl.Struct({"role": pl.String, "content": pl.String, "trained": pl.Boolean})
    assert pool.examples.schema == {"id": pl.String, "source": pl.String, "messages": pl.List(turn)}


def test_what_people_read_of_an_answer_has_its_reasoning_and_calls(pool_of):
    (calling, untrained) = readable(pool_of(CALLING, UNTRAINED).examples)["messages"].to_list()
    assert {key for turn in calling for key in turn} == {"role", "content"}
    said = calling[1]["content"]
    assert said.startswith("<think>\nA tool knows.\n</think>")
    assert "weather" in said
    assert "Ostia" in said
    assert calling[3]["content"] == "21 degrees – “mild”."
    assert untrained[1]["content"] == "(context only) I lost it."


def test_a_plain_pool_is_read_as_it_is(pool_of):
    examples = pool_of(PLAIN).examples
    assert readable(examples) is examples


# Windows


@pytest.fixture
def small_windows(monkeypatch):
    for module in ("pools", "data.building"):
        monkeypatch.setattr(f"learnable.{module}.WINDOW_ROWS", 2)


@pytest.mark.parametrize(
    "conversations",
    [
        (PLAIN, *asked(4), CALLING, *asked(2, first=4), UNTRAINED),
        (CALLING, *asked(4)),
        (*asked(5), UNTRAINED),
        (*asked(3), *asked(5)),
        asked(4),
    ],
)
def test_a_pool_that_is_written_in_windows_is_the_one_in_memory(
    pool_of, tmp_path, small_windows, conversations
):
    whole = pool_of(*conversations)
    pool = read([str(tmp_path / "rows.jsonl")], into=tmp_path / "pool")
    assert pool.examples.equals(whole.examples)
    assert pool.examples.schema == whole.examples.schema
    assert pool.rows.equals(whole.rows)
    assert (pool.files, pool_identity(pool)) == (whole.files, pool_identity(whole))
    assert {path.name for path in (tmp_path / "pool").iterdir()} == {
        "examples.parquet",
        "rows.parquet",
        "pool.json",
    }


def test_identity_does_not_depend_on_windows(pool_of, monkeypatch):
    pool = pool_of(*asked(5))
    before = pool_identity(pool)
    monkeypatch.setattr("learnable.pools.WINDOW_ROWS", 2)
    assert pool_identity(pool) == before


def test_rows_are_let_go_as_they_are_written(pool_of, tmp_path, small_windows, monkeypatch):
    pool_of(*asked(9))
    held = []

    def counted(file, table, add=FrameWriter.add):
        held.append(table.height)
        add(file, table)

    monkeypatch.setattr(FrameWriter, "add", counted)
    read([str(tmp_path / "rows.jsonl")], into=tmp_path / "pool")
    assert max(held) == 2


def test_a_reading_that_fails_in_a_later_window_leaves_no_pool(pool_of, tmp_path, small_windows):
    pool_of(*asked(5))
    with (tmp_path / "rows.jsonl").open("a") as out:
        out.write("{}\n")
    with pytest.raises(DataError):
        read([str(tmp_path / "rows.jsonl")], into=tmp_path / "pool")
    assert list((tmp_path / "pool").iterdir()) == []


def test_windows_have_all_conversations_in_order(pool_of, small_windows):
    pool = pool_of(*asked(5))
    parts = list(pool.windows())
    assert [len(part) for part in parts] == [2, 2, 1]
    assert pl.concat([part.examples for part in parts]).equals(pool.examples)
