"""Every evaluator keeps the contract of its kind; each grades by hand-made rows as it says."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnable.errors import DataError, LearnableError, UsageError
from learnable.evaluators import EVALUATORS, build_evaluator, parse
from learnable.evaluators import ifeval as ifeval_module
from learnable.evaluators.exact_match import amount, last_number, letter, normalised
from learnable.runs.identity import example_id, fingerprint

GSM = [
    {"question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
    {"question": "Half of 3?", "answer": "#### 1.5"},
    {"question": "A thousand and a half?", "answer": "#### 1,000.50"},
]
MMLU = [
    {"subject": "a", "question": "Which?", "A": "red", "B": "blue sea", "C": "green", "answer": "B"},
    {"subject": "b", "question": "Who?", "A": "cat", "B": "dog", "C": "bird", "answer": "C"},
]
INSIDE = (
    "Please choose: Which is hot?\n\nAnswer1: the sun Answer2: the sea Answer3: a fish\n\n"
    "Answer format: answer1/answer2/answer3"
)
IFEVAL = [
    {
        "key": 1,
        "prompt": "No commas, please, and the word sun.",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{}, {"keywords": ["sun"], "num_words": None}],
    }
]
ROWS = {
    "heldout": [{"instruction": "What is red?", "input": "", "output": "the sun"}],
    "multiple_choice": MMLU,
    "exact_match": GSM,
    "ifeval": IFEVAL,
    "format": [{"prompt": "judge it", "response": '{"thought": "fine", "label": "no"}'}],
    "translation": [{"source": "Hrópað á heiminn", "reference": "Screaming at the world"}],
}
SPECIFIED = {"format": "@label=label", "translation": "@to=English", "exact_match": "@n=2"}
PERFECT = {"ifeval": "the sun is up"}
OUTSIDE = {"lm_eval", "judge"}
"""Evaluators with tests of their own."""


def made(name, tmp_path, rows=None, written=None):
    """Return an evaluator and its examples, read from a file."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or ROWS.get(name, [])), encoding="utf-8")
    source = "chain_sum" if name == "reasoning_gym" else path
    specification = parse(f"{name}:{source}{SPECIFIED.get(name, '') if written is None else written}")
    evaluator = build_evaluator(specification)
    return evaluator, evaluator.read(specification.path)


def measured(evaluator, example, best):
    """Return the grade when the candidate ``best`` is likely and the others are not."""
    count = len(evaluator.candidates(example))
    nll = np.where(np.arange(count) == best, 1.0, 9.0)
    return evaluator.grade(example, nll, np.full(count, 2))


@pytest.fixture(scope="module", params=sorted(set(EVALUATORS) - OUTSIDE))
def case(request, tmp_path_factory):
    return request.param, *made(request.param, tmp_path_factory.mktemp(request.param))


def test_evaluator_is_a_frozen_dataclass_of_settings(case):
    _, evaluator, examples = case
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluator.seed = 1
    assert evaluator.kind in ("likelihood", "generation")
    assert evaluator.unit
    assert isinstance(evaluator.higher_is_better, bool)
    assert fingerprint(evaluator) == fingerprint(dataclasses.replace(evaluator))
    assert examples


def test_examples_are_distinct_and_stable(case, tmp_path):
    name, _, examples = case
    _, again = made(name, tmp_path, rows=[*ROWS.get(name, []), *ROWS.get(name, [])])
    assert [example.id for example in again] == [example.id for example in examples]
    assert len({example.id for example in examples}) == len(examples)


def test_a_perfect_answer_has_the_best_grade(case):
    name, evaluator, examples = case
    for example in examples:
        if evaluator.kind == "likelihood":
            right = example.meta.get("labels", [""]).index(example.meta.get("correct", ""))
            likely, unlikely = measured(evaluator, example, right), measured(evaluator, example, right - 1)
            assert (likely.value, unlikely.value) == (
                (1.0, 0.0) if evaluator.higher_is_better else (0.5, 4.5)
            )
            continue
        prompt = evaluator.prompt(example)
        assert prompt[-1].role == "user"
        answer = PERFECT.get(name) or example.messages[-1].content
        assert evaluator.grade(example, answer).value == (100 if name == "translation" else 1)


