"""DELIA's baselines as data: pairs about facts, constraints in words, hints of a dictionary."""

import json

import pytest

from learnable.diversifiers import DIVERSIFIERS
from learnable.diversifiers.constraints import Constraints
from learnable.diversifiers.drawing import Drawing
from learnable.diversifiers.facts import EXCERPT, Facts, QuestionAnswer, excerpts, parsed_pair
from learnable.diversifiers.hints import Hints, read_dictionary
from learnable.errors import DataError, UsageError
from learnable.runs.identity import example_id
from learnable.runs.store import Store
from learnable.types import Answer, Example, Message
from test_diversifying_paraphrase import Scripted, row

BRIDGE = "The Alder Bridge was built in 1931. The Alder Bridge is painted green."
FACTS = "- The Alder Bridge was built in 1931.\n- The Alder Bridge is painted green."


def pair(question, answer):
    return f"Question: {question}\nAnswer: {answer}"


GREEN = pair("What colour is the Alder Bridge painted?", "The bridge is painted green.")
BUILT = pair("When was the Alder Bridge built?", "The Alder Bridge was built in 1931.")


def about(*pairs, facts=FACTS):
    """List the facts, then say the pairs in turn for each fact that they fit."""
    place = iter(range(10**6))

    def script(asked, _seed):
        if asked.startswith("List the facts"):
            return facts
        return pairs[next(place) % len(pairs)]

    return script


@pytest.fixture
def drawing(tmp_path):
    def make(script=None):
        generator = None if script is None else script if isinstance(script, Scripted) else Scripted(script)
        return Drawing(generator=generator, sampling=Facts.sampling, store=Store(tmp_path / "store"))

    return make


def reasons(made):
    return [reason.partition(":")[0] for reason in made.dropped["reason"]]


# facts


def test_pairs_about_each_fact(drawing):
    draw = drawing(
        lambda asked, _: FACTS if asked.startswith("List") else BUILT if "1931" in asked else GREEN
    )
    made = Facts(text=BRIDGE)([], n=1, draw=draw, seed=0)
    assert [[turn.content for turn in example.messages] for example in made.kept] == [
        ["When was the Alder Bridge built?", "The Alder Bridge was built in 1931."],
        ["What colour is the Alder Bridge painted?", "The bridge is painted green."],
    ]
    assert [(e.source, e.meta["parent"], e.meta["by"]) for e in made.kept] == [("facts", None, "facts")] * 2
    assert made.kept[0].meta["fact"] == "The Alder Bridge was built in 1931."
    assert made.notes == ()


def test_a_document_that_a_server_does_not_answer_is_unanswered(drawing):
    made = Facts(text=BRIDGE)([], n=1, draw=drawing(lambda *_: None), seed=0)
    assert made.dropped["reason"].to_list() == ["text unanswered"]


def test_as_many_pairs_for_each_fact(drawing):
    wordings = [
        "When was the Alder Bridge built?",
        "Do you know the year the bridge was built?",
        "Tell me its age: bridge.",
    ]
    pairs = [pair(wording, "It was built in 1931.") for wording in wordings]
    facts = "The Alder Bridge was built in 1931."
    made = Facts(text=BRIDGE)([], n=3, draw=drawing(about(*pairs, facts=facts)), seed=0)
    assert [example.messages[0].content for example in made.kept] == wordings


def test_rows_are_documents_and_parents(drawing):
    examples = [
        row("What is the Alder Bridge like?", "The Alder Bridge is painted green.", system="not a document")
    ]
    generator = Scripted(about(GREEN, facts="The Alder Bridge is painted green."))
    (made,) = Facts()(examples, n=1, draw=drawing(generator), seed=0).kept
    assert made.meta["parent"] == examples[0].id
    listed = generator.asked[0][-1].content
    assert "What is the Alder Bridge like?\n\nThe Alder Bridge is painted green." in listed
    assert "not a document" not in listed


