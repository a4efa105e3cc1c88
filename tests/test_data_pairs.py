"""Preference pairs: the formats that they come in, what makes a row unusable, and a pool of them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnable.data import about_pairs, as_row, doubts, hold_out, load_pool, pool_identity, read, save_pool
from learnable.data.formats import find_layout
from learnable.data.pairs import answers_of, pairs_of
from learnable.errors import DataError
from learnable.types import Message
from pairing import pair_of

ASKED, SNOW, GRASS = "What colour is snow?", "White.", "Green."
USER = {"role": "user", "content": ASKED}
GOOD, POOR = ({"role": "assistant", "content": text} for text in (SNOW, GRASS))
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]

# Each row means the same pair: snow is white rather than green, as the third says by how much.
ROWS: list[tuple[str, dict[str, Any], float | None]] = [
    ("TRL, texts", {"prompt": ASKED, "chosen": SNOW, "rejected": GRASS}, None),
    ("TRL, turns", {"prompt": [USER], "chosen": [GOOD], "rejected": [POOR]}, None),
    ("TRL, implicit prompt", {"chosen": [USER, GOOD], "rejected": [USER, POOR]}, None),
    ("TRL, margin", {"prompt": ASKED, "chosen": SNOW, "rejected": GRASS, "margin": 2}, 2.0),
    (
        "UltraFeedback binarized",
        {"prompt": ASKED, "prompt_id": "7", "chosen": [USER, GOOD], "rejected": [USER, POOR],
         "messages": [USER, GOOD], "score_chosen": 8.5, "score_rejected": 6.0},
        2.5,
    ),
    (
        "argilla",
        {"instruction": ASKED, "chosen": [USER, GOOD], "rejected": [USER, POOR],
         "chosen-rating": 5, "rejected-rating": None},
        None,
    ),
    (
        "HH-RLHF",
        {"chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {SNOW}", "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {GRASS}"},
        None,
    ),
    (
        "HH-RLHF, the prompt apart",
        {"prompt": f"\n\nHuman: {ASKED}\n\nAssistant:", "response": f" {SNOW}", "chosen": f" {SNOW}", "rejected": f" {GRASS}"},
        None,
    ),
    (
        "LLaMA-Factory",
        {"conversations": [{"from": "human", "value": ASKED}], "chosen": {"from": "gpt", "value": SNOW},
         "rejected": {"from": "gpt", "value": GRASS}},
        None,
    ),
    ("LLaMA-Factory, alpaca", {"instruction": "What colour", "input": "is snow?", "chosen": SNOW, "rejected": GRASS}, None),
    (
        "OpenAI",
        {"input": {"messages": [USER], "tools": [], "parallel_tool_calls": True}, "preferred_output": [GOOD],
         "non_preferred_output": [POOR]},
        None,
    ),
    ("AlpacaFarm", {"instruction": ASKED, "input": "", "output_1": GRASS, "output_2": SNOW, "preference": 2}, None),
    (
        "PandaLM",
        {"instruction": ASKED, "input": "", "response1": SNOW, "response2": GRASS, "annotator1": 1, "annotator2": 0,
         "annotator3": 1},
        2.0,
    ),
    (
        "arena",
        {"conversation_a": [USER, POOR], "conversation_b": [USER, GOOD], "winner": "model_b", "question_id": "q"},
        None,
    ),
    ("numbered from 0", {"prompt": ASKED, "response_0": SNOW, "response_1": GRASS, "better_response_id": 0}, None),
]  # fmt: skip

BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ASKED, "chosen": SNOW, "rejected": SNOW}, "the chosen and the rejected answer are the same"),
    ({"prompt": ASKED, "chosen": SNOW, "rejected": None}, "'rejected' is missing"),
    ({"prompt": ASKED, "chosen": None, "rejected": GRASS}, "'chosen' is missing"),
    ({"prompt": ASKED, "chosen": SNOW}, "'chosen' without a rejected answer"),
    (
        {
            "chosen": f"\n\nHuman: {ASKED}\n\nAssistant:",
            "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {GRASS}",
        },
        "'chosen': the conversation ends with a user turn",
    ),
    (
        {"question": ASKED, "answerA": SNOW, "answerB": GRASS, "answerC": "Red.", "label": "A"},
        "no known format fits the keys",
    ),
    ({"prompt": ASKED, "chosen": SNOW, "rejected": " "}, "'rejected': the answer is empty"),
    (
        {"chosen": [*EARLIER, USER, GOOD], "rejected": [*EARLIER[:1], GOOD, USER, POOR]},
        "the two sides have different prompts: turn 2 differs",
    ),
    (
        {"chosen": [*EARLIER, USER, GOOD], "rejected": [*EARLIER[:1], POOR]},
        "the two sides have different prompts: turn 2 differs",
    ),
    (
        {"chosen": [USER, GOOD, USER], "rejected": [USER, POOR, USER]},
        "'chosen': the conversation ends with a user turn",
    ),
    (
        {"prompt": ASKED, "chosen": SNOW, "rejected": GRASS, "margin": "much"},
        "'margin' is 'much', not a number",
    ),
    (
        {"prompt": ASKED, "response_a": SNOW, "response_b": GRASS, "winner": "tie (both bad)"},
        "neither answer is preferred: 'winner' is 'tie (both bad)'",
    ),
    (
        {"prompt": ASKED, "output_1": SNOW, "output_2": GRASS, "preference": 3},
        "'preference' is 3, and names neither 'output_1' nor 'output_2'",
    ),
]


def read_pairs(folder, *rows, **options):
    """Return the pool of these rows."""
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read([str(path)], **options)


@pytest.mark.parametrize(("row", "strength"), [each[1:] for each in ROWS], ids=[each[0] for each in ROWS])
def test_a_row_of_each_format_is_the_same_pair(row, strength, tmp_path):
    (pair,) = pairs_of(read_pairs(tmp_path, row))
    said = [
        (turn.role, " ".join(turn.content.split())) for turn in (*pair.prompt, pair.chosen, pair.rejected)
    ]
    assert said == [("user", ASKED), ("assistant", SNOW), ("assistant", GRASS)]
    assert pair.strength == strength


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_pair_is_refused_with_file_line_and_keys(row, reason, tmp_path):
    with pytest.raises(DataError) as caught:
        read_pairs(tmp_path, ROWS[0][1], row, on_error="raise")
    assert reason in caught.value.message
    assert "pairs.jsonl:2: " in caught.value.message
    assert all(key in caught.value.message for key in row)


def test_bad_pairs_are_left_out_and_kept_in_the_ledger(tmp_path):
    pool = read_pairs(tmp_path, ROWS[0][1], BAD[0][0], ROWS[1][1], on_error="skip")
    assert len(pool) == 1
    reasons = pool.rows["reason"].to_list()
    assert reasons == [None, BAD[0][1], "duplicate of pairs.jsonl:1"]


def test_several_turns_share_one_prompt_whose_answers_are_context(tmp_path):
    (pair,) = pairs_of(
        read_pairs(tmp_path, {"chosen": [*EARLIER, USER, GOOD], "rejected": [*EARLIER, USER, POOR]})
    )
    assert [turn.content for turn in pair.prompt] == ["Hi", "Ho", ASKED]
    for answer in answers_of(pair):
        assert [turn.content for turn in answer.messages if turn.role == "assistant" and turn.trained] == [
            answer.messages[-1].content
        ]


def test_a_pair_that_was_read_is_the_pair_that_was_made(tmp_path):
    tools = json.dumps([{"type": "function", "function": {"name": "look"}}])
    (read_pair,) = pairs_of(read_pairs(tmp_path, ROWS[1][1] | {"tools": tools}))
    prompt, *answers = (Message(**turn) for turn in (USER, GOOD, POOR))
    assert read_pair == pair_of([prompt], *answers, source="pairs", tools=tools)


def test_columns_of_any_name_are_pairs_when_named(tmp_path):
    row = {"ask": ASKED, "good": SNOW, "poor": GRASS, "gap": 3}
    (pair,) = pairs_of(
        read_pairs(tmp_path, row, columns="prompt=ask,response=good,rejected=poor,strength=gap")
    )
    assert (pair.chosen.content, pair.rejected.content, pair.strength) == (SNOW, GRASS, 3.0)


def test_the_chosen_answers_alone_are_conversations(tmp_path):
    (example,) = read_pairs(tmp_path, ROWS[1][1], columns="response=chosen").iter_examples()
    assert [turn.content for turn in example.messages] == [ASKED, SNOW]


def test_a_conversation_among_pairs_is_left_out(tmp_path):
    rows = [ROWS[0][1], {"prompt": ASKED, "response": SNOW}]
    pool = read_pairs(tmp_path, *rows, on_error="skip")
    assert [pair.rejected.content for pair in pairs_of(pool)] == [GRASS]
    assert pool.rows["id"].null_count() == 1


def test_pairs_are_no_examples_and_examples_no_pairs(tmp_path):
    with pytest.raises(DataError, match="preference pairs, not conversations"):
        list(read_pairs(tmp_path, ROWS[0][1]).iter_examples())
    with pytest.raises(DataError, match="conversations with one answer, not"):
        list(pairs_of(read_pairs(tmp_path, {"prompt": ASKED, "response": SNOW})))


def test_a_saved_pool_of_pairs_is_the_same(tmp_path):
    pool = read_pairs(
        tmp_path, ROWS[3][1], {"chosen": [*EARLIER, USER, POOR], "rejected": [*EARLIER, USER, GOOD]}
    )
    save_pool(pool, tmp_path / "pool")
    loaded = load_pool(tmp_path / "pool")
    assert list(pairs_of(loaded)) == list(pairs_of(pool))
    assert loaded.holds_pairs
    assert pool_identity(loaded) == pool_identity(pool)


def test_both_pairs_of_one_prompt_are_held_out_together(tmp_path):
    answers = ("Blue.", "Red.", "Grey.")
    rows = [
        {"prompt": f"question {number}", "chosen": "Yes.", "rejected": answer}
        for number in range(10)
        for answer in answers
    ]
    pool, aside = hold_out(read_pairs(tmp_path, *rows), share=0.2)
    assert {pair.prompt for pair in aside}.isdisjoint(pair.prompt for pair in pairs_of(pool))
    assert (len(aside), len(pool)) == (6, 24)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map("said {}".format)


@settings(deadline=None)
@given(texts=st.lists(text, min_size=3, max_size=3, unique=True), strength=st.none() | st.floats(-9, 9))
def test_writing_and_reading_gives_the_same_pair(texts, strength):
    asked, chosen, rejected = texts
    pair = pair_of(
        [Message(role="user", content=asked)],
        Message(role="assistant", content=chosen),
        Message(role="assistant", content=rejected),
        source="s",
        strength=strength,
    )
    layout = find_layout(row := as_row(pair))
    found = layout.read(row, set())
    assert layout.format == "preference"
    assert found.messages == (*pair.prompt, pair.chosen)
    assert (found.rejected, found.strength) == (pair.rejected, strength)


def of(prompt, chosen, rejected):
    """Return a pair of texts."""
    turns = Message(role="user", content=prompt)
    return pair_of(
        [turns], *(Message(role="assistant", content=text) for text in (chosen, rejected)), source="s"
    )


LONG = [of(f"question {number}", "a long answer", "short") for number in range(7)]
SHORT = [of(f"task {number}", "short", "a long answer") for number in range(3)]


def test_figures_of_pairs():
    alike = of("task 0", "here", "gone")
    assert about_pairs([*LONG, *SHORT, alike]) == {"pairs": 11, "prompts": 10, "chosen longer": 7 / 11}


@pytest.mark.parametrize(
    ("pairs", "test", "words"),
    [
        ([*LONG[:6], *SHORT, of("even", "same", "size")], [], None),
        ([*LONG, *SHORT], [], "longer in 70%"),
        ([*LONG, *SHORT], [of("set aside", "there", "gone")], None),  # prefer says it, with what came of it
        (SHORT, [], "shorter in 100%"),
        ([LONG[0], SHORT[0]], [SHORT[0]] * 200, "1 prompts are in training and test"),
        ([LONG[0], SHORT[0]], [SHORT[1]] * 200, None),
    ],
)
def test_what_makes_a_result_doubtful_is_said(pairs, test, words):
    said = doubts(pairs, test=test)
    assert (len(said), words is None or words in said[0]) == (0 if words is None else 1, True)
