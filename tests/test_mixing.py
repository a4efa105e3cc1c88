"""Each mixture by its definition: what is in it, how often, in which wording, and what it says when it cannot be made."""

from collections import Counter
from dataclasses import replace

import pytest

from learnable.errors import SelectionError, UsageError
from learnable.mixing import ANCHOR, MIXTURES, Material, Mixing, mixture
from learnable.runs.identity import example_id
from learnable.testing import toy_examples
from learnable.types import Example, Message

WORDINGS = 3
ONE_SHUFFLE = sorted(set(MIXTURES) - {"repeated", "dmt"})


def made_of(example, text, **meta):
    """Return a row that says the same after other words."""
    messages = (
        Message(role="user", content=f"{text} {example.messages[0].content}"),
        *example.messages[1:],
    )
    return Example(id=example_id(messages), messages=messages, source="made", meta=meta)


def rewritten(task, texts, **meta):
    return [made_of(row, text, parent=row.id, **meta) for row in task for text in texts]


TASK = toy_examples(6)
PARAPHRASES = rewritten(TASK, ["please:", "kindly:", "now:"])
BUFFER = toy_examples(40, seed=1)
FACTS = toy_examples(5, seed=2)
CONSTRAINED = rewritten(TASK, ["in two words:", "in one line:"])


def material(**given):
    usual = {"task": TASK, "paraphrases": PARAPHRASES, "buffer": BUFFER, "facts": FACTS}
    rows = [*TASK, *PARAPHRASES, *BUFFER]
    lengths = {row.id: len(" ".join(turn.content for turn in row.messages).split()) for row in rows}
    return Material(**(usual | {"constrained": CONSTRAINED, "tokens": lengths} | given))


def ids(examples):
    return [example.id for example in examples]


def task_rows(found):
    """Return the examples of the task of a mixture of one stage."""
    return found.stages[0][: found.task]


def others(found):
    return found.examples[-found.others :]


def test_common_is_the_task_as_it_is():
    found = mixture("common", material(), seed=0)
    assert (found.stages, found.task, found.others) == ((tuple(TASK),), 6, 0)


@pytest.mark.parametrize("name", ONE_SHUFFLE)
def test_every_row_of_the_task_is_there_once(name):
    rows = task_rows(mixture(name, material(), seed=3))
    assert [row.meta.get("parent", row.id) for row in rows] == ids(TASK)


@pytest.mark.parametrize("name", ONE_SHUFFLE)
def test_the_counts_are_those_of_the_examples(name):
    found = mixture(name, material(), seed=3)
    assert len(found.stages) == 1
    assert len(found.examples) == found.task + found.others


def test_wordings_are_drawn_from_the_own_one_and_all_paraphrases_alike():
    drawn = Counter(
        row.messages[0].content.split(":")[0] if row.meta else "own"
        for seed in range(200)
        for row in mixture("no_buffer", material(), seed=seed).examples
    )
    assert set(drawn) == {"own", "please", "kindly", "now"}
    assert all(240 < count < 360 for count in drawn.values()), "300 expected, 15 the standard deviation"


def test_a_row_without_paraphrases_keeps_its_wording():
    some = [row for row in PARAPHRASES if row.meta["parent"] != TASK[2].id]
    drawn = {mixture("no_buffer", material(paraphrases=some), seed=seed).examples[2].id for seed in range(9)}
    assert drawn == {TASK[2].id}


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_a_seed_gives_the_same_mixture_again(name):
    few = material(mixing=Mixing(ratio=2, replay=0.5))
    assert mixture(name, few, seed=5) == mixture(name, few, seed=5)


@pytest.mark.parametrize("name", ["no_buffer", "no_paraphrases", "delia", "repeated", "dmt", "controlled"])
def test_another_seed_gives_another_mixture(name):
    few = material(mixing=Mixing(ratio=2, replay=0.5))
    drawn = {tuple(ids(mixture(name, few, seed=seed).examples)) for seed in range(4)}
    assert len(drawn) > 1


def test_delia_is_its_two_halves_of_the_same_seed():
    few = material(mixing=Mixing(ratio=2.5))
    whole, worded, buffered = (
        mixture(name, few, seed=7) for name in ("delia", "no_buffer", "no_paraphrases")
    )
    assert whole.examples == [*worded.examples, *others(buffered)]
    assert (whole.task, whole.others) == (6, 15)


def test_dmt_has_the_buffer_of_delia_at_the_same_seed():
    few = material(mixing=Mixing(ratio=2))
    staged, whole = (mixture(name, few, seed=7) for name in ("dmt", "delia"))
    assert staged.stages[1][: staged.others] == tuple(others(whole))


@pytest.mark.parametrize(("ratio", "count"), [(1 / 3, 2), (1, 6), (2.5, 15), (40 / 6, 40)])
def test_the_ratio_counts_buffer_examples_for_each_row_of_the_task(ratio, count):
    found = mixture("no_paraphrases", material(mixing=Mixing(ratio=ratio)), seed=0)
    drawn = ids(others(found))
    assert len(set(drawn)) == len(drawn) == found.others == count
    assert set(drawn) <= set(ids(BUFFER))


def test_without_a_ratio_all_of_the_buffer_is_taken():
    assert others(mixture("delia", material(), seed=4)) == BUFFER


