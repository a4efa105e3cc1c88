"""``constraints``: what a row's answer happens to keep to, put into words and added to its question."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from learnable.diversifiers.drawing import Drawing, seed_of
from learnable.diversifiers.keeping import content_words, enumerated
from learnable.diversifiers.kinds import Diversified, Diversifier, Ledger, variant
from learnable.errors import UsageError, did_you_mean
from learnable.evaluators.format import literal
from learnable.types import Example

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
class Constraints(Diversifier):
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

    needs_generator: ClassVar[bool] = False
    each: int = 2
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.each < 1:
            raise UsageError(f"each must be at least 1, got {self.each}")
        for kind in self.kinds:
            if kind not in _WORDINGS:
                raise UsageError(f"no constraint called {kind!r}", hint=did_you_mean(kind, _WORDINGS))

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return ``n`` variants of each row (3), fewer where no more differ; ``meta`` has ``constraints``, the kinds."""
        wanted, ledger = n or VARIANTS, Ledger()
        kept: list[Example] = []
        for example in examples:
            turns = example.messages
            roles = [turn.role for turn in turns]
            answers = (
                p for p in range(len(turns) - 1, 0, -1) if roles[p - 1 : p + 1] == ["user", "assistant"]
            )
            place = next(answers, None)
            holds = _holding(turns[place].content.strip(), turns[place - 1].content) if place else {}
            found = {kind: holds[kind] for kind in self.kinds or holds if holds.get(kind)}
            if place and found:
                kept += self._variants(example, place, found, n=wanted, seed=seed)
            else:
                why = "no constraint holds of the answer" if place else "no answer after a user turn"
                ledger.refuse(why, text=turns[-1].content if turns else "", parent=example.id)
        of = f"{len(examples):,} rows, {wanted:,} variants of each where so many differ"
        notes = ledger.shortfall(wanted * len(examples), len(kept), of=of)
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many rows it makes, in words."""
        return f"at most {n or VARIANTS:,} variants of each of {rows:,} rows"

    def _variants(
        self, example: Example, place: int, found: Mapping[str, Sequence[str]], *, n: int, seed: int
    ) -> list[Example]:
        variants: dict[str, Example] = {}
        for number in range(TRIES * n):
            drawn_by = seed_of(seed, "constraints", example.id, number)
            rng = np.random.default_rng(drawn_by)
            chosen = rng.permutation(list(found))[: self.each].tolist()
            stated = " ".join(_worded(kind, found[kind], rng) for kind in chosen)
            asked = example.messages[place - 1]
            turn = replace(asked, content=f"{asked.content.rstrip()}\n\n{stated}")
            messages = (*example.messages[: place - 1], turn, *example.messages[place:])
            made = variant(example, messages, by="constraints", seed=drawn_by, constraints=", ".join(chosen))
            variants.setdefault(made.id, made)
            if len(variants) == n:
                break
        return list(variants.values())


_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "length": (
        "Answer in {}.",
        "Use {}.",
        "Your answer should have {}.",
        "Keep the answer to {}.",
        "Write {}.",
    ),
    "sentences": ("Answer in {}.", "Write {}.", "The answer should consist of {}.", "Use {}."),
    "paragraphs": ("Write {} paragraphs.", "Divide the answer into {} paragraphs."),
    "keywords": ("Use the words {}.", "Include the words {}.", "The answer should contain {}."),
    "keys": (
        "Answer with {} with the {} {}.",
        "Write {} that has the {} {}.",
        "The answer is {}; its {}: {}.",
    ),
    "list": ("Write a {0} list with {1} points.", "Give {1} points as a {0} list."),
    "code": ("Put the code into a code block.", "Show the code in a block between three backticks."),
    "begins": ('Begin with "{}".', 'Let the answer begin with the words "{}".', 'Start with "{}".'),
    "ends": ('End with "{}"', 'The last words should be "{}"', 'Finish with "{}"'),
}
"""Wordings of each kind, with blanks for what ``_holding`` found."""


def _holding(answer: str, question: str) -> dict[str, Sequence[str]]:
    """Return by kind what fills its wordings, nothing where it does not hold; of ``keywords``, all there are to draw."""
    words, parts = answer.split(), len(re.split(r"\n\s*\n", answer))
    points = {"numbered": len(_NUMBERED.findall(answer)), "bulleted": len(_BULLETED.findall(answer))}
    prose = answer[:1] not in "{[" and "```" not in answer and not any(points.values())
    ends = len(_END.findall(answer)) if prose and _END.search(answer[-3:]) else 0
    fitting = set(content_words(answer)) - set(content_words(question))
    new = [w for w in dict.fromkeys(re.findall(r"\w+", answer)) if w.isalpha() and w.lower() in fitting]
    first, last = " ".join(words[:3]), " ".join(words[-3:])
    return {
        "length": _range(len(words)) if words else (),
        "sentences": ("one sentence" if ends == 1 else f"{ends} sentences",) if 1 <= ends <= FEW else (),
        "paragraphs": (str(parts),) if prose and 2 <= parts <= FEW else (),
        "keywords": new if len(new) >= KEYWORDS else (),
        "keys": _keys(answer),
        "list": next(((name, str(n)) for name, n in points.items() if 2 <= n <= 2 * FEW), ()),
        "code": ("",) if len(re.findall("^```", answer, re.MULTILINE)) > 1 else (),
        "begins": (first,) if len(words) >= LONG and re.match(r'\w[^"]*\Z', first) else (),
        "ends": (last,) if len(words) >= LONG and re.search(r'\A[^"]*\w[.!?]?\Z', last) else (),
    }


def _range(count: int) -> tuple[str]:
    step = next(step for most, step in ((20, 5), (100, 10), (500, 50), (count, 100)) if count <= most)
    low = (count - 1) // step * step
    return (f"{low + 1} to {low + step} words" if low else f"at most {step} words",)


def _keys(answer: str) -> tuple[str, ...]:
    for name, read in (("a JSON object", json.loads), ("a Python dictionary", literal)):
        try:
            found = read(answer)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if found and isinstance(found, dict) and all(isinstance(key, str) for key in found):
            return name, "keys" if len(found) > 1 else "key", enumerated(list(found))
    return ()


def _worded(kind: str, held: Sequence[str], rng: np.random.Generator) -> str:
    # One number is drawn for each kind, so that all take as many.
    order = rng.permutation(len(held) if kind == "keywords" else 1)
    if kind == "keywords":
        held = [enumerated([held[place] for place in sorted(order[:KEYWORDS].tolist())])]
    return str(rng.choice(_WORDINGS[kind])).format(*held)
