"""What can be wrong with a row: each check on rows that it must and must not find, thresholds by hand, and the order."""

import math
from dataclasses import replace

import polars as pl
import pytest

from learnable.checks import CHECKS, Check, Checked, Suspicion, suspects_of
from learnable.checks.alike import alike, contradicting
from learnable.checks.languages import asks_for_a_language, language_of
from learnable.checks.measured import far_above
from learnable.checks.texts import PERSONAL, cut_off, is_card, is_iban
from learnable.data.decontamination import EvaluationIndex, EvaluationRow
from learnable.types import Example, Message, ToolCall

WHOLE = "The heart pumps blood through the body. It beats about seventy times in a minute."


def rows(*pairs, source="a"):
    return [
        Example(
            id=f"{number:032}",
            source=source,
            messages=(Message(role="user", content=asked), Message(role="assistant", content=said)),
        )
        for number, (asked, said) in enumerate(pairs)
    ]


def found(name, *pairs, **more):
    """Return the positions of the rows that a check finds."""
    return [each.row for each in CHECKS[name].look(Checked(examples=rows(*pairs), **more))]


CUT = {
    "comma": "You should drink more water, eat less sugar,",
    "small word": "The capital of the country is one of the",
    "code": "Use this:\n```python\nprint(1)",
    "bracket": "He won two prizes (the first one in",
    "no end": f"{WHOLE} In a whole life of a person that comes to more than two billion beats alto",
}
NOT_CUT = {
    "whole": WHOLE,
    "short": "Paris",
    "list": f"{WHOLE}\n- one that is long enough to be a line of prose in a text like this one here",
    "tag": f"{WHOLE} In a whole life of a person that comes to more than two billion beats #heart",
    "code": f"{WHOLE} It is the function of the heart that we call here to have it all done: beat()",
    "no spaces": "心臓は血液を全身に送り出します。一分間に七十回ほど打ちます。一生では二十億回を超えます",
}


@pytest.mark.parametrize("name", CUT)
def test_an_answer_that_ends_in_the_middle_is_found(name):
    assert cut_off(CUT[name]) is not None


@pytest.mark.parametrize("name", NOT_CUT)
def test_an_answer_that_ends_is_not_called_cut(name):
    assert cut_off(NOT_CUT[name]) is None


def test_where_nobody_writes_full_stops_a_missing_one_says_little():
    alone = Checked(examples=rows(("Why?", CUT["no end"]), *[("Why?", WHOLE)] * 60))
    habit = Checked(examples=rows(*[("Why?", CUT["no end"])] * 60))
    strengths = [next(iter(CHECKS["cut"].look(each))).strength for each in (alone, habit)]
    assert strengths == [0.5, 0.25]


def test_a_call_of_a_tool_is_no_answer_that_was_cut():
    call = Message(
        role="assistant", content="I look it up in the", tool_calls=(ToolCall(name="f", arguments="{}"),)
    )
    asked = Message(role="user", content="When?")
    example = Example(id="1", source="a", messages=(asked, call))
    assert not list(CHECKS["cut"].look(Checked(examples=[example])))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the table and it does not want to go.", "English"),
        ("Die Katze ist auf dem Tisch und sie will nicht gehen.", "German"),
        ("Le chat est sur la table et il ne veut pas partir.", "French"),
        ("Það er ekki hægt að sjá það sem er á bak við húsið.", "Icelandic"),
        ("Кошка сидит на столе и не хочет уходить.", "Cyrillic"),
        ("猫は机の上にいて、動きたくない。", "Japanese"),
        ("Oslo, Rome, Lima", ""),
        ("0 1 2 3", ""),
    ],
)
def test_a_language_is_told_by_its_small_words_and_a_script_by_its_letters(text, language):
    assert language_of(text) == language


def test_an_answer_in_another_language_is_found_unless_it_was_asked_for():
    german = "Die Katze ist auf dem Tisch und sie will nicht gehen."
    pairs = [("Where is the cat that we saw in the house?", WHOLE)] * 9
    assert found("language", *pairs, ("Where is the cat that we saw in the house?", german)) == [9]
    assert found("language", *pairs, ("Say in German where the cat is.", german)) == []
    assert asks_for_a_language("Translate this.")


