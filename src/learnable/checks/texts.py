"""Checks of the text of single rows: cut off, in a wrong language, refused, boiler-plate, personal data."""

import ipaddress
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from learnable.checks.check import Check, Checked, Checks, Suspicion
from learnable.checks.languages import asks_for_a_language, language_of
from learnable.data.overlap import words_of
from learnable.diversifiers.gates import REPEATED, repeated_share

END_CHARACTERS = 60
"""Of an answer that looks cut off that are said."""
PROSE_WORDS = 12
"""Words of a last line, and more, that is prose: it ends with a sign."""
NO_END = "the last sentence has no end, others have one"
OFTEN = 0.02
"""Share of a source's rows that lack an end from which on that is a habit, and speaks little against a row."""
OPEN_WORDS = frozenset(
    {
        "the",
        "a",
        "an",
        "of",
        "and",
        "or",
        "to",
        "in",
        "with",
        "for",
        "that",
        "which",
        "by",
        "from",
        "as",
        "at",
        "is",
        "are",
    }
    | {"was", "were", "be", "on", "into", "than", "because"}
)
"""English words that no sentence ends with, as a rule."""
LOOP_WORDS = 12
"""Different words of a text below which it may be a list of classes, which repeats itself."""
MAIN_LANGUAGE = 0.8
"""Share of a source's rows whose language is known that are in its main language."""
_LISTED = re.compile(r"\s*(?:[-*•–]|\d+[.)]|[a-zA-Z][.)]|\|)")
_TAG = re.compile(r"(?:[#@]\S+|https?://\S+|www\.\S+)$")
"""A tag or an address, with which a text may well end."""
_CODE = re.compile(
    r"```|^\s*(?:def|class|import|from|return|SELECT|#include|<\w+|\$ |>>> )|[{};]\s*$|\w\(\)", re.MULTILINE
)

_REFUSALS = re.compile(
    r"\bas an? (?:ai|artificial intelligence)\b(?: language)?(?: model| assistant)?"
    r"|\bi(?:'|’)?m (?:just )?an ai\b|\bi am (?:just )?an ai\b"
    r"|^\W*(?:i(?:'|’)?m |i am )?(?:very |really |so )?(?:sorry|afraid)\b[^.!?\n]{0,60}\b(?:can(?:'|’)?t|cannot|can not|unable|not able|won(?:'|’)?t)\b"
    r"|^\W*(?:unfortunately,? )?i (?:can(?:'|’)?t|cannot|can not|am unable to|am not able to|won(?:'|’)?t) "
    r"(?:help|assist|provide|fulfil|comply|answer|do that|generate|access|complete|process|view|see)"
    r"|^\W*(?:es tut mir leid|désolé|je suis désolé|lo siento|mi dispiace|desculpe)\b",
    re.IGNORECASE,
)
_REFUSAL_CHARACTERS = 300
_BOILERPLATE: dict[str, re.Pattern[str]] = {
    "remains of a template": re.compile(
        r"^#{2,3} ?(?:Instruction|Response|Input|Human|Assistant|User|System)\b:?|\[/?INST\]|<\|[a-z_]+\|>|<</?SYS>>|</?s>"
        r"|^(?:Human|User): [\s\S]*^(?:Assistant|AI|Bot): ",
        re.MULTILINE,
    ),
    "remains of a page": re.compile(
        r"<br ?/?>|&nbsp;|&(?:amp|quot|lt|gt|#39);|\bwas this (?:\w+ )?helpful\b|\ball rights reserved\b|\bclick here\b|\bread more\b\W*$"
        r"|\bsubscribe to (?:our|my)\b|\baccept (?:all )?cookies\b|\bregenerate response\b|\bturn\d+search\d+\b|【\d+",
        re.IGNORECASE,
    ),
    "a place that was not filled in": re.compile(
        r"\blorem ipsum\b|\{\{ ?\w+ ?\}\}|\[(?:insert|your|enter|add)\b[^\]\n]{0,40}\]|<(?:insert|your)[^>\n]{0,40}>|<no(?:input|output)>|\bTODO\b|\bTBD\b",
        re.IGNORECASE,
    ),
    "characters that were decoded wrongly": re.compile(r"â€[™œ\x9d“”¦\x93\x94]|Ã[©¨¶¼¤±³]|\ufffd|ï»¿"),
}
_NOTHING = {
    "",
    "n a",
    "na",
    "nan",
    "none",
    "null",
    "no answer",
    "idk",
    "i don t know",
    "unknown",
    "test",
    "asdf",
    "answer",
    "output",
}

