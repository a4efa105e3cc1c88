"""Shapes of data and models that people really have, and what each must give.

Every case has one row in ``CASES``: what is checked, and the result. Inputs lie in ``tests/cases``; all are made up.
To add a case, take one of the checks, or write another: a function that makes a check from what a case needs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learnable.data import read
from learnable.errors import LearnableError
from learnable.types import Conversation, Message, ToolCall

HERE = Path(__file__).parent
INPUTS = HERE / "cases"

Check = Callable[[], None]


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def answer(text: str, **others: Any) -> Message:
    return Message(role="assistant", content=text, **others)


def result(text: str, **others: Any) -> Message:
    return Message(role="tool", content=text, **others)


def call(name: str, arguments: str, **others: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments, **others)


def reads(file: str, *conversations: list[Message], tools: str = "", **options: Any) -> Check:
    """Check that the rows of a file are these conversations; options are those of ``read``."""

    def check() -> None:
        found = [
            Conversation(messages=example.messages, tools=example.tools)
            for example in read([str(INPUTS / file)], **options).iter_examples()
        ]
        assert found == [Conversation(messages=tuple(each), tools=tools) for each in conversations]

    return check


def refuses(file: str, *words: str, **options: Any) -> Check:
    """Check that reading stops with an error whose message and hint have the essential words."""

    def check() -> None:
        with pytest.raises(LearnableError) as caught:
            read([str(INPUTS / file)], **options)
        said = str(caught.value)
        assert [word for word in words if word not in said] == [], said

    return check


def elsewhere(name: str) -> Check:
    """Check that the named test, such as ``test_loading.py::test_...``, is there; it checks the case."""

    def check() -> None:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (HERE / file).read_text(encoding="utf-8")

    return check


def decided(reason: str) -> Check:
    """Keep a case that was decided otherwise, with the reason."""

    def check() -> None:
        assert reason

    return check


CASES: dict[str, Check] = {
    "F087": refuses("data/completion_dict.jsonl", "prompt"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_case_gives_what_a_user_expects(case):
    CASES[case]()
