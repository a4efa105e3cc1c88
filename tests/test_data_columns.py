"""Which column is read as what: by its name, or because somebody says so; and which make a row unusable."""

import json

import pytest

from learnable.data import of_another, read
from learnable.data.names import parse_columns
from learnable.errors import DataError, UsageError
from learnable.settings import Reading
from learnable.types import Message

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Ho"}
PAIR = {"prompt": "Hi", "response": "Ho"}


@pytest.fixture
def pool_of(tmp_path):
    """Reads rows as a file of lines."""

    def read_them(*rows, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return read([str(path)], **options)

    return read_them


@pytest.fixture
def turns_of(pool_of):
    """Reads one row and returns its turns as role and text."""

    def read_it(row, **options):
        (example,) = pool_of(row, **options).iter_examples()
        return [(turn.role, turn.content) for turn in example.messages]

    return read_it


SAME = [("user", "Hi"), ("assistant", "Ho")]


@pytest.mark.parametrize(
    "row",
    [
        {"input": "Hi", "output": "Ho"},
        {"inputs": "Hi", "targets": "Ho"},
        {"problem": "Hi", "solution": "Ho"},
        {"user": "Hi", "assistant": "Ho"},
        {"Question": "Hi", "Answer": "Ho"},
        {"instruction": "Hi", "response": "Ho"},
        {"prompt": "Hi", "output": "Ho"},
        {"Instruction": "Hi", "Input": "", "Output": "Ho"},
        {"prompt": [USER], "completion": "Ho"},
        {"prompt": "Hi", "completion": [ANSWER]},
        {"prompt": USER, "completion": ANSWER},
        {"conversation": [USER, ANSWER]},
        {"dialog": [USER, ANSWER]},
        {"conversation": None, "prompt": "Hi", "response": "Ho"},
        {"prompt": "Hi", "query": "", "response": "Ho", "image": None, "options": [], "history": []},
        {"prompt": "Hi", "question": "Hi", "response": "Ho", "answer": "Ho"},
        {"problem": "Hi", "solution": "Ho", "answer": "o"},
        {"instruction": "Hi", "output": "Ho", "prompt": "### Instruction:\nHi\n### Response:", "text": "Hi Ho"},
        {"messages": [USER, ANSWER], "prompt": "made of this", "answer": "42", "context": "Hi"},
        {"prompt": "Hi", "response": "Ho", "user": "u-17", "label": True, "kto_tag": "true"},
        {"prompt": "Hi", "response": "Ho", "label": 0},
        {"prompt": "Hi", "response": "Ho", "label": "politics"},
        {"prompt": "Hi", "response": "Ho", "reasoning_effort": "high", "cot_type": "math", "system_id": "s"},
    ],
)  # fmt: skip
def test_usual_names_are_read_and_harmless_columns_left(turns_of, row):
    assert turns_of(row) == SAME


@pytest.mark.parametrize(
    ("row", "first"),
    [
        ({**PAIR, "system": "S"}, ("system", "S")),
        ({**PAIR, "system_message": "S"}, ("system", "S")),
        ({**PAIR, "System Prompt": "S", "system": "S"}, ("system", "S")),
        ({"messages": [{"role": "system", "content": "S"}, USER, ANSWER], "system": "S"}, ("system", "S")),
        ({**PAIR, "history": [["a", "b"]]}, ("user", "a")),
        ({**PAIR, "history": '[["a", "b"]]'}, ("user", "a")),
        ({"instruction": "Hi", "output": "Ho", "history": [["a", "b"]]}, ("user", "a")),
        ({**PAIR, "chat_history": [{"role": "user", "content": "a"}, ANSWER]}, ("user", "a")),
    ],
)
def test_what_stands_beside_a_pair_comes_before_it(turns_of, row, first):
    found = turns_of(row)
    assert (found[0], found[-2:]) == (first, SAME)


def test_reasoning_beside_an_answer_is_kept(pool_of):
    (example,) = pool_of({**PAIR, "thinking": "Well."}).iter_examples()
    assert example.messages[1] == Message(role="assistant", content="Ho", reasoning="Well.")


def test_reasoning_that_the_answer_begins_with_is_not_doubled(pool_of):
    (example,) = pool_of(
        {"prompt": "Hi", "response": "<think>Well.</think>Ho", "reasoning": "Well."}
    ).iter_examples()
    assert example.messages[1].reasoning == ""


DOUBTFUL = [
    ({**PAIR, "label": False}, "undesirable", "ignore=label"),
    ({**PAIR, "label": "False"}, "undesirable", "ignore=label"),
    ({**PAIR, "kto_tag": 0}, "undesirable", "ignore=kto_tag"),
    ({"messages": [USER, ANSWER], "label": False}, "undesirable", "ignore=label"),
    ({**PAIR, "images": ["a.png"]}, "'images'", "ignore=images"),
    ({**PAIR, "audio": {"path": "a.wav"}}, "'audio'", "ignore=audio"),
    ({"messages": [USER, ANSWER], "video_path": "a.mp4"}, "'video_path'", "ignore=video_path"),
    ({**PAIR, "choices": ["yes", "no"]}, "choices", "ignore=choices"),
    ({**PAIR, "A": "yes", "B": "no"}, "choices", "ignore=A,ignore=B"),
    ({**PAIR, "option_a": "yes", "option_b": "no"}, "choices", "ignore=option_a,ignore=option_b"),
    ({**PAIR, "question": "Who?"}, "second prompt", "prompt=prompt,prompt=question"),
    ({**PAIR, "answer": "No"}, "second answer", "response=response or response=answer"),
    ({**PAIR, "answer": 7}, "second answer", "response=answer"),
    ({**PAIR, "passage": "A text."}, "'passage'", "context=passage"),
    ({"messages": [USER, ANSWER], "documents": ["A text."]}, "'documents'", "ignore=documents"),
    ({**PAIR, "system_role": "S"}, "system prompt", "system=system_role"),
    ({**PAIR, "system": "S", "system_prompt": "T"}, "two system prompts", "system=system"),
    ({**PAIR, "chain_of_thought": "Well."}, "part of the answer", "reasoning=chain_of_thought"),
    ({**PAIR, "conversation": [USER, {**ANSWER, "content": "other"}]}, "other turns", "ignore=conversation"),
    ({"messages": [USER, ANSWER], "history": [["a", "b"]]}, "other turns", "ignore=history"),
    ({"prompt": [USER], "completion": "Ho", "context": "C"}, "beside the turns", "ignore=context"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason", "hint"), DOUBTFUL)
def test_a_column_that_may_matter_makes_a_row_unusable_and_its_hint_says_what_to_type(
    pool_of, row, reason, hint
):
    with pytest.raises(DataError) as caught:
        pool_of(row, on_error="raise")
    assert reason in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("row", [row for row, _, hint in DOUBTFUL if hint.startswith("ignore=")])
def test_a_column_may_be_ignored(turns_of, row):
    (hint,) = [hint for other, _, hint in DOUBTFUL if other is row]
    assert turns_of(row, columns=hint) == SAME


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"nl": "Hi", "sh": "Ho", "who": "S"}, "prompt=nl,response=sh,system=who", [("system", "S"), *SAME]),
        ({"nl": "Hi", "sh": "Ho"}, {"prompt": "nl", "response": "sh"}, SAME),
        ({"n,l": "Hi", "sh": "Ho"}, '{"prompt": "n,l", "response": "sh"}', SAME),
        ({"nl": "Hi", "answer": "Ho"}, "prompt=nl", SAME),
        ({"question": "Hi", "sh": "Ho"}, "response=sh", SAME),
        ({"talk": [USER, ANSWER]}, "messages=talk", SAME),
        ({**PAIR, "question": "Who?"}, "prompt=question", [("user", "Who?"), ("assistant", "Ho")]),
        ({**PAIR, "question": "Who?"}, "prompt=prompt,prompt=question", [("user", "Hi\n\nWho?"), ("assistant", "Ho")]),
        ({**PAIR, "input": "I", "page": "P"}, "context=input,context=page", [("user", "Hi\n\nI\n\nP"), ("assistant", "Ho")]),
        ({**PAIR, "answer": "No"}, {"response": ["answer"]}, [("user", "Hi"), ("assistant", "No")]),
        ({**PAIR, "past": [["a", "b"]]}, "history=past", [("user", "a"), ("assistant", "b"), *SAME]),
        ({"prompt": "Hi", "chosen": "Ho", "rejected": "No"}, "response=chosen", SAME),
        ({"prompt": "Hi", "chosen": [ANSWER], "rejected": [USER]}, "response=chosen", SAME),
        ({"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": "No"}, "response=chosen", SAME),
        ({"messages": [USER], "chosen": ANSWER, "rejected": ANSWER}, "response=chosen", SAME),
    ],
)  # fmt: skip
def test_columns_can_be_named(turns_of, row, columns, expected):
    assert turns_of(row, columns=columns) == expected