def test_an_empty_answer_is_zero_or_nan(case):
    _, evaluator, examples = case
    if evaluator.kind == "likelihood":
        grade = evaluator.grade(examples[0], np.zeros(0), np.zeros(0, dtype=np.int64))
        assert np.isnan(grade.value)
        assert grade.why
        return
    for empty in ("", "  \n"):
        grade = evaluator.grade(examples[0], empty)
        assert grade.value == 0 or np.isnan(grade.value)
        assert grade.why


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    junk=st.text(max_size=80)
    | st.sampled_from(["[" * 5000, "{" * 5000, "9" * 9000, "-/$,.", "1/0", "\x00", "\ud800"])
)
def test_junk_never_raises(case, junk):
    _, evaluator, examples = case
    if evaluator.kind == "generation":
        grade = evaluator.grade(examples[0], junk)
        assert isinstance(grade.value, float)
        assert np.isnan(grade.value) or 0 <= grade.value <= 100
        assert not np.isnan(grade.value) or grade.why


def test_no_evaluator_is_left_out():
    assert set(ROWS) | OUTSIDE | {"reasoning_gym"} == set(EVALUATORS)


# Reading


def test_a_draw_does_not_change_when_rows_are_added(tmp_path):
    rows = [{"question": f"{i} + 1?", "final": str(i + 1)} for i in range(60)]
    few = {e.id for e in made("exact_match", tmp_path, rows[:40], "@n=20")[1]}
    more = {e.id for e in made("exact_match", tmp_path, rows, "@n=20")[1]}
    all_few = {e.id for e in made("exact_match", tmp_path, rows[:40], "")[1]}
    assert len(few) == len(more) == 20
    assert more & all_few <= few
    assert {e.id for e in made("exact_match", tmp_path, rows, "@n=20,seed=1")[1]} != more
    kept = [e.meta["question"] for e in made("exact_match", tmp_path, rows, "@n=20")[1]]
    assert kept == [row["question"] for row in rows if row["question"] in kept]


def test_rows_that_differ_in_the_reference_alone_are_two(tmp_path):
    rows = [{"question": "one?", "final": "1"}, {"question": "one?", "final": "2"}]
    assert len(made("exact_match", tmp_path, rows, "")[1]) == 2


def test_repeats_are_said(tmp_path, capsys):
    made("exact_match", tmp_path, [*GSM, *GSM], "")
    assert "3 of 6 rows are repeats" in capsys.readouterr().err


