"""Instructions found in task rows, and rewritten: only they change, and only as far as they may."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnable.diversifiers import DIVERSIFIERS
from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.instructions import find_instructions
from learnable.diversifiers.keeping import (
    lost,
    names,
    near_copy,
    numbers,
    placeholders,
    quotations,
    similarity,
)
from learnable.diversifiers.paraphrase import Paraphrase, cleaned, strays
from learnable.errors import DataError, UsageError
from learnable.runs.identity import example_id
from learnable.runs.store import Store
from learnable.types import Answer, Example, Message

JUDGE = "Judge the following answer in the <sep> format."
REWRITES = [
    "Please judge the answer in the <sep> format.",
    "Your task: tell if the answer is good, in the <sep> format that you know.",
    "I want the following answer judged, with the result in the format called <sep>.",
    "Could you have a look at the answer and judge it as <sep> says?",
]


def row(question, answer="yes", *, system=None, source="task"):
    messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    if system is not None:
        messages.insert(0, Message(role="system", content=system))
    return Example(id=example_id(messages), messages=tuple(messages), source=source)


def task(*contents, instruction=JUDGE):
    return [row(f"\n{content}\n\n\n{instruction}") for content in contents]


class Scripted:
    """A generator that says ``script(last turn, seed)``: a text, an answer, or None for none; keeps what it was asked."""

    def __init__(self, script):
        self.script, self.asked = script, []

    key = "scripted"

    def answers(self, conversations, *, sampling, seeds, only=None):
        for place in sorted(only if only is not None else range(len(conversations))):
            self.asked.append(conversations[place])
            said = self.script(conversations[place][-1].content, seeds[place])
            if said is not None:
                yield [place], [said if isinstance(said, Answer) else Answer(said, True)]


def drawing(script, folder):
    generator = script if isinstance(script, Scripted) else Scripted(script)
    return Drawing(generator=generator, sampling=Paraphrase.sampling, store=Store(folder))


def in_turn(*texts):
    """Say the texts one after the other, again and again."""
    place = iter(range(10**6))
    return lambda *_: texts[next(place) % len(texts)]


@pytest.fixture
def rewritten(tmp_path):
    def make(examples, script, *, n=4, seed=0, **settings):
        draw = drawing(script, tmp_path)
        return Paraphrase(**settings)(examples, n=n, draw=draw, seed=seed)

    return make


def pieces(examples, where="auto"):
    found = find_instructions(examples, where=where)
    turns = [next(turn.content for turn in e.messages if turn.role == "user") for e in examples]
    assert [p.before + p.instruction + p.after for p in found.places] == turns
    return found


# instructions


def test_instruction_at_the_end():
    found = pieces(task("one\n\nmore", "two", "three"))
    assert (found.where, found.distinct) == ("last", [JUDGE])
    assert [place.before for place in found.places] == ["\none\n\nmore\n\n\n", "\ntwo\n\n\n", "\nthree\n\n\n"]


def test_instruction_at_the_beginning():
    found = pieces([row("Translate.\n\n one\ntwo"), row("Translate.\n\n three\n\nfour\n")])
    assert (found.where, found.distinct) == ("first", ["Translate."])
    assert [place.after for place in found.places] == ["\n\n one\ntwo", "\n\n three\n\nfour\n"]


def test_several_instructions_in_one_task():
    examples = task("one", "two") + task("three", "four", "five", instruction="Do <sep>.")
    assert pieces(examples).distinct == [JUDGE, "Do <sep>."]


def test_single_rewrites_among_shared_ones_are_found_at_the_same_end():
    examples = task("one", "two") + task("three", instruction="Another wording.")
    assert pieces(examples).distinct == [JUDGE, "Another wording."]


def test_an_instruction_of_two_paragraphs():
    examples = [row(f"Read this.\n\nThen judge.\n\ncontent {number}") for number in range(3)]
    assert pieces(examples).distinct == ["Read this.\n\nThen judge."]


def test_two_rows_that_share_a_second_paragraph_do_not_make_it_an_instruction():
    examples = [row(f"Read.\n\n```\n\ncontent {number}") for number in range(2)]
    assert pieces(examples).distinct == ["Read."]


def test_of_two_recurring_ends_the_longer_is_the_instruction():
    found = pieces([row(f"Translate this text.\n\ncontent {number}\n\nText:") for number in range(4)])
    assert (found.where, found.distinct) == ("first", ["Translate this text."])


def test_turns_of_one_paragraph_are_whole():
    found = pieces([row("What is red?"), row(" Why? ")])
    assert (found.where, found.distinct, found.uncertain) == ("whole", ["What is red?", "Why?"], 0)


def test_turns_without_anything_in_common_are_whole_and_counted():
    found = pieces([row("What is red?\n\nAnd blue?"), row("Sort.\n\n1, 2"), row("Why?")])
    assert (found.where, found.uncertain) == ("whole", 2)


@pytest.mark.parametrize(
    ("where", "expected"), [("first", "one"), ("last", JUDGE), ("whole", f"one\n\n\n{JUDGE}")]
)
def test_where_can_be_said(where, expected):
    assert pieces(task("one"), where).distinct == [expected]


def test_a_row_of_one_paragraph_is_all_instruction_at_either_end():
    assert pieces([row("Why?"), *task("one", "two")], "last").distinct == ["Why?", JUDGE]


def test_one_row_of_several_paragraphs_cannot_be_told_apart():
    with pytest.raises(DataError, match="one row, of 2 paragraphs") as error:
        find_instructions(task("one"))
    assert "where=last" in error.value.hint


def test_a_row_without_a_user_turn():
    nobody = Example(id="x", messages=(Message(role="assistant", content="hello"),), source="task")
    for examples in ([nobody], [row(" \n")]):
        with pytest.raises(DataError, match="no user turn with a text"):
            find_instructions(examples)


@given(st.lists(st.text(alphabet="ab \n\t", min_size=1).filter(str.strip), min_size=2, max_size=6))
@settings(deadline=None)
def test_pieces_make_the_turn_again(turns):
    for where in ("auto", "first", "last", "whole"):
        pieces([row(turn) for turn in turns], where)


# what a rewrite must keep


def test_what_counts_as_placeholder_number_quotation_and_name():
    text = "Put {name} and {{x}} at [INPUT] for <sep>, %s, ___: 3 or \"yes\" and four `a b` in 1,000 of Reykjavik's 'no'"
    assert placeholders(text) == {"{name}", "{{x}}", "[INPUT]", "<sep>", "%s", "___"}
    assert numbers(text) == {"3", "4", "1,000"}
    assert quotations(text) == {"yes", "a b", "no"}
    assert names(text) == {"Reykjavik's"}
    assert names("Alle Wörter Und Namen Groß") == set()


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        ('Give two "yes" for {x} and Rome', None),
        ('give {x} and rome 2 times "Yes"', None),
        ('Give 2 "yes" for x and Rome', "lost placeholder: {x}"),
        ('Give 2 "yes" for {x}, {y} and Rome', "added placeholder: {y}"),
        ('Give some "yes" for {x} and Rome', "lost number: 2"),
        ('Give 2 of 5 "yes" for {x} and Rome', "added number: 5"),
        ("Give 2 nods for {x} and Rome", "lost quotation: yes"),
        ('Give 2 "yes" for {x} and "Romans" of Rome', "added quotation: Romans"),
        ('Give 2 "yes" for {x} and Paris', "lost name: Rome"),
    ],
)
def test_what_is_lost_or_added(rewrite, reason):
    assert lost('Give 2 "yes" for {x} and Rome', rewrite) == reason


def test_protected_texts_are_kept_where_they_stand():
    assert (
        lost("translate the text", "render the words", protect=["text", "absent"])
        == "lost protected text: text"
    )


def test_similarity_is_that_of_character_3_grams():
    assert similarity("Abc!", "abc") == 1.0
    # " abcd " and " abce ": " ab", "abc", "bcd", "cd " and " ab", "abc", "bce", "ce "
    assert similarity("abcd", "abce") == pytest.approx(2 / 6)


def test_near_copies_by_hand():
    original = "Please name the topic of the message in the card format."
    assert near_copy("Please, name the topic of the messages in the card format", [original]) == original
    assert near_copy("Which topic does the message have? Use the card format.", [original]) is None


def test_rewrites_of_the_authors_are_no_near_copies():
    one = "Analyze the context below to determine if the response includes hallucinations. Follow <sep>."
    other = "Evaluate the following text to determine if there are any hallucinations in the response. Ensure <sep>."
    assert near_copy(one, [other]) is None
    assert not strays(one, other, 0.2)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ('"Do it."', "Do it."),
        ("Sure! Here is the rewritten instruction:\n\nDo it.", "Do it."),
        ("**Rewritten instruction:** Do it.", "Do it."),
        ("1. Do it.", "Do it."),
        ("\u201cDo it.\u201d", "Do it."),
        ('"Do" and "it"', '"Do" and "it"'),
        ("Do it.", "Do it."),
    ],
)
def test_what_models_put_around_a_rewrite_is_taken_off(drawn, expected):
    assert cleaned(drawn, "Act.") == expected


# rewriting


def test_every_row_in_every_wording_contents_and_answers_untouched(rewritten):
    examples = task("one\n\nmore", "two")
    made = rewritten(examples, in_turn(*REWRITES), n=3)
    turns = [(e.meta["parent"], e.messages[0].content, e.messages[1]) for e in made.kept]
    assert turns == [
        (example.id, f"\n{content}\n\n\n{rewrite}", example.messages[1])
        for example, content in zip(examples, ("one\n\nmore", "two"), strict=True)
        for rewrite in REWRITES[:3]
    ]
    assert made.notes == ()


def test_meta_tells_where_a_row_comes_from(rewritten):
    (example,) = task("one")
    (made,) = rewritten([example], lambda *_: REWRITES[0], n=1, where="last").kept
    assert made.meta == {
        "parent": example.id,
        "by": "paraphrase",
        "seed": seed_of(0, JUDGE, 0),
        "instruction": REWRITES[0],
        "original": JUDGE,
    }
    assert (made.id, made.source) == (example_id(made.messages), "task")


def test_system_turns_and_later_turns_stay(rewritten):
    start = row(f"one\n\n{JUDGE}", system="be brief")
    later = (Message(role="user", content=JUDGE), Message(role="assistant", content="no"))
    example = Example(id="x", messages=(*start.messages, *later), source="task")
    (made,) = rewritten([example], lambda *_: REWRITES[0], n=1, where="last").kept
    assert made.messages[0].content == "be brief"
    assert made.messages[1].content == f"one\n\n{REWRITES[0]}"
    assert made.messages[2:] == example.messages[2:]


def test_an_instruction_is_rewritten_once_for_all_its_rows(rewritten):
    generator = Scripted(in_turn(*REWRITES))
    rewritten(task("one", "two", "three"), generator, n=4)
    assert len(generator.asked) == 4


def test_the_generator_sees_the_instruction_and_not_the_content(rewritten):
    generator = Scripted(in_turn(*REWRITES))
    rewritten(task("secret one", "secret two"), generator, n=2)
    for conversation in generator.asked:
        assert conversation[-1].content.endswith(JUDGE)
        assert not any("secret" in turn.content for turn in conversation)
        assert [turn.role for turn in conversation] == ["user", "assistant"] * 4 + ["user"]
    first, second = generator.asked
    assert first != second


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "empty"),
        (Answer("Judge the answer in <sep> and then", False), "cut off"),
        ("Judge the answer in the usual format.", "lost placeholder: <sep>"),
        ("Judge 5 answers in the <sep> format.", "added number: 5"),
        ("Judge <sep>.", "too short"),
        (" ".join(f"answer{n}" for n in range(40)) + " judge <sep>", "too long"),
        ("I'm sorry, but I cannot judge the answer in <sep>.", "a reply instead of a rewrite"),
        ("Judge it in <sep>.\n\nThe answer is good.", "more paragraphs than the instruction"),
        ("Paint a picture of <sep> with bright colours.", "strays from the instruction"),
        ("judge the following answer in the <sep> format", "near-copy of the instruction"),
    ],
)
def test_what_is_refused(rewritten, said, reason):
    made = rewritten(task("one", "two"), lambda *_: said, n=1)
    assert made.kept == []
    assert set(made.dropped["reason"]) == {reason}
    assert made.dropped.schema == {
        "parent": pl.String,
        "seed": pl.Int64,
        "reason": pl.String,
        "text": pl.String,
    }


def test_a_rewrite_is_taken_once(rewritten):
    made = rewritten(task("one", "two"), lambda *_: REWRITES[0], n=2)
    assert len(made.kept) == 2
    assert {reason.partition(":")[0] for reason in made.dropped["reason"]} == {"near-copy of another rewrite"}


def test_refused_ones_are_made_up_for(rewritten):
    made = rewritten(task("one", "two"), in_turn("", "", *REWRITES), n=3)
    assert len(made.kept) == 6
    assert made.notes == ()
    assert set(made.dropped["reason"]) == {"empty"}


def test_draws_are_limited_and_a_shortfall_is_said(rewritten):
    examples = task("one", "two")
    generator = Scripted(lambda *_: "no")
    made = rewritten(examples, generator, n=5)
    assert len(generator.asked) == 4 * 5
    assert made.dropped["parent"].unique().to_list() == [examples[0].id]
    shortfall, rows_left_out = made.notes
    assert "asked for 5, got 0" in shortfall
    assert "20 too short" in shortfall
    assert "1 of 1 instructions have no rewrite" in rows_left_out


def test_asking_for_more_keeps_what_is_there_and_draws_only_the_rest(rewritten):
    script = {seed_of(0, JUDGE, number): text for number, text in enumerate(REWRITES)}
    generator = Scripted(lambda _, seed: script.get(seed, ""))
    few = rewritten(task("one", "two"), generator, n=2)
    assert len(generator.asked) == 2
    many = rewritten(task("one", "two"), generator, n=4)
    assert len(generator.asked) == 4
    assert [e.meta["instruction"] for e in few.kept[:2]] == [e.meta["instruction"] for e in many.kept[:2]]


def test_another_seed_draws_anew(rewritten):
    generator = Scripted(in_turn(*REWRITES))
    rewritten(task("one", "two"), generator, n=2)
    rewritten(task("one", "two"), generator, n=2, seed=1)
    assert len(generator.asked) == 4


def test_an_instruction_that_a_server_does_not_answer_is_asked_once(rewritten):
    generator = Scripted(lambda *_: None)
    made = rewritten(task("one", "two"), generator, n=3)
    assert len(generator.asked) == 3
    assert set(made.dropped["reason"]) == {"unanswered"}


def test_rewriting_contents_is_said(rewritten):
    examples = [row("What is red?\n\nAnd blue?"), row("Sort these.\n\nplums, pears")]
    made = rewritten(examples, lambda *_: "Please say what is red, and blue.", n=1)
    assert "2 user turns of several paragraphs were rewritten whole" in made.notes[0]


def test_thoughts_before_a_rewrite_are_left_out(rewritten):
    made = rewritten(task("one", "two"), lambda *_: f"<think>\nHm, hm.\n</think>\n\n{REWRITES[0]}", n=1)
    assert made.kept[0].meta["instruction"] == REWRITES[0]


def test_settings_that_make_no_sense():
    with pytest.raises(UsageError, match="kinship"):
        Paraphrase(kinship=2)


def test_rows_of_the_shape_of_the_authors_file_keep_their_content(rewritten):
    contents = [
        f"\n'relatives' : \n'user_query' : Select {n} articles.\n'chatgpt_response' : 1. One\n\n2. Two of {n}"
        for n in range(3)
    ]
    answer = json.dumps({"thought": "...", "hallucination": "no"})
    made = rewritten([row(f"{c}\n\n\n{JUDGE}", answer) for c in contents], in_turn(*REWRITES), n=1)
    assert [e.messages[0].content for e in made.kept] == [f"{c}\n\n\n{REWRITES[0]}" for c in contents]
    assert {e.messages[1].content for e in made.kept} == {answer}


def test_it_is_in_the_table():
    assert DIVERSIFIERS["paraphrase"] is Paraphrase
