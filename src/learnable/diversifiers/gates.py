"""What a generated text must pass: whole, not going round in circles, new, and none of what it must keep away from."""

from collections.abc import Iterable, Sequence
from typing import Any

from learnable.data.decontamination import NEAR, SPAN
from learnable.data.overlap import SAME_PROMPT, contamination, excerpt, jaccard, shingles, spoken, words_of
from learnable.packages import needed
from learnable.types import Answer, Example, Message

REPEATED = 0.3
"""Largest share of repeated word 4-grams."""

UNANSWERED = Answer("", finished=False)
"""Stands where a server failed to give an answer; it is told by what it is, as an answer may be empty too."""

_PERMUTATIONS, _BANDS = 128, 32


def repeated_share(text: str) -> float:
    """Return the share of the word 4-grams of a text that stood in it before, in [0, 1); 0 for one without any."""
    words = words_of(text)
    grams = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def failing(answer: Answer) -> str | None:
    """Return why a generated text is refused for itself: not there, empty, cut off or repetitive; else None.

    The limit of repetition is ours: lists, recipes and songs with a refrain stay below it, and so do 997 of 1,000
    answers of Alpaca, 999 of Dolly, and 992 of 1,000 answers in code. A model caught in a loop is soon above it.
    """
    if answer is UNANSWERED:
        return "unanswered"
    if not answer.text.strip():
        return "empty"
    if not answer.finished:
        return "cut off"
    share = repeated_share(answer.text)
    return f"repetition: {share:.0%} of its 4-word sequences are repeats" if share > REPEATED else None


class Neighbours:
    """The texts seen so far, to ask whether a new one is nearly one of them.

    Two texts are near-duplicates when at least ``NEAR`` of their word 3-grams are the same ones (Jaccard similarity;
    lower case, without punctuation). MinHash finds the few texts to compare with, their 3-grams decide; a pair at
    the limit is overlooked once in 6,000 times.

    Source: MinHash, Broder 1997; ours are 128 permutations in 32 bands.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._rensa: Any = needed("rensa", by="telling near-duplicates", extra="neighbours")
        self._index = self._rensa.RMinHashLSH(NEAR, _PERMUTATIONS, _BANDS)
        self._taken = list[str]()
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Take a text in; one without a word resembles nothing and is left out."""
        if grams := _grams(text):
            self._index.insert(len(self._taken), self._signature(grams))
            self._taken.append(text)

    def nearest(self, text: str) -> tuple[str, float] | None:
        """Return the most similar near-duplicate with its similarity; None where there is none."""
        if not (grams := _grams(text)):
            return None
        places = self._index.query(self._signature(grams))
        found = [(jaccard(grams, _grams(self._taken[place])), -place) for place in places]
        similarity, place = max(found, default=(0.0, 0))
        return (self._taken[-place], similarity) if similarity >= NEAR else None

    def why(self, text: str) -> str | None:
        """Return that a text is nearly one seen before, as a reason; None where it is new."""
        near = self.nearest(text)
        return f"near-duplicate: of {excerpt(near[0])!r}" if near else None

    def _signature(self, grams: Sequence[str]) -> Any:
        signature = self._rensa.RMinHash(_PERMUTATIONS, 0)
        signature.update(grams)
        return signature


class Avoided:
    """Examples that what is generated must keep away from: the task, evaluation sets; none avoids nothing."""

    def __init__(self, examples: Sequence[Example] = ()) -> None:
        self._texts = spoken((example.id, example.messages) for example in examples)
        self._prompts = Neighbours(self._texts["text"])

    def reasons(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """Return for each conversation why it is refused; None where it passes.

        It is refused when its user turns are those of an avoided example or nearly so, or when ``SPAN`` words in a
        row of its user turns or answers stand in one.
        """
        reasons: list[str | None] = [None] * len(conversations)
        if self._texts.is_empty():
            return reasons
        given = spoken((str(number), messages) for number, messages in enumerate(conversations))
        # The roles are turned around: what is avoided is the pool, so that each conversation gets a line of its own.
        for row in contamination(self._texts, given, n=SPAN).iter_rows(named=True):
            kind = "the same prompt" if row["kind"] == SAME_PROMPT else f"{SPAN} words in a row"
            reasons[int(row["item"])] = f"in a file to avoid: {kind}, {row['shared']!r}"
        for number, prompt in enumerate(given["text"]):
            if reasons[number] is None and (near := self._prompts.nearest(prompt)):
                reasons[number] = f"in a file to avoid: nearly {excerpt(near[0])!r}"
        return reasons


def alike(one: str, other: str) -> bool:
    """Tell whether two texts are near-duplicates, as ``Neighbours`` has it."""
    return jaccard(_grams(one), _grams(other)) >= NEAR


def _grams(text: str) -> list[str]:
    """Return the distinct word 3-grams of a text, sorted."""
    return sorted(" ".join(gram) for gram in shingles(words_of(text)))
