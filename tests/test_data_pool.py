"""A pool on disk: what a turn has beyond role and content comes back; plain pools have no column for it."""

import json

import polars as pl
import pytest

from learnable.data import load_pool, read, readable, save_pool
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