def test_source_is_the_file_or_a_column(tmp_path):
    assert {e.source for e in made("multiple_choice", tmp_path, written="")[1]} == {"rows"}
    assert [e.source for e in made("multiple_choice", tmp_path, written="@source=subject")[1]] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "rows", "written", "words"),
    [
        ("exact_match", [{"x": "y"}], "", "rows.jsonl:1.*prompt, query, question"),
        ("exact_match", [{"question": " ", "final": "1"}], "", "'question' is empty"),
        (
            "exact_match",
            [{"question": "a", "final": "1"}],
            "@answer=finale",
            "no column 'finale'.*did you mean 'final'",
        ),
        ("exact_match", [{"question": ["a"], "final": "1"}], "", "'question' is list"),
        ("exact_match", [{"messages": [{"role": "assistant", "content": "a"}]}], "", "holds no question"),
        ("multiple_choice", [{"question": "a", "answer": "A"}], "", "no choices"),
        ("multiple_choice", [{"question": "a", "answer": 1, "choices": ["x"] * 30}], "", "30 choices"),
        ("ifeval", [{"prompt": "a", "instruction_id_list": ["b"], "kwargs": []}], "", "the same length"),
        ("ifeval", [{"prompt": "a", "instruction_id_list": ["b"], "kwargs": [{}]}], "", "no checker for b"),
        ("heldout", [{"instruction": "a", "output": ""}], "", "the answer is empty"),
        ("heldout", [{"instruction": "a", "reference": ""}], "@answer=reference", "the answer is empty"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, name, rows, written, words):
    with pytest.raises(DataError, match=f"(?s){words}"):
        made(name, tmp_path, rows, written)


def test_items_may_lie_in_shards(tmp_path):
    (tmp_path / "gsm").mkdir()
    for number in range(3):
        row = json.dumps({"question": f"What is {number}?", "answer": str(number)})
        (tmp_path / "gsm" / f"test-{number}.jsonl").write_text(row + "\n")
    evaluator = build_evaluator(parse("exact_match"))
    for path in ("gsm", "gsm/test-*.jsonl"):
        items = evaluator.read(str(tmp_path / path))
        assert [(item.messages[-1].content, item.source) for item in items] == [
            ("0", "test"),
            ("1", "test"),
            ("2", "test"),
        ]


def test_files_that_cannot_be_read(tmp_path):
    evaluator = build_evaluator(parse("exact_match"))
    (tmp_path / "gsm.jsonl").write_text("")
    (tmp_path / "gsm.txt").write_text("x")
    for path, words in {
        tmp_path / "gsn.jsonl": "did you mean gsm.jsonl",
        tmp_path / "gsm.txt": "unknown kind",
        tmp_path / "none": "there is no file",
        tmp_path / "gsm.jsonl": "has no rows",
    }.items():
        with pytest.raises(DataError, match=words):
            evaluator.read(str(path))
    for name in ("exact_match", "heldout", "reasoning_gym"):
        with pytest.raises(UsageError, match="needs a"):
            build_evaluator(parse(name)).read(None)


def test_ifeval_without_a_path_asks_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(ifeval_module, "read_items", lambda path, *_, **__: asked.append(path) or [])
    build_evaluator(parse("ifeval")).read(None)
    assert asked == ["google/IFEval:train"]


# Held-out answers


def test_heldout_reads_any_format_and_named_columns(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    evaluator, examples = made("heldout", tmp_path, rows)
    assert examples[0].id == example_id(examples[0].messages)
    assert evaluator.candidates(examples[0]) == (examples[0].messages,)
    _, by_column = made("heldout", tmp_path, [{"instruction": "a", "gold": "b"}], "@answer=gold")
    assert by_column[0].messages == examples[0].messages
    assert by_column[0].id == examples[0].id
    _, both = made(
        "heldout", tmp_path, [{"text": "a", "gold": "b", "output": "x"}], "@answer=gold,prompt=text"
    )
    assert both[0].messages == examples[0].messages


def test_heldout_is_nll_per_token(tmp_path):
    evaluator, examples = made("heldout", tmp_path)
    assert evaluator.grade(examples[0], np.array([6.0]), np.array([4])).value == 1.5
    assert np.isnan(evaluator.grade(examples[0], np.array([0.0]), np.array([0])).value)


# Multiple choice


def contents(evaluator, example):
    return [[message.content for message in candidate] for candidate in evaluator.candidates(example)]


def test_multiple_choice_by_columns(tmp_path):
    evaluator, examples = made("multiple_choice", tmp_path)
    shown = "Which?\n\nA. red\nB. blue sea\nC. green\n\nAnswer with the letter of the right choice."
    assert contents(evaluator, examples[0]) == [[shown, letter] for letter in "ABC"]
    assert measured(evaluator, examples[0], 1).answer == "B"
    wrong = measured(evaluator, examples[0], 0)
    assert (wrong.value, wrong.answer, wrong.why) == (0.0, "A", "expected B")


def test_multiple_choice_by_texts(tmp_path):
    evaluator, examples = made(
        "multiple_choice", tmp_path, written="@candidates_are=texts,answer_template=It is {}."
    )
    assert contents(evaluator, examples[0]) == [
        ["Which?", f"It is {t}."] for t in ("red", "blue sea", "green")
    ]


def test_multiple_choice_inside_the_instruction(tmp_path):
    rows = [{"instruction": INSIDE, "answer": "answer2", "output": "the correct answer is answer2"}]
    evaluator, examples = made("multiple_choice", tmp_path, rows, "")
    assert contents(evaluator, examples[0]) == [[INSIDE, f"answer{number}"] for number in (1, 2, 3)]
    assert measured(evaluator, examples[0], 1).value == 1
    evaluator, examples = made("multiple_choice", tmp_path, rows, "@candidates_are=texts")
    question = "Please choose: Which is hot?"
    assert contents(evaluator, examples[0]) == [[question, t] for t in ("the sun", "the sea", "a fish")]
    rows = [{"instruction": "Is it?\n\nAnswer format: true/false", "answer": "false"}]
    evaluator, examples = made("multiple_choice", tmp_path, rows, "@candidates_are=texts")
    assert [candidate[1] for candidate in contents(evaluator, examples[0])] == ["true", "false"]


def test_multiple_choice_by_list(tmp_path):
    for choices, answer in (
        (["x", "y"], 1),
        (["x", "y"], "y"),
        ({"label": ["1", "2"], "text": ["x", "y"]}, "2"),
        ({"label": ["1", "2"], "text": ["x", "y"]}, 2),
    ):
        evaluator, examples = made(
            "multiple_choice", tmp_path, [{"question": "?", "choices": choices, "answer": answer}]
        )
        assert measured(evaluator, examples[0], 1).value == 1


def test_multiple_choice_per_token_summed_and_tied(tmp_path):
    row = MMLU[:1]
    nll, tokens = np.array([4.0, 6.0, 9.0]), np.array([1, 3, 3])
    per_token, examples = made("multiple_choice", tmp_path, row)
    assert per_token.grade(examples[0], nll, tokens).answer == "B"
    summed, _ = made("multiple_choice", tmp_path, row, "@normalize=none")
    assert summed.grade(examples[0], nll, tokens).answer == "A"
    tie = per_token.grade(examples[0], np.array([2.0, 2.0, 9.0]), np.ones(3, dtype=np.int64))
    assert (tie.value, tie.why) == (0.5, "a tie")
    unknown, examples = made("multiple_choice", tmp_path, [{**MMLU[0], "answer": "X"}])
    grade = measured(unknown, examples[0], 0)
    assert np.isnan(grade.value)
    assert "none of A, B, C" in grade.why


# Exact match


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234 apples, or 5", "1,234"),
        ("#### $18.00 a day. 99", "$18.00"),
        ("#### Step 1: then 12.", "12"),
        ("she pays $1,234.50.", "$1,234.50"),
        ("16-3-4=9 and 9*2=18", "18"),
        ("that is 3/4 of it", "3/4"),
        ("1 1/2 cups", "1 1/2"),
        ("it fell by \u22125 degrees", "-5"),
        ("10-3", "3"),
        ("12% of all", "12"),
        (".5", ".5"),
        ("in version v2 nothing", ""),
        ("none", ""),
        ("1/0", ""),
        ("a1b2", ""),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_amounts():
    assert amount("$1,000.00") == amount("1000") == amount("1000.") == 1000
    assert amount("1 1/2") == amount("1.5") == amount("3/2")
    assert amount("-3/4") == -0.75
    assert amount("25%") == 25
    assert [amount(text) for text in ("", "x", "1/0", "1 2", "9" * 5000)] == [None] * 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is (B).", "B"),
        ("**Answer: C**", "C"),
        ("B", "B"),
        ("b", "B"),
        ("B. because A is wrong", "B"),
        ("I think (D) fits", "D"),
        ("A man chose B", "B"),
        ("I do not know", ""),
        ("", ""),
    ],
)
def test_letter(text, found):
    assert letter(text) == found


