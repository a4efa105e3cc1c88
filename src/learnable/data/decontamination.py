"""Rows that stand in evaluation files: kept out of a pool, each with the place of the row that it shares text with."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import polars as pl

from learnable.data.names import OTHER_PROMPTS, PROMPTS, plain
from learnable.data.overlap import SAME_PROMPT, excerpt, jaccard, n_grams, shingles, words_of
from learnable.data.parser import Parser
from learnable.data.pool import is_pool, load_pool, pool_identity
from learnable.data.records import Record, place
from learnable.data.sources import Source, digest_of, locate, names_of, read_records
from learnable.data.values import texts_in
from learnable.errors import DataError
from learnable.pools import message_of, slices
from learnable.runs.identity import fingerprint
from learnable.types import Message

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

IN_EVALUATION = "in an evaluation file: "
"""Begins the reason in the ledger of a row that was left out for that."""
SPAN = 13
"""Words in a row that two texts may not share."""
MARK = 7
"""A text cut into pieces of so many words has a whole piece in any ``SPAN`` words of it, so that few are looked up."""
NEAR = 0.7
"""Jaccard similarity of word 3-grams from which on two prompts are near-duplicates."""
COMMON_ROWS, COMMON_SHARE = 10, 0.01
"""What more evaluation rows than both have in common is the wording of a template, and tells none of them."""
MUCH_AVOIDED = 0.05
"""Share of the rows read from which on it is doubtful whether all that was left out is of the evaluation."""
AVOIDED_DOUBT = (
    "stand in the evaluation files and were left out: the data was made from the evaluation, or both share the "
    "wording of a template. dropped.jsonl of a selection, and rows.parquet, say which evaluation row each is like"
)
FEWEST_WORDS = 3
"""Of a text without a name that may be a question."""
_ASKED = {*PROMPTS, *OTHER_PROMPTS, "text", "sentence"}


class EvaluationRow(NamedTuple):
    """An evaluation row: its ``place``, what it may be asked as (``prompts``), and all ``texts`` that it has."""

    place: str
    prompts: Sequence[str]
    texts: Sequence[str]


class EvaluationIndex:
    """The rows of evaluation files, to ask whether a row of a pool is one of them; memory grows with them alone.

    Texts are compared as words: lower case, without punctuation. A row is found in one of three ways, tried in this order.
    Its prompt is a prompt of the evaluation. Its prompt or answer shares ``SPAN`` words in a row with a text of the
    evaluation. Its prompt is a near-duplicate: at least ``NEAR`` of the word 3-grams of both are in both (Jaccard).
    Grams of more than ``COMMON_ROWS`` evaluation rows and ``COMMON_SHARE`` of them alone find nothing: they are a template.

    Args:
        rows: Of the evaluation.

    Source: Brown et al., Language Models are Few-Shot Learners (2005.14165), appendix C, for 13 words; there, a gram that
        more than ten training documents share does not count, here one of many evaluation rows. Near-duplicates are exact:
        the evaluation is small, so that no MinHash is needed.
    """

    def __init__(self, rows: Iterable[EvaluationRow]) -> None:
        self._places, self._asked = list[str](), list[tuple[int, set[tuple[str, ...]]]]()
        self._prompts: dict[str, int] = {}
        spans, grams = defaultdict[str, list[int]](list), defaultdict[tuple[str, ...], list[int]](list)
        for number, row in enumerate(rows):
            self._places.append(row.place)
            for prompt in {" ".join(words_of(text)): None for text in row.prompts}:
                if prompt and prompt not in self._prompts:
                    self._prompts[prompt] = number
                    self._asked.append((number, shingles(prompt.split(" "))))
                    for gram in self._asked[-1][1]:
                        grams[gram].append(len(self._asked) - 1)
            for span in {span for text in row.texts for span in n_grams(words_of(text), SPAN)}:
                spans[span].append(number)
        most = max(COMMON_ROWS, int(COMMON_SHARE * len(self._places)))
        self._spans = {span: found[0] for span, found in spans.items() if len(found) <= most}
        # What is common finds nothing, and still counts as shared.
        self._grams = {gram: found if len(found) <= most else [] for gram, found in grams.items()}
        self._marks = {mark for span in self._spans for mark in n_grams(span.split(" "), MARK)}

    def __len__(self) -> int:
        return len(self._places)

    def why(self, turns: Sequence[Message]) -> str | None:
        """Return why a conversation, or pair, counts as an evaluation row, with its place; None where it does not.

        The prompt is what users say, and of several turns each one alone too.
        """
        users = [turn.content for turn in turns if turn.role == "user"]
        prompts = [words_of(text) for text in (["\n".join(users), *users] if len(users) > 1 else users)]
        answers = [words_of(turn.content) for turn in turns if turn.role == "assistant"]
        for words in prompts:
            if (number := self._prompts.get(" ".join(words))) is not None:
                return f"{IN_EVALUATION}{SAME_PROMPT} as {self._places[number]}"
        for words in (*prompts, *answers):
            for span in self._likely_spans(words):
                if (number := self._spans.get(span)) is not None:
                    return (
                        f"{IN_EVALUATION}{SPAN} words in a row of {self._places[number]}: {excerpt(span)!r}"
                    )
        alike, earlier = max(map(self._nearest, prompts), default=_NONE)
        if alike < NEAR:
            return None
        return f"{IN_EVALUATION}near-duplicate of {self._places[-earlier]} (similarity {alike:.2f})"

    def _likely_spans(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the n-grams of ``SPAN`` words, of texts that may have one of the evaluation: most have none."""
        starts = range(0, len(words) - MARK + 1, MARK)
        if any(" ".join(words[start : start + MARK]) in self._marks for start in starts):
            yield from n_grams(words, SPAN)

    def _nearest(self, words: Sequence[str]) -> tuple[float, int]:
        """Return how similar the most similar prompt is, and less the number of its row, so that of equals the first is most."""
        grams = shingles(words)
        # Of a near-duplicate at least so many are known.
        if not grams or sum(gram in self._grams for gram in grams) < NEAR * len(grams):
            return _NONE
        near = {each for gram in grams for each in self._grams.get(gram, ())}
        asked = (self._asked[each] for each in near)
        return max(((jaccard(grams, others), -number) for number, others in asked), default=_NONE)


