"""What a lesson asks, held against what it trains on."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from learnable.commands.course import notes_on, read_course
from learnable.mixing import Mixing
from learnable.runs.identity import example_id
from learnable.types import Example, Message

ASK = "Read all of what stands above with care and then say in one word only which colour it is about."
OTHERWISE = "Which colour do you find when you go through the text above from its first to its last word?"


def text(seed, words=20):
    """Return a text of its own: no two seeds share 13 words in a row."""
    rng = np.random.default_rng(seed)
    return " ".join(str(word) for word in rng.integers(10**6, size=words))


def conversation(question, answer="blue"):
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Example(id=example_id(messages), messages=messages, source="rows")


def write(path, examples):
    rows = [{"messages": [asdict(turn) for turn in each.messages]} for each in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


TASK = [conversation(f"{text(seed)}\n\n{ASK}") for seed in range(4)]
NEW = [conversation(f"{text(seed)}\n\n{OTHERWISE}") for seed in range(10, 14)]
BUFFER = [conversation(text(seed)) for seed in range(20, 24)]
GENERAL = [conversation(text(seed)) for seed in range(30, 33)]


@pytest.fixture
def noted(tmp_path):
    """Return what is noted of rows that are asked, and trained on."""

    def noted(*, test=NEW, general=GENERAL, task=TASK, buffer=BUFFER):
        course = read_course(
            task,
            test=write(tmp_path / "test.jsonl", test),
            heldout=tmp_path / "none",
            made={
                "paraphrases": None,
                "buffer": write(tmp_path / "buffer.jsonl", buffer),
                "facts": None,
                "constrained": None,
            },
            general=write(tmp_path / "general.jsonl", general),
            mixing=Mixing(),
        )
        return [note for note in notes_on(course) if "share" in note]

    return noted


def test_rows_of_their_own_share_nothing(noted):
    assert noted() == []


@pytest.mark.parametrize(("words", "found"), [(12, 0), (13, 1)])
def test_thirteen_words_of_a_test_row_s_content_in_the_task_are_counted(noted, words, found):
    piece = " ".join(text(0).split()[4 : 4 + words])
    notes = noted(test=[*NEW, conversation(f"{text(50)} {piece} {text(51)}\n\n{OTHERWISE}")])
    line = "1 of 5 test rows share 13 words in a row of their content, or all of it, with the task"
    assert notes == [line] * found


def test_the_instruction_alone_is_no_overlap(noted):
    assert noted(test=[*NEW, conversation(f"{text(50)}\n\n{ASK}")]) == []


def test_a_short_content_counts_when_it_is_the_same(noted):
    task = [*TASK, conversation(f"The sea at noon.\n\n{ASK}")]
    notes = noted(task=task, test=[*NEW, conversation(f"The sea, at noon\n\n{OTHERWISE}")])
    assert notes[0].startswith("1 of 5 test rows share")


def test_a_test_row_without_an_instruction_is_all_content(noted):
    assert noted(test=[*NEW, conversation(text(0))])[0].startswith("1 of 5 test rows")


def test_contents_that_stand_in_the_buffer_are_counted(noted):
    notes = noted(buffer=[*BUFFER, conversation(f"Tell me about this: {text(10)}")])
    assert notes == [
        "1 of 4 test rows share 13 words in a row of their content, or all of it, with the buffer"
    ]


@pytest.mark.parametrize(
    ("general", "where"),
    [(BUFFER[0], "buffer"), (TASK[0], "task"), (conversation(f"{text(60)}\n\n{ASK}"), "task")],
)
def test_a_general_row_is_compared_by_its_whole_question(noted, general, where):
    notes = noted(general=[*GENERAL, general])
    assert notes == [
        f"1 of 4 general rows share 13 words in a row of their question, or all of it, with the {where}"
    ]


def test_where_the_instruction_cannot_be_told_apart_it_is_said_to_count(noted):
    task = [conversation(f"{ASK} {text(seed)}") for seed in range(4)]
    notes = noted(task=task, test=[conversation(f"{ASK} {text(seed)}") for seed in range(10, 12)])
    assert notes == [
        "2 of 2 test rows share 13 words in a row of their content, the instruction included, or all of it, with the "
        "task"
    ]


def test_facts_of_a_row_that_is_asked_are_left_out(tmp_path):
    held, facts = TASK[-1], [conversation(text(40)), conversation(text(41)), conversation(text(42))]
    parents = [TASK[0].id, held.id, None]
    lines = [
        {"messages": [asdict(turn) for turn in each.messages], "source": "facts", "parent": parent}
        for each, parent in zip(facts, parents, strict=True)
    ]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    aside = [
        {"messages": [asdict(turn) for turn in each.messages], "source": "task"} for each in (held, NEW[0])
    ]
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in aside))
    course = read_course(
        TASK[:-1],
        test=None,
        heldout=tmp_path / "heldout.jsonl",
        made={
            "paraphrases": None,
            "buffer": None,
            "facts": str(tmp_path / "facts.jsonl"),
            "constrained": None,
        },
        general=None,
        mixing=Mixing(),
    )
    assert {each.id for each in course.material.facts} == {facts[0].id, facts[2].id}
