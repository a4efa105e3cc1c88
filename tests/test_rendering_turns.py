"""What a turn has beyond its text: reasoning, calls, results of tools, answers that are context only."""

import json
import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from transformers import AutoTokenizer

from learnable.errors import ModelError
from learnable.models.answers import left_out
from learnable.models.rendering import Renderer
from learnable.runs.identity import example_id
from learnable.types import Example, Message, ToolCall

TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "tells how warm it is",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "description": "a city"}},
                    "required": ["city"],
                },
            },
        }
    ]
)
WITHOUT_TOOLS = ("cohere", "deepseek_r1", "gemma.", "gemma_", "gemma3", "lfm2.", "lfm2_training", "llama3.",
                 "llama3_training", "phi3", "qwen2_5_vl")  # fmt: skip
"""Templates that refuse or leave out calls."""
NEED_MORE = ("idefics3", "smolvlm", "llava_next")
"""Templates that take a list of parts as content, with images."""
ONE_CALL = ("gptoss", "llama3_1", "llama3_2")
"""Templates that write one call of a turn at most."""
WITHOUT_CONTENT = ("muse_glimmer",)
"""Templates that leave out the content of a turn that calls."""


def asked(text):
    return Message(role="user", content=text)


def answered(text, **others):
    return Message(role="assistant", content=text, **others)


def call(city, id="call00001"):
    return ToolCall(name="weather", arguments=json.dumps({"city": city}), id=id)


def result(text, id="call00001"):
    return Message(role="tool", content=text, name="weather", tool_call_id=id)


def example(*messages, tools=""):
    return Example(id=example_id(messages, tools=tools), messages=messages, source="test", tools=tools)


CALLING = (
    asked("How warm is Rome?"),
    answered("", tool_calls=(call("Roma"),)),
    result("21 degrees"),
    answered("It is mild."),
    asked("And now?"),
    answered("Bye."),
)


def template_names():
    folder = files("trl").joinpath("chat_templates")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".jinja"))
    return [name for name in names if not name.startswith(NEED_MORE)]


