"""What turns have beside a role and a text: calls, results, tools, reasoning and weights."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnable.data.values import is_blank
from learnable.types import Conversation, Message, ToolCall
from row_formats import WRITTEN, read_row

USER = Message(role="user", content="How warm is it in Rome?")
FINAL = Message(role="assistant", content="21 degrees.")
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TOOLS = json.dumps([TOOL])
CALL = ToolCall(name="weather", arguments='{"city": "Rome"}', id="c1")


def conversation(*messages, tools=""):
    return Conversation(messages=messages, tools=tools)


def calling(call=CALL, content="", **others):
    return Message(role="assistant", content=content, tool_calls=(call,), **others)


def read(*turns, key="messages", **beside):
    row = {key: list(turns), **beside}
    return read_row(row, "messages" if key == "messages" else "sharegpt")


ASKED = {"role": "user", "content": USER.content}
ANSWERED = {"role": "assistant", "content": FINAL.content}


@pytest.mark.parametrize(
    "calls",
    [
        [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}],
        [{"id": "c1", "function": {"name": "weather", "arguments": {"city": "Rome"}}}],
        [{"id": "c1", "function": {"name": "weather", "arguments": {"city": "Rome", "unit": None}}}],
        [{"id": "c1", "name": "weather", "arguments": {"city": "Rome"}}],
        '[{"id": "c1", "name": "weather", "parameters": {"city": "Rome"}}]',
    ],
)
def test_a_call_is_the_same_in_every_form(calls):
    found = read(ASKED, {"role": "assistant", "content": None, "tool_calls": calls}, tools=[TOOL])
    assert found == conversation(USER, calling(), tools=TOOLS)


def test_a_call_may_end_a_conversation_and_have_a_text_beside_it():
    call = {"name": "weather", "arguments": {"city": "Rome"}, "id": "c1"}
    found = read(ASKED, {"role": "assistant", "content": "Let me see.", "tool_calls": [call]})
    assert found == conversation(USER, calling(content="Let me see."))


def test_a_result_says_which_call_it_answers():
    found = read(
        ASKED,
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "21"},
        ANSWERED,
    )
    answered = Message(role="tool", content="21", tool_call_id="c1", name="weather")
    assert found == conversation(USER, calling(), answered, FINAL)


def test_the_older_form_of_calls_is_the_same_conversation():
    found = read(
        ASKED,
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": ""}},
        {"role": "function", "name": "weather", "content": ""},
        ANSWERED,
        functions=[TOOL["function"]],
    )
    call = ToolCall(name="weather", arguments="{}")
    answered = Message(role="tool", content="", name="weather")
    assert found == conversation(USER, calling(call), answered, FINAL, tools=TOOLS)


@pytest.mark.parametrize("role", ["observation", "function_response", "tool", "function-response", "ipython"])
def test_sharegpt_has_calls_and_results_as_turns(role):
    found = read(
        {"from": "human", "value": USER.content},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
        {"from": role, "value": "21"},
        {"from": "gpt", "value": FINAL.content},
        key="conversations",
        tools=json.dumps([TOOL["function"]]),
    )
    call = ToolCall(name="weather", arguments=CALL.arguments)
    assert found == conversation(USER, calling(call), Message(role="tool", content="21"), FINAL, tools=TOOLS)


@pytest.mark.parametrize(
    "tools", [[TOOL], [TOOL["function"]], TOOLS, json.dumps([TOOL["function"]]), [json.dumps(TOOL)], TOOL]
)
def test_tools_are_the_same_in_every_form(tools):
    assert read(ASKED, ANSWERED, tools=tools).tools == TOOLS


@pytest.mark.parametrize("tools", [None, "", "[]", [], "null", {}])
def test_no_tools_are_no_tools_in_every_form(tools):
    assert read(ASKED, ANSWERED, tools=tools) == conversation(USER, FINAL)


def test_tools_in_the_system_turn_are_those_of_the_conversation():
    found = read({"role": "system", "content": "Help.", "tools": [TOOL]}, ASKED, ANSWERED)
    assert found == conversation(Message(role="system", content="Help."), USER, FINAL, tools=TOOLS)


def test_tools_of_a_pair_of_texts_are_kept():
    row = {"prompt": "Hi", "completion": "Ho", "tools": TOOLS}
    assert read_row(row, "prompt_completion").tools == TOOLS


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_of_a_turn_is_kept(key):
    found = read(ASKED, {**ANSWERED, key: "I know."})
    assert found == conversation(USER, Message(role="assistant", content=FINAL.content, reasoning="I know."))


def test_reasoning_may_be_a_part_of_the_content():
    parts = [{"type": "thinking", "thinking": "I know."}, {"type": "text", "text": FINAL.content}]
    assert read(ASKED, {"role": "assistant", "content": parts}).messages[1].reasoning == "I know."


@pytest.mark.parametrize(
    "weight",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"weight": "0"},
        {"train": False},
        {"training": "false"},
        {"loss": False},
    ],
)
def test_an_answer_of_weight_0_is_context_only(weight):
    found = read(ASKED, {**ANSWERED, **weight}, ASKED, ANSWERED)
    assert [message.trained for message in found.messages] == [True, False, True, True]


@pytest.mark.parametrize("weight", [{"weight": 1}, {"weight": None}, {"train": True}, {"loss": 0.37}, {}])
def test_an_answer_is_learned_otherwise(weight):
    assert read(ASKED, {**ANSWERED, **weight}) == conversation(USER, FINAL)


def test_weights_of_other_turns_say_nothing_new():
    assert read({**ASKED, "weight": 0}, {**ANSWERED, "weight": 1}) == conversation(USER, FINAL)


REFUSED = [
    ([ASKED, {**ANSWERED, "weight": 0.5}], {}, "weight is 0.5 in turn 2"),
    ([ASKED, {**ANSWERED, "weight": 0}], {}, "no answer to learn"),
    ([ASKED, {**ANSWERED, "weight": 0, "train": True}], {}, "weight and train contradict"),
    ([ASKED, {**ANSWERED, "train_detail": [{"begin": 0}]}], {}, "'train_detail'"),
    ([ASKED, {**ANSWERED, "reasoning": "a", "thinking": "b"}], {}, "two texts of reasoning"),
    ([ASKED, {**ANSWERED, "thought": "a"}], {}, "'thought' of turn 2"),
    ([{**ASKED, "images": ["a.png"]}, ANSWERED], {}, "'images' of turn 1"),
    ([{**ASKED, "reasoning": "a"}, ANSWERED], {}, "reasoning in turn 1"),
    ([{**ASKED, "value": "other"}, ANSWERED], {}, "both 'content' and 'value'"),
    ([ASKED, {"role": "assistant", "tool_calls": [{}]}], {}, "name of the function"),
    ([ASKED, {"role": "assistant", "tool_calls": [{"name": "w", "arguments": "{a"}]}], {}, "'arguments'"),
    ([ASKED, {"role": "assistant", "tool_calls": [{"name": "w", "arguments": [1]}]}], {}, "is a list, not an object"),
    ([{**ASKED, "tool_calls": [{"name": "w"}]}, ANSWERED], {}, "a call in turn 1"),
    ([ASKED, {"role": "function_call", "content": "no"}, ANSWERED], {}, "the call in turn 2 of 'messages' is not valid JSON"),
    ([ASKED, {"role": "tool", "content": "21"}, ANSWERED], {}, "result before any call"),
    ([ASKED, ANSWERED, {"role": "tool", "content": "21"}], {}, "ends with a tool turn"),
    ([ASKED, {"role": "assistant", "content": None}], {}, "content of turn 2 of 'messages' is missing"),
    ([ASKED, {"role": "assistant", "content": "", "tool_calls": []}], {}, "the answer is empty"),
    ([ASKED, {"role": "assistant", "content": "", "reasoning": "a"}], {}, "the answer is empty"),
    ([ASKED, ANSWERED], {"tools": [{}]}, "tool 1 of 'tools' has no name"),
    ([ASKED, ANSWERED], {"tools": "[{"}, "'tools' is not valid JSON"),
    ([ASKED, ANSWERED], {"tools": '[{"name": "w", "name": "v"}]'}, "'name'? occurs twice|name occurs twice"),
    ([ASKED, ANSWERED], {"tools": [TOOL], "functions": [{"name": "other"}]}, "other tools"),
]  # fmt: skip


@pytest.mark.parametrize(("turns", "beside", "reason"), REFUSED)
def test_what_cannot_be_kept_is_refused(turns, beside, reason):
    with pytest.raises(ValueError, match=reason):
        read(*turns, **beside)


@pytest.mark.parametrize("role", ["Developer", "SYSTEM", "system"])
def test_developers_speak_for_the_system(role):
    assert read({"role": role, "content": "S"}, ASKED, ANSWERED).messages[0].role == "system"


@pytest.mark.parametrize("role", ["chatgpt", "Bot", "BARD", "bing", "model", "AI", "GPT", " assistant "])
def test_names_of_models_are_assistants(role):
    assert read(ASKED, {"role": role, "content": FINAL.content}) == conversation(USER, FINAL)


@pytest.mark.parametrize(
    "value",
    [
        {"role": ["user", "assistant"], "content": [USER.content, FINAL.content]},
        {"from": ["human", "gpt"], "value": [USER.content, FINAL.content], "weight": [None, None]},
        [{"human": USER.content, "assistant": FINAL.content}],
        [{"Input": USER.content, "Output": FINAL.content, "system": ""}],
        json.dumps([ASKED, ANSWERED]),
        "  " + json.dumps({"messages": [ASKED, ANSWERED]}),
        {"messages": [ASKED, ANSWERED]},
    ],
)
def test_turns_are_the_same_in_every_form(value):
    assert read_row({"messages": value}, "messages") == conversation(USER, FINAL)


def test_what_nothing_reads_of_turns_is_named():
    from learnable.data.formats import find_layout

    ignored = set()
    row = {"messages": [{**ASKED, "timestamp": 3}, {**ANSWERED, "model": "m", "name": ""}]}
    find_layout(row).read(row, ignored)
    assert ignored == {"messages[].timestamp", "messages[].model"}


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda said: not is_blank(said))
calls = st.builds(
    ToolCall,
    name=text,
    arguments=st.dictionaries(text, st.integers() | text).map(
        lambda found: json.dumps(found, ensure_ascii=False)
    ),
    id=st.just("") | text,
)
exchange = st.tuples(
    st.builds(Message, role=st.just("user"), content=text),
    st.builds(
        Message,
        role=st.just("assistant"),
        content=text,
        reasoning=st.just("") | text,
        tool_calls=st.lists(calls, max_size=2).map(tuple),
        trained=st.booleans(),
    ),
    st.builds(
        Message, role=st.just("tool"), content=text, name=st.just("") | text, tool_call_id=st.just("") | text
    ),
    st.builds(Message, role=st.just("assistant"), content=text),
)
whole = st.lists(exchange, min_size=1, max_size=3).map(
    lambda found: tuple(turn for turns in found for turn in turns)
)


@pytest.mark.parametrize("name", ["messages", "sharegpt", "prompt_completion"])
@settings(deadline=None)
@given(messages=whole, tools=st.just("") | st.just(TOOLS))
def test_everything_of_a_turn_is_written_and_read_again(name, messages, tools):
    wanted = Conversation(messages=messages, tools=tools)
    row = json.loads(json.dumps(WRITTEN[name](wanted)))
    assert read_row(row, name) == wanted
