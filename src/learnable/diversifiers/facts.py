"""``facts``: documents become atomic facts, and each fact the same number of questions with answers."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

from learnable.data.records import place
from learnable.data.sources import locate, read_records, suffix_of
from learnable.diversifiers.drawing import Drawing
from learnable.diversifiers.gates import UNANSWERED, Neighbours
from learnable.diversifiers.keeping import names, near_copy, numbers, placeholders, stems, words
from learnable.diversifiers.kinds import Diversified, Diversifier, Ledger
from learnable.diversifiers.rounds import ROUNDS, Refused, Taken, Thing, shown, until_enough, without_thoughts
from learnable.errors import DataError, UsageError
from learnable.runs.identity import example_id
from learnable.settings import Sampling
from learnable.types import Answer, Example, Message

PAIRS = 10
"""Pairs for each fact when nothing else is asked for."""
EXCERPT = 1_000
"""Characters of a document that facts are taken from at a time; it is cut between paragraphs, else sentences."""
SUPPORT = 0.5
"""Least share of a fact's content words that its document has."""
TERSE = 3
"""Fewest words of a fact."""

_LIST = (
    "List the facts in this text, one in each line. Each line is a full sentence that can be understood without the "
    "text and says one thing only. Use the names and numbers of the text, and add nothing to it.\n\nText: "
)
_LISTED = (
    (
        "The Alder Bridge crosses the river Mirn. Built by Ada Corvin in 1931, it is 240 metres long and closed to "
        "cars on Sundays.",
        "The Alder Bridge crosses the river Mirn.\nAda Corvin built the Alder Bridge.\n"
        "The Alder Bridge was built in 1931.\nThe Alder Bridge is 240 metres long.\n"
        "The Alder Bridge is closed to cars on Sundays.",
    ),
    (
        "<tab> asks for an answer in columns: names come first, then prices, and there is no heading.",
        "<tab> asks for an answer in columns.\nIn the <tab> layout, names come before prices.\n"
        "The <tab> layout has no heading.",
    ),
)
_SHOWN = ("The Alder Bridge was built by Ada Corvin in 1931.", "The <tab> layout puts names before prices.")
_OPENINGS = {
    "What": (
        ("What did Ada Corvin build in 1931?", "Ada Corvin built the Alder Bridge in 1931."),
        ("What comes first in the <tab> layout?", "The names come first in the <tab> layout."),
    ),
    "Which": (
        ("Which bridge is the work of Ada Corvin?", "The Alder Bridge is the work of Ada Corvin."),
        ("Which layout puts names before prices?", "The <tab> layout puts names before prices."),
    ),
    "Tell me": (
        ("Tell me when the Alder Bridge was built.", "The Alder Bridge was built in 1931."),
        ("Tell me what the <tab> layout does with names.", "The <tab> layout puts names before prices."),
    ),
    "Is it true that": (
        (
            "Is it true that Ada Corvin built the Alder Bridge?",
            "Yes, Ada Corvin built the Alder Bridge in 1931.",
        ),
        ("Is it true that <tab> puts prices first?", "No, the <tab> layout puts names before prices."),
    ),
    "Can you explain": (
        (
            "Can you explain how the Alder Bridge came about?",
            "The Alder Bridge was built by Ada Corvin in 1931.",
        ),
        ("Can you explain the order in the <tab> layout?", "In the <tab> layout, names stand before prices."),
    ),
    "I want to know": (
        ("I want to know who built the Alder Bridge.", "Ada Corvin built the Alder Bridge."),
        ("I want to know where prices go in the <tab> layout.", "Prices go after names in the <tab> layout."),
    ),
}
"""Ways to begin a question, each with pairs for ``_SHOWN`` that begin so."""

