"""Sampling from the model itself: what is drawn, kept and refused, and that nothing is drawn twice."""

import pytest

from learnable.diversifiers import DIVERSIFIERS, Avoided, Drawing, build_diversifier
from learnable.diversifiers.drawing import seed_of
from learnable.diversifiers.gates import failing
from learnable.diversifiers.self_sample import SelfAnswer, SelfSample
from learnable.errors import DataError, ModelError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.runs.identity import example_id
from learnable.runs.store import Store
from learnable.settings import Sampling
from learnable.testing import toy_examples
from learnable.types import Answer, Example, Message, ModelRef

SAMPLING = Sampling(max_new_tokens=16)
CUT = Answer("It goes on and", finished=False)


class Scripted:
    """A generator that says what a function says, and remembers what it was asked."""

    key = "scripted"

    def __init__(self, answer=None, question=None, *, at_a_time=3):
        self.asked, self.invented, self.at_a_time = [], [], at_a_time
        self._answer = answer or (lambda turns, seed: Answer(f"The answer {seed}.", finished=True))
        self._question = question or (lambda seed: Answer(f"What is {seed} good for?", finished=True))

    def answers(self, conversations, *, sampling, seeds, only=None):
        places = [place for place in range(len(conversations)) if only is None or place in only]
        for start in range(0, len(places), self.at_a_time):
            some = places[start : start + self.at_a_time]
            said = {place: self._answer(conversations[place], seeds[place]) for place in some}
            self.asked += [conversations[place] for place in some]
            given = {place: answer for place, answer in said.items() if answer is not None}
            yield list(given), list(given.values())

    def questions(self, count, *, sampling, seeds, only=None):
        places = [place for place in range(count) if only is None or place in only]
        self.invented += [seeds[place] for place in places]
        yield places, [self._question(seeds[place]) for place in places]


class Rendering:
    """A renderer that counts letters."""

    def __init__(self, key):
        self.key = key

    def prompt_ids(self, turns):
        return [letter for turn in turns for letter in turn.content]

    def tokenizer(self, texts, **_):
        return {"input_ids": [list(text) for text in texts]}


class Server:
    """A generator that cannot invent questions."""

    key = "server"

    def answers(self, conversations, *, sampling, seeds, only=None):
        yield from ()


@pytest.fixture
def draw(tmp_path):
    def of(generator, *, avoid=(), sampling=SAMPLING):
        store = Store(tmp_path / "store")
        return Drawing(generator=generator, sampling=sampling, store=store, avoided=Avoided(avoid))

    return of


def turn(role, text):
    return Message(role=role, content=text)


def row(*turns, source="here"):
    return Example(id=example_id(turns), messages=turns, source=source)


def asked_and_answered(question, answer):
    return row(turn("user", question), turn("assistant", answer))


ROWS = [asked_and_answered(f"Question {n} of the rows?", f"Reference {n}") for n in range(8)]


# --- drawing -------------------------------------------------------------------------------------------------


def test_what_was_drawn_is_not_drawn_again(draw):
    generator = Scripted()
    questions = [(turn("user", text),) for text in "abcde"]
    first = draw(generator).answers(questions[:3], seeds=[1, 2, 3], label="answers")
    again = draw(generator).answers(questions, seeds=[1, 2, 3, 4, 5], label="answers")
    assert again[:3] == first
    assert [turns[0].content for turns in generator.asked] == list("abcde")


def test_an_answer_belongs_to_its_conversation_seed_and_sampling(draw):
    generator = Scripted()
    question = (turn("user", "a"),)
    draw(generator).answers([question], seeds=[1], label="answers")
    draw(generator).answers([question], seeds=[2], label="answers")
    draw(generator, sampling=Sampling(max_new_tokens=17)).answers([question], seeds=[1], label="answers")
    assert len(generator.asked) == 3


def test_the_same_draw_twice_is_one(draw):
    generator = Scripted()
    answers = draw(generator).answers([(turn("user", "a"),)] * 2, seeds=[7, 7], label="answers")
    assert answers == [Answer("The answer 7.", finished=True)] * 2
    assert len(generator.asked) == 1