def test_exact_match_by_hand(tmp_path):
    evaluator, examples = made("exact_match", tmp_path, written="")
    five, half, thousand = examples
    assert [m.content for m in evaluator.prompt(five)] == ["2 + 3?"]
    assert evaluator.grade(five, "I get 5.").value == 1
    wrong = evaluator.grade(five, "I get 6.")
    assert (wrong.value, wrong.answer, wrong.why) == (0.0, "6", "expected 5")
    nothing = evaluator.grade(five, "I do not know")
    assert (nothing.value, nothing.why) == (0.0, "no number found")
    assert evaluator.grade(half, "3/2").value == evaluator.grade(half, "1.50 dollars").value == 1
    assert evaluator.grade(thousand, "$1000.5").value == 1


def test_exact_match_without_a_readable_reference(tmp_path):
    evaluator, examples = made(
        "exact_match", tmp_path, [{"question": "a", "final": "many"}, {"question": "b", "final": None}]
    )
    for example in examples:
        grade = evaluator.grade(example, "5")
        assert np.isnan(grade.value)
        assert "in the reference" in grade.why


def test_exact_match_of_text_letters_and_patterns(tmp_path):
    rows = [{"question": "capital?", "answer": "Paris"}]
    text, examples = made("exact_match", tmp_path, rows, "@extract=text,suffix=One word.")
    assert text.prompt(examples[0])[-1].content == "capital?\n\nOne word."
    assert text.grade(examples[0], ' "paris." \n').value == 1
    assert text.grade(examples[0], "in Paris").value == 0
    pattern, examples = made("exact_match", tmp_path, rows, "@extract=answer: (\\w+)")
    assert pattern.grade(examples[0], "answer: London, no, answer: PARIS!").value == 1
    assert pattern.grade(examples[0], "Paris").why == "no answer found"
    choice, examples = made("exact_match", tmp_path, [{"question": "?", "answer": "(B)"}], "@extract=letter")
    assert choice.grade(examples[0], "The answer is B").value == 1
    assert normalised("  The\n END. ") == "the end"


