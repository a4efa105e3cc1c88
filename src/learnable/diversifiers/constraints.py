"""``constraints``: what a row's answer happens to keep to, put into words and added to its question."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.keeping import content_words, enumerated
from learnable.diversifiers.kinds import Diversified, Ledger, variant
from learnable.errors import UsageError, did_you_mean
from learnable.evaluators.format import literal
from learnable.settings import Sampling
from learnable.types import Example, Message

VARIANTS = 3
"""Variants of each row when nothing else is asked for."""
TRIES = 4
"""Times ``n`` that a variant of a row is put together, in search of new ones."""
FEW = 5
"""Most sentences, paragraphs or points that a constraint counts."""
LONG = 6
"""Fewest words of an answer whose first or last three are told."""
KEYWORDS = 3
"""Most words that a constraint asks for."""

_END = re.compile(r"[.!?][\"')\]]*(?=\s|\Z)")
_NUMBERED = re.compile(r"^[ \t]*\d+[.)][ \t]+\S", re.MULTILINE)
_BULLETED = re.compile(r"^[ \t]*[-*\u2022][ \t]+\S", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Rows with constraints that their own answer keeps to, stated after the question; the answer stays.

    Rules find what holds of the last answer: ``length`` (a range of words), ``sentences``, ``paragraphs`` (a few of
    them), ``keywords`` (words of the answer that the question lacks), ``keys`` (a JSON object or Python dictionary and
    its keys), ``list`` (numbered or bulleted, how many points), ``code`` (in a code block), ``begins`` and ``ends``
    (with which three words). A variant states ``each`` of those that hold, drawn by the seed, in one of several
    wordings, as a paragraph of its own after the last user turn before the answer.

    Args:
        each: Constraints stated in a variant; fewer where fewer hold.
        kinds: Which kinds to state; all when not given.

    Source: controlled text generation with natural-language instructions, Zhou et al. 2023 (InstructCTG,
        arXiv 2304.14293), a baseline of DELIA (arXiv 2408.10841). Its syntactic, semantic and style constraints need
        taggers and classifiers and are left out; rules and wordings are ours.
    """

    needs_examples: ClassVar[bool] = True
    needs_generator: ClassVar[bool] = False
    sampling: ClassVar[Sampling] = Sampling()
    each: int = 2
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.each < 1:
            raise UsageError(f"each must be at least 1, got {self.each}")
        for kind in self.kinds:
            if kind not in _RULES:
                raise UsageError(f"no constraint called {kind!r}", hint=did_you_mean(kind, _RULES))

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return ``n`` variants of each row (3), fewer where no more differ; ``meta`` has ``constraints``, the kinds."""
        wanted, ledger = n or VARIANTS, Ledger()
        kept: list[Example] = []
        for example in examples:
            turns, found = example.messages, dict[str, _Holds]()
            place = _answer_place(turns)
            if place is not None:
                answer, question = turns[place].content.strip(), turns[place - 1].content
                holds = {kind: _RULES[kind](answer, question) for kind in self.kinds or _RULES}
                found = {kind: held for kind, held in holds.items() if held is not None}
            if place is None or not found:
                why = "no answer after a user turn" if place is None else "no constraint holds of the answer"
                ledger.refuse(why, text=turns[-1].content if turns else "", parent=example.id)
            else:
                kept += self._variants(example, place, found, n=wanted, seed=seed)
        of = f"{len(examples):,} rows, {wanted:,} variants of each where so many differ"
        notes = ledger.shortfall(wanted * len(examples), len(kept), of=of)
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many rows it makes, in words."""
        return f"at most {n or VARIANTS:,} variants of each of {rows:,} rows"

    def _variants(
        self, example: Example, place: int, found: Mapping[str, "_Holds"], *, n: int, seed: int
    ) -> list[Example]:
        variants: dict[str, Example] = {}
        for number in range(TRIES * n):
            drawn_by = seed_of(seed, "constraints", example.id, number)
            rng = np.random.default_rng(drawn_by)
            chosen = rng.permutation(list(found))[: self.each].tolist()
            stated = " ".join(_worded(found[kind], rng) for kind in chosen)
            asked = example.messages[place - 1]
            turn = replace(asked, content=f"{asked.content.rstrip()}\n\n{stated}")
            messages = (*example.messages[: place - 1], turn, *example.messages[place:])
            made = variant(example, messages, by="constraints", seed=drawn_by, constraints=", ".join(chosen))
            variants.setdefault(made.id, made)
            if len(variants) == n:
                break
        return list(variants.values())


class _Holds(NamedTuple):
    """A constraint that holds: wordings with blanks, and what fills these: of several, ``KEYWORDS`` are drawn, quoted."""

    wordings: tuple[str, ...]
    fills: tuple[str, ...]


