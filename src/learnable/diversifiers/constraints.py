"""``constraints``: what a row's answer happens to keep to, put into words and added to its question."""

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.keeping import content_words
from learnable.diversifiers.kinds import Diversified, Ledger, shortfall
from learnable.errors import UsageError, did_you_mean
from learnable.runs.identity import example_id
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
        """Return ``n`` variants of each row (3), fewer where no more differ; ``meta`` has ``constraints``, the kinds.

        Nothing is asked of ``draw``.
        """
        wanted, ledger = VARIANTS if n is None else n, Ledger()
        kept: list[Example] = []
        for example in examples:
            place = _answer_place(example.messages)
            if place is None:
                ledger.refuse("no answer after a user turn", text=_shown(example), parent=example.id)
                continue
            found = self._found(example.messages[place].content, example.messages[place - 1].content)
            if not found:
                ledger.refuse("no constraint holds of the answer", text=_shown(example), parent=example.id)
                continue
            kept += self._variants(example, place, found, n=wanted, seed=seed)
        notes = []
        if len(kept) < wanted * len(examples):
            of = f"{len(examples):,} rows, {wanted:,} variants of each where so many differ"
            notes.append(shortfall(wanted * len(examples), len(kept), ledger.frame, of=of))
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many rows it makes, in words."""
        return f"at most {VARIANTS if n is None else n:,} variants of each of {rows:,} rows"

    def _found(self, answer: str, question: str) -> dict[str, "_Holds"]:
        """Return by kind what holds of an answer."""
        holds = {kind: _RULES[kind](answer.strip(), question) for kind in self.kinds or _RULES}
        return {kind: held for kind, held in holds.items() if held is not None}

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
            meta = {
                "parent": example.id,
                "by": "constraints",
                "seed": drawn_by,
                "constraints": ", ".join(chosen),
            }
            identity = example_id(messages, tools=example.tools)
            made = replace(example, id=identity, messages=messages, meta=meta)
            variants.setdefault(made.id, made)
            if len(variants) == n:
                break
        return list(variants.values())


class _Holds(NamedTuple):
    """A constraint that holds: wordings with blanks, and what may fill these, texts of which ``most`` are drawn."""

    wordings: tuple[str, ...]
    fills: tuple[str, ...]
    most: int = 1


def _worded(held: _Holds, rng: np.random.Generator) -> str:
    chosen = sorted(rng.permutation(len(held.fills))[: held.most].tolist())
    return str(rng.choice(held.wordings)).replace("{}", _enumerated([held.fills[place] for place in chosen]))


def _enumerated(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _answer_place(messages: Sequence[Message]) -> int | None:
    """Return the place of the last assistant turn that follows a user turn; None where there is none."""
    places = range(len(messages) - 1, 0, -1)
    return next(
        (p for p in places if messages[p].role == "assistant" and messages[p - 1].role == "user"), None
    )


def _shown(example: Example) -> str:
    return example.messages[-1].content if example.messages else ""


def _length(answer: str, _question: str) -> _Holds | None:
    count = len(answer.split())
    if not count:
        return None
    step = next(step for most, step in ((20, 5), (100, 10), (500, 50), (count, 100)) if count <= most)
    low = (count - 1) // step * step
    held = f"{low + 1} to {low + step} words" if low else f"at most {step} words"
    return _Holds(
        ("Answer in {}.", "Use {}.", "Your answer should have {}.", "Keep the answer to {}.", "Write {}."),
        (held,),
    )


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
    wordings = ("Use the words {}.", "Include the words {}.", "The answer should contain {}.")
    return _Holds(wordings, tuple(f'"{word}"' for word in new), KEYWORDS)


def _keys(answer: str, _question: str) -> _Holds | None:
    for name, read in (("a JSON object", json.loads), ("a Python dictionary", _literal)):
        found = _object(answer, read)
        if found:
            keys = _enumerated([f'"{key}"' for key in found])
            plural = "s" if len(found) > 1 else ""
            wordings = (
                f"Answer with {name} with the key{plural} {{}}.",
                f"Write {name} that has the key{plural} {{}}.",
            )
            return _Holds((*wordings, f"The answer is {name}; its key{plural}: {{}}."), (keys,))
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
    words = answer.split()
    held = " ".join(words[:3])
    if len(words) < LONG or not re.match(r"\w", held) or '"' in held:
        return None
    return _Holds(
        ('Begin with "{}".', 'Let the answer begin with the words "{}".', 'Start with "{}".'), (held,)
    )


def _ends(answer: str, _question: str) -> _Holds | None:
    words = answer.split()
    held = " ".join(words[-3:])
    if len(words) < LONG or not re.search(r"\w[.!?]?\Z", held) or '"' in held:
        return None
    return _Holds(('End with "{}"', 'The last words should be "{}"', 'Finish with "{}"'), (held,))


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


def _object(text: str, read: Callable[[str], object]) -> dict[str, object]:
    """Return the object with text keys that a text is; empty where it is none."""
    try:
        found = read(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(key, str) for key in found) else {}


def _literal(text: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as an escape that Python does not know
        return ast.literal_eval(text)