def test_exact_match_keeps_earlier_turns_and_the_input(tmp_path):
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "4")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    evaluator, examples = made("exact_match", tmp_path, rows, "")
    assert [message.content for message in evaluator.prompt(examples[0])] == ["s", "a", "b", "c"]
    assert evaluator.grade(examples[0], "4").value == 1
    rows = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}]
    evaluator, examples = made("exact_match", tmp_path, rows, "")
    assert evaluator.prompt(examples[0])[0].content == "Add.\n\n1 and 2"


@pytest.mark.parametrize("extract", ["numbr", "(", "no group"])
def test_exact_match_refuses_a_pattern_without_a_group(extract):
    with pytest.raises(UsageError, match="extract="):
        build_evaluator(parse(f"exact_match:x@extract={extract}"))


# Format


def test_format_by_hand(tmp_path):
    evaluator, examples = made("format", tmp_path)
    grades = {
        '{"thought": "x", "label": "No"}': "",
        '```json\n{"label": "no", "thought": 1}\n```': "",
        '{"label": "no"}': "lacks 'thought'",
        '{"thought": 1, "label": "no", "more": 2}': "has 'more' beside the keys",
        '{"thought": 1, "label": "yes"}': "'label' is not 'no'",
        'Sure: {"thought": 1, "label": "no"}': "no JSON",
        '[{"thought": 1, "label": "no"}]': "a list and no object",
        '{"thought": NaN, "label": "no"}': "NaN is not JSON",
        "": "empty",
    }
    for completion, why in grades.items():
        grade = evaluator.grade(examples[0], completion)
        assert grade.value == float(not why), completion
        assert why in grade.why


def test_format_with_the_label_alone_as_reference(tmp_path):
    rows = [{"prompt": "a", "response": "no"}, {"prompt": "b", "response": None}]
    evaluator, examples = made("format", tmp_path, rows, "@keys=thought,label,label=label")
    assert evaluator.keys == ("thought", "label")
    assert evaluator.grade(examples[0], '{"thought": 1, "label": "no"}').value == 1
    assert evaluator.grade(examples[0], '{"thought": 1, "label": "yes"}').value == 0
    assert np.isnan(evaluator.grade(examples[1], '{"thought": 1, "label": "yes"}').value)
    with pytest.raises(UsageError, match="none of keys"):
        build_evaluator(parse("format:x@keys=a,b,label=c"))


# Translation


def test_translation_by_hand(tmp_path):
    import sacrebleu

    completion, reference = "Shouting at the world", "Screaming at the world"
    expected = {
        "chrf": sacrebleu.sentence_chrf(completion, [reference]).score,
        "chrf++": sacrebleu.sentence_chrf(completion, [reference], word_order=2).score,
        "bleu": sacrebleu.sentence_bleu(completion, [reference]).score,
    }
    assert len(set(expected.values())) == 3
    for metric, score in expected.items():
        evaluator, examples = made("translation", tmp_path, written=f"@to=English,metric={metric}")
        assert evaluator.prompt(examples[0])[0].content.startswith(
            "Translate the following text into English.\n\nHr"
        )
        assert evaluator.grade(examples[0], completion).value == pytest.approx(score)