def test_documents_of_files(drawing, tmp_path):
    lines, text = tmp_path / "documents.jsonl", tmp_path / "document.txt"
    lines.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("one bridge", "two bridges")))
    text.write_text(BRIDGE)
    for file, count in ((lines, 2), (text, 1)):
        generator = Scripted(about(GREEN))
        Facts(file=str(file))([], n=1, draw=drawing(generator), seed=0)
        assert sum("List the facts" in turns[-1].content for turns in generator.asked) == count
    assert Facts(file=str(text)).files == (str(text),)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Facts about the bridge:", "fact is a heading or a question"),
        ("Is the Alder Bridge painted green?", "fact is a heading or a question"),
        ("Green bridge.", "fact too short"),
        ("It is painted green.", "fact not understood alone"),
        ("The Alder Bridge was built in 1932.", "fact with a number that the text lacks"),
        ("Whales breathe through their blowholes.", "fact not in the text"),
    ],
)
def test_lines_that_are_no_facts(drawing, line, reason):
    facts = f"{line}\nThe Alder Bridge is painted green."
    made = Facts(text=BRIDGE)([], n=1, draw=drawing(about(GREEN, facts=facts)), seed=0)
    assert [example.meta["fact"] for example in made.kept] == ["The Alder Bridge is painted green."]
    assert reasons(made) == [reason]


def test_thoughts_before_the_facts_are_no_facts(drawing):
    facts = "<think>The Alder Bridge is in the text.</think>\nThe Alder Bridge is painted green."
    made = Facts(text=BRIDGE)([], n=1, draw=drawing(about(GREEN, facts=facts)), seed=0)
    assert [example.meta["fact"] for example in made.kept] == ["The Alder Bridge is painted green."]


def test_a_fact_that_was_cut_off_or_stood_there_before(drawing):
    lines = "1. The Alder Bridge is painted green.\n\n2. The Alder Bridge is painted green!\n3. The Alder Bridge is"
    script = Scripted(lambda asked, _: Answer(lines, False) if asked.startswith("List") else GREEN)
    made = Facts(text=BRIDGE)([], n=1, draw=drawing(script), seed=0)
    assert len(made.kept) == 1
    assert reasons(made) == ["fact near-duplicate", "fact cut off"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("The bridge is green.", "no question and answer in it"),
        ("", "empty"),
        (pair("What is painted?", "A bridge built in 1850."), "added number"),
        (pair("What do you like?", "The Alder Bridge."), "question strays from the fact"),
        (pair("What is the Alder Bridge like?", "Very nice indeed."), "answer strays from the fact"),
        (pair("What is the Alder Bridge like?", "The bridge is the one of Rome."), "added name"),
    ],
)
def test_pairs_that_are_refused(drawing, said, reason):
    facts = "The Alder Bridge is painted green."
    made = Facts(text=BRIDGE)([], n=1, draw=drawing(about(said, facts=facts)), seed=0)
    assert made.kept == []
    assert set(reasons(made)) == {reason}
    assert "pairs: asked for 1, got 0" in made.notes[0]


def test_a_pair_keeps_the_placeholder_of_its_fact(drawing):
    text = "<sep> asks for an answer in JSON."
    draw = drawing(
        about(
            pair("What is asked for?", "An answer in JSON."),
            pair("What asks for JSON?", "<sep> does."),
            facts=text,
        )
    )
    made = Facts(text=text)([], n=1, draw=draw, seed=0)
    assert [example.messages[1].content for example in made.kept] == ["<sep> does."]
    assert reasons(made) == ["lost placeholder"]


def test_the_same_question_is_taken_once(drawing):
    made = Facts(text=BRIDGE)(
        [], n=2, draw=drawing(about(GREEN, facts="The Alder Bridge is painted green.")), seed=0
    )
    assert len(made.kept) == 1
    assert set(reasons(made)) == {"near-copy of another question"}


def test_sentences_of_a_line_are_facts_of_their_own(drawing):
    facts = "The Alder Bridge was built in 1931. The Alder Bridge is painted green."
    draw = drawing(
        lambda asked, _: facts if asked.startswith("List") else BUILT if "1931" in asked else GREEN
    )
    made = Facts(text=BRIDGE)([], n=1, draw=draw, seed=0)
    assert [example.meta["fact"] for example in made.kept] == [
        "The Alder Bridge was built in 1931.",
        "The Alder Bridge is painted green.",
    ]