_EMAIL = re.compile(r"(?<![\w.])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b")
_NO_ONES = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|domain|email|company|mail|yourcompany|abc|xyz)\.\w+$|^(?:your|name|user|info|john\.?doe|jane\.?doe|someone|noreply)",
    re.I,
)
_PHONES = re.compile(
    r"(?<![\w.+])\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?![\w-])|(?<![\w.-])(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}(?![\w-])"
)
_CARD = re.compile(r"(?<![\d.,-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\d.,-]?\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_KEY = re.compile(
    r"\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{35}|\bhf_[A-Za-z]{30,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
)


def _cut(checked: Checked) -> Iterator[Suspicion]:
    found = {
        number: said
        for number, row in enumerate(checked.rows)
        if not row.calls and (said := cut_off(row.last))
    }
    sizes = Counter(row.source for row in checked.rows)
    loose = Counter(checked.rows[number].source for number, (_, why) in found.items() if why == NO_END)
    for number, (strength, why) in found.items():
        source = checked.rows[number].source
        usual = why == NO_END and loose[source] > OFTEN * sizes[source]
        end = " ".join(checked.rows[number].last.split())[-END_CHARACTERS:]
        yield Suspicion(number, 0.25 if usual else strength, f"{why}: …{end}")


def cut_off(text: str) -> tuple[float, str] | None:
    """Return how strongly a text looks cut off, and why; None where it does not."""
    text = text.rstrip()
    words = words_of(text)
    if len(words) < 4:
        return None
    if text.count("```") % 2:
        return 0.7, "a block of code is not closed"
    if _CODE.search(text):
        return None
    last = text.splitlines()[-1]
    if text[-1] in ",;([{–—/&" or (text[-1] == ":" and len(words) >= PROSE_WORDS):
        return 0.6, f"it ends with {text[-1]!r}"
    if words[-1] in OPEN_WORDS and text[-1].isalnum():
        return 0.6, f"it ends with the word {words[-1]!r}"
    if len(text) > len(text.rstrip(".")) + 2:
        return 0.4, "it ends with dots"
    inside = text[:-1]
    is_prose = len(words_of(last)) >= PROSE_WORDS and not _LISTED.match(last)
    if (
        is_prose
        and text[-1].isalnum()
        and not (_ends(text[-1]) or _TAG.search(text))
        and re.search(r"[.!?。！？]\s", inside)
    ):
        return 0.5, NO_END
    if last.rfind("(") > last.rfind(")"):
        return 0.4, "a bracket is not closed"
    return None


def _ends(sign: str) -> bool:
    """Tell whether a character ends a sentence: a sign, a bracket, or a letter of a script that has no signs."""
    return unicodedata.category(sign)[0] in "PS" or unicodedata.category(sign) == "Lo"


def _language(checked: Checked) -> Iterator[Suspicion]:
    answers = [language_of(row.answer) for row in checked.rows]
    known = defaultdict[str, Counter[str]](Counter)
    for row, language in zip(checked.rows, answers, strict=True):
        known[row.source].update([language] if language else [])
    main = {source: _main(counts) for source, counts in known.items()}
    for number, (row, language) in enumerate(zip(checked.rows, answers, strict=True)):
        usual = main[row.source]
        if not language or not usual or language == usual or asks_for_a_language(row.question):
            continue
        if (asked := language_of(row.question)) == language:
            yield Suspicion(number, 0.3, f"in {language}, where its source is in {usual}")
        else:
            why = f"answers in {language}" + (
                f" what is asked in {asked}" if asked else f", where its source is in {usual}"
            )
            yield Suspicion(number, 0.8, why)


def _main(counts: Counter[str]) -> str:
    (language, number), *_ = counts.most_common(1) or [("", 0)]
    return language if number >= MAIN_LANGUAGE * counts.total() else ""


