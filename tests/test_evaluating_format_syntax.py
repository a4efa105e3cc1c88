"""The format evaluator on Python literals, as DELIA's files have them, and what it checks."""

import json
import warnings

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnable.errors import UsageError
from learnable.evaluators import build_evaluator, parse
from learnable.evaluators.format import Format
from learnable.types import Example, Message

REFERENCE = """{'thought': "it's fine", 'hallucination': 'no'}"""
PYTHON = Format(syntax="python", label="hallucination")
JUNK = {
    "open brackets": "[" * 100_000,
    "open braces": "{'a':" * 199,
    "minus signs": "-" * 1_000_000 + "1",
    "a long sum": "{'a': " + "1+" * 50_000 + "1}",
    "a long chain": "a" + ".b" * 50_000,
    "a call": "__import__('os').getcwd()",
    "a formatted string": "{'a': f'{1}'}",
    "many digits": "{'a': " + "9" * 5_000 + "}",
    "many digits in base 16": "{'a': 0x" + "f" * 5_000 + "}",
    "a key that cannot be one": "{[]: 1}",
    "an unpacked name": "{**a}",
    "a set": "{1, 2}",
    "no character": "{'a': '\0'}",
    "half a character": "{'a': '\ud800'}",
    "two statements": "{'a': 1}; 2",
    "an indented line": "  {'a': 1}\n    2",
}


def example(reference=REFERENCE):
    messages = (Message(role="user", content="judge it"), Message(role="assistant", content=reference))
    return Example(id="e", messages=messages, source="s", meta={"reference": reference})


def graded(completion, evaluator=PYTHON, reference=REFERENCE):
    return evaluator.grade(example(reference), completion)


@pytest.mark.parametrize(
    ("completion", "why"),
    [
        ("{'thought': 'x', 'hallucination': 'no'}", ""),
        ("{'hallucination': 'No', 'thought': None}", ""),
        ('{"thought": "x", "hallucination": "no"}', ""),
        ("```python\n{'thought': 'x',\n 'hallucination': 'no'}\n```", ""),
        ("{'hallucination': 'no'}", "lacks 'thought'"),
        ("{'thought': 1, 'hallucination': 'no', 3: 2}", "has 3 beside the keys"),
        ("{'thought': 1, 'hallucination': 'yes'}", "'hallucination' is not 'no'"),
        ("Sure: {'thought': 1, 'hallucination': 'no'}", "no Python literal: invalid syntax"),
        ("{'thought': true, 'hallucination': 'no'}", "no Python literal: malformed node"),
        ("[{'thought': 1, 'hallucination': 'no'}]", "a list and no object"),
        ("  \n", "empty"),
    ],
)
def test_python_by_hand(completion, why):
    grade = graded(completion)
    assert grade.value == float(not why)
    assert why in grade.why


def test_json_does_not_take_single_quotes():
    reference = json.dumps({"thought": "", "hallucination": "no"})
    grade = graded(REFERENCE, Format(label="hallucination"), reference)
    assert grade.value == 0
    assert "no JSON" in grade.why


def test_a_reference_in_the_other_syntax_has_no_keys_to_ask_for():
    grade = graded(REFERENCE, Format(check="keys"))
    assert grade.value != grade.value
    assert "no object with keys" in grade.why


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("{'thought': 1, 'hallucination': 'no'}", {"parses", "keys", "all"}),
        ("{'thought': 1, 'hallucination': 'yes'}", {"parses", "keys"}),
        ("{'hallucination': 'no'}", {"parses"}),
        ("{}", {"parses"}),
        ("no", set()),
    ],
)
def test_each_check_asks_for_more(completion, right):
    evaluators = {
        check: Format(syntax="python", label="hallucination", check=check)
        for check in ("parses", "keys", "all")
    }
    passed = {check for check, evaluator in evaluators.items() if graded(completion, evaluator).value}
    assert passed == right


def test_a_reference_without_the_label_matters_only_where_the_label_does():
    values = {
        check: graded(
            "{'a': 1}", Format(syntax="python", label="label", check=check), reference="{'a': 2}"
        ).value
        for check in ("parses", "keys", "all")
    }
    assert (values["parses"], values["keys"]) == (1, 1)
    assert values["all"] != values["all"]


def test_a_label_that_is_missing_is_not_the_word_none():
    evaluator = Format(syntax="python", label="label", keys=("label",))
    assert graded("{'label': 'none'}", evaluator, reference="none").value == 1
    assert graded("{}", Format(syntax="python", label="label"), reference="none").value == 0


def test_the_same_rows_are_drawn_for_every_check(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"judge {n}", "response": REFERENCE} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = "@syntax=python,label=hallucination,n=5,check="
    drawn = [
        [e.id for e in build_evaluator(parse(f"format{settings}{check}")).read(str(path))]
        for check in ("parses", "keys", "all")
    ]
    assert drawn[0] == drawn[1] == drawn[2]


def test_rows_without_a_reference_can_still_be_parsed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "judge it"}) + "\n", encoding="utf-8")
    evaluator = Format(syntax="python", check="parses")
    (row,) = evaluator.read(str(path))
    assert evaluator.grade(row, "{'a': 1}").value == 1


@pytest.mark.parametrize("setting", ["syntax=yaml", "check=some"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        build_evaluator(parse(f"format:x@{setting}"))


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_junk_is_graded_0_with_a_reason_that_is_always_the_same(junk):
    grade = graded(junk)
    assert grade.value == 0
    assert grade.why == graded(junk).why != ""
    assert "0x7" not in grade.why


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60) | st.text(alphabet="{}[]()'\":,\\ux09afn#-+ \n", max_size=60))
def test_no_text_raises(text):
    assert graded(text, Format(syntax="python", check="parses")).value in (0, 1)


def test_an_unknown_escape_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graded(r"{'thought': '\d', 'hallucination': 'no'}").value == 1


@pytest.mark.parametrize("syntax", ["json", "python"])
def test_half_a_character_that_is_escaped_can_be_stored(syntax):
    grade = graded(r'{"a": "\ud800"}', Format(syntax=syntax, check="parses"))
    assert grade.value == 1
    assert pl.Series([grade.answer])[0] == grade.answer