@pytest.mark.parametrize("seed", range(4))
def test_repeated_has_the_tokens_of_delia_within_half_a_row(seed):
    given = material(mixing=Mixing(ratio=3))
    tokens = [
        sum(given.tokens[row.id] for row in mixture(name, given, seed=seed).examples)
        for name in ("repeated", "delia")
    ]
    assert abs(tokens[0] - tokens[1]) <= max(given.tokens[row.id] for row in TASK) / 2


def test_repeated_goes_through_all_rows_before_it_takes_one_again():
    rows = ids(mixture("repeated", material(), seed=0).examples)
    assert len(rows) > 12
    assert all(sorted(rows[start : start + 6]) == sorted(ids(TASK)) for start in range(0, len(rows) - 5, 6))
    assert rows[:6] != rows[6:12], "each pass in an order of its own"


def test_repeated_without_any_token_is_an_error_and_no_endless_loop():
    given = material()
    with pytest.raises(SelectionError, match="no tokens"):
        mixture("repeated", replace(given, tokens=dict.fromkeys(given.tokens, 0)), seed=0)


def test_dmt_trains_on_the_task_and_then_on_the_buffer_with_some_of_it():
    found = mixture("dmt", material(mixing=Mixing(replay=0.5)), seed=0)
    first, second = found.stages
    assert first == tuple(TASK)
    assert second[:40] == tuple(BUFFER)
    assert len(set(ids(second[40:]))) == 3
    assert set(ids(second[40:])) <= set(ids(TASK))
    assert (found.task, found.others) == (9, 40)


@pytest.mark.parametrize(("replay", "count"), [(0, 0), (1 / 256, 1), (0.3, 2), (1, 6)])
def test_a_little_replay_is_at_least_one_row(replay, count):
    found = mixture("dmt", material(mixing=Mixing(replay=replay)), seed=0)
    assert len(found.stages[1]) - found.others == count


def test_leverage_puts_the_anchor_before_the_first_question():
    turns = (
        Message(role="system", content="be short"),
        Message(role="user", content="one?"),
        Message(role="assistant", content="two"),
        Message(role="user", content="three?"),
        Message(role="assistant", content="four"),
    )
    row = Example(id=example_id(turns), messages=turns, source="task")
    (found,) = mixture("leverage", material(task=[row]), seed=0).examples
    assert found.messages == (turns[0], Message(role="user", content=f"{ANCHOR}\n\none?"), *turns[2:])
    assert found.id == example_id(found.messages)
    assert found.meta["parent"] == row.id


def test_the_anchor_can_be_chosen():
    found = mixture("leverage", material(mixing=Mixing(anchor="As ever.")), seed=0)
    assert all(row.messages[0].content.startswith("As ever.\n\n") for row in found.examples)


def test_fact_based_is_the_task_and_all_facts():
    assert mixture("fact_based", material(), seed=0).examples == [*TASK, *FACTS]


def test_controlled_takes_a_constrained_row_in_place_of_each():
    assert {row.meta.get("parent") for row in mixture("controlled", material(), seed=0).examples} == set(
        ids(TASK)
    )


def test_controlled_keeps_a_row_to_which_no_constraint_was_found():
    found = mixture("controlled", material(constrained=CONSTRAINED[2:]), seed=0)
    assert found.examples[0] == TASK[0]
    assert all(row.meta for row in found.examples[1:])


def refused(kind, name, **given):
    with pytest.raises(kind) as caught:
        mixture(name, material(**given), seed=0)
    return caught.value


def test_a_ratio_that_cannot_be_met_says_what_there_is():
    error = refused(SelectionError, "delia", mixing=Mixing(ratio=260))
    assert error.message == "the ratio 260 asks for 1,560 examples of the buffer, which has 40"
    assert "learnable diversify" in error.hint
    assert "leave --ratio out" in error.hint


def test_a_ratio_that_asks_for_no_example_is_refused():
    assert (
        "asks for less than one example"
        in refused(SelectionError, "delia", mixing=Mixing(ratio=0.05)).message
    )


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_a_ratio_is_above_0(ratio):
    with pytest.raises(UsageError, match="ratio must be above 0"):
        Mixing(ratio=ratio)


@pytest.mark.parametrize("replay", [-0.1, 1.1, float("nan")])
def test_a_replay_is_a_share(replay):
    with pytest.raises(UsageError, match="replay must be between 0 and 1"):
        Mixing(replay=replay)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("no_buffer", "paraphrases"),
        ("delia", "paraphrases"),
        ("repeated", "paraphrases"),
        ("delia", "buffer"),
        ("no_paraphrases", "buffer"),
        ("dmt", "buffer"),
        ("fact_based", "facts"),
        ("controlled", "constrained"),
    ],
)
def test_what_is_missing_is_named(name, lacking):
    error = refused(UsageError, name, **{lacking: ()})
    assert f"needs --{lacking}, and there are none" in error.message
    assert "learnable diversify" in error.hint


@pytest.mark.parametrize(("name", "what"), [("delia", "paraphrases"), ("controlled", "constrained")])
def test_rows_of_another_task_are_no_paraphrases(name, what):
    error = refused(UsageError, name, **{what: rewritten(toy_examples(2, seed=9), ["please:"])})
    assert error.message == f"none of the 2 {what} was made of a row of this task"
    assert "of this very file" in error.hint


def test_an_unknown_mixture_has_a_near_name():
    error = refused(UsageError, "delya")
    assert error.message == "no arm called 'delya'"
    assert error.hint == "did you mean 'delia'?"
