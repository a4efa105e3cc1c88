"""What `learnable load` says of the files that it reads."""

import json

import pytest

from learnable.commands import load
from learnable.data import read

PAIR = {"instruction": "Name a fruit", "output": "Fig."}


@pytest.fixture
def said(tmp_path, capsys):
    """Loads rows, a list for each file, and returns the lines said."""

    def load_them(*files):
        paths = []
        for number, rows in enumerate(files):
            paths.append(str(tmp_path / f"{number}.jsonl"))
            (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        load(paths, output=str(tmp_path / "pool"))
        return capsys.readouterr().err.splitlines()

    return load_them


def test_load_says_what_columns_became_and_shows_a_row(said):
    assert said([{**PAIR, "tool": "x", "about": "y"}]) == [
        "0.jsonl: alpaca: instruction → user, output → answer; ignored: about, tool",
        "  example: user: Name a fruit | assistant: Fig.",
    ]


def test_files_that_were_taken_for_the_same_are_said_once(said):
    other = {"prompt": "Name a bird", "response": "Tit."}
    lines = said([PAIR], [{**PAIR, "output": "Nut."}], [other])
    assert [line.partition(":")[0] for line in lines] == [
        "0.jsonl and 1 more",
        "  example",
        "2.jsonl",
        "  example",
    ]


def test_control_characters_of_a_row_are_shown_and_long_texts_cut(said):
    shown = said([{"prompt": "\x1b[31mred\nblue", "response": "x" * 500}])[1]
    assert shown.isprintable()
    assert "[31mred" in shown
    assert len(shown) < 200


def test_calls_reasoning_and_context_are_shown_as_such(said):
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "Hm.",
            "tool_calls": [{"name": "w", "arguments": {"d": 1}}],
        },
    ]
    assert said([{"messages": turns}])[1] == (
        '  example: user: a | assistant, context only: b | user: c | assistant: (Hm.) w({"d": 1})'
    )


def test_rows_held_out_are_read_again_as_the_same_examples(tmp_path):
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "Hm.",
            "tool_calls": [{"name": "w", "arguments": {"d": 1}}],
        },
    ]
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": turns, "tools": [{"name": "w"}]}, {"messages": [turns[0], turns[1] | {"weight": 1}]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {example.id for example in read([str(path)]).iter_examples()}
    folder = load([str(path)], holdout=0.5, output=str(tmp_path / "pool")).folder
    parts = [read([str(given)]) for given in (folder, folder / "heldout.jsonl")]
    assert [len(part) for part in parts] == [1, 1]
    assert {example.id for part in parts for example in part.iter_examples()} == whole