def test_a_named_label_and_tools_are_used(pool_of):
    rows = [
        {**PAIR, "good": True, "api": '[{"name": "w"}]'},
        {"prompt": "a", "response": "b", "good": False, "api": ""},
    ]
    pool = pool_of(*rows, columns="label=good,tools=api", on_error="skip")
    assert [bool(example.tools) for example in pool.iter_examples()] == [True]


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        ("prompt=query_n", "no column 'query_n'", "'query_nl'"),
        ("system=whoo", "no row has a column whoo", "'who'"),
        ("context=who,messages=sh", "no place beside turns", "ignore"),
    ],
)
def test_a_named_column_that_is_not_there_gets_a_suggestion(pool_of, columns, message, hint):
    with pytest.raises(DataError) as caught:
        pool_of({"query_nl": "Hi", "sh": "Ho", "who": "S", **PAIR}, columns=columns, on_error="raise")
    assert message in caught.value.message
    assert hint in caught.value.hint


OWN = [{"query_nl": "Hi", "sh": "Ho", "who": "S"}]
NAMED = "prompt=query_nl,response=sh,system=who"


def read_files(folder, columns, *files, **settings):
    paths = [folder / f"{number}.jsonl" for number in range(len(files))]
    for path, rows in zip(paths, files, strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read([str(path) for path in paths], columns=columns, on_error="raise", **settings)


def test_named_columns_hold_for_the_files_that_have_them(tmp_path):
    usual = [{"instruction": "A", "output": "B", "who": "W"}, {"instruction": "C", "output": "D"}]
    pool = read_files(tmp_path, NAMED, OWN, usual)
    turns = [[(turn.role, turn.content) for turn in each.messages] for each in pool.iter_examples()]
    assert turns == [
        [("system", "S"), ("user", "Hi"), ("assistant", "Ho")],
        [("system", "W"), ("user", "A"), ("assistant", "B")],
        [("user", "C"), ("assistant", "D")],
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([{"instruction": "A", "output": "B"}, {"instruction": "C", "output": "D", "sh": "E"}], "a column 'sh'"),
        ([{"query_nl": "A", "output": "B"}], "no column 'sh'"),
        ([{"query": "A", "shell": "B"}], "no column 'query_nl'"),
    ],
)  # fmt: skip
def test_another_file_that_the_names_may_mean_is_refused(tmp_path, other, message):
    with pytest.raises(DataError, match=message):
        read_files(tmp_path, NAMED, OWN, other)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"query_nl": "A", "sh": "B"}, "prompt=query_nl,response=sh"),
        ({"query_nl": "A", "answer": "B"}, "prompt=query_nl,response=sh"),
        ({"instruction": "A", "output": "B", "who": "W"}, "system=who"),
        ({"instruction": "A", "output": "B"}, None),
    ],
)
def test_a_file_beside_others_has_of_their_columns_what_is_there(tmp_path, row, columns):
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    assert of_another(str(path), Reading(columns=NAMED, source_column="s", avoid=("a",))) == Reading(
        columns=columns
    )