def test_translation_without_a_reference(tmp_path):
    evaluator, examples = made("translation", tmp_path, [{"query": "Translate: já", "response": ""}], "")
    assert evaluator.prompt(examples[0])[0].content == "Translate: já"
    assert np.isnan(evaluator.grade(examples[0], "yes").value)


# reasoning-gym


def test_reasoning_gym_by_hand(tmp_path):
    evaluator, examples = made("reasoning_gym", tmp_path, written="@n=5,seed=3")
    answer = examples[0].messages[-1].content
    assert evaluator.grade(examples[0], f"I think\n<answer> {answer} </answer>").value == 1
    assert evaluator.grade(examples[0], "1000000").why == f"expected {answer}"
    assert {e.id for e in examples}.isdisjoint(
        e.id for e in made("reasoning_gym", tmp_path, written="@n=5,seed=4")[1]
    )
    asked = made("reasoning_gym", tmp_path, written="@n=5,seed=3,suffix=Briefly.")[1][0].messages[0].content
    assert asked == f"{examples[0].messages[0].content}\n\nBriefly."
    with pytest.raises(UsageError, match="did you mean 'chain_sum'"):
        evaluator.read("chain_sums")


# IFEval


def test_ifeval_by_hand(tmp_path):
    evaluator, examples = made("ifeval", tmp_path)
    assert evaluator.grade(examples[0], "The sun is up").value == 1
    broken = evaluator.grade(examples[0], "Well, hello")
    assert (broken.value, broken.why) == (0.0, "not followed: punctuation:no_comma, keywords:existence")
    first_line = "Sure, here it is:\nThe sun is up"
    assert evaluator.grade(examples[0], first_line).value == 0
    loose, examples = made("ifeval", tmp_path, written="@mode=loose")
    assert loose.grade(examples[0], first_line).value == 1


def test_ifeval_without_punkt_is_ungradable_for_two_instructions_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(ifeval_module, "_has_punkt", lambda: False)
    rows = [
        {"prompt": name, "instruction_id_list": [name, "punctuation:no_comma"], "kwargs": [settings, {}]}
        for name, settings in {
            "length_constraints:number_sentences": {"num_sentences": 1, "relation": "at least"},
            "change_case:capital_word_frequency": {"capital_frequency": 1, "capital_relation": "at least"},
            "length_constraints:number_words": {"num_words": 1, "relation": "at least"},
        }.items()
    ]
    evaluator, examples = made("ifeval", tmp_path, rows)
    grades = [evaluator.grade(example, answer) for example in examples for answer in ("HELLO.", "")]
    assert [grade.value for grade in grades[4:]] == [1.0, 0.0]
    for grade in grades[:4]:
        assert np.isnan(grade.value)
        assert "python -m nltk.downloader punkt_tab" in grade.why


def test_only_the_named_instructions_need_punkt(tmp_path, monkeypatch):
    import inspect

    from lm_eval.tasks.ifeval import instructions_registry

    splitting = {
        name
        for name, checker in instructions_registry.INSTRUCTION_DICT.items()
        if "count_sentences" in (source := inspect.getsource(checker)) or "word_tokenize" in source
    }
    assert splitting == ifeval_module.NEEDS_PUNKT


def test_ifeval_downloads_nothing(monkeypatch):
    import nltk

    called = []
    monkeypatch.setattr(nltk, "download", lambda *_, **__: called.append(1))
    # lm-eval asks for the download when its module is imported.
    monkeypatch.setattr(ifeval_module, "_needed", lambda name: nltk if name == "nltk" else nltk.download())
    assert ifeval_module._checkers() is False
    nltk.download("punkt_tab")
    assert called == [1]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    import importlib

    def absent(module):
        raise ModuleNotFoundError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    for name, act in {
        "translation": lambda e: e.grade(made("translation", tmp_path)[1][0], "x"),
        "reasoning_gym": lambda e: e.read("chain_sum"),
        "lm_eval": lambda e: e.read("x.yaml"),
    }.items():
        with pytest.raises(LearnableError, match=r'pip install "learnable\[evaluate\]"'):
            act(build_evaluator(parse(f"{name}:chain_sum")))
