"""Instruction following with verifiable instructions (IFEval), by the checkers that lm-eval carries."""

import contextlib
import io
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from learnable.evaluators.kinds import ungraded
from learnable.evaluators.reading import Item, ItemSettings, Row, read_items, text
from learnable.packages import needed
from learnable.types import Example, Grade, Message

HUB_ID = "google/IFEval:train"
NEEDS_PUNKT = frozenset({"length_constraints:number_sentences", "change_case:capital_word_frequency"})
"""Instructions whose checkers split text with nltk's punkt_tab."""

_needed = partial(needed, by="ifeval", extra="evaluate")


@dataclass(frozen=True, kw_only=True)
class IFEval(ItemSettings):
    """Whether a completion follows all instructions of its prompt.

    Rows have ``prompt``, ``instruction_id_list`` and ``kwargs``; ``key`` is kept. Without a path the data set
    ``google/IFEval`` of the hub is read. The prompts with a sentence count or a count of capital words need nltk's
    ``punkt_tab``; without it they are ungradable, and nothing is downloaded.

    Args:
        mode: ``strict``, or ``loose``: also without first line, last line, or asterisks.
        max_new_tokens: Most tokens of a completion.

    Source: Zhou et al. 2023, arXiv:2311.07911, prompt-level accuracy.
    """

    packages: ClassVar[tuple[str, ...]] = ("lm-eval[ifeval]",)
    mode: Literal["strict", "loose"] = "strict"
    max_new_tokens: int = 512

    def read(self, path: str | None) -> list[Example]:
        """Return the prompts with their instructions."""
        return read_items(path or HUB_ID, _item, evaluator="ifeval", n=self.n, seed=self.seed)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return 1 if all instructions are followed, else 0 with those that are not; NaN where a checker cannot run."""
        instructions, checkers = list(example.meta["instruction_id_list"]), _checkers()
        lacking = sorted(NEEDS_PUNKT.intersection(instructions))
        if lacking and not _has_punkt():
            return ungraded(
                f"{', '.join(lacking)} needs nltk's punkt_tab: python -m nltk.downloader punkt_tab"
            )
        given = checkers.InputExample(
            key=0,
            instruction_id_list=instructions,
            prompt=example.messages[0].content,
            kwargs=[dict(settings or {}) for settings in example.meta["kwargs"]],
        )
        try:
            check = getattr(checkers, f"test_instruction_following_{self.mode}")
            followed = check(given, completion).follow_instruction_list
        except Exception as error:  # two dozen checkers, each with its own ways to fail on junk
            return ungraded(f"a checker failed: {error!r}"[:200])
        broken = [name for name, kept in zip(instructions, followed, strict=True) if not kept]
        return Grade(value=float(not broken), why=f"not followed: {', '.join(broken)}" if broken else "")


def _item(row: Row) -> Item:
    instructions, settings = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(instructions, list) or not isinstance(settings, list):
        instructions, settings = [], []
    if not instructions or len(instructions) != len(settings):
        raise ValueError("instruction_id_list and kwargs must be lists of the same length, and not empty")
    known = _checkers().instructions_registry.INSTRUCTION_DICT
    if unknown := [str(name) for name in instructions if name not in known]:
        raise ValueError(f"no checker for {', '.join(unknown)}")
    prompt = Message(role="user", content=text(row, "prompt"))
    return Item((prompt,), {"instruction_id_list": instructions, "kwargs": settings})


def _checkers() -> Any:
    """Return lm-eval's module of checkers; its import is kept from downloading what it would need."""
    nltk = _needed("nltk")
    download, nltk.download = nltk.download, lambda *_, **__: False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _needed("lm_eval.tasks.ifeval.utils")
    finally:
        nltk.download = download


def _has_punkt() -> bool:
    try:
        _needed("nltk").data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True
