"""Exports carry calls, reasoning, tools and weights in each trainer's own way, or are refused with the reason."""

import json
import shutil
from dataclasses import replace
from importlib.resources import files

import pytest
import yaml

from exporting import destination
from learnable.data.exports import export, write_export
from learnable.errors import DataError
from learnable.runs.identity import example_id
from learnable.types import Example, Message, ToolCall

TOOLS = '[{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}}]'
USER, THANKS = Message(role="user", content="How warm is Rome?"), Message(role="user", content="Thanks.")
CALL = Message(
    role="assistant",
    content="",
    reasoning="A tool knows.",
    tool_calls=(ToolCall(name="weather", arguments='{"city": "Roma"}', id="c1"),),
)
OTHER = replace(
    CALL, tool_calls=(ToolCall(name="weather", arguments='{"days": 2, "deep": {"a": [1]}}', id="c2"),)
)
RESULT = Message(role="tool", content='{"celsius": 21}', tool_call_id="c1", name="weather")
MILD, BYE = Message(role="assistant", content="It is mild."), Message(role="assistant", content="Bye.")


def example(*messages, tools=TOOLS):
    return Example(id=example_id(messages, tools=tools), messages=messages, source="a", tools=tools)


CALLING = example(USER, CALL, RESULT, MILD)
DEEP = example(USER, OTHER, RESULT, MILD)
PLAIN = example(USER, MILD, THANKS, BYE, tools="")
LAST_ONLY = example(USER, replace(MILD, trained=False), THANKS, BYE, tools="")
FIRST_ONLY = example(USER, MILD, THANKS, replace(BYE, trained=False), tools="")


def exported(*examples, trainer):
    rows, contents = export(examples, trainer, destination(max_length=512))
    return list(rows), contents


