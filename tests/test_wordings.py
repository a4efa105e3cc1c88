"""Test rows in wordings that training has seen and has not seen, with a test file and without one."""

import pytest

from learnable.diversifiers import worded_tests
from learnable.runs.identity import example_id
from learnable.types import Example, Message

ASK = "Name the colour in <sep>."
REWRITES = [f"Rewrite number {number} in <sep>." for number in range(10)]


def row(turn, answer="blue", **meta):
    messages = (Message(role="user", content=turn), Message(role="assistant", content=answer))
    return Example(id=example_id(messages), messages=messages, source="task", meta=meta)


def asked(number, instruction=ASK):
    return row(f"Thing number {number}.\n\n{instruction}", f"colour {number}")


def turns(rows):
    return [each.messages[0].content for each in rows]


def rewritten(rows, rewrites=REWRITES, original=ASK):
    return [
        row(
            each.messages[0].content.replace(original, rewrite),
            parent=each.id,
            instruction=rewrite,
            original=original,
        )
        for each in rows
        for rewrite in rewrites
    ]


def wording(each):
    return each.messages[0].content.rpartition("\n\n")[2]


TASK = [asked(number) for number in range(8)]
TESTS = [asked(number) for number in range(20, 26)]


@pytest.fixture(scope="module")
def reserved():
    return worded_tests(TASK, TESTS, rewritten(TASK), reserve=True)


def test_without_a_test_file_a_fifth_of_the_wordings_is_asked_in(reserved):
    used = {wording(each) for each in reserved.unseen}
    assert used <= set(REWRITES)
    assert len(used) == 2
    assert len(reserved.unseen) == len(TESTS)


def test_no_reserved_wording_is_trained_on(reserved):
    trained = {each.meta["instruction"] for each in reserved.paraphrases}
    assert trained | {wording(each) for each in reserved.unseen} == set(REWRITES)
    assert not trained & {wording(each) for each in reserved.unseen}
    assert len(reserved.paraphrases) == 8 * len(TASK)


def test_seen_rows_are_in_the_wording_of_the_task(reserved):
    assert turns(reserved.seen) == turns(TESTS)


def test_only_the_instruction_of_a_test_row_changes(reserved):
    for before, after in zip(TESTS, reserved.unseen, strict=True):
        assert after.messages[0].content == before.messages[0].content.replace(ASK, wording(after))
        assert after.messages[1:] == before.messages[1:]
        assert after.id == example_id(after.messages)
        assert after.meta == {"parent": before.id}


def test_what_is_reserved_does_not_depend_on_the_order_of_the_paraphrases(reserved):
    backwards = worded_tests(TASK, TESTS, rewritten(TASK)[::-1], reserve=True)
    assert turns(backwards.unseen) == turns(reserved.unseen)


def test_of_two_wordings_one_is_reserved():
    found = worded_tests(TASK, TESTS, rewritten(TASK, REWRITES[:2]), reserve=True)
    assert {wording(each) for each in found.unseen} | {
        each.meta["instruction"] for each in found.paraphrases
    } == set(REWRITES[:2])


def test_one_wording_is_left_to_training():
    found = worded_tests(TASK, TESTS, rewritten(TASK, REWRITES[:1]), reserve=True)
    assert not found.unseen
    assert len(found.paraphrases) == len(TASK)


def test_without_paraphrases_nothing_is_unseen():
    found = worded_tests(TASK, TESTS, [], reserve=True)
    assert (found.unseen, turns(found.seen)) == ([], turns(TESTS))


def test_each_instruction_is_asked_in_its_own_rewrites():
    other = "Say in <sep> what colour that is."
    task = [*TASK, *(asked(number, other) for number in range(30, 36))]
    paraphrases = [*rewritten(TASK, ["A one.", "A two."]), *rewritten(task[8:], ["B one.", "B two."], other)]
    tests = [asked(50), asked(51, other)]
    found = worded_tests(task, tests, paraphrases, reserve=True)
    assert [wording(each)[0] for each in found.unseen] == ["A", "B"]
    assert [wording(each) for each in found.seen] == [ASK, other]


def test_wordings_of_an_instruction_that_is_not_asked_stay_in_training():
    other = "Say in <sep> what colour that is."
    task = [*TASK, *(asked(number, other) for number in range(30, 36))]
    more = rewritten(task[8:], ["B one.", "B two."], other)
    assert worded_tests(task, TESTS, more, reserve=True).paraphrases == more