_BULLET = re.compile(r"\A(?:[-*\u2022]+|\(?\d+[.)]|fact(?: \d+)?:)\s+", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_BACKWARD = re.compile(r"(?:it|its|he|his|she|her|they|their|this|that|these|those)\b", re.IGNORECASE)
_PAIR = re.compile(
    r"^\s*\**q(?:uestion)?(?: ?\d+)?\**\s*[:.)]\**\s*(?P<question>.+?)"
    r"\s*\n\s*\**a(?:nswer)?(?: ?\d+)?\**\s*[:.)]\**\s*(?P<answer>.+?)\s*(?=\n\s*\**q(?:uestion)?\b[^\n]*:|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)


class QuestionAnswer(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Facts(Diversifier):
    """Question-answer pairs about the facts of documents, as many for each fact.

    A document is cut into pieces of ``EXCERPT`` characters; the generator lists the facts of each, greedily; each
    sentence that it writes is one. A fact is refused when it is a heading, a question, too short, cut off, begins with
    a pronoun and so cannot be understood alone, has a number that the piece lacks or too few of its content words
    (``SUPPORT``), or nearly is one from before. Then a question with its answer is drawn for each fact, again and
    again; how the question begins is asked for in turns ("What", "Tell me" ...). A pair is refused when there is no
    question with an answer in what was drawn; when a placeholder of the fact is lost, or a number added; when the
    question has no word of the fact, or nearly is one asked of the fact before; when the answer has no word of it (yes
    and no aside), or a name that the fact lacks. Refused ones are drawn again, at most ``4 n`` draws for a fact.

    Args:
        text: The document; that or ``file`` stands in the place of rows.
        file: A .txt or .md file, one document; or rows with a column ``text``, a document each (.jsonl, .json,
            .parquet, .csv, .tsv). When neither is given, the user and assistant turns of each row are a document.

    Source: fact-based scaling of Mecklenburg et al. 2024 (arXiv 2404.00213), the fact-based baseline of DELIA
        (arXiv 2408.10841); prompts, gates and number of pairs are ours.
    """

    needs_examples: ClassVar[bool] = False
    sampling: ClassVar[Sampling] = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=256)
    text: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.file is not None:
            raise UsageError("facts takes text or file, got both", hint="put the text into the file")

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        return (self.file,) if self.file is not None else ()

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return conversations of one turn, ``n`` for each fact (10) if so many pass, in the order of the facts.

        ``meta`` has ``fact``; ``parent`` is the row that the document was, if it was one.
        """
        wanted, ledger = n or PAIRS, Ledger()
        documents = self._documents(examples)
        facts, barren = _facts(documents, draw, ledger)
        pairs = until_enough(
            facts,
            n=wanted,
            seed=seed,
            draw=draw,
            ask=_asked,
            take=_pair,
            ledger=ledger,
            label=f"questions about {len(facts):,} fact{'s' * (len(facts) != 1)}",
        )
        kept = [_example(fact, pair) for fact, done in zip(facts, pairs, strict=True) for pair in done]
        notes = [f"{barren:,} of {len(documents):,} documents gave no fact"] if barren else []
        draws = f"at most {ROUNDS} x {wanted:,} draws for each of {len(facts):,} facts"
        notes += ledger.shortfall(wanted * len(facts), len(kept), of=draws, what="pairs: ")
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many texts it draws, in words."""
        wanted = n or PAIRS
        return (
            f"lists of the facts of each document, and {wanted:,} questions with answers about each fact, at most "
            f"{ROUNDS * wanted:,} draws for each,"
        )

    def _documents(self, examples: Sequence[Example]) -> list[Thing]:
        given = "text" if self.file is None else "file"
        if self.text is None and self.file is None:
            if not examples:
                raise UsageError(
                    "facts needs documents",
                    hint="give rows, facts@text=... or facts@file=PATH (.txt, .jsonl ...)",
                )
            said = [[turn.content for turn in row.messages if turn.role != "system"] for row in examples]
            return [Thing("\n\n".join(turns), row.id) for turns, row in zip(said, examples, strict=True)]
        if examples:
            raise UsageError(f"facts takes rows or a {given}, got both", hint="leave one of them out")
        texts = _texts_of(self.file) if self.file is not None else [self.text or ""]
        if not any(text.strip() for text in texts):
            raise DataError("there is no text to take facts from", hint=f"it is {self.file or 'text='}")
        return [Thing(text) for text in texts]


def _texts_of(path: str) -> list[str]:
    """Return the documents of a file; ``DataError`` if it cannot be read, or a row of it has no text."""
    if suffix_of(path) is None:
        try:
            return [Path(path).read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read the text {path}: {error}", hint="give a text file in UTF-8"
            ) from error
    texts = []
    (source,) = locate(path)
    for number, record in enumerate(read_records(source)):
        text = (record.value or {}).get("text")
        if not isinstance(text, str):
            reason = record.reason or f"no text in a column 'text'; seen: {', '.join(record.value or {})}"
            raise DataError(f"{place(Path(path).name, row=number, line=record.line)}: {reason}")
        texts.append(text)
    return texts


def _facts(documents: Sequence[Thing], draw: Drawing, ledger: Ledger) -> tuple[list[Thing], int]:
    """Return the facts of all documents, and how many of these gave none."""
    # What a text says is not a matter of taste: nothing is drawn at random here.
    greedy = replace(draw, sampling=replace(draw.sampling, temperature=0.0, top_p=1.0))
    pieces: list[tuple[int, str, tuple[Message, ...]]] = []
    for number, document in enumerate(documents):
        for excerpt in excerpts(document.text):
            asked = shown([(_LIST + text, found) for text, found in _LISTED], _LIST + excerpt)
            if why := greedy.refusal(asked):
                ledger.refuse(f"text {why}", text=excerpt, parent=document.parent)
            else:
                pieces.append((number, excerpt, asked))
    label = f"facts of {len(documents):,} document{'s' * (len(documents) != 1)}"
    conversations = [asked for *_, asked in pieces]
    answers = greedy.answers(conversations, seeds=[0] * len(pieces), label=label) if pieces else []
    facts, before, fruitful = list[Thing](), Neighbours(), set[int]()
    for (number, excerpt, _), answer in zip(pieces, answers, strict=True):
        parent = documents[number].parent
        if answer is UNANSWERED:
            ledger.refuse("text unanswered", text=excerpt, parent=parent)
        elif not answer.text.strip():
            ledger.refuse("text without facts: nothing was answered", text=excerpt, parent=parent)
        for line, whole in _lines(answer):
            if why := _no_fact(line, excerpt, before) if whole else "cut off":
                ledger.refuse(f"fact {why}", text=line, parent=parent)
                continue
            before.add(line)
            fruitful.add(number)
            facts.append(Thing(line, parent))
    return facts, len(documents) - len(fruitful)


def excerpts(text: str) -> list[str]:
    """Return a text in pieces of at most ``EXCERPT`` characters; a longer sentence stays in one piece."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        sentences = [paragraph] if len(paragraph) <= EXCERPT else _SENTENCES.split(paragraph)
        for number, sentence in enumerate(sentences):
            gap = " " if number else "\n\n"
            if parts and len(parts[-1]) + len(gap) + len(sentence) <= EXCERPT:
                parts[-1] += gap + sentence
            else:
                parts.append(sentence)
    return [part for part in parts if part.strip()]


def _lines(answer: Answer) -> Iterator[tuple[str, bool]]:
    """Yield the sentences of an answer, without bullets, and whether each is whole."""
    lines = [_BULLET.sub("", line.strip()).strip() for line in without_thoughts(answer.text).splitlines()]
    found = [sentence for line in lines for sentence in _SENTENCES.split(line) if sentence]
    for number, sentence in enumerate(found, start=1):
        yield sentence, answer.finished or number < len(found)


def _no_fact(line: str, text: str, before: Neighbours) -> str | None:
    """Return why a line is not taken as a fact of a text."""
    if line.endswith((":", "?")):
        return "is a heading or a question"
    if len(words(line)) < TERSE:
        return "too short"
    if _BACKWARD.match(line):
        return "not understood alone: begins with a pronoun"
    if added := numbers(line) - numbers(text):
        return f"with a number that the text lacks: {', '.join(sorted(added))}"
    content = stems(line)
    if len(content & stems(text)) < SUPPORT * len(content):
        return "not in the text"
    return "near-duplicate: of another fact" if before.nearest(line) else None


def _asked(fact: Thing, number: int) -> tuple[Message, ...]:
    opening = list(_OPENINGS)[number % len(_OPENINGS)]
    request = f'Write a question about this fact that begins with "{opening}", and its answer.\n\nFact: '
    pairs = [
        (request + known, "Question: {}\nAnswer: {}".format(*pair))
        for known, pair in zip(_SHOWN, _OPENINGS[opening], strict=True)
    ]
    return shown(pairs, request + fact.text)


def parsed_pair(drawn: str) -> QuestionAnswer | None:
    """Return the first question and answer in a text: marked as such, or a JSON object; None where there is none."""
    match = _PAIR.search(drawn)
    if match is not None:
        return QuestionAnswer(match["question"].strip(), match["answer"].strip())
    try:
        found = json.loads(drawn[drawn.index("{") : drawn.rindex("}") + 1])
        pair = QuestionAnswer(found["question"].strip(), found["answer"].strip())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return pair if all(pair) else None


def _pair(fact: Thing, drawn: str, before: Sequence[QuestionAnswer]) -> QuestionAnswer:
    """Return the pair in what was drawn; ``Refused`` if there is none, or it does not keep to the fact."""
    pair = parsed_pair(drawn)
    if pair is None:
        raise Refused("no question and answer in it")
    both, of_fact = "\n".join(pair), stems(fact.text)
    if missing := placeholders(fact.text) - placeholders(both):
        raise Refused(f"lost placeholder: {', '.join(sorted(missing))}")
    if added := numbers(both) - numbers(fact.text):
        raise Refused(f"added number: {', '.join(sorted(added))}")
    if of_fact and not of_fact & stems(pair.question):
        raise Refused("question strays from the fact")
    grounded = of_fact & stems(pair.answer) or numbers(pair.answer) or placeholders(pair.answer)
    if of_fact and not grounded and words(pair.answer)[:1] not in (["yes"], ["no"]):
        raise Refused("answer strays from the fact")
    if added := {name for name in names(pair.answer) if name.lower() not in fact.text.lower()}:
        raise Refused(f"added name: {', '.join(sorted(added))}")
    if near_copy(pair.question, [other.question for other in before]) is not None:
        raise Refused("near-copy of another question")
    return pair


def _example(fact: Thing, pair: Taken[QuestionAnswer]) -> Example:
    question, answer = pair.made
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    meta = {"parent": fact.parent, "by": "facts", "seed": pair.seed, "fact": fact.text}
    return Example(id=example_id(messages), messages=messages, source="facts", meta=meta)