REFUSED = (
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I have no body.",
    "I cannot provide that.",
)


@pytest.mark.parametrize("answer", REFUSED)
def test_a_refusal_is_found(answer):
    assert found("refusal", ("How?", answer)) == [0]


def test_that_somebody_is_sorry_is_no_refusal():
    assert found("refusal", ("How?", "I am sorry to hear that. Take a rest, and drink water.")) == []


RESTS = {
    "template": "Yes.\n### Response:\nNo.",
    "roles": "Yes.\nHuman: Why?\nAssistant: Because.",
    "marks": "Yes.<|im_end|>",
    "page": "Yes.<br><br>Was this helpful? Yes / No",
    "place": "Dear [insert name], thank you.",
    "decoding": "It isnâ€™t so.",
    "nothing": "N/A",
    "circles": "Take the red pill and the green one, then sleep, wake up, eat something warm and drink. " * 4,
}


@pytest.mark.parametrize("name", RESTS)
def test_remains_and_answers_that_say_nothing_are_found(name):
    assert found("boilerplate", ("What?", RESTS[name])) == [0]


def test_what_the_question_has_too_is_no_remains():
    assert found("boilerplate", ("What does <br> do?", "<br> breaks a line.")) == []
    assert found("boilerplate", ("Warm or cold? a frog, a human", "Frog: cold\nHuman: warm")) == []
    assert found("boilerplate", ("Odd or even?", "odd even odd even odd even odd even odd even")) == []


def test_check_digits_decide_what_is_a_card_and_an_iban():
    assert is_card("4111 1111 1111 1111")
    assert not is_card("4111 1111 1111 1112")
    assert is_iban("DE89 3704 0044 0532 0130 00")
    assert not is_iban("DE89 3704 0044 0532 0130 01")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("Write to maria.rossi@uni-roma.it.", "an e-mail address"),
        ("Call +39 06 6982 4931 today.", "a phone number"),
        ("Pay with 4111-1111-1111-1111.", "a credit card number"),
        ("To DE89370400440532013000 please.", "an IBAN"),
        ("The host is 151.101.65.140.", "an IP address"),
        ("export KEY=AKIAIOSFODNN7EXAMPLE", "a key or token"),
    ],
)
def test_personal_data_are_found_by_their_kind(said, what):
    (one,) = CHECKS["personal"].look(Checked(examples=rows(("Hello", said))))
    assert one.why.startswith(what)
    assert one.strength == PERSONAL[what][0]


@pytest.mark.parametrize(
    "said", ["you@example.com", "Call 555-123-4567.", "Version 1.2.3.4", "In 1990-1995, 123-456-7890."]
)
def test_what_belongs_to_nobody_is_not_personal(said):
    assert found("personal", ("Hello", said)) == []


def test_the_later_of_two_near_duplicates_is_found_with_the_earlier_one():
    said = "The heart pumps blood through the body and beats about seventy times in every minute"
    pairs = [
        ("How does a heart work?", f"{said} of a life."),
        ("Why?", WHOLE),
        ("How does a heart work?", f"{said} of life."),
    ]
    (one,) = CHECKS["duplicate"].look(Checked(examples=rows(*pairs)))
    assert (one.row, one.other) == (2, 0)
    assert one.strength > 0.5


def test_another_number_or_another_answer_is_no_duplicate():
    text = (
        "Here is a long text about the history of the town, its river, its bridge and all the people in it."
    )
    assert (
        found(
            "duplicate",
            (f"{text} How far is 5 km?", "Three miles."),
            (f"{text} How far is 8 km?", "Three miles."),
        )
        == []
    )
    assert found("duplicate", (f"{text} Who?", "Anna"), (f"{text} Who?", "Berta and Carla")) == []