@pytest.fixture(scope="module")
def stock(tiny):
    """Return the renderer of a template of TRL, whose marks are tokens of their own."""
    known = {}

    def renderer(name):
        if name not in known:
            template = files("trl").joinpath("chat_templates", name).read_text(encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(tiny)
            tokenizer.chat_template, tokenizer.bos_token = template, "<|endoftext|>"
            marks = r"<\|\w+\|>|<\w+_of_turn>|<｜[^｜]+｜>|</?s>|<turn\|>|<\|turn>|<\|\w+>|<\w+\|>"
            special = sorted(set(re.findall(marks, template)))
            tokenizer.add_special_tokens({"extra_special_tokens": special})
            known[name] = Renderer(tokenizer, name=name)
        return known[name]

    return renderer


def runs(renderer, ids, mask):
    """Return the text of each unbroken run of tokens that count."""
    cuts = np.split(np.arange(len(mask)), np.flatnonzero(np.diff(mask.astype(int))) + 1)
    return [renderer.decode(np.asarray(ids)[run]) for run in cuts if mask[run[0]]]


def scored(renderer, row):
    (rendered,) = renderer.render([row], max_length=100_000)
    return runs(renderer, rendered.ids, rendered.mask)


def letters(text):
    return "".join(text.split())


# calls and results


@pytest.mark.parametrize("name", [name for name in template_names() if not name.startswith(WITHOUT_TOOLS)])
def test_calls_count_whole_and_results_never(stock, name):
    pieces = scored(stock(name), example(*CALLING, tools=TOOLS))
    assert len(pieces) == 3
    assert "weather" in pieces[0]
    assert "Roma" in pieces[0]
    assert re.search(r"<[^<>]+>\s*$", pieces[0]), "the end of the turn counts"
    assert [re.sub(r"<[^<>]+>$", "", piece).strip() for piece in pieces[1:]] == ["It is mild.", "Bye."]
    assert not any("21 degrees" in piece or "How warm" in piece for piece in pieces)


@pytest.mark.parametrize("name", [name for name in template_names() if name.startswith(WITHOUT_TOOLS)])
def test_a_template_that_does_not_know_calls_refuses_the_row_with_the_reason(stock, name):
    with pytest.raises(ModelError, match=r"leaves out call 1 of turn 2|roles must alternate"):
        stock(name).render([example(*CALLING, tools=TOOLS)], max_length=100_000)


@pytest.mark.parametrize("name", [name for name in template_names() if not name.startswith(WITHOUT_TOOLS)])
def test_several_calls_with_text_count_whole_wherever_the_template_puts_them(stock, name):
    row = example(
        asked("How warm is Rome?"),
        answered("Let me look.", tool_calls=(call("Roma"), call("Ostia", "call00002"))),
        result("21 degrees"),
        result("22 degrees", "call00002"),
        answered("It is mild."),
        tools=TOOLS,
    )
    if name.startswith(ONE_CALL):
        with pytest.raises(ModelError, match=r"leaves out call 2 of turn 2|single tool-calls"):
            stock(name).render([row], max_length=100_000)
        return
    (rendered,) = stock(name).render([row], max_length=100_000)
    text = "".join(runs(stock(name), rendered.ids, rendered.mask))
    said = ["Roma", "Ostia", "It is mild."]
    said += [] if name.startswith(WITHOUT_CONTENT) else ["Let me look."]
    assert [piece for piece in said if piece not in text] == []
    assert "degrees" not in text
    assert (rendered.left_out > 0) == name.startswith(WITHOUT_CONTENT)


@pytest.mark.parametrize(
    "name", [name for name in template_names() if name.endswith("_training.jinja") and "gemma" not in name]
)
def test_what_counts_is_what_the_template_marks_but_for_its_own_headers(stock, name):
    renderer, row = stock(name), example(*CALLING, tools=TOOLS)
    if name.startswith(WITHOUT_TOOLS):
        row = example(CALLING[0], CALLING[3])
    marked = runs(renderer, *renderer.chat.marked(row.messages, row.tools))
    ours = scored(renderer, row)
    assert len(ours) == len(marked)
    for mine, theirs in zip(map(letters, ours), map(letters, marked), strict=True):
        mine, theirs = (re.sub(r"(<[^<>/]+>)+$", "", text) for text in (mine, theirs))
        assert theirs.endswith(mine)
        header = theirs.removesuffix(mine)
        assert re.fullmatch(r"(<[^<>]+>|assistant|to=user|final|\[/?INST\])*", header), header


def test_a_name_of_a_tool_may_repeat_the_header_of_an_answer(stock):
    named = replace(call("assistant"), name="assistant")
    row = example(
        asked("assistant?"), answered("", tool_calls=(named,)), result("x"), answered("y"), tools=TOOLS
    )
    (first, last) = scored(stock("qwen3.jinja"), row)
    assert json.loads(re.search(r"<tool_call>(.*)</tool_call>", first, re.DOTALL)[1]) == {
        "name": "assistant",
        "arguments": {"city": "assistant"},
    }
    assert last == "y<|im_end|>"


def test_a_call_without_arguments_counts(stock):
    bare = ToolCall(name="now", arguments="{}")
    row = example(asked("time?"), answered("", tool_calls=(bare,)), tools=TOOLS)
    (piece,) = scored(stock("qwen2_5.jinja"), row)
    assert piece == '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>'


def test_arguments_reach_the_template_as_an_object(stock):
    (piece, *_) = scored(stock("glm4moe.jinja"), example(*CALLING, tools=TOOLS))
    assert "<arg_key>city</arg_key>\n<arg_value>Roma</arg_value>" in piece


def test_tools_are_shown_by_a_template_that_knows_them_and_missed_where_it_does_not(stock):
    row = example(*CALLING[-2:], tools=TOOLS)
    (shown,) = stock("qwen3.jinja").render([row], max_length=100_000)
    assert "tells how warm it is" in stock("qwen3.jinja").decode(shown.ids)
    assert not shown.hides_context
    (hidden,) = stock("llama3.jinja").render([row], max_length=100_000)
    assert hidden.hides_context
    assert "1 of 1 rows" in left_out([hidden])


def test_a_template_that_leaves_out_a_result_refuses_the_row(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    )
    with pytest.raises(ModelError, match="leaves out the tool's result in turn 3"):
        Renderer(tokenizer, name="no results").render([example(*CALLING)], max_length=1_000)


# reasoning


THINKING = (
    asked("What is red?"),
    answered("A colour.", reasoning="Light of a long wave."),
    asked("And a cat?"),
    answered("An animal.", reasoning="It has fur."),
)


@pytest.mark.parametrize("name", ["qwen3.jinja", "glm4moe.jinja", "gptoss.jinja", "nemotron_3_nano.jinja"])
def test_reasoning_of_the_last_answer_counts_and_what_is_dropped_is_measured(stock, name):
    (row,) = stock(name).render([example(*THINKING)], max_length=100_000)
    first, last = runs(stock(name), row.ids, row.mask)
    assert "It has fur." in last
    assert "An animal." in last
    assert "long wave" not in first
    assert (row.left_out, row.said) == (
        len("Light of a long wave."),
        len("Light of a long wave.A colour.It has fur.An animal."),
    )


@pytest.mark.parametrize("name", ["qwen3_training.jinja", "qwen3_8.jinja", "muse_glimmer.jinja"])
def test_a_template_that_keeps_reasoning_leaves_nothing_out(stock, name):
    (row,) = stock(name).render([example(*THINKING)], max_length=100_000)
    assert "Light of a long wave." in runs(stock(name), row.ids, row.mask)[0]
    assert (row.left_out, left_out([row])) == (0, "")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "thought", "thoughts"])
def test_the_field_that_a_template_reads_reasoning_from_is_found(tiny, field):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m."
        + field
        + " %}[{{ m."
        + field
        + " }}]{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    renderer = Renderer(tokenizer, name=field)
    assert scored(renderer, example(*THINKING[:2])) == ["[Light of a long wave.]A colour.<|im_end|>"]


