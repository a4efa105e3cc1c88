"""Multiple choice by likelihood."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from string import ascii_uppercase as LETTERS
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from learnable.evaluators.kinds import Kind, ungraded
from learnable.evaluators.reading import PROMPTS, Item, Row, RowSettings, text
from learnable.types import Example, Grade, Message

_FORMAT_LINE = re.compile(r"(?i)\banswer format:\s*(\S+(?:\s*/\s*\S+)+)\s*$")


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(RowSettings):
    """Whether the right choice is the likeliest answer.

    Rows have their choices in columns ``A``, ``B``, ... (MMLU), in a list ``choices`` (also with ``text`` and
    ``label``, as ARC), or inside the instruction with a last line ``Answer format: answer1/answer2``
    (LLM-Adapters). The row's ``answer`` is a label, a position (0-based) or the text of a choice.

    Args:
        candidates_are: ``labels``: the choices are shown, and the likelihood of each label is compared. ``texts``: the
            choices are not shown, and the likelihood of each text as answer is compared, which is the better
            question for small models; choices without texts (true/false) stay labels.
        normalize: ``tokens`` compares loss per token, ``none`` summed loss; both with the end of the turn.
        answer_template: The answer that is scored; ``{}`` stands for the choice.
        answer: Column of the right choice.
        source_column: Column that names the source of a row, such as ``subject`` or ``task``.
    """

    kind: ClassVar[Kind] = "likelihood"
    name: ClassVar[str] = "multiple_choice"
    candidates_are: Literal["labels", "texts"] = "labels"
    normalize: Literal["tokens", "none"] = "tokens"
    answer_template: str = "{}"
    answer: str = "answer"

    def item(self, row: Row) -> Item:
        """Return a row with a question, its choices, and the right one."""
        bare = asking = text(row, self.prompt_column, PROMPTS)
        choices = _choices_beside(row)
        if choices:
            shown = "\n".join(f"{label}. {choice}" for label, choice in choices.items())
            asking = f"{bare}\n\n{shown}\n\nAnswer with the letter of the right choice."
        else:
            bare, choices = _choices_inside(asking)
        by_text = self.candidates_are == "texts" and all(choices.values())
        written = {
            label: self.answer_template.replace("{}", choice if by_text else label)
            for label, choice in choices.items()
        }
        correct = _label_of(row.get(self.answer), choices)
        turns = [Message(role="user", content=bare if by_text else asking)]
        if correct:
            turns.append(Message(role="assistant", content=written[correct]))
        grading = {"labels": list(written), "candidates": list(written.values()), "correct": correct}
        return Item(tuple(turns), grading)

    def candidates(self, example: Example) -> tuple[tuple[Message, ...], ...]:
        """Return the question with each choice as its answer."""
        choices = example.meta["candidates"]
        return tuple((example.messages[0], Message(role="assistant", content=choice)) for choice in choices)

    def grade(self, example: Example, nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> Grade:
        """Return 1 if the right choice has the lowest loss, else 0; a tie is shared; NaN without a right choice."""
        labels, correct = list(example.meta["labels"]), example.meta["correct"]
        if correct not in labels:
            return ungraded(f"the row's answer is none of {', '.join(labels)}")
        if len(nll) != len(labels) or not np.isfinite(nll).all() or (tokens < 1).any():
            return ungraded("not every choice has a loss")
        losses = nll / tokens if self.normalize == "tokens" else nll
        best = [label for label, loss in zip(labels, losses, strict=True) if loss == losses.min()]
        value, answer = float(correct in best) / len(best), "/".join(best)
        why = "a tie" if len(best) > 1 else "" if value else f"expected {correct}"
        return Grade(value=value, answer=answer, why=why)


def _choices_beside(row: Row) -> dict[str, str]:
    """Return label to text from columns ``A``, ``B``, ... or ``choices``; empty if there are none."""
    given = row.get("choices")
    if isinstance(given, Mapping):
        return dict(zip(map(str, given["label"]), map(str, given["text"]), strict=True))
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) > len(LETTERS):
            raise ValueError(f"{len(given)} choices are more than there are letters")
        return dict(zip(LETTERS, map(str, given), strict=False))
    letters = list(takewhile(lambda letter: row.get(letter) is not None, LETTERS))
    return {letter: str(row[letter]) for letter in letters} if len(letters) > 1 else {}


def _choices_inside(question: str) -> tuple[str, dict[str, str]]:
    """Return the question without its choices, and label to text; the text is empty where only labels are given."""
    match = _FORMAT_LINE.search(question)
    if match is None:
        raise ValueError(
            "no choices: neither columns A, B, ..., nor choices, nor a line 'Answer format: a/b'"
        )
    labels = [label.strip() for label in match.group(1).split("/")]
    before = question[: match.start()].rstrip()
    found = [re.search(rf"(?i)(?<!\w){re.escape(label)}:\s*", before) for label in labels]
    marks = [mark for mark in found if mark is not None]
    starts = [mark.start() for mark in marks]
    if len(starts) < len(labels) or starts != sorted(starts):
        return before, dict.fromkeys(labels, "")
    ends = [*starts[1:], len(before)]
    texts = [before[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    return before[: starts[0]].rstrip(), dict(zip(labels, texts, strict=True))


def _label_of(answer: Any, choices: Mapping[str, str]) -> str:
    """Return the label of the right choice, empty if it is none of them."""
    labels = list(choices)
    if isinstance(answer, int) and not isinstance(answer, bool) and str(answer) not in choices:
        return labels[answer] if 0 <= answer < len(labels) else ""
    given = str(answer).strip()
    exact = [label for label in labels if label.casefold() == given.casefold()]
    by_text = [label for label, choice in choices.items() if choice and choice.strip() == given]
    return next(iter(exact or by_text), "")