def test_similarity_is_exact():
    # 3 of 4 are shared: 0.75. The fourth set is like the first, and named by it.
    sets = [{"a", "b", "c"}, {"x"}, {"a", "b", "c", "d"}, {"a", "b", "c"}]
    always = list(alike(sets, least=0.75, same=lambda one, other: True))
    assert always == [(2, 0, 0.75), (3, 0, 1.0)]
    assert list(alike(sets, least=0.76, same=lambda one, other: True)) == [(3, 0, 1.0)]
    assert list(alike(sets, least=0.5, same=lambda one, other: one != 2)) == [(3, 0, 1.0)]


@pytest.mark.parametrize(
    ("one", "other", "contradict"),
    [
        ("Yes, it is.", "No, never.", True),
        ("In 1990", "It was 1991.", True),
        ("Paris", "Lyon", True),
        ("Paris", "It is Paris.", False),
        ("In 1990", "1990, in May", False),
        (WHOLE, f"Nobody knows. {WHOLE.swapcase()} Ask a doctor who was at a university.", False),
    ],
)
def test_two_answers_contradict_each_other_where_one_alone_can_be_right(one, other, contradict):
    assert (contradicting(one, other) is not None) == contradict


def test_both_sides_of_a_contradiction_are_found():
    pairs = [("What is the capital?", "Paris"), ("Why?", WHOLE), ("what is capital", "Lyon")]
    both = list(CHECKS["contradiction"].look(Checked(examples=rows(*pairs))))
    assert [(each.row, each.other) for each in both] == [(2, 0), (0, 2)]


def test_a_sentence_of_many_answers_is_found():
    more = [
        (f"Question {number}?", f"Answer {number}. Please contact our team if you have questions.")
        for number in range(6)
    ]
    assert found("repeated", *more, ("Why?", WHOLE)) == [0, 1, 2, 3, 4, 5]
    assert found("repeated", *more[:5]) == []


def test_a_row_of_an_evaluation_is_found_with_its_place():
    index = EvaluationIndex([EvaluationRow("test.jsonl:3", ["What is a heart?"], ["What is a heart?"])])
    checked = Checked(examples=rows(("Why?", WHOLE), ("what is a heart", "An organ.")), evaluation=index)
    (one,) = CHECKS["evaluation"].look(checked)
    assert one.row == 1
    assert "test.jsonl:3" in one.why


# ---------------------------------------------------------------- what models measured


def measured(**columns):
    n = len(next(iter(columns.values())))
    usual = {"source": ["a"] * n, "response_tokens": [10] * n, "end_tokens": [1] * n}
    return pl.DataFrame(usual | columns)


def test_a_distance_is_in_robust_deviations_of_rows_of_the_same_source():
    # Of -2 .. 2 the median is 0 and the median deviation 1.
    values = [-2.0, -1.0, 0.0, 1.0, 2.0] * 6
    far = far_above(
        pl.Series([*values, *(value + 100 for value in values)]).to_numpy(),
        pl.Series(["a"] * 30 + ["b"] * 30),
        pl.Series([10] * 60),
    )
    assert far[4] == far[34] == pytest.approx(2 / 1.4826)


def test_few_rows_of_a_kind_have_none_that_is_far():
    far = far_above(pl.Series([1.0] * 18 + [9.0]).to_numpy(), pl.Series(["a"] * 19), pl.Series([10] * 19))
    assert all(map(math.isnan, far))


def test_lengths_are_compared_with_their_like():
    # Short answers cost more per token: 5 is usual for them, and far for long ones.
    values, lengths = [5.0, 5.1] * 30 + [1.0, 1.1] * 29 + [1.0, 5.0], [3] * 60 + [90] * 60
    found = far_above(pl.Series(values).to_numpy(), pl.Series(["a"] * 120), pl.Series(lengths))
    assert [place for place, each in enumerate(found) if each > 3] == [119]


def test_losses_say_what_is_far_what_rose_and_what_does_not_fit():
    after, null = [1.0, 1.1] * 15 + [9.0], [2.0] * 30 + [1.0]
    frame = measured(
        loss_before=[2.0] * 31, loss_after=after, loss_null=null, end_nll_after=[0.1] * 30 + [8.0]
    )
    checked = Checked(examples=rows(*[("Why?", WHOLE)] * 31), measured=frame)
    for name in ("loss", "rose", "unfit", "unended"):
        assert [each.row for each in CHECKS[name].look(checked)] == [30], name
    (unfit,) = CHECKS["unfit"].look(checked)
    # 80 nats are 115 bits.
    assert "115.4 bits" in unfit.why