def test_a_column_that_no_file_has_is_refused(tmp_path):
    usual = [{"instruction": "A", "output": "B"}]
    with pytest.raises(DataError, match="no row has a column query_n"):
        read_files(tmp_path, "prompt=query_n", usual, usual)


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ("promt=a", "did you mean 'prompt'"),
        ("prompt", "not part=column"),
        ("prompt=", "not part=column"),
        ("prompt=a,response=a", "named twice"),
        ("response=a,response=b", "response is one column"),
        ("{prompt: a}", "not valid JSON"),
        ('{"prompt": 3}', "3"),
    ],
)
def test_columns_that_cannot_be_read_are_usage_errors(columns, word):
    with pytest.raises(UsageError) as caught:
        parse_columns(columns)
    assert word in str(caught.value)


def test_half_a_preference_row_says_so(pool_of):
    with pytest.raises(DataError) as caught:
        pool_of({"prompt": "Hi", "chosen": "Ho"}, on_error="raise")
    assert "preference data" in caught.value.message
    assert "--columns response=chosen" in caught.value.hint


def test_an_answer_that_answers_another_prompt_is_refused(pool_of):
    with pytest.raises(DataError, match="begins with another turn"):
        pool_of({"prompt": "Who?", "chosen": [USER, ANSWER]}, columns="response=chosen", on_error="raise")