def test_a_rewrite_that_is_another_wording_of_the_task_is_never_unseen():
    other = "Say in <sep> what colour that is."
    task = [*TASK, *(asked(number, other) for number in range(30, 36))]
    for first in REWRITES:
        found = worded_tests(task, TESTS, rewritten(TASK, [other, first]), reserve=True)
        assert not found.unseen


def test_a_wording_that_two_instructions_share_is_reserved_for_both():
    other = "Say in <sep> what colour that is."
    task = [*TASK, *(asked(number, other) for number in range(30, 36))]
    paraphrases = [*rewritten(TASK, REWRITES), *rewritten(task[8:], REWRITES, other)]
    found = worded_tests(task, [*TESTS, asked(50, other)], paraphrases, reserve=True)
    trained = {each.meta["instruction"] for each in found.paraphrases}
    assert not trained & {wording(each) for each in found.unseen}


def test_an_instruction_of_two_paragraphs_is_found_in_a_few_test_rows():
    both = f"Think first.\n\n{ASK}"
    task = [asked(number, both) for number in range(8)]
    tests = [asked(20, both), asked(21, both)]
    found = worded_tests(task, tests, rewritten(task, REWRITES[:4], both), reserve=True)
    assert turns(found.seen) == turns(tests)
    assert turns(found.unseen) == [f"Thing number {n}.\n\n{wording(found.unseen[0])}" for n in (20, 21)]


def test_rows_of_one_paragraph_are_asked_as_they_are():
    task = [row(f"Which colour is thing {number}?") for number in range(8)]
    tests = [row(f"Which colour is thing {number}?") for number in (20, 21)]
    found = worded_tests(task, tests, [], reserve=True)
    assert (found.seen, found.unseen) == (tests, [])


def test_rows_of_a_test_file_are_unseen_as_they_are():
    tests = [asked(number, f"Something else in <sep>, please: {number % 2}.") for number in range(20, 26)]
    found = worded_tests(TASK, tests, rewritten(TASK), reserve=False)
    assert found.unseen == tests
    assert turns(found.seen) == turns(TESTS)
    assert found.paraphrases == rewritten(TASK), "nothing has to be kept out of training"


def test_paraphrases_in_a_wording_of_the_test_file_are_not_trained_on():
    tests = [asked(number, REWRITES[number % 2]) for number in range(20, 26)]
    found = worded_tests(TASK, tests, rewritten(TASK), reserve=False)
    assert {each.meta["instruction"] for each in found.paraphrases} == set(REWRITES[2:])


def test_rows_of_a_test_file_in_the_wording_of_the_task_are_not_called_unseen():
    tests = [*TESTS[:3], *(asked(number, REWRITES[0]) for number in (30, 31))]
    found = worded_tests(TASK, tests, [], reserve=False)
    assert found.unseen == tests[3:]
    assert len(found.seen) == 5


def test_a_test_file_without_the_instruction_is_asked_as_it_is():
    tests = [row(f"Thing number {number}.", f"colour {number}") for number in range(20, 26)]
    found = worded_tests(TASK, tests, rewritten(TASK), reserve=False)
    assert (found.seen, found.unseen) == ([], tests)


def test_an_instruction_that_stands_first_is_replaced_there():
    task = [row(f"{ASK}\n\nThing number {number}.") for number in range(8)]
    tests = [row(f"{ASK}\n\nThing number {number}.") for number in (20, 21)]
    found = worded_tests(task, tests, rewritten(task, REWRITES[:3]), reserve=True)
    assert all(
        turn.endswith(("\n\nThing number 20.", "\n\nThing number 21.")) for turn in turns(found.unseen)
    )
    assert all(turn.startswith("Rewrite number") for turn in turns(found.unseen))


def test_a_test_row_in_a_wording_of_the_task_keeps_it():
    other = "Translate what stands above, all of it, to German."
    task = [asked(number) for number in range(5)] + [asked(number, other) for number in range(5, 8)]
    tests = [asked(20), asked(21, other), asked(22, other)]
    found = worded_tests(task, tests, [], reserve=True)
    assert turns(found.seen) == turns(tests)
