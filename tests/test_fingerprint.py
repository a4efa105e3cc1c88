"""Identity depends on the value and on nothing else, today and in years."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnable.runs.identity import example_id, file_digest, fingerprint
from learnable.settings import Reference, Tuning
from learnable.types import Example, Message

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@dataclass(frozen=True, kw_only=True)
class Thing:
    size: int = 1
    name: str = "a"


@dataclass(frozen=True, kw_only=True)
class Other:
    size: int = 1
    name: str = "a"


def test_value_of_old_fingerprints_never_changes():
    assert (
        fingerprint({"a": [1, 2.5, None, True, "é"], "b": Thing(size=2)})
        == "5f6b3bf36bc32a63615741d15abdac8e"
    )


def test_settings_that_came_later_leave_old_fingerprints_as_they_were():
    """Trainings that were done before ``order_seed`` and ``schedule`` are found again."""
    assert fingerprint(Tuning(seed=2, rank=4)) == "15c7dac670d90db01714c723fd005ac2"
    assert fingerprint(Reference(folds=2)) == "eb55b260eec01fd6819c8a87293d21c2"
    others = (Tuning(order_seed=0), Tuning(order_seed=1), Tuning(schedule="constant"), Tuning())
    assert len({fingerprint(each) for each in others}) == 4


def test_value_of_old_example_ids_never_changes():
    assert (
        example_id([Message(role="user", content="Hi"), Message(role="assistant", content="Ho")])
        == "f1853fabcd91f826d7543939c77a3cbc"
    )


@given(values, values)
def test_fingerprints_are_equal_exactly_when_the_json_is(one, two):
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) == same


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, True),
        (1, 1.0),
        (1, "1"),
        (None, "None"),
        (1.0, "1.0"),
        (1.0, {"float": "1.0"}),
        (float("nan"), "nan"),
        (float("inf"), float("-inf")),
        ([], {}),
        ([[1], 2], [1, [2]]),
        (["ab"], ["a", "b"]),
        ({"a": None}, {}),
        (Thing(), Other()),
        (Thing(), {"size": 1, "name": "a"}),
        (Thing(size=2), Thing()),
    ],
)
def test_different_values_have_different_fingerprints(one, two):
    assert fingerprint(one) != fingerprint(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
        (Thing(), Thing(size=1)),
        (float("nan"), float("nan")),
        (0.1, np.float64(0.1)),
    ],
)
def test_equal_values_have_equal_fingerprints(one, two):
    assert fingerprint(one) == fingerprint(two)


def test_fingerprint_is_32_hexadecimal_digits():
    assert re.fullmatch("[0-9a-f]{32}", fingerprint("x"))


def test_fingerprint_does_not_depend_on_the_process():
    code = "from learnable.runs.identity import fingerprint; print(fingerprint({'b': [1.5, 'x'], 'a': None}))"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == fingerprint({"a": None, "b": [1.5, "x"]})


@pytest.mark.parametrize(
    "value",
    [
        Path("x"),
        np.arange(3),
        np.int64(3),
        {1, 2},
        b"x",
        object(),
        len,
        Thing,
        [Path("x")],
        {"a": {"b": Path("x")}},
    ],
)
def test_value_without_a_stable_form_is_refused(value):
    with pytest.raises(TypeError, match="no stable form"):
        fingerprint(value)


def test_keys_that_are_not_text_are_refused():
    with pytest.raises(TypeError, match="only text keys"):
        fingerprint({1: "a"})


def test_lone_surrogates_have_a_fingerprint():
    assert fingerprint("\ud800") != fingerprint("\ud801")


def conversation(*contents, role="user"):
    return tuple(Message(role=role, content=content) for content in contents)


def test_example_id_is_that_of_the_messages_alone():
    one = Example(id="x", messages=conversation("Hi"), source="a", meta={"n": 1})
    two = Example(id="y", messages=conversation("Hi"), source="b")
    assert example_id(one.messages) == example_id(two.messages)


@pytest.mark.parametrize(
    "messages",
    [
        conversation("Hi", "Ho"),
        conversation("Hi "),
        conversation("Hi", role="assistant"),
        conversation("", "Hi"),
        (),
    ],
)
def test_example_id_tells_conversations_apart(messages):
    assert example_id(messages) != example_id(conversation("Hi"))


def test_file_digest_is_of_the_bytes_not_of_the_name(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")


def test_file_digest_sees_the_last_byte_of_a_long_file(tmp_path):
    block = b"\0" * (1 << 22)
    (tmp_path / "a").write_bytes(block + b"x")
    (tmp_path / "b").write_bytes(block + b"y")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")


def test_file_digest_of_nothing(tmp_path):
    (tmp_path / "a").touch()
    assert file_digest(tmp_path / "a") == "99aa06d3014798d86001c324468d497f"