def test_a_file_is_said_to_be_understood(pool_of):
    rows = [
        {"instruction": "Hi", "output": "Ho", "tool": "x", "about": "", "topic": "t"},
        {"instruction": "Ha", "output": "Ho", "tool": "", "about": None, "topic": "t"},
        {"messages": [{**USER, "at": 3}, ANSWER]},
    ]
    (file,) = pool_of(*rows[:2], source_column="topic").files
    assert file.understood == "alpaca: instruction → user, output → answer, topic → source; ignored: tool"
    (file,) = pool_of(*rows).files
    assert file.understood == (
        "alpaca: instruction → user, output → answer; messages: messages → turns; ignored: messages[].at, tool, topic"
    )


def test_the_same_keys_are_understood_once(pool_of, monkeypatch):
    from learnable.data import parser

    found = []
    original = parser.find_layout
    monkeypatch.setattr(
        parser, "find_layout", lambda row, **options: found.append(row) or original(row, **options)
    )
    pool_of(*({"prompt": f"Hi {number}", "response": "Ho", "id": number} for number in range(50)))
    assert len(found) == 1


@pytest.mark.parametrize("answer", ["\u200b", " \u2060\ufeff", "\u00ad\n", "\u3164", "\x00"])
def test_an_answer_that_nobody_sees_is_empty(pool_of, answer):
    with pytest.raises(DataError, match="the answer is empty"):
        pool_of({"prompt": "Hi", "response": answer}, on_error="raise")


def test_an_answer_with_a_mark_of_no_width_in_it_is_kept_as_it_is(turns_of):
    assert turns_of({"prompt": "Hi", "response": "\u200bHo\u200d"}) == [
        ("user", "Hi"),
        ("assistant", "\u200bHo\u200d"),
    ]


def test_rows_with_keys_of_their_own_are_read_and_only_some_layouts_remembered(pool_of, monkeypatch):
    from learnable.data import parser

    monkeypatch.setattr(parser, "MOST_LAYOUTS", 10)
    pool = pool_of(*({**PAIR, "prompt": f"Hi {number}", f"meta_{number}": number} for number in range(50)))
    assert len(pool) == 50
    assert pool.files[0].understood.endswith("and 38 more")


@pytest.mark.parametrize(
    "column",
    [{"tools": ["hammer", "saw"]}, {"history": "Rome"}, {"system": {"os": "linux"}}, {"functions": 3}],
)
def test_a_column_that_is_something_else_than_its_name_says_can_be_ignored(turns_of, pool_of, column):
    (name,) = column
    with pytest.raises(DataError) as caught:
        pool_of({**PAIR, **column}, on_error="raise")
    assert f"--columns ignore={name}" in caught.value.hint
    assert turns_of({**PAIR, **column}, columns={"ignore": name}) == SAME


@pytest.mark.parametrize("flag", [{"reasoning": False}, {"thinking": 3}, {"reasoning_content": None}])
def test_a_flag_is_no_reasoning(turns_of, flag):
    assert turns_of({**PAIR, **flag}) == SAME
    assert turns_of({"messages": [USER, {**ANSWER, **flag}]}) == SAME


def test_turns_that_are_named_beside_a_named_format_of_prompts_are_refused(pool_of):
    with pytest.raises(DataError, match="has no place beside turns"):
        pool_of({**PAIR, "log": [USER, ANSWER]}, format="prompt_completion", columns="messages=log")