def test_what_a_server_left_out_is_unanswered_and_asked_for_again(draw, capsys):
    silent = Scripted(lambda turns, seed: None if seed == 2 else Answer("Yes.", finished=True))
    questions = [(turn("user", text),) for text in "abc"]
    silent_draw = draw(silent)
    answers = silent_draw.answers(questions, seeds=[1, 2, 3], label="answers")
    assert [failing(answer) for answer in answers] == [None, "unanswered", None]
    assert "answers: 1 of 3 were not answered" in capsys.readouterr().err
    assert [silent_draw.tally.draws, silent_draw.tally.unanswered] == [2, 1]
    speaking = Scripted()
    assert draw(speaking).answers(questions, seeds=[1, 2, 3], label="answers")[1].text == "The answer 2."
    assert len(speaking.asked) == 1


def test_what_is_rendered_otherwise_is_drawn_anew(draw):
    generator = Scripted()
    question = (turn("user", "a"),)
    for key in ("one", "other", "one"):
        generator.renderer = Rendering(key)
        draw(generator).answers([question], seeds=[1], label="answers")
    assert len(generator.asked) == 2


def test_a_drawing_that_breaks_keeps_what_it_has(draw):
    def breaking(turns, seed):
        if seed == 5:
            raise ModelError("the server is gone")
        return Answer("Yes.", finished=True)

    questions = [(turn("user", str(n)),) for n in range(8)]
    with pytest.raises(ModelError, match="gone"):
        draw(Scripted(breaking)).answers(questions, seeds=range(8), label="answers")
    generator = Scripted()
    draw(generator).answers(questions, seeds=range(8), label="answers")
    assert [turns[0].content for turns in generator.asked] == ["3", "4", "5", "6", "7"]


def test_parts_are_stored_every_few_seconds(draw, monkeypatch, tmp_path):
    monkeypatch.setattr("learnable.measures.keep.STORE_EVERY_S", 0.0)
    draw(Scripted()).answers([(turn("user", str(n)),) for n in range(9)], seeds=range(9), label="answers")
    assert len(list((tmp_path / "store").glob("draw-*/*.parquet"))) == 3


def test_questions_and_answers_are_kept_apart(draw, tmp_path):
    generator = Scripted()
    draw(generator).questions(seeds=[1], label="questions")
    draw(generator).answers([(turn("user", "a"),)], seeds=[1], label="answers")
    assert len(list((tmp_path / "store").glob("draw-*"))) == 2


def test_a_server_cannot_invent_questions(draw):
    with pytest.raises(UsageError, match="cannot invent") as caught:
        draw(Server()).questions(seeds=[1], label="questions")
    assert "--model" in caught.value.hint


def test_nothing_to_draw_asks_nothing(draw):
    assert draw(Server()).answers([], seeds=[], label="answers") == []


def test_a_server_must_tell_itself_what_it_cannot_answer(draw):
    assert draw(Server()).refusal((turn("user", "word " * 9_999),)) is None


def test_seeds_differ_by_what_is_drawn_and_fit_into_31_bits():
    seeds = [seed_of(seed, "answer", number) for seed in range(3) for number in range(200)]
    assert len(set(seeds)) == 600
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(0, "answer", 1) == seed_of(0, "answer", 1)


@pytest.fixture(scope="module")
def model(tiny):
    return LanguageModel(ModelRef(name=str(tiny), dtype="float32", device="cpu"))


def test_a_model_counts_its_tokens_once(draw, model):
    some = draw(model)
    questions = [example.messages[:1] for example in toy_examples(4)]
    prompts = sum(len(model.renderer.prompt_ids(question)) for question in questions)
    some.answers(questions, seeds=range(4), label="answers")
    assert some.tally.draws == 4
    assert prompts + 4 <= some.tally.tokens <= prompts + 4 * 40
    before = some.tally.tokens
    some.answers(questions, seeds=range(4), label="answers")
    assert some.tally.tokens == before


def test_what_does_not_fit_the_positions_is_refused(draw, model):
    short, long = (turn("user", "red"),), (turn("user", "red blue " * 150),)
    assert draw(model).refusal(short) is None
    assert draw(model).refusal(long).startswith("too long: 3")
    assert draw(model).refusal(long).endswith("and 16 new ones do not fit the model's 256 positions")


def test_a_question_must_leave_room_for_an_answer(draw, model):
    with pytest.raises(UsageError, match="max_new_tokens is 256"):
        draw(model, sampling=Sampling(max_new_tokens=256)).questions(seeds=[1], label="questions")


