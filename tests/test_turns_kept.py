"""Whatever makes new rows of old ones, or hands turns on, keeps reasoning, calls, results, tools and weights."""

import json
from dataclasses import replace

import pytest

from learnable.diversifiers import worded_tests
from learnable.diversifiers.constraints import Constraints
from learnable.diversifiers.hints import Hints
from learnable.diversifiers.instructions import with_user_turn
from learnable.evaluators.reading import asked, item_id
from learnable.mixing import Material, mixture
from learnable.runs.identity import example_id
from learnable.types import Example, Message, ToolCall

TOOLS = '[{"type":"function","function":{"name":"weather"}}]'
TURNS = (
    Message(role="user", content="How warm is Rome in degrees?"),
    Message(
        role="assistant",
        content="",
        reasoning="A tool knows.",
        tool_calls=(ToolCall(name="weather", arguments='{"city":"Roma"}', id="c1"),),
    ),
    Message(role="tool", content="21", tool_call_id="c1", name="weather"),
    Message(role="assistant", content="I guess.", trained=False),
    Message(role="user", content="Say it in one word."),
    Message(role="assistant", content="It is a mild day of twenty-one degrees in the city of Rome."),
)
ROW = Example(id=example_id(TURNS, tools=TOOLS), messages=TURNS, source="task", tools=TOOLS)


def leverage(tmp_path):
    return mixture("leverage", Material(task=[ROW], paraphrases=[], buffer=[]), seed=0).examples


def constraints(tmp_path):
    return Constraints()([ROW], n=1, draw=None, seed=0).kept


def hints(tmp_path):
    (tmp_path / "words.tsv").write_text("warm\thot\n")
    return Hints(file=str(tmp_path / "words.tsv"))([ROW], n=None, draw=None, seed=0).kept


def wordings(tmp_path):
    tests = [replace(ROW, id="test")]
    rewrites = [
        replace(
            ROW,
            messages=with_user_turn(TURNS, f"Rewrite {number}"),
            meta={"parent": ROW.id, "instruction": f"Rewrite {number}", "original": TURNS[0].content},
        )
        for number in range(10)
    ]
    return worded_tests([ROW], tests, rewrites, reserve=True).unseen


@pytest.mark.parametrize("make", [leverage, constraints, hints, wordings])
def test_a_row_made_of_another_keeps_all_but_the_changed_turn(tmp_path, make):
    made = make(tmp_path)
    assert made
    for row in made:
        assert row.tools == TOOLS
        assert row.id == example_id(row.messages, tools=TOOLS)
        changed = [place for place in range(len(TURNS)) if row.messages[place] != TURNS[place]]
        assert len(changed) == 1
        assert row.messages[changed[0]].role == "user"


def test_a_question_of_an_evaluation_keeps_the_calls_before_it():
    row = {
        "messages": [
            {"role": "user", "content": "How warm is Rome?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Roma"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "21"},
            {"role": "assistant", "content": "21 degrees"},
        ]
    }
    question = asked(row, None, suffix="Be brief.")
    assert question[1].tool_calls[0].name == "weather"
    assert question[1].content == ""
    assert question[2].tool_call_id == "c1"
    assert question[2].content == "21\n\nBe brief."
    assert item_id(question, {"a": 1}) != item_id(
        (question[0], replace(question[1], tool_calls=())), {"a": 1}
    )
    with pytest.raises(ValueError, match="tools cannot be asked"):
        asked({**row, "tools": json.loads(TOOLS)}, None)


def test_a_server_is_sent_turns_as_openai_has_them():
    assert [turn.turn() for turn in TURNS[:3]] == [
        {"role": "user", "content": "How warm is Rome in degrees?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "A tool knows.",
            "tool_calls": [
                {
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Roma"}'},
                    "id": "c1",
                }
            ],
        },
        {"role": "tool", "content": "21", "name": "weather", "tool_call_id": "c1"},
    ]


def test_held_out_loss_is_that_of_the_row_with_its_tools(tiny, tmp_path):
    from learnable.evaluators.heldout import Heldout
    from learnable.evaluators.running import evaluate
    from learnable.models.language_model import LanguageModel
    from learnable.runs.store import Store
    from learnable.testing import CHATML
    from learnable.types import ModelRef

    (tmp_path / "tools.jinja").write_text("{{ tools | tojson if tools else '' }}" + CHATML)
    ref = ModelRef(name=str(tiny), dtype="float32", device="cpu", chat_template=str(tmp_path / "tools.jinja"))
    model = LanguageModel(ref)
    turns = (TURNS[0], TURNS[-1])
    row = Example(id=example_id(turns, tools=TOOLS), messages=turns, source="t", tools=TOOLS)
    table = evaluate(model, Heldout(), [row], store=Store(tmp_path / "store"), max_length=1_000, label="x")
    (rendered,) = model.renderer.render([row], max_length=1_000)
    assert "weather" in model.renderer.decode(rendered.ids)
    expected = float(model.nll([rendered])[0]) / int(rendered.mask.sum())
    assert table["value"][0] == pytest.approx(expected, abs=1e-6)