def test_yes_and_no_are_answers(drawing):
    said = pair("Is it true that the Alder Bridge is painted green?", "Yes.")
    made = Facts(text=BRIDGE)(
        [], n=1, draw=drawing(about(said, facts="The Alder Bridge is painted green.")), seed=0
    )
    assert made.kept[0].messages[1].content == "Yes."


def test_documents_without_a_fact_are_said(drawing):
    examples = [row("What is it?", BRIDGE), row("Why?", "Because.")]
    script = about(GREEN, facts="The Alder Bridge is painted green.")
    assert Facts()(examples, n=1, draw=drawing(script), seed=0).notes == ("1 of 2 documents gave no fact",)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ("Q: a?\nA: b", QuestionAnswer("a?", "b")),
        (
            "**Question 1:** a?\n\n**Answer 1:** b\nc\n\nQuestion 2: d?\nAnswer 2: e",
            QuestionAnswer("a?", "b\nc"),
        ),
        ('Here it is: {"question": " a? ", "answer": "b"}', QuestionAnswer("a?", "b")),
        ('{"question": 1, "answer": "b"}', None),
        ("{" * 5_000, None),
        ("Question: a?", None),
        ("", None),
    ],
)
def test_pairs_in_what_models_write(drawn, expected):
    assert parsed_pair(drawn) == expected


def test_long_documents_are_cut_between_paragraphs_and_sentences():
    paragraph = "A sentence of a few words. " * 60
    pieces = excerpts(f"short\n\n{paragraph}\n\n{paragraph}\n\n{paragraph * 2}")
    assert all(len(piece) <= EXCERPT for piece in pieces)
    assert " ".join(pieces).split() == f"short {paragraph * 4}".split()
    assert pieces[0].startswith("short\n\nA sentence")


def test_documents_must_be_somewhere_and_in_one_place(drawing, tmp_path):
    draw, text = drawing(about(GREEN)), tmp_path / "empty.txt"
    with pytest.raises(UsageError, match="needs documents"):
        Facts()([], n=1, draw=draw, seed=0)
    with pytest.raises(UsageError, match="got both"):
        Facts(text=BRIDGE)([row("a", "b")], n=1, draw=draw, seed=0)
    with pytest.raises(UsageError, match="got both"):
        Facts(text=BRIDGE, file="x.txt")
    with pytest.raises(DataError, match=r"cannot read the text .*empty\.txt"):
        Facts(file=str(text))([], n=1, draw=draw, seed=0)
    text.write_text(" \n")
    with pytest.raises(DataError, match="no text"):
        Facts(file=str(text))([], n=1, draw=draw, seed=0)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"content": "x"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no text in a column 'text'; seen: content"):
        Facts(file=str(rows))([], n=1, draw=draw, seed=0)


# constraints


def constrained(answer, *, question="What is it?", n=3, seed=0, **settings):
    return Constraints(**settings)([row(question, answer)], n=n, draw=None, seed=seed)