def test_a_model_invents_questions_by_seed(draw, model, tmp_path):
    questions = draw(model).questions(seeds=range(6), label="questions")
    assert len({question.text for question in questions}) == 6
    other = Drawing(generator=model, sampling=SAMPLING, store=Store(tmp_path / "other"))
    assert other.questions(seeds=[4, 2], label="questions") == [questions[4], questions[2]]


# --- self_sample ---------------------------------------------------------------------------------------------


def sampled(draw, generator, *, n=6, seed=0, avoid=(), tries=3):
    return SelfSample(tries=tries)([], n=n, draw=draw(generator, avoid=avoid), seed=seed)


def contents(made):
    return [tuple(message.content for message in example.messages) for example in made.kept]


def test_self_sample_asks_itself_and_answers(draw):
    generator = Scripted()
    made = sampled(draw, generator)
    assert len(made.kept) == 6
    assert made.notes == ()
    assert made.dropped.is_empty()
    for example in made.kept:
        assert [message.role for message in example.messages] == ["user", "assistant"]
        assert example.meta == {"parent": None, "by": "self_sample", "seed": example.meta["seed"]}
        assert example.messages[0].content == f"What is {example.meta['seed']} good for?"
        assert example.id == example_id(example.messages)


def test_question_and_answer_are_drawn_by_different_seeds(draw):
    made = sampled(draw, Scripted(), n=1)
    assert made.kept[0].messages[1].content != f"The answer {made.kept[0].meta['seed']}."


def test_asking_for_more_keeps_what_is_there(draw):
    # A third is refused, and among the rest some repeat each other.
    def question(seed):
        return CUT if seed % 3 == 0 else Answer(f"Tell me all about number {seed % 40}.", finished=True)

    few, many = (sampled(draw, Scripted(question=question), n=n) for n in (5, 12))
    assert contents(many)[:5] == contents(few)
    assert len(many.kept) == 12


def test_what_is_refused_is_made_up_for(draw):
    generator = Scripted(question=lambda s: CUT if s % 2 else Answer(f"What about {s}?", finished=True))
    made = sampled(draw, generator, n=10)
    assert len(made.kept) == 10
    assert len(generator.invented) == 10 + made.dropped.height
    assert set(made.dropped["reason"]) == {"question cut off"}
    assert made.notes == ()


def test_a_shortfall_is_said_with_its_reasons(draw):
    made = sampled(draw, Scripted(question=lambda seed: CUT), n=4, tries=2)
    assert made.kept == []
    assert made.dropped.height == 8
    assert made.notes == (
        "asked for 4, got 0: of 8 draws, 8 question cut off; --max-new-tokens lets them end",
    )


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Answer("  ", finished=True), "question empty"),
        (CUT, "question cut off"),
        (Answer("Tell me a joke. " * 20, finished=True), "question repetition"),
    ],
)
def test_bad_questions_are_refused_before_they_are_answered(draw, question, reason):
    generator = Scripted(question=lambda seed: question)
    made = sampled(draw, generator)
    assert made.dropped["reason"].str.starts_with(reason).all()
    assert generator.asked == []


def test_bad_answers_are_refused_with_their_question(draw):
    made = sampled(draw, Scripted(lambda turns, seed: CUT), n=2, tries=1)
    assert made.dropped["reason"].to_list() == ["answer cut off"] * 2
    assert all(text.startswith("What is") and text.endswith("goes on and") for text in made.dropped["text"])


def test_near_duplicates_of_earlier_questions_are_refused(draw):
    generator = Scripted(question=lambda seed: Answer("What makes the sky look blue?", finished=True))
    made = sampled(draw, generator, n=3)
    assert len(made.kept) == 1
    assert made.dropped.height == 8
    assert made.dropped["reason"][0] == "question near-duplicate: of 'What makes the sky look blue?'"


def test_questions_and_answers_in_a_file_to_avoid_are_refused(draw):
    held = asked_and_answered(
        "What makes the sky blue?", "It is the air that scatters blue light more than red light does."
    )

    def question(seed):
        return Answer("What makes the sky blue?" if seed % 2 else f"What about {seed}?", finished=True)

    def answer(turns, seed):
        return Answer(held.messages[1].content if seed % 3 == 0 else f"It is {seed}.", finished=True)

    made = sampled(draw, Scripted(answer, question), n=6, avoid=[held])
    assert {reason.partition(":")[0] for reason in made.dropped["reason"]} == {
        "question in a file to avoid",
        "answer in a file to avoid",
    }
    assert not any("sky" in text or "scatters" in text for texts in contents(made) for text in texts)