def test_the_strength_of_an_answer_that_does_not_fit_is_a_half_at_0_bits_and_half_the_doubt_5_bits_below():
    nats = math.log(2) / 10
    frame = measured(loss_after=[5 * nats + 1, 1e-9 + 1], loss_null=[1.0, 1.0])
    both = list(CHECKS["unfit"].look(Checked(examples=rows(*[("Why?", WHOLE)] * 2), measured=frame)))
    assert [each.strength for each in both] == pytest.approx([0.75, 0.5], abs=1e-3)


def test_an_answer_without_a_full_stop_is_compared_with_others_without_one():
    pairs = [("Why?", WHOLE)] * 40 + [("Who?", "Anna")] * 30 + [("Who?", "Anna and the")]
    ends = [0.1, 0.2] * 20 + [6.0, 7.0] * 15 + [30.0]
    checked = Checked(examples=rows(*pairs), measured=measured(end_nll_after=ends))
    assert [each.row for each in CHECKS["unended"].look(checked)] == [70]


def test_few_answers_without_a_full_stop_are_compared_with_all():
    pairs = [("Why?", WHOLE)] * 40 + [("Who?", "Anna and the")]
    checked = Checked(examples=rows(*pairs), measured=measured(end_nll_after=[0.1, 0.2] * 20 + [9.0]))
    assert [each.row for each in CHECKS["unended"].look(checked)] == [40]


def test_what_was_not_measured_is_not_suspect():
    nothing = [float("nan")] * 31
    frame = measured(loss_before=nothing, loss_after=nothing, loss_null=nothing, end_nll_after=nothing)
    checked = Checked(examples=rows(*[("Why?", WHOLE)] * 31), measured=frame)
    assert not any(list(CHECKS[name].look(checked)) for name in ("loss", "rose", "unfit", "unended"))


# ---------------------------------------------------------------- one order


def says(*suspicions):
    return Check(about="", look=lambda checked: list(suspicions))


def test_reasons_add_up_and_a_strong_one_goes_before_two_weak_ones():
    checks = {
        "one": says(Suspicion(0, 0.5, "x"), Suspicion(1, 0.8, "x"), Suspicion(2, 0.5, "x")),
        "two": says(Suspicion(0, 0.5, "y", 2), Suspicion(0, 0.3, "z", 1)),
    }
    suspects = suspects_of(Checked(examples=rows(*[("", "")] * 3)), checks)
    assert [each.row for each in suspects] == [1, 0, 2]
    # 1 - 0.5 * 0.5: of one check the strongest finding alone counts.
    assert [each.suspicion for each in suspects] == pytest.approx([0.8, 0.75, 0.5])
    assert suspects[1].other == 2


def test_of_checks_that_measure_the_strongest_alone_counts():
    checks = {
        name: says(Suspicion(0, strength, name)) for name, strength in (("a", 0.5), ("b", 0.8), ("c", 0.5))
    }
    checks |= {name: replace(checks[name], needs=("loss_after",)) for name in ("a", "b")}
    (suspect,) = suspects_of(Checked(examples=rows(("", ""))), checks)
    assert suspect.suspicion == pytest.approx(0.9)
    assert list(suspect.reasons) == ["b", "a", "c"]


def test_every_check_takes_a_pool_without_a_row():
    empty = measured(loss_before=[], loss_after=[], loss_null=[], end_nll_after=[])
    checked = Checked(
        examples=[],
        measured=empty.cast({each: pl.Float64 for each in empty.columns if each != "source"}),
        evaluation=EvaluationIndex([]),
    )
    assert suspects_of(checked, CHECKS) == []


def test_every_check_says_what_it_looks_for():
    assert all(check.about for check in CHECKS.values())
