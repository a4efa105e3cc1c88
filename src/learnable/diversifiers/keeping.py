"""What another wording of a text must keep, and how near two wordings are."""

import re
from collections.abc import Sequence

NEAR_COPY = 0.8
"""Jaccard similarity of character 3-grams above which a wording is a copy of another.

The sixty rewrites in DELIA's own training file are at most 0.71 alike.
"""

NAMES = 0.25
"""Largest share of words with a capital for these to be taken as names."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)?")
_PLACEHOLDERS = re.compile(
    r"\{\{[^{}\n]{1,40}\}\}|\$?\{[^{}\n]{0,40}\}"  # {{name}}, {name}, {}, ${name}
    r"|</?[^\s<>/][^<>\n]{0,40}>"  # <sep>, </b>
    r"|\[[A-Z0-9][A-Z0-9_ -]{0,40}\]"  # [INPUT]
    r"|%\(\w+\)[sdf]|%[sdf]\b|_{3,}"  # %s, %(name)s, ___
)
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_NAMES = _WORD.findall("two three four five six seven eight nine ten eleven twelve")
_NAMED = {word: str(number) for number, word in enumerate(_NAMES, start=2)}
_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|`([^`\n]+)`|(?<!\w)['\u2018]([^'\u2019\n]+)['\u2019](?!\w)")
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "about above after also been before being below both could does doing each every following from given have having "
        "here into just keep like make must need needs only other over please provided should some such sure task than "
        "that their them then there these they this those through under until want were what when where whether which "
        "while will with without would write your yours"
    )
)


def placeholders(text: str) -> set[str]:
    """Return what stands for something else: ``{name}``, ``<sep>``, ``[INPUT]``, ``%s``, ``___``."""
    return set(_PLACEHOLDERS.findall(text))


def numbers(text: str) -> set[str]:
    """Return the numbers of a text, without those in placeholders; two to twelve count as digits when written out."""
    plain = _PLACEHOLDERS.sub(" ", text)
    named = {_NAMED[word] for word in words(plain) if word in _NAMED}
    return set(_NUMBER.findall(plain)) | named


def quotations(text: str) -> set[str]:
    """Return what stands in quotation marks or backticks."""
    return {next(filter(None, found)) for found in _QUOTED.findall(text)}


def names(text: str) -> set[str]:
    """Return the words with a capital that no sentence begins with.

    None where more than a quarter of such words have one: headings, and languages that write nouns so.
    """
    inner = [
        word
        for sentence in re.split(r"(?<=[.!?:])\s+|\n", _PLACEHOLDERS.sub(" ", text))
        for word in _WORD.findall(sentence)[1:]
    ]
    found = {word for word in inner if word[0].isupper() and word.partition("'")[0] != "I"}
    return found if sum(word in found for word in inner) <= NAMES * len(inner) else set()


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def lost(original: str, wording: str, *, protect: Sequence[str] = ()) -> str | None:
    """Return what a wording lacks of the original, or has beyond it, as a reason; None where it keeps all.

    Placeholders and numbers must be the same ones, in any order and number. Quotations, names, and those of
    ``protect`` that the original holds, must occur, be it in other case; what the wording puts into quotation marks
    must stand in the original.
    """
    for kind, of in (("placeholder", placeholders), ("number", numbers)):
        before, after = of(original), of(wording)
        if before - after:
            return f"lost {kind}: {_listed(before - after)}"
        if after - before:
            return f"added {kind}: {_listed(after - before)}"
    must = {
        "quotation": quotations(original),
        "name": names(original),
        "protected text": {text for text in protect if text in original},
    }
    for kind, texts in must.items():
        missing = {text for text in texts if text.lower() not in wording.lower()}
        if missing:
            return f"lost {kind}: {_listed(missing)}"
    added = {text for text in quotations(wording) if text.lower() not in original.lower()}
    return f"added quotation: {_listed(added)}" if added else None


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of the character 3-grams of two texts, case and punctuation left out, in [0, 1]."""
    first, second = _trigrams(one), _trigrams(other)
    return len(first & second) / len(first | second) if first or second else 1.0


def near_copy(wording: str, others: Sequence[str]) -> str | None:
    """Return the first of ``others`` that a wording copies: ``NEAR_COPY`` is exceeded; None where it copies none."""
    return next((other for other in others if similarity(wording, other) > NEAR_COPY), None)


def content_words(text: str) -> list[str]:
    """Return the words that carry a content, in lower case: four letters or more, no function words."""
    return [word for word in words(text) if len(word) >= 4 and word not in _FUNCTION_WORDS]


def stems(text: str) -> set[str]:
    """Return the first five letters of the content words, so that inflected forms are the same."""
    return {word[:5] for word in content_words(text)}


def enumerated(texts: Sequence[str], word: str = "and") -> str:
    """Return texts in quotation marks, one after the other: ``"a", "b" and "c"``."""
    quoted = [f'"{text}"' for text in texts]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {word} {quoted[-1]}"


def _trigrams(text: str) -> set[str]:
    plain = f" {' '.join(words(text))} "
    return {plain[start : start + 3] for start in range(len(plain) - 2)}


def _listed(found: set[str]) -> str:
    return ", ".join(sorted(found))