def test_self_sample_refuses_what_it_cannot_use(draw):
    with pytest.raises(UsageError, match="takes no rows, got 8"):
        SelfSample()(ROWS, n=2, draw=draw(Scripted()), seed=0)
    with pytest.raises(UsageError, match="needs n"):
        SelfSample()([], n=None, draw=draw(Scripted()), seed=0)
    with pytest.raises(UsageError, match="temperature 0"):
        SelfSample()([], n=2, draw=draw(Scripted(), sampling=Sampling(temperature=0.0)), seed=0)
    with pytest.raises(UsageError, match="tries"):
        SelfSample(tries=0)


def test_another_seed_gives_other_conversations(draw):
    one, other = (contents(sampled(draw, Scripted(), seed=seed)) for seed in (0, 1))
    assert not set(one) & set(other)


# --- self_answer ---------------------------------------------------------------------------------------------


def answered(draw, generator, rows=ROWS, *, n=None, seed=0, avoid=(), **settings):
    return SelfAnswer(**settings)(rows, n=n, draw=draw(generator, avoid=avoid), seed=seed)


def test_self_answer_shows_the_reference_once_before(draw):
    generator = Scripted()
    made = answered(draw, generator, ROWS[:1])
    question, reference = ROWS[0].messages
    assert generator.asked == [(question, reference, question)]
    (kept,) = made.kept
    assert kept.messages[0] == question
    assert kept.messages[1].content == f"The answer {kept.meta['seed']}."
    assert (kept.meta["parent"], kept.meta["by"], kept.source) == (ROWS[0].id, "self_answer", "here")


def test_the_ledger_tells_what_is_empty_from_what_a_server_did_not_answer(draw):
    said = {"Question 1 of the rows?": None, "Question 2 of the rows?": Answer("", finished=True)}
    made = answered(
        draw,
        Scripted(lambda turns, _: said.get(turns[-1].content, Answer("It is so.", finished=True))),
        ROWS[:3],
        show_reference=False,
    )
    assert set(made.dropped.select("parent", "reason").rows()) == {
        (ROWS[1].id, "answer unanswered"),
        (ROWS[2].id, "answer empty"),
    }


def test_self_answer_without_the_reference(draw):
    generator = Scripted()
    answered(draw, generator, ROWS[:1], show_reference=False)
    assert generator.asked == [ROWS[0].messages[:1]]


def test_a_question_is_the_conversation_up_to_the_last_answer(draw):
    turns = [
        turn("system", "Be brief."),
        turn("user", "Hi"),
        turn("assistant", "Hello"),
        turn("user", "Who?"),
    ]
    generator = Scripted()
    (kept,) = answered(draw, generator, [row(*turns, turn("assistant", "Me."))]).kept
    assert generator.asked == [(*turns, turn("assistant", "Me."), turns[-1])]
    assert kept.messages[:-1] == tuple(turns)


def test_a_row_without_an_answer_is_asked_as_it_is(draw):
    generator = Scripted()
    made = answered(draw, generator, [row(turn("user", "Who?"))])
    assert generator.asked == [(turn("user", "Who?"),)]
    assert len(made.kept) == 1


def test_rows_are_drawn_by_their_content(draw):
    few = answered(draw, Scripted(), n=3)
    parents = [example.meta["parent"] for example in few.kept]
    turned = answered(draw, Scripted(), ROWS[::-1], n=3)
    assert [example.meta["parent"] for example in turned.kept] == parents
    assert contents(answered(draw, Scripted(), n=6))[:3] == contents(few)
    assert [e.meta["parent"] for e in answered(draw, Scripted(), n=3, seed=1).kept] != parents
    assert parents != [example.id for example in ROWS[:3]]