def _worded(held: _Holds, rng: np.random.Generator) -> str:
    chosen = sorted(rng.permutation(len(held.fills))[:KEYWORDS].tolist())
    fill = held.fills[0] if len(held.fills) == 1 else enumerated([held.fills[place] for place in chosen])
    return str(rng.choice(held.wordings)).replace("{}", fill)


def _answer_place(messages: Sequence[Message]) -> int | None:
    """Return the place of the last assistant turn that follows a user turn; None where there is none."""
    places = range(len(messages) - 1, 0, -1)
    return next(
        (p for p in places if messages[p].role == "assistant" and messages[p - 1].role == "user"), None
    )


def _length(answer: str, _question: str) -> _Holds | None:
    count = len(answer.split())
    if not count:
        return None
    step = next(step for most, step in ((20, 5), (100, 10), (500, 50), (count, 100)) if count <= most)
    low = (count - 1) // step * step
    held = f"{low + 1} to {low + step} words" if low else f"at most {step} words"
    wordings = (
        "Answer in {}.",
        "Use {}.",
        "Your answer should have {}.",
        "Keep the answer to {}.",
        "Write {}.",
    )
    return _Holds(wordings, (held,))


def _sentences(answer: str, _question: str) -> _Holds | None:
    count = len(_END.findall(answer))
    if not _is_prose(answer) or not 1 <= count <= FEW or not _END.search(answer[-3:]):
        return None
    held = "one sentence" if count == 1 else f"{count} sentences"
    return _Holds(("Answer in {}.", "Write {}.", "The answer should consist of {}.", "Use {}."), (held,))


def _paragraphs(answer: str, _question: str) -> _Holds | None:
    count = len(re.split(r"\n\s*\n", answer))
    if not _is_prose(answer) or not 2 <= count <= FEW:
        return None
    return _Holds(("Write {} paragraphs.", "Divide the answer into {} paragraphs."), (str(count),))


def _keywords(answer: str, question: str) -> _Holds | None:
    fitting = set(content_words(answer)) - set(content_words(question))
    new = [w for w in dict.fromkeys(re.findall(r"\w+", answer)) if w.isalpha() and w.lower() in fitting]
    if len(new) < KEYWORDS:
        return None
    return _Holds(("Use the words {}.", "Include the words {}.", "The answer should contain {}."), tuple(new))


def _keys(answer: str, _question: str) -> _Holds | None:
    for name, read in (("a JSON object", json.loads), ("a Python dictionary", literal)):
        try:
            found = read(answer)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if found and isinstance(found, dict) and all(isinstance(key, str) for key in found):
            keys = "keys" if len(found) > 1 else "key"
            wordings = (
                f"Answer with {name} with the {keys} {{}}.",
                f"Write {name} that has the {keys} {{}}.",
            )
            return _Holds((*wordings, f"The answer is {name}; its {keys}: {{}}."), (enumerated(list(found)),))
    return None


def _list(answer: str, _question: str) -> _Holds | None:
    for name, pattern in (("numbered", _NUMBERED), ("bulleted", _BULLETED)):
        count = len(pattern.findall(answer))
        if 2 <= count <= 2 * FEW:
            wordings = (f"Write a {name} list with {{}} points.", f"Give {{}} points as a {name} list.")
            return _Holds(wordings, (str(count),))
    return None


def _code(answer: str, _question: str) -> _Holds | None:
    if len(re.findall("^```", answer, re.MULTILINE)) < 2:
        return None
    return _Holds(
        ("Put the code into a code block.", "Show the code in a block between three backticks."), ("",)
    )


def _begins(answer: str, _question: str) -> _Holds | None:
    held = " ".join(answer.split()[:3])
    wordings = ('Begin with "{}".', 'Let the answer begin with the words "{}".', 'Start with "{}".')
    return _Holds(wordings, (held,)) if _quotable(answer, held) and re.match(r"\w", held) else None


def _ends(answer: str, _question: str) -> _Holds | None:
    held = " ".join(answer.split()[-3:])
    wordings = ('End with "{}"', 'The last words should be "{}"', 'Finish with "{}"')
    ended = re.search(r"\w[.!?]?\Z", held)
    return _Holds(wordings, (held,)) if _quotable(answer, held) and ended else None


_RULES: Mapping[str, Callable[[str, str], _Holds | None]] = {
    "length": _length,
    "sentences": _sentences,
    "paragraphs": _paragraphs,
    "keywords": _keywords,
    "keys": _keys,
    "list": _list,
    "code": _code,
    "begins": _begins,
    "ends": _ends,
}


def _is_prose(answer: str) -> bool:
    return not (answer[:1] in "{[" or "```" in answer or _NUMBERED.search(answer) or _BULLETED.search(answer))


def _quotable(answer: str, held: str) -> bool:
    return len(answer.split()) >= LONG and '"' not in held
