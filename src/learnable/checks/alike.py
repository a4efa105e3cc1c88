"""Checks of rows against each other and against evaluation files: repeats, contradictions, overlap."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

from learnable.checks.check import Check, Checked, CheckedRow, Checks, Suspicion, between
from learnable.data.decontamination import IN_EVALUATION, NEAR
from learnable.data.overlap import jaccard, shingles, words_of

SAME_ANSWER = 0.6
"""Share of common words from which on the answers of near-duplicates say the same."""
CLOSED_WORDS = 12
"""Words up to which an answer is one that only one can be right of."""
COMMON_SENTENCE, COMMON_SHARE, SENTENCE_WORDS = 5, 0.005, 6
"""A sentence of so many words is boiler-plate where more answers than both have it."""
_NUMBER, _NAME = re.compile(r"\d+"), re.compile(r"(?<=[a-z,;:] )[A-Z]\w+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_YES, _NO = {"yes", "true", "correct"}, {"no", "false", "incorrect"}
_EMPTY_WORDS = {
    "the",
    "a",
    "an",
    "is",
    "are",
    "was",
    "were",
    "of",
    "in",
    "it",
    "to",
    "and",
    "at",
    "on",
    "by",
    "for",
}


def alike(
    grams: Sequence[Collection[str]], *, least: float, same: Callable[[int, int], bool]
) -> Iterator[tuple[int, int, float]]:
    """Yield each set that is like an earlier one, the position of the most similar of those, and how similar they are.

    Two sets are alike whose Jaccard similarity is at least ``least`` and that are the ``same`` otherwise. A set that is like an
    earlier one is not compared with later ones: sets of a kind are named by the first of them.

    Source: prefix filtering of exact set-similarity joins (Bayardo et al. 2007, All-Pairs): two such sets share one of their
    rarest elements, as many of them as either may lack, and one more.
    """
    counts = Counter(element for each in grams for element in each)
    place = {
        element: number
        for number, (element, _) in enumerate(sorted(counts.items(), key=lambda pair: pair[1]))
    }
    numbers = [frozenset(place[element] for element in each) for each in grams]
    index = defaultdict[int, list[int]](list)
    for later, own in enumerate(numbers):
        if not own:
            continue
        prefix = sorted(own)[: len(own) - math.ceil(least * len(own)) + 1]
        near = {earlier for element in prefix for earlier in index[element]}
        found = [(_jaccard(own, numbers[earlier]), -earlier) for earlier in near]
        found = [pair for pair in found if pair[0] >= least and same(later, -pair[1])]
        if found:
            similarity, earlier = max(found)
            yield later, -earlier, similarity
            continue
        for element in prefix:
            index[element].append(later)


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _particulars(question: str) -> tuple[object, ...]:
    """Return what makes a question another one though its words are alike: its numbers and names."""
    return tuple(sorted(_NUMBER.findall(question))), tuple(sorted({*_NAME.findall(question)}))


def _duplicate(checked: Checked) -> Iterator[Suspicion]:
    rows = checked.rows
    answers = [{*words_of(row.answer)} for row in rows]
    asked = [_particulars(row.question) for row in rows]
    grams = [{" ".join(gram) for gram in shingles(words_of(f"{row.question}\n{row.answer}"))} for row in rows]

    def same(one: int, other: int) -> bool:
        return asked[one] == asked[other] and jaccard(answers[one], answers[other]) >= SAME_ANSWER

    for later, earlier, similarity in alike(grams, least=NEAR, same=same):
        strength = between(0.5, 0.95, (similarity - NEAR) / (1 - NEAR))
        yield Suspicion(
            later, strength, f"near-duplicate of an earlier row (similarity {similarity:.2f})", earlier
        )


def _contradiction(checked: Checked) -> Iterator[Suspicion]:
    first: dict[tuple[str, ...], int] = {}
    for later, row in enumerate(checked.rows):
        asked = tuple(word for word in words_of(row.question) if word not in _EMPTY_WORDS)
        earlier = first.setdefault(asked, later)
        if earlier != later and (found := contradicting(row.answer, checked.rows[earlier].answer)):
            strength, how = found
            why = f"the same question has another answer in another row: {how}"
            yield Suspicion(later, strength, why, earlier)
            yield Suspicion(earlier, strength, why, later)


def contradicting(one: str, other: str) -> tuple[float, str] | None:
    """Return how strongly, and in what, two answers to one question contradict each other; None where they do not.

    They do where one says yes and one no, and where both are short and have other numbers, or no word in common.
    """
    words, others = words_of(one), words_of(other)
    if not words or not others or words == others:
        return None
    first, second = {words[0]}, {others[0]}
    if (first & _YES and second & _NO) or (first & _NO and second & _YES):
        return 0.6, "one says yes, one says no"
    if max(len(words), len(others)) > CLOSED_WORDS:
        return None
    numbers, theirs = ({*_NUMBER.findall(text)} for text in (one, other))
    if numbers and theirs:
        return None if numbers & theirs else (0.6, "other numbers")
    if not ({*words} - _EMPTY_WORDS) & ({*others} - _EMPTY_WORDS):
        return 0.4, "short answers without a word in common"
    return None


def _evaluation(checked: Checked) -> Iterator[Suspicion]:
    assert checked.evaluation is not None
    for row, example in enumerate(checked.examples):
        if why := checked.evaluation.why(example.messages):
            yield Suspicion(row, 0.9, why.replace(IN_EVALUATION, "stands in an evaluation file: "))


def _repeated(checked: Checked) -> Iterator[Suspicion]:
    """Sentences that stand in the answers of many rows, to questions that are not the same."""
    sentences = [list(_long_sentences(row)) for row in checked.rows]
    counts = Counter(sentence for each in sentences for sentence in set(each))
    most = max(COMMON_SENTENCE, COMMON_SHARE * len(sentences))
    for row, each in enumerate(sentences):
        often = max(each, key=lambda sentence: counts[sentence], default="")
        if counts[often] > most:
            why = f"a sentence that stands in {counts[often]:,} answers: {often[:80]!r}"
            yield Suspicion(row, between(0.35, 0.6, counts[often] / (10 * most)), why)


def _long_sentences(row: CheckedRow) -> Iterator[str]:
    for sentence in _SENTENCE.split(row.answer):
        words = words_of(sentence)
        if len(words) >= SENTENCE_WORDS and " ".join(words) not in " ".join(words_of(row.question)):
            yield " ".join(words)


ALIKE: Checks = {
    "duplicate": Check(
        about=f"the row shares at least {NEAR:.0%} of its word 3-grams and {SAME_ANSWER:.0%} of the words of its answer with an earlier one, and "
        "the numbers and names of its question",
        look=_duplicate,
    ),
    "contradiction": Check(
        about="the same question, but for small words, has an answer of yes and one of no, or short ones "
        f"(up to {CLOSED_WORDS} words) with other numbers or no word in common",
        look=_contradiction,
    ),
    "repeated": Check(
        about=f"a sentence of {SENTENCE_WORDS} words or more that stands in more than {COMMON_SENTENCE} answers and {COMMON_SHARE:.1%} of them",
        look=_repeated,
    ),
    "evaluation": Check(
        about="the row stands in a file given by --avoid: the same prompt, 13 words in a row, or nearly the same prompt",
        look=_evaluation,
        needs_evaluation=True,
    ),
}