def test_other_rows_stand_in_for_those_that_are_refused(draw):
    refused = {ROWS[0].id, ROWS[1].id, ROWS[2].id}
    by_question = {example.messages[0]: example.id for example in ROWS}

    def answer(turns, seed):
        return CUT if by_question[turns[0]] in refused else Answer(f"So {seed}.", finished=True)

    made = answered(draw, Scripted(answer), n=5)
    assert {example.meta["parent"] for example in made.kept} == {example.id for example in ROWS} - refused
    assert set(made.dropped["parent"]) <= refused
    assert made.notes == ()


def test_more_than_there_are_rows_is_said(draw):
    made = answered(draw, Scripted(), n=20)
    assert len(made.kept) == 8
    assert made.notes == ("asked for 20, got 8: of 8 rows, none was refused",)


def test_answers_that_repeat_the_reference_are_counted(draw):
    copying = Scripted(lambda turns, seed: Answer(turns[1].content, finished=True))
    made = answered(draw, copying)
    assert len(made.kept) == 8
    assert made.notes == ("8 of 8 answers are nearly the reference that was shown",)


def test_the_same_question_may_come_again_with_another_answer(draw):
    rows = [asked_and_answered("Tell me a joke", f"Joke number {n}") for n in range(4)]
    jokes = Scripted(lambda turns, seed: Answer(f"A {seed} walks into a bar number {seed}", finished=True))
    assert len(answered(draw, jokes, rows).kept) == 4
    same = Scripted(lambda turns, seed: Answer("Knock knock, who is there", finished=True))
    made = answered(draw, same, rows, show_reference=False)
    assert len(made.kept) == 1
    assert made.dropped["reason"].str.starts_with("answer near-duplicate").all()


def test_rows_that_cannot_be_asked_are_refused_with_their_reason(draw):
    rows = [*ROWS[:2], row(turn("system", "Be brief."), turn("assistant", "I am."))]
    made = answered(draw, Scripted(), rows, avoid=[ROWS[0]])
    assert [example.meta["parent"] for example in made.kept] == [ROWS[1].id]
    assert {reason.partition(":")[0] for reason in made.dropped["reason"]} == {
        "question no user turn before the answer",
        "question in a file to avoid",
    }


def test_rows_without_any_question_are_an_error(draw):
    with pytest.raises(DataError, match="none of the 1 rows has a user turn"):
        answered(draw, Scripted(), [row(turn("assistant", "I am."))])


def test_a_long_question_is_refused_and_the_others_answered(draw, model):
    long = asked_and_answered("red blue " * 150, "green")
    made = answered(draw, model, [*ROWS[:3], long])
    assert "question too long" in {reason.partition(":")[0] for reason in made.dropped["reason"]}
    assert made.dropped.filter(made.dropped["parent"] == long.id).height == 1
    assert len(made.kept) + made.dropped.height == 4


# --- the table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIVERSIFIERS)
def test_every_method_says_what_it_needs(name):
    method = DIVERSIFIERS[name]
    assert isinstance(method.needs_examples, bool)
    assert isinstance(method.needs_generator, bool)
    assert isinstance(method.sampling, Sampling)
    assert method.__doc__


@pytest.mark.parametrize(
    ("written", "n", "said"),
    [
        ("paraphrase", None, "10 rewrites of each instruction, at most 40 draws for each,"),
        ("paraphrase", 2, "2 rewrites of each instruction, at most 8 draws for each,"),
        ("self_sample", 50, "50 to 150 questions, and an answer to each,"),
        ("self_answer", 50, "50 to 300 answers"),
        (
            "facts",
            None,
            "lists of the facts of each document, and 10 questions with answers about each fact, at most 40 draws for "
            "each,",
        ),
        ("constraints", None, "at most 3 variants of each of 300 rows"),
        ("hints@file=words.tsv", None, "300 rows with what the dictionary says of their words"),
    ],
)
def test_the_price_of_a_method_is_said_in_what_it_makes(written, n, said):
    _, method = build_diversifier(written)
    assert method.price(rows=300, n=n) == said


def test_a_method_with_settings():
    assert build_diversifier("self_answer@show_reference=false") == (
        "self_answer",
        SelfAnswer(show_reference=False),
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("self_sampel", "no method called 'self_sampel'"),
        ("self_sample@trys=2", "no setting 'trys'"),
        ("self_sample:rows.jsonl", "cannot read the method"),
        ("", "cannot read the method ''"),
    ],
)
def test_a_method_that_is_not_there(written, message):
    with pytest.raises(UsageError, match=message):
        build_diversifier(written)