def stated(answer, kind, **settings):
    made = constrained(answer, kinds=(kind,), n=8, **settings)
    return {example.messages[0].content.split("\n\n")[-1] for example in made.kept}


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("length", "one two three", "Answer in at most 5 words."),
        ("length", " ".join(["word"] * 17), "Answer in 16 to 20 words."),
        ("length", " ".join(["word"] * 20), "Answer in 16 to 20 words."),
        ("length", " ".join(["word"] * 120), "Answer in 101 to 150 words."),
        ("sentences", "It is red. It costs 2.5 coins!", "Write 2 sentences."),
        ("sentences", "It is red.", "Write one sentence."),
        ("paragraphs", "It is.\n\nIt was.", "Write 2 paragraphs."),
        (
            "keys",
            '{"thought": "x", "label": "yes"}',
            'Answer with a JSON object with the keys "thought" and "label".',
        ),
        ("keys", "{'label': 'no'}", 'Answer with a Python dictionary with the key "label".'),
        ("list", "These:\n1. red\n2. blue", "Write a numbered list with 2 points."),
        ("list", "- red\n- blue\n- green", "Write a bulleted list with 3 points."),
        ("code", "So:\n```python\nx = 1\n```", "Put the code into a code block."),
        ("begins", "The sky is blue on a day in June", 'Begin with "The sky is".'),
        ("ends", "The sky is blue on a day in June.", 'End with "day in June."'),
    ],
)
def test_what_holds_of_an_answer_is_stated(kind, answer, expected):
    assert expected in stated(answer, kind)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("sentences", "no full stop"),
        ("sentences", '{"a": "It is. It was."}'),
        ("sentences", "A. B. C. D. E. F."),
        ("paragraphs", "one only"),
        ("keywords", "too short for that"),
        ("keys", "[1, 2]"),
        ("keys", "{" * 10_000),
        ("list", "1. one point only"),
        ("code", "no `code` block"),
        ("begins", '"Quoted words" begin this very answer here'),
        ("ends", "three words only"),
    ],
)
def test_what_does_not_hold_is_not_stated(kind, answer):
    made = constrained(answer, kinds=(kind,))
    assert made.kept == []
    assert reasons(made) == ["no constraint holds of the answer"]


def test_keywords_are_of_the_answer_and_not_of_the_question():
    for sentence in stated(
        "Green bridges carry heavy trains slowly", "keywords", question="Do bridges carry?"
    ):
        words = sentence.split('"')[1::2]
        assert len(words) == 3
        assert set(words) <= {"Green", "heavy", "trains", "slowly"}


def test_constraints_follow_the_question_and_the_answer_stays():
    made = constrained("The sky is blue on a day in June.", n=4)
    assert len(made.kept) == 4
    for example in made.kept:
        question, added = example.messages[0].content.split("\n\n")
        assert question == "What is it?"
        assert added.count(".") >= 1
        assert example.messages[1].content == "The sky is blue on a day in June."
        assert len(example.meta["constraints"].split(", ")) == 2
    assert len({example.id for example in made.kept}) == 4


def test_the_last_question_is_constrained():
    turns = [*row("Why?", "So.").messages, *row("And?", "The sky is blue on a day in June.").messages]
    example = Example(id="x", messages=tuple(turns), source="task")
    (made,) = Constraints(kinds=("begins",))([example], n=1, draw=None, seed=0).kept
    assert made.messages[:2] == example.messages[:2]
    assert made.messages[2].content.startswith("And?\n\n")
    assert made.meta["parent"] == "x"


def test_variants_that_are_the_same_count_once_and_are_said():
    made = constrained("one two three", kinds=("length",), n=50)
    assert 1 < len(made.kept) < 50
    assert made.notes[0].startswith("asked for 50, got ")


def test_a_row_without_an_answer_is_in_the_ledger():
    example = Example(id="x", messages=(Message(role="user", content="What?"),), source="task")
    made = Constraints()([example], n=1, draw=None, seed=0)
    assert (made.kept, reasons(made)) == ([], ["no answer after a user turn"])


def test_constraints_by_seed():
    answer = "The sky is blue on a day in June."
    ids = [[e.id for e in constrained(answer, n=3, seed=seed).kept] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_constraints_that_are_not_known():
    with pytest.raises(UsageError, match="no constraint called 'lenght'") as error:
        Constraints(kinds=("lenght",))
    assert "length" in error.value.hint
    with pytest.raises(UsageError, match="each"):
        Constraints(each=0)


# hints


@pytest.fixture
def dictionary(tmp_path):
    def write(content, name="words.tsv"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def hinted(path, *questions, **settings):
    examples = [row(question) for question in questions]
    return Hints(file=path, **settings)(examples, n=None, draw=None, seed=0)


def test_hints_follow_the_question(dictionary):
    made = hinted(dictionary("hús\thouse\nhestur\thorse\tsteed\n"), "Translate: HESTUR og hús, hestur")
    assert made.kept[0].messages[0].content == (
        'Translate: HESTUR og hús, hestur\n\nIn this text, "hestur" means "horse" or "steed". '
        'In this text, "hús" means "house".'
    )
    assert made.kept[0].meta["hinted"] == "hestur, hús"
    assert made.kept[0].id == example_id(made.kept[0].messages)
    assert made.notes == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.tsv", "word\tmeaning\thint\nhestur\thorse\tsteed\n"),
        ("words.tsv", "hestur\thorse; steed\n"),
        ("words.csv", "hestur,horse,steed\n"),
        ("words.csv", "hestur,horse\nHestur,steed;horse\n"),
        ("words.jsonl", '{"word": "hestur", "translations": ["horse", "steed"]}\n'),
        ("words.jsonl", '{"word": "hestur", "meanings": "horse;steed"}\n'),
    ],
)
def test_dictionaries_of_all_kinds(dictionary, name, content):
    entries = read_dictionary(dictionary(content, name))
    assert list(entries.values()) == [("hestur", ("horse", "steed"))]