@pytest.mark.parametrize("name", ["qwen3.jinja", "qwen3_training.jinja", "glm4moe.jinja"])
def test_reasoning_in_its_field_and_in_the_text_are_the_same_tokens(stock, name):
    inside = answered("<think>\nIt has fur.\n</think>\n\nAn animal.")
    one, other = stock(name).render(
        [example(*THINKING[2:]), example(THINKING[2], inside)], max_length=100_000
    )
    assert one.ids.tolist() == other.ids.tolist()
    assert one.mask.tolist() == other.mask.tolist()
    assert (one.left_out, other.left_out) == (0, 0)


def test_reasoning_that_a_template_does_not_know_is_left_out_and_measured(tiny):
    (row,) = Renderer(AutoTokenizer.from_pretrained(tiny), name="chatml").render(
        [example(*THINKING[:2])], max_length=1_000
    )
    assert (row.left_out, row.said) == (21, 30)
    assert "70.0% of the text of the answers, in 1 of 1 rows" in left_out([row])


def test_the_share_left_out_counts_characters_over_all_rows(stock):
    thought = answered("<think>\n" + "long " * 20 + "\n</think>\n\nred")
    rows = stock("deepseek_r1_distill.jinja").render(
        [example(asked("a?"), thought), example(asked("b?"), answered("x" * 15))], max_length=100_000
    )
    said, lost = sum(row.said for row in rows), sum(row.left_out for row in rows)
    assert [row.left_out > 0 for row in rows] == [True, False]
    assert lost == len("<think>" + ("long " * 20).strip() + "</think>")
    assert f"{lost / said:.1%} of the text of the answers, in 1 of 2 rows" in left_out(rows)


def test_context_that_a_template_leaves_out_is_said(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    system = Message(role="system", content="be brief")
    rows = Renderer(tokenizer, name="no system").render(
        [example(system, asked(" a? "), answered("b")), example(asked(" a? "), answered("b"))],
        max_length=1_000,
    )
    assert [row.hides_context for row in rows] == [True, False]


# answers that are context only


def test_an_answer_that_is_context_only_is_read_and_does_not_count(stock):
    untrained = replace(CALLING[3], trained=False)
    row = example(*CALLING[:3], untrained, *CALLING[4:], tools=TOOLS)
    (rendered,) = stock("qwen3.jinja").render([row], max_length=100_000)
    assert "It is mild." in stock("qwen3.jinja").decode(rendered.ids)
    pieces = runs(stock("qwen3.jinja"), rendered.ids, rendered.mask)
    assert [("Roma" in piece, "Bye." in piece) for piece in pieces] == [(True, False), (False, True)]


def test_context_only_changes_the_mask_and_not_the_tokens(stock):
    row = example(*THINKING)
    masked = example(THINKING[0], replace(THINKING[1], trained=False), *THINKING[2:])
    one, other = stock("qwen3_training.jinja").render([row, masked], max_length=100_000)
    assert one.ids.tolist() == other.ids.tolist()
    assert other.mask.sum() < one.mask.sum()
    assert not (other.mask & ~one.mask).any()


# the end of the last answer


def test_an_answer_that_the_template_leaves_open_is_closed_as_it_closes_earlier_ones(stock):
    talk = example(asked("a?"), answered("red"), asked("b?"), answered("blue"))
    assert scored(stock("glm4moe.jinja"), talk) == ["red<|user|>", "blue<|user|>"]
    called = example(*CALLING[:2], tools=TOOLS)
    assert scored(stock("glm4moe.jinja"), called)[0].endswith("</tool_call><|observation|>")
    ours, trained = (scored(stock(name), talk) for name in ("glm4moe.jinja", "glm4moe_training.jinja"))
    assert ours == trained


def test_an_answer_that_nothing_closes_is_closed_by_the_end_of_sequence(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
    renderer = Renderer(tokenizer, name="open")
    assert scored(renderer, example(asked("a?"), answered("red"))) == [" red\n<|im_end|>"]


def test_only_a_template_that_leaves_answers_open_has_another_key(stock, tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert Renderer(tokenizer, name="chatml").chat.closings == ("", "")
    assert stock("glm4moe_training.jinja").chat.closings == ("", "")
    assert stock("glm4moe.jinja").chat.closings == ("<|user|>", "<|observation|>")


def test_what_a_model_is_asked_ends_where_its_answer_begins(stock):
    renderer = stock("qwen3.jinja")
    (row,) = renderer.render([example(*CALLING[:4], tools=TOOLS)], max_length=100_000)
    begins = (
        int(np.flatnonzero(row.mask)[-1]) + 1 - len(renderer.tokenizer("It is mild.<|im_end|>")["input_ids"])
    )
    assert renderer.prompt_ids(CALLING[:3], tools=TOOLS).tolist() == row.ids[:begins].tolist()
