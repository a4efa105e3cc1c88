"""``paraphrase``: the task's instruction in many wordings; what a row is about stays, and so does its answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from learnable.diversifiers.drawing import Drawing
from learnable.diversifiers.instructions import Where, find_instructions, with_user_turn
from learnable.diversifiers.keeping import lost, near_copy, stems
from learnable.diversifiers.kinds import Diversified, Diversifier, Ledger, variant
from learnable.diversifiers.rounds import ROUNDS, Refused, Thing, shown, until_enough
from learnable.errors import UsageError
from learnable.settings import Sampling
from learnable.types import Example, Message

REWRITES = 10
"""Rewrites of each instruction when nothing else is asked for."""
LONGER = 3.0
"""How many times longer or shorter than the instruction a rewrite may be, in characters."""

_RULES = (
    "Rewrite instructions: say the same in other words. Keep every number, name, quotation and placeholder as it is, "
    "and write the rewrite only."
)
_SHOWN = (
    "Sort the list from the oldest to the newest entry. Use the <tab> layout.",
    "Find the 2 spelling mistakes in the letter to {customer}.",
    'Tell me whether the review is "positive" or "negative", and nothing else.',
    "The recipe is in French. Rewrite it in German and keep all amounts.",
)
_OPENINGS = {
    "Your task is to": (
        "Your task is to arrange the entries of the list by age, oldest first, and to lay them out as <tab> says.",
        "Your task is to spot the 2 words that are misspelled in the letter to {customer}.",
        'Your task is to judge if the review is "positive" or "negative" and to say only that.',
        "Your task is to turn the French recipe into German without changing any amount.",
    ),
    "Please": (
        "Please put the entries of the list in order of age, beginning with the oldest, in the <tab> layout.",
        "Please look for the 2 spelling errors that the letter to {customer} contains.",
        'Please answer with "positive" or "negative" only, depending on what the review says.',
        "Please write the French recipe in German, with all amounts as they are.",
    ),
    "I would like you to": (
        "I would like you to order the list by date, the oldest entries first, following the <tab> layout.",
        "I would like you to point out the 2 misspelled words in the letter to {customer}.",
        'I would like you to call the review either "positive" or "negative" without adding anything.',
        "I would like you to translate the recipe from French to German and to leave the amounts alone.",
    ),
    "Could you": (
        "Could you bring the list into the <tab> layout, with the oldest entry on top and the newest at the end?",
        "Could you show me the 2 words that the letter to {customer} spells wrong?",
        'Could you say "positive" or "negative", whichever fits the review, and leave it at that?',
        "Could you give me the French recipe in German, amounts unchanged?",
    ),
    "You should": (
        "You should write the list in the <tab> layout and sort it by age, from old to new.",
        "You should read the letter to {customer} and name the 2 words with a spelling mistake.",
        'You should only say if the review is "positive" or "negative".',
        "You should render the French recipe in German; all amounts stay the same.",
    ),
    "The goal is to": (
        "The goal is to have the list sorted by age, oldest entry first, in the <tab> layout.",
        "The goal is to catch the 2 spelling mistakes that are in the letter to {customer}.",
        'The goal is to find out if the review is "positive" or "negative". Say no more than that.',
        "The goal is to have the French recipe in German with the same amounts.",
    ),
}
"""Ways to begin, each with rewrites of ``_SHOWN`` that begin so."""

_LABEL = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok)\b[^\n:]{0,60}[:!.]\s+|here(?:'s| is| are)\b[^\n:]{0,80}:\s*"
    r"|\**(?:the )?(?:(?:rewritten|rephrased|reworded|paraphrased|new|same) )?(?:instruction|rewrite|version)"
    r"(?: in other words)?s?\**:\**\s*)+",
    re.IGNORECASE,
)
_REPLY = re.compile(r"(?:i'?m sorry|i am sorry|sorry|as an ai|i can(?:no|')t|unfortunately)\b", re.IGNORECASE)
_MARKS = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "`": "`", "«": "»"}


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Diversifier):
    """The rows of a task with their instruction in other words, written by a model; contents and answers stay.

    Each draw shows four invented instructions with their rewrites, all of them beginning alike ("Your task is to",
    "Please" ...), and asks for one rewrite of the task's instruction that begins so too; the beginnings take turns. A
    rewrite is refused when it is empty, cut off or repetitive; when it has more paragraphs than the instruction or a
    length beyond a third to ``LONGER`` times of it; when it loses or adds a placeholder, a number or a quotation, or
    loses a name or a protected text; when it replies instead of rewriting; when it shares fewer content words with the
    instruction than ``kinship``; or when it is a near-copy of the instruction or of a rewrite before it (more than 0.8
    of their character 3-grams are the same). Refused ones are drawn again, at most ``4 n`` draws for an instruction.

    Args:
        where: Where in the first user turn the instruction stands: ``first``, ``last``, ``whole``, or ``auto``: see
            ``find_instructions``.
        protect: Further texts that a rewrite must keep where the instruction has them, such as words with a meaning
            of their own.
        kinship: Least share of the instruction's content words that its rewrite has, and of the rewrite's in it.

    Source: DELIA (arXiv 2408.10841), whose training file has 60 rewrites for 100 rows; who wrote them and how is not
        known, so prompt and gates are ours. The temperature is that of DELIA's buffer: with the starter model as many
        rewrites pass the gates as at 0.8, more than at 1.0, and fewer of those that pass say something else.
    """

    sampling: ClassVar[Sampling] = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=256)
    where: Where = "auto"
    protect: tuple[str, ...] = ()
    kinship: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.kinship <= 1:
            raise UsageError(f"kinship must be a share from 0 to 1, got {self.kinship}")

    def __call__(
        self, examples: Sequence[Example], *, n: int | None, draw: Drawing, seed: int
    ) -> Diversified:
        """Return every row in every rewrite of its instruction, ``n`` of each instruction (10) if so many pass.

        The rows keep their order, and the wordings of each are in the order accepted; the original wording is not
        among them. ``meta`` has ``instruction`` (the rewrite) and ``original``.
        """
        wanted = n or REWRITES
        found = find_instructions(examples, where=self.where)
        parents: dict[str, str] = {}
        for example, place in zip(examples, found.places, strict=True):
            parents.setdefault(place.instruction, example.id)
        things, ledger = [Thing(text, parent) for text, parent in parents.items()], Ledger()
        accepted = until_enough(
            things,
            n=wanted,
            seed=seed,
            draw=draw,
            ask=_asked,
            take=self._accepted,
            ledger=ledger,
            label=f"rewrites of {len(things):,} instruction{'s' * (len(things) != 1)}",
        )
        rewrites = dict(zip(parents, accepted, strict=True))
        kept = [
            variant(
                example,
                with_user_turn(example.messages, place.worded(rewrite.made)),
                by="paraphrase",
                seed=rewrite.seed,
                instruction=rewrite.made,
                original=place.instruction,
            )
            for example, place in zip(examples, found.places, strict=True)
            for rewrite in rewrites[place.instruction]
        ]
        notes = []
        if found.uncertain:
            notes.append(
                f"{found.uncertain:,} user turns of several paragraphs were rewritten whole, contents too, because no "
                "paragraph recurs: say where the instruction stands (where=first or where=last)"
            )
        draws = f"at most {ROUNDS} x {wanted:,} draws for each of {len(things):,} instructions"
        got = sum(map(len, accepted))
        notes += ledger.shortfall(wanted * len(things), got, of=draws, what="rewrites: ")
        if without := accepted.count([]):
            notes.append(
                f"{without:,} of {len(things):,} instructions have no rewrite, so their rows are not in it"
            )
        return Diversified(kept=kept, dropped=ledger.frame, notes=tuple(notes))

    def texts(self, examples: Sequence[Example], n: int | None) -> int:
        """Return how many texts it draws, if none is refused."""
        return (n or REWRITES) * len(find_instructions(examples, where=self.where).distinct)

    def price(self, *, rows: int, n: int | None) -> str:
        """Return how many texts it draws, in words."""
        wanted = n or REWRITES
        return f"{wanted:,} rewrites of each instruction, at most {ROUNDS * wanted:,} draws for each,"

    def _accepted(self, thing: Thing, drawn: str, before: Sequence[str]) -> str:
        """Return the rewrite in what was drawn; ``Refused`` if it is none, or none that is needed."""
        original, rewrite = thing.text, cleaned(drawn, thing.text)
        if not rewrite:
            raise Refused("empty")
        if _REPLY.match(rewrite) and not _REPLY.match(original):
            raise Refused("a reply instead of a rewrite")
        if len(re.findall(r"\n\s*\n", rewrite)) > len(re.findall(r"\n\s*\n", original)):
            raise Refused("more paragraphs than the instruction")
        if not len(original) / LONGER <= len(rewrite) <= len(original) * LONGER:
            raise Refused(f"too {'long' if len(rewrite) > len(original) else 'short'}")
        if missing := lost(original, rewrite, protect=self.protect):
            raise Refused(missing)
        if strays(original, rewrite, self.kinship):
            raise Refused("strays from the instruction")
        if near_copy(rewrite, [original]):
            raise Refused("near-copy of the instruction")
        if (copied := near_copy(rewrite, before)) is not None:
            raise Refused(f"near-copy of another rewrite: {copied}")
        return rewrite


def cleaned(drawn: str, original: str) -> str:
    """Return a rewrite without what models put around it: a label, a number, quotation marks."""
    text = _LABEL.sub("", drawn.strip()).strip()
    if not re.match(r"\d+[.)]\s", original):
        text = re.sub(r"\A\d+[.)]\s+", "", text)
    opening = text[:1]
    wrapped = len(text) > 1 and text[-1] == _MARKS.get(opening)
    if wrapped and original[:1] != opening and opening not in text[1:-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def strays(original: str, rewrite: str, kinship: float) -> bool:
    """Return whether too few content words are the same; an instruction without any is not strayed from."""
    before, after = stems(original), stems(rewrite)
    return bool(before) and len(before & after) < kinship * max(len(before), len(after))


def _asked(thing: Thing, number: int) -> tuple[Message, ...]:
    opening = list(_OPENINGS)[number % len(_OPENINGS)]
    ask = f'Say this instruction in other words, beginning with "{opening}": '
    # The rules stand in a user turn, as not every chat template takes a system turn.
    requests = [f"{_RULES}\n\n{ask}{_SHOWN[0]}", *(ask + instruction for instruction in _SHOWN[1:])]
    return shown(zip(requests, _OPENINGS[opening], strict=True), ask + thing.text)