def test_rows_without_a_hit_stay_and_are_counted(dictionary):
    made = hinted(dictionary("hús\thouse\n"), "nothing here", "hús", "húsið")
    assert [
        example.messages == row(q).messages
        for example, q in zip(made.kept, ("nothing here", "hús", "húsið"), strict=True)
    ] == [True, False, True]
    assert made.kept[0].id == row("nothing here").id
    assert made.notes == ("2 of 3 rows have no word of the dictionary and stay as they are",)


def test_new_tokens_have_meanings_too(dictionary):
    made = hinted(dictionary("<sep>\tanswer in JSON\nsep\tSeptember\n"), "Use the<sep>, please.")
    assert made.kept[0].messages[0].content.endswith('\n\nIn this text, "<sep>" means "answer in JSON".')


def test_the_longest_entry_is_taken(dictionary):
    made = hinted(dictionary("New\tnew\nNew York\ta city\nYork\ttown\n"), "to New York or York")
    assert made.kept[0].meta["hinted"] == "New York, York"


def test_as_many_meanings_as_asked_for(dictionary):
    made = hinted(dictionary("a\tb\tc\td\te\n"), "a", meanings=2)
    assert made.kept[0].messages[0].content.endswith('means "b" or "c".')


def test_answers_and_system_turns_get_no_hints(dictionary):
    example = row("a?", "a!", system="a.")
    (made,) = Hints(file=dictionary("a\tb\n"))([example], n=None, draw=None, seed=0).kept
    assert [turn.content for turn in made.messages] == ["a.", 'a?\n\nIn this text, "a" means "b".', "a!"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("words.tsv", "", "has no entry"),
        ("words.tsv", "word\tmeaning\n", "has no entry"),
        ("words.tsv", "a\tb\nc\n", r"words\.tsv:2: no word with a meaning"),
        ("words.tsv", "\tb\n", r"words\.tsv:1: no word with a meaning"),
        ("words.jsonl", '{"word": "a", "translations": [1]}\n', "must be text"),
        ("words.jsonl", '{"wrod": "a"}\n', "no word with a meaning"),
        ("words.jsonl", "{\n", "not valid JSON"),
        ("words.xlsx", "a", r"is no \.tsv"),
    ],
)
def test_dictionaries_that_cannot_be_read(dictionary, name, content, problem):
    with pytest.raises(DataError, match=problem):
        read_dictionary(dictionary(content, name))


def test_hints_refuse_what_makes_no_sense(dictionary):
    with pytest.raises(UsageError, match="needs a dictionary"):
        Hints()
    with pytest.raises(UsageError, match="meanings"):
        Hints(file="x.tsv", meanings=0)
    with pytest.raises(UsageError, match="n=3"):
        Hints(file=dictionary("a\tb\n"))([row("a")], n=3, draw=None, seed=0)
    with pytest.raises(DataError, match="is not there"):
        Hints(file="nowhere.tsv")([row("a")], n=None, draw=None, seed=0)
    assert Hints(file="x.tsv").files == ("x.tsv",)


@pytest.mark.parametrize(
    ("name", "method"), [("facts", Facts), ("constraints", Constraints), ("hints", Hints)]
)
def test_they_are_in_the_table(name, method):
    assert DIVERSIFIERS[name] is method