def _refusal(checked: Checked) -> Iterator[Suspicion]:
    for number, row in enumerate(checked.rows):
        if found := _REFUSALS.search(row.answer[:_REFUSAL_CHARACTERS]):
            yield Suspicion(number, 0.6, f"refuses, or speaks as an AI: {' '.join(found[0].split())[:80]!r}")


def _boilerplate(checked: Checked) -> Iterator[Suspicion]:
    for number, row in enumerate(checked.rows):
        if not row.calls and " ".join(words_of(row.answer)) in _NOTHING:
            yield Suspicion(number, 0.8, f"the answer says nothing: {row.answer.strip()[:40]!r}")
            continue
        for what, pattern in _BOILERPLATE.items():
            found = pattern.search(row.answer)
            if found and found[0] not in row.question and "```" not in row.answer:
                yield Suspicion(number, 0.7, f"{what}: {' '.join(found[0].split())[:60]!r}")
                break
        share = repeated_share(row.answer)
        if share > REPEATED and len({*words_of(row.answer)}) >= LOOP_WORDS:
            yield Suspicion(
                number, 0.6, f"goes round in circles: {share:.0%} of its 4-word sequences are repeats"
            )


def _personal(checked: Checked) -> Iterator[Suspicion]:
    for number, row in enumerate(checked.rows):
        said = f"{row.question}\n{row.answer}"
        for what, (strength, find) in PERSONAL.items():
            if found := find(said):
                yield Suspicion(number, strength, f"{what}: {found[:24] + '…' * (len(found) > 24)!r}")
                break


def _matching(pattern: re.Pattern[str], holds: Callable[[str], bool]) -> Callable[[str], str | None]:
    return lambda text: next((found[0] for found in pattern.finditer(text) if holds(found[0])), None)


def is_card(number: str) -> bool:
    """Tell whether the digits of a number have the check digit of a credit card (Luhn, ISO/IEC 7812)."""
    digits = [int(sign) for sign in number if sign.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len({*digits}) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(number: str) -> bool:
    """Tell whether an IBAN has its check digits (ISO 13616: the rest of a division by 97 is 1)."""
    signs = number.replace(" ", "")
    turned = "".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])
    return 15 <= len(signs) <= 34 and int(turned) % 97 == 1


def _is_phone(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return (
        9 <= len(digits) <= 15
        and "555" not in digits
        and digits not in "12345678901234567890"
        and len({*digits}) > 3
    )


def _is_address(number: str) -> bool:
    try:
        found = ipaddress.IPv4Address(number)
    except ValueError:
        return False
    return found.is_global and max(found.packed) > 30


PERSONAL: dict[str, tuple[float, Callable[[str], str | None]]] = {
    "a key or token": (0.8, _matching(_KEY, lambda _: True)),
    "a credit card number": (0.8, _matching(_CARD, is_card)),
    "an IBAN": (0.8, _matching(_IBAN, is_iban)),
    "an e-mail address": (0.5, _matching(_EMAIL, lambda found: not _NO_ONES.search(found))),
    "a phone number": (0.45, _matching(_PHONES, _is_phone)),
    "an IP address": (0.35, _matching(_IP, _is_address)),
}
"""Kinds of personal data, the gravest first: how strongly one speaks against a row, and how it is found."""

TEXTS: Checks = {
    "cut": Check(
        about=f"the answer ends in the middle: an open block of code or bracket, a comma, a small word, or a last line of {PROSE_WORDS} words "
        "or more without an end after sentences with one",
        look=_cut,
    ),
    "language": Check(
        about=f"the answer is in another language or script than {MAIN_LANGUAGE:.0%} of its source, and the question names none",
        look=_language,
    ),
    "refusal": Check(about="the answer begins by refusing, or speaks as an AI", look=_refusal),
    "boilerplate": Check(
        about=f"remains of templates or pages, places not filled in, wrong decoding, no answer, or more than {REPEATED:.0%} repeats",
        look=_boilerplate,
    ),
    "personal": Check(
        about="keys, credit cards (Luhn), IBANs (mod 97), e-mail addresses, phone numbers, public IP addresses",
        look=_personal,
    ),
}
