"""Rows to conversations and back."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnable.data import FORMATS
from learnable.data.formats import find_layout
from learnable.data.values import UnusableRowError, is_blank
from learnable.types import Conversation, Message
from row_formats import WRITTEN, read_row

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda said: not is_blank(said))
system = st.lists(st.builds(Message, role=st.just("system"), content=text), max_size=1)
exchange = st.tuples(
    st.builds(Message, role=st.just("user"), content=text),
    st.builds(Message, role=st.just("assistant"), content=text),
)
single_turn = st.builds(lambda first, pair: [*first, *pair], system, exchange)
multi_turn = st.builds(
    lambda first, pairs: [*first, *(message for pair in pairs for message in pair)],
    system,
    st.lists(exchange, min_size=1, max_size=4),
)

junk_keys = st.sampled_from(["messages", "conversations", "instruction", "output", "prompt", "completion"])
turn_keys = st.sampled_from(["role", "from", "content", "value", "type", "text", "tool_calls"])
scalar = st.none() | st.booleans() | st.integers() | st.sampled_from(["user", "gpt", "text", " ", "\ud800"])
junk = scalar | st.lists(
    scalar | st.dictionaries(turn_keys, scalar | st.lists(scalar, max_size=2), max_size=4), max_size=3
)

GOOD: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("alpaca", {"instruction": "Add.", "input": "1+1", "output": "2"}, [("user", "Add.\n\n1+1"), ("assistant", "2")]),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    ("alpaca", {"instruction": "Hi", "input": None, "output": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    ("alpaca", {"instruction": "Hi", "output": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    ("alpaca", {"instruction": "", "input": "Hi", "output": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    (
        "alpaca",
        {"system": "Be brief.", "instruction": "Hi", "output": "Ho"},
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho")],
    ),
    ("alpaca", {"instruction": "Hi", "output": "Ho", "prompt": "### Hi"}, [("user", "Hi"), ("assistant", "Ho")]),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        [("user", "Hi"), ("assistant", "Ho")],
    ),
    (
        "sharegpt",
        {"system": "S", "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Ho"}]},
        [("system", "S"), ("user", "Hi"), ("assistant", "Ho")],
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                      {"role": "assistant", "content": "Ho", "tool_calls": None}], "tools": []},
        [("user", "Hi"), ("assistant", "Ho")],
    ),
    (
        "messages",
        {"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        [("user", "Hi"), ("assistant", "Ho")],
    ),
    (
        "messages",
        {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"},
                      {"role": "assistant", "content": "Ho"}]},
        [("system", ""), ("user", "Hi"), ("assistant", "Ho")],
    ),
    (
        "prompt_completion",
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Ho"}]},
        [("user", "Hi"), ("assistant", "Ho")],
    ),
    ("prompt_completion", {"prompt": "Hi", "completion": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    ("prompt_completion", {"prompt": "Hi", "response": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    ("prompt_completion", {"query": "Hi", "response": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    ("prompt_completion", {"question": "Hi", "answer": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
    (
        "prompt_completion",
        {"instruction": "Who?", "context": "It was me.", "response": "You."},
        [("user", "Who?\n\nIt was me."), ("assistant", "You.")],
    ),
    (
        "prompt_completion",
        {"system_prompt": "S", "question": "Hi", "response": "Ho"},
        [("system", "S"), ("user", "Hi"), ("assistant", "Ho")],
    ),
]  # fmt: skip

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Ho"}

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("alpaca", {"instruction": "Hi"}, "'output' is missing"),
    ("alpaca", {"instruction": "Hi", "output": None}, "'output' is missing"),
    ("alpaca", {"instruction": None, "output": "Ho"}, "'instruction' is missing"),
    ("alpaca", {"instruction": "Hi", "output": ""}, "the answer is empty"),
    ("alpaca", {"instruction": "Hi", "output": " \n\t"}, "the answer is empty"),
    ("alpaca", {"instruction": " ", "input": "", "output": "Ho"}, "the user turn is empty"),
    ("alpaca", {"instruction": "Hi", "output": ["Ho"]}, "'output' is a list, not text"),
    ("alpaca", {"instruction": "Hi", "output": {"a": 1}}, "'output' is an object, not text"),
    ("alpaca", {"instruction": "Hi", "output": 42}, "'output' is a number, not text: 42"),
    ("alpaca", {"instruction": "Hi", "output": True}, "'output' is a boolean, not text: True"),
    ("alpaca", {"instruction": "Hi", "input": 3, "output": "Ho"}, "'input' is a number, not text"),
    (
        "alpaca",
        {"instruction": "Hi", "output": "Ho\ud800"},
        r"'output' is not valid Unicode: lone surrogate '\ud800'",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}]},
        "the conversation ends with a user turn",
    ),
    ("sharegpt", {"conversations": [{"from": "cow", "value": "Moo"}]}, "unknown role 'cow' in turn 1"),
    ("sharegpt", {"system": "S", "conversations": [{"from": "system", "value": "T"}]}, "two system prompts"),
    ("messages", {"messages": []}, "the conversation is empty"),
    ("messages", {"messages": None}, "'messages' is missing"),
    ("messages", {"messages": "Hi"}, "'messages' is text, not a list of turns: 'Hi'"),
    ("messages", {"messages": ["Hi"]}, "turn 1 of 'messages' is text, not an object"),
    ("messages", {"messages": [{"content": "Hi"}]}, "turn 1 of 'messages' has no role; keys seen: content"),
    ("messages", {"messages": [{"role": 3, "content": "Hi"}]}, "unknown role 3"),
    (
        "messages",
        {"messages": [USER, {"role": "assistant"}]},
        "the content of turn 2 of 'messages' is missing",
    ),
    ("messages", {"messages": [USER, {"role": "assistant", "content": 42}]}, "is a number, not text: 42"),
    ("messages", {"messages": [ANSWER]}, "no user turn before the assistant turn"),
    ("messages", {"messages": [USER, ANSWER, USER]}, "the conversation ends with a user turn"),
    ("messages", {"messages": [USER, ANSWER, {"role": "system", "content": "S"}]}, "ends with a system turn"),
    (
        "messages",
        {"messages": [USER, {"role": "assistant", "content": " "}, USER, ANSWER]},
        "the answer is empty",
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "got a part of type 'image'",
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": ["Hi"]}]},
        "a part of turn 1 of 'messages' is text",
    ),
    ("prompt_completion", {"question": "Hi", "answer": None}, "'answer' is missing"),
    ("prompt_completion", {"text": "Hi"}, "none of the keys prompt, query"),
]


@pytest.mark.parametrize("name", ["messages", "sharegpt", "prompt_completion"])
@settings(deadline=None)
@given(messages=multi_turn)
def test_writing_and_reading_gives_the_same_conversation(name, messages):
    conversation = Conversation(messages=tuple(messages))
    assert read_row(WRITTEN[name](conversation), name) == conversation


@settings(deadline=None)
@given(messages=single_turn)
def test_alpaca_round_trip_with_and_without_system_turn(messages):
    conversation = Conversation(messages=tuple(messages))
    assert read_row(WRITTEN["alpaca"](conversation), "alpaca") == conversation


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "preference"])
@settings(deadline=None)
@given(messages=single_turn)
def test_a_written_row_is_detected_as_its_format(name, messages):
    assert find_layout(WRITTEN[name](Conversation(messages=tuple(messages)))).format == name


@pytest.mark.parametrize(("name", "row", "expected"), GOOD)
def test_rows_people_have_are_read(name, row, expected):
    messages = read_row(row, name).messages
    assert [(message.role, message.content) for message in messages] == expected


@pytest.mark.parametrize(("name", "row", "_expected"), GOOD)
def test_rows_people_have_are_detected(name, row, _expected):
    assert find_layout(row).format == name


@pytest.mark.parametrize(("name", "row", "reason"), BAD)
def test_unusable_rows_are_refused_with_the_reason(name, row, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_row(row, name)


@settings(deadline=None)
@given(row=st.dictionaries(junk_keys, junk, max_size=4))
def test_junk_is_read_or_refused_but_never_crashes(row):
    for name in FORMATS:
        try:
            messages = read_row(row, name).messages
        except ValueError as error:
            assert str(error)  # noqa: PT017 - either outcome is right
        else:
            assert messages[-1].role == "assistant"


def test_unknown_keys_are_listed():
    with pytest.raises(UnusableRowError, match="no known format fits the keys: text, label"):
        find_layout({"text": "x", "label": 1})


def test_unknown_keys_come_with_the_known_formats():
    with pytest.raises(UnusableRowError) as caught:
        find_layout({"text": "x"})
    assert all(name in caught.value.hint for name in FORMATS)


def test_a_misspelt_key_gets_a_suggestion():
    with pytest.raises(UnusableRowError) as caught:
        find_layout({"instruction": "x", "outptu": "y"})
    assert caught.value.hint.startswith("did you mean 'output' instead of outptu?")


def test_empty_columns_do_not_decide_the_format():
    row = {"messages": None, "conversations": None, "instruction": "Hi", "output": "Ho", "prompt": None}
    assert find_layout(row).format == "alpaca"


def test_a_row_with_only_empty_columns_still_has_a_format():
    assert find_layout({"instruction": "Hi", "output": None}).format == "alpaca"