_NONE = (0.0, 0)


def evaluation_rows(
    given: Sequence[str | Source], *, columns: Mapping[str, Sequence[str]]
) -> Iterator[EvaluationRow]:
    """Yield the rows of evaluation files that have a text; a ``DataError`` where a file has none.

    A row of a format that `learnable load` reads is a conversation. Of any other, such as a question with choices, all
    texts count; its prompt is what a column such as ``question`` holds, alone and with all other texts.

    Args:
        given: Files, folders and patterns of them, hub ids, or folders that `learnable load` wrote.
        columns: Which column is which part of a conversation, where that was said.
    """
    for each in given:
        if isinstance(each, str) and is_pool(Path(each)):
            yield from _of_pool(Path(each))
            continue
        sources = locate(each)
        for name, source in zip(names_of(sources), sources, strict=True):
            # With the columns that were named, and as it would be read without.
            parsers = [
                Parser(format=None, columns=named, source_column=None, source=source.source)
                for named in ([columns] if columns else []) + [{}]
            ]
            found = False
            for number, record in enumerate(read_records(source)):
                prompts, texts = _texts(record, parsers)
                if texts:
                    found = True
                    yield EvaluationRow(place(name, row=number, line=record.line), prompts, texts)
            if not found:
                raise DataError(
                    f"{name} has no text to keep away from", hint=f"the evaluation file is {source.path}"
                )


def evaluation_digests(given: Sequence[str]) -> list[str]:
    """Return a hash of the content of each evaluation file, folder or pattern, without reading its rows."""
    return [
        pool_identity(load_pool(Path(each)))
        if is_pool(Path(each))
        else fingerprint([*map(digest_of, locate(each))])
        for each in given
    ]


def _of_pool(folder: Path) -> Iterator[EvaluationRow]:
    rows = (row for part in slices(load_pool(folder).conversations) for row in part.iter_rows(named=True))
    for number, row in enumerate(rows):
        yield EvaluationRow(
            place(folder.name, row=number, line=None), *_said([message_of(turn) for turn in row["messages"]])
        )


def _texts(record: Record, parsers: Sequence[Parser]) -> tuple[list[str], list[str]]:
    for parser in parsers:
        with suppress(ValueError):
            return _said(parser.parse(record)[0].turns)
    row = record.value or {}
    texts = list(texts_in(row))
    named = [text for key, value in row.items() if plain(key) in _ASKED for text in texts_in(value)]
    asked = named or [text for text in texts if len(words_of(text)) >= FEWEST_WORDS]
    return [*asked, "\n".join(texts)], texts


def _said(turns: Sequence[Message]) -> tuple[list[str], list[str]]:
    users = "\n".join(turn.content for turn in turns if turn.role == "user")
    return [users], [users, *(turn.content for turn in turns if turn.role == "assistant")]


def in_evaluation(rows: Frame) -> Frame:
    """Return the lines of a pool's ledger that were left out because they stand in an evaluation file."""
    return rows.filter(pl.col("reason").str.starts_with(IN_EVALUATION))


def way_found(avoided: pl.DataFrame) -> pl.DataFrame:
    """Return the rows left out with what they were found by as ``reason``, without the place of the evaluation row."""
    ways = f"^({IN_EVALUATION}(?:{SAME_PROMPT}|{SPAN} words in a row|near-duplicate))"
    return avoided.with_columns(reason=pl.col("reason").str.extract(ways))


def ways_found(avoided: pl.DataFrame) -> str:
    """Return by what the rows left out were found, for people: ``3 same prompt, 1 near-duplicate``."""
    found = way_found(avoided)["reason"].value_counts(sort=True)
    return ", ".join(f"{number:,} {way.removeprefix(IN_EVALUATION)}" for way, number in found.iter_rows())