# TRL


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    """Return a tiny model with a template that knows calls and reasoning, and marks answers."""
    folder = tmp_path_factory.mktemp("trl") / "model"
    shutil.copytree(tiny, folder)
    template = files("trl").joinpath("chat_templates", "qwen3_training.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("examples", [[CALLING, DEEP, PLAIN], [LAST_ONLY, example(USER, MILD, tools="")]])
def test_trl_trains_on_what_is_scored(model, tmp_path, examples):
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    from learnable.models.rendering import Renderer
    from learnable.types import ModelRef

    rows, contents = exported(*examples, trainer="trl")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = load_dataset(
        "json", data_files=str(tmp_path / "train.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    loss = {key: value for key, value in contents["sft.yaml"].items() if key.endswith("_only_loss")}
    settings = SFTConfig(
        output_dir=str(tmp_path / "out"), max_length=2_048, report_to="none", use_cpu=True, bf16=False, **loss
    )
    trainer = SFTTrainer(str(model), args=settings, train_dataset=written)
    renderer = Renderer.of(ModelRef(name=str(model)))
    for row, ours in zip(trainer.train_dataset, renderer.render(examples, max_length=2_048), strict=True):
        assert row["input_ids"] == ours.ids.tolist()
        labels = [label for label in row["labels"] if label != -100]
        mine = ours.ids[ours.mask].tolist()
        # TRL counts what the template writes around an answer, too: <think> before it, the line break behind.
        said, trained = (renderer.tokenizer.decode(ids) for ids in (mine, labels))
        assert _without_marks(trained) == _without_marks(said)


def _without_marks(text):
    for mark in ("<think>", "</think>", "\n"):
        text = text.replace(mark, "")
    return text


def test_trl_gets_tools_as_text_and_arguments_as_objects():
    rows, contents = exported(CALLING, PLAIN, trainer="trl")
    assert [row["tools"] for row in rows] == [TOOLS, None]
    call = rows[0]["messages"][1]
    assert call["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Roma"}}
    assert call["reasoning_content"] == "A tool knows."
    assert rows[0]["messages"][2] == {
        "role": "tool",
        "content": '{"celsius": 21}',
        "name": "weather",
        "tool_call_id": "c1",
    }
    assert contents["sft.yaml"]["assistant_only_loss"]


@pytest.mark.parametrize("trainer", ["trl", "llamafactory"])
@pytest.mark.parametrize("examples", [(FIRST_ONLY,), (LAST_ONLY, PLAIN)])
def test_a_trainer_that_cannot_mask_one_turn_is_refused_with_the_reason(trainer, examples):
    with pytest.raises(DataError, match="context only") as caught:
        exported(*examples, trainer=trainer)
    assert "axolotl" in caught.value.hint


# unsloth


@pytest.mark.parametrize("examples", [[CALLING, DEEP, PLAIN], [FIRST_ONLY, LAST_ONLY]])
def test_unsloth_gets_the_tokens_of_calls_reasoning_and_any_mask(model, examples):
    from learnable.models.rendering import Renderer
    from learnable.types import ModelRef

    renderer = Renderer.of(ModelRef(name=str(model)))
    to = destination(render=lambda given: renderer.render(given, max_length=2_048))
    rows = list(export(examples, "unsloth", to)[0])
    for row, ours in zip(rows, renderer.render(examples, max_length=2_048), strict=True):
        assert row["input_ids"] == ours.ids.tolist()
        learned = [
            token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == token
        ]
        assert learned == ours.ids[ours.mask].tolist()
        assert set(row["labels"]) <= {-100, *learned}
    texts = [renderer.tokenizer.decode(row["input_ids"]) for row in rows]
    assert all(each.reasoning in text for each, text in zip((CALL, OTHER), texts, strict=False)) is (
        examples[0] is CALLING
    )


def test_what_the_chat_template_refuses_is_no_row_for_unsloth():
    import numpy as np

    from learnable.types import Rendered

    nothing = np.zeros(0, dtype=np.int32)
    refused = Rendered(
        id="ab" * 16, ids=nothing, mask=nothing.astype(bool), truncated=False, refused="no tools"
    )
    with pytest.raises(DataError, match="has no tokens: no tools"):
        list(export([PLAIN], "unsloth", destination(render=lambda _: [refused]))[0])


def test_a_chosen_chat_template_goes_along_to_unsloth(tmp_path):

    to = destination(chat_template="{{ x }}")
    script = export([PLAIN], "unsloth", to)[1]["train.py"]
    assert 'tokenizer.chat_template = Path("chat_template.jinja").read_text(encoding="utf-8")' in script
    compile(script, "train.py", "exec")


# LLaMA-Factory, by its converter and formatter


def as_llamafactory_reads(description, row):
    """Return system, aligned turns and tools, as its sharegpt converter makes them; None where it skips the row."""
    tags, columns = description["tags"], description["columns"]
    roles = {tags[f"{kind}_tag"]: kind for kind in ("user", "assistant", "observation", "function")}
    turns = row[columns["messages"]]
    aligned = []
    for number, turn in enumerate(turns):
        allowed = ({"user", "observation"}, {"assistant", "function"})[number % 2]
        if roles[turn[tags["role_tag"]]] not in allowed:
            return None
        aligned.append((roles[turn[tags["role_tag"]]], turn[tags["content_tag"]]))
    return aligned, row[columns["tools"]]


def test_llamafactory_gets_calls_reasoning_and_tools():
    rows, contents = exported(CALLING, PLAIN, trainer="llamafactory")
    description = contents["dataset_info.json"]["selection"]
    turns, tools = as_llamafactory_reads(description, rows[0])
    assert [role for role, _ in turns] == ["user", "function", "observation", "assistant"]
    thought, _, calls = turns[1][1].partition("\n</think>\n\n")
    assert thought == "<think>\nA tool knows."
    assert json.loads(calls) == [{"name": "weather", "arguments": {"city": "Roma"}}]
    assert json.loads(tools)[0]["function"]["name"] == "weather"
    assert as_llamafactory_reads(description, rows[1])[1] == ""
    assert "mask_history" not in contents["sft.yaml"]


def test_llamafactory_masks_the_history_where_the_last_answer_is_all_there_is_to_learn():
    _, contents = exported(LAST_ONLY, trainer="llamafactory")
    assert contents["sft.yaml"]["mask_history"]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((USER, replace(CALL, content="Let me look."), RESULT, MILD), "beside a call"),
        ((USER, CALL, RESULT, RESULT, MILD), "its turns are user, assistant, tool, tool, assistant"),
    ],
)
def test_what_llamafactory_has_no_place_for_is_refused(messages, said):
    with pytest.raises(DataError, match=said):
        exported(example(*messages), trainer="llamafactory")


# Axolotl, by its chat-template strategy


def test_axolotl_masks_single_turns_and_gets_calls():
    rows, contents = exported(CALLING, FIRST_ONLY, trainer="axolotl")
    (dataset,) = contents["sft.yaml"]["datasets"]
    key = dataset["message_field_training"]
    for row, given in zip(rows, (CALLING, FIRST_ONLY), strict=True):
        for turn, message in zip(row["messages"], given.messages, strict=True):
            learned = turn[key] if turn.get(key) is not None else turn["role"] in dataset["roles_to_train"]
            assert learned == (message.role == "assistant" and message.trained)
    call = rows[0]["messages"][1]
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"city": "Roma"}
    assert call["reasoning_content"] == "A tool knows."
    assert rows[0]["tools"] == json.loads(TOOLS)
    assert "tools" not in rows[1]


# the chat template


@pytest.mark.parametrize("trainer", ["trl", "axolotl"])
def test_a_chosen_chat_template_goes_along(tmp_path, trainer):
    from learnable.data import read, save_pool
    from learnable.testing import toy_examples, write_messages

    pool = read([str(write_messages(toy_examples(2), tmp_path / "rows.jsonl"))])
    save_pool(pool, tmp_path / "pool")
    ids = pool.examples["id"].to_list()
    to = destination(chat_template="{{ x }}")
    write_export(tmp_path / "pool", ids, tmp_path / "out", trainer=trainer, to=to)
    written = yaml.safe_load((tmp_path / "out" / "sft.yaml").read_text())
    name = written.get("chat_template_path") or written.get("chat_template_jinja")
    assert (tmp_path / "out" / name).read_text() == "{{ x }}"
