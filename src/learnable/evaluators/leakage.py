"""The items of a benchmark as texts whose options stand in several orders: what a leak is looked for in."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from string import ascii_uppercase as LETTERS
from typing import Any, Literal, NamedTuple

import numpy as np

from learnable.errors import DataError, UsageError
from learnable.evaluators.lm_eval import LMEval
from learnable.evaluators.multiple_choice import MultipleChoice
from learnable.evaluators.table import Specification, build_evaluator, parse
from learnable.runs.identity import fingerprint

SUBJECTS = ("subject", "task", "category")
"""Columns that name the subject of an item, the first that a row has."""
ORDERS = 24
"""Orders of an item that are looked at when not said otherwise: all of those of four options."""
MOST_OPTIONS_IN_ALL_ORDERS = 8
MOST_OPTIONS = 10
OPTION = "{label}. {option}"
_READERS = re.compile(r"(multiple_choice|lm_eval)(?=[:@])")
_POINTS = re.compile(
    r"(?i)\b(all|none|both|neither|some|two|any)\s+of\s+(the\s+)?(above|these|them|following)\b"
    r"|^\W*(both\s+)?\(?[A-J]\)?\s*(,|and|or|&)\s*\(?[A-J]\)?\W*$|\ball\s+are\s+(correct|true)\b"
)
_TRUE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

Rendering = Literal["plain", "chat"]


@dataclass(frozen=True, kw_only=True)
class ChoiceItem:
    """A question with its options.

    Args:
        id: A hash of its content.
        subject: For the table by subject.
        question: Without its options.
        options: In the order of the benchmark.
        refused: Why it cannot be asked; empty where it can.
        points: Whether an option points at others ("all of the above"), so that their order has a meaning.
        leaked: The truth, where it is known.
    """

    id: str
    subject: str
    question: str
    options: tuple[str, ...]
    refused: str = ""
    points: bool = False
    leaked: bool | None = None

    def text(self, order: Sequence[int], *, option: str = OPTION) -> tuple[str, int]:
        """Return the item with its options in an order, and the character at which the first of them begins."""
        lines = [
            option.replace("{label}", LETTERS[place]).replace("{option}", self.options[number])
            for place, number in enumerate(order)
        ]
        head = f"{self.question}\n"
        return head + "\n".join(lines), len(head)

    def opening(self, place: int, *, option: str = OPTION) -> str:
        """Return the item up to the option at a place: what a model is given to complete it."""
        text, start = self.text(range(place), option=option)
        label = option.replace("{label}", LETTERS[place]).partition("{option}")[0]
        return (text[:start].rstrip("\n") if not place else text) + f"\n{label}".rstrip(" ")

    def orders(self, most: int | None) -> list[tuple[int, ...]]:
        """Return orders of the options, the original first: all, or so many, drawn by what the item is.

        Those that are drawn are distinct and none is likelier than another, so that a rank among them is as exact.
        """
        count = len(self.options)
        if most is None or math.factorial(count) <= most:
            return list(permutations(range(count)))
        rng = np.random.default_rng(int(fingerprint(["orders", self.id])[:16], 16))
        drawn = dict.fromkeys([tuple(range(count))])
        while len(drawn) < most:
            drawn[tuple(rng.permutation(count).tolist())] = None
        return list(drawn)


def check_orders(written: str) -> int | None:
    """Return how many orders are looked at: ``all`` is None.

    Raises:
        UsageError: If it is neither ``all`` nor a number of at least 2.
    """
    if written == "all":
        return None
    if not written.isdecimal() or int(written) < 2:
        raise UsageError(f"orders is all, or how many, at least 2: got {written!r}", hint="--orders 24")
    return int(written)


def check_option(option: str) -> str:
    """Return how an option is written; ``UsageError`` where its label or its text is missing."""
    if option.count("{option}") != 1 or "{label}" not in option.partition("{option}")[0]:
        raise UsageError(
            f"an option is written with a label and then its text, got {option!r}",
            hint=f"such as {OPTION!r}",
        )
    return option


def choice_items(written: str, *, truth: str | None = None, most: int | None = ORDERS) -> list[ChoiceItem]:
    """Return the items of a benchmark, distinct and in their order; those that cannot be asked say why.

    Args:
        written: A path, for the reader of multiple choice; ``multiple_choice:PATH@key=value``; or ``lm_eval:TASK``.
        truth: Column that says whether an item was trained on.
        most: Orders that are looked at, None for all.

    Raises:
        DataError: If the file cannot be read, or no item can be asked.
        UsageError: If a setting is not known.
    """
    if _READERS.match(written):
        specification = parse(written)
    else:
        specification = Specification(name="multiple_choice", path=written)
    evaluator: Any = build_evaluator(specification)
    read = _task_rows if isinstance(evaluator, LMEval) else _rows
    items = [_item(each, truth, most) for each in read(evaluator, specification.path)]
    if all(each.refused for each in items):
        reasons = Counter(each.refused for each in items)
        said = "; ".join(f"{count:,} x {reason}" for reason, count in reasons.most_common(3))
        raise DataError(
            f"no item of {written} can be asked in several orders: {said}",
            hint="an item has a question and the texts of 2 options or more",
        )
    return items


class _Read(NamedTuple):
    """A question with its options and their labels, what its subject is called where the row does not say, and the row."""

    question: str
    options: Sequence[str]
    labels: Sequence[str]
    subject: str
    row: Mapping[str, Any]
    named: Sequence[str] = SUBJECTS


def _rows(evaluator: MultipleChoice, path: str | None) -> Iterator[_Read]:
    named = SUBJECTS if evaluator.source_column is None else ()
    for each in replace(evaluator, candidates_are="texts", answer_template="{}").read(path):
        options, labels = each.meta["candidates"], each.meta["labels"]
        yield _Read(each.messages[0].content, options, labels, each.source, each.meta, named)


def _task_rows(evaluator: LMEval, path: str | None) -> Iterator[_Read]:
    """Read the items of a task: columns as of multiple choice where it has these, else what the task asks and offers."""
    reader = MultipleChoice(candidates_are="texts")
    for example, document, choices in evaluator.documents(path):
        try:
            turns, grading = reader.item(document)
        except (ValueError, KeyError, TypeError):
            yield _Read(example.messages[0].content, choices, LETTERS, example.source, document)
        else:
            options, labels = grading["candidates"], grading["labels"]
            yield _Read(turns[0].content, options, labels, example.source, document)


def _item(read: _Read, truth: str | None, most: int | None) -> ChoiceItem:
    bare = list(read.options) == list(read.labels)[: len(read.options)]
    options = () if bare else tuple(str(option).strip() for option in read.options)
    subjects = (str(read.row[name]) for name in read.named if read.row.get(name) is not None)
    return ChoiceItem(
        id=fingerprint([read.question, list(options)]),
        subject=next(subjects, read.subject),
        question=read.question.rstrip(),
        options=options,
        refused=_refused(options, most),
        points=any(_POINTS.search(option) for option in options),
        leaked=None if truth is None else _truth(read.row, truth),
    )


def _refused(options: tuple[str, ...], most: int | None) -> str:
    if not options:
        return "its options are labels without texts"
    if len(options) < 2:
        return "it has fewer than 2 options"
    if len(options) > MOST_OPTIONS:
        return f"it has more than {MOST_OPTIONS} options"
    if most is None and len(options) > MOST_OPTIONS_IN_ALL_ORDERS:
        return f"it has more than {MOST_OPTIONS_IN_ALL_ORDERS} options, too many for all orders: give --orders {ORDERS}"
    if not all(options):
        return "one of its options is empty"
    return "two of its options are the same" if len(set(options)) < len(options) else ""


def _truth(row: Mapping[str, Any], column: str) -> bool:
    value = _TRUE.get(str(row.get(column)).strip().lower())
    if value is None:
        raise DataError(
            f"the truth in column {column!r} is {row.get(column)!r}, neither true nor false",
            hint=f"columns of that row: {', '.join(map(str, row))}",
        )
    return value


def reproduced(completion: str, option: str) -> float:
    """Return how much of an option a completion has, as ROUGE-L: F1 of their longest common subsequence of words.

    As many words of the completion count as the option has.

    Source: n-gram accuracy of 2505.24263 (after Benbench), whose code takes a completion one token longer than the option,
        and stems words, which this does not.
    """
    wanted = re.findall(r"\w+", option.lower())
    words = re.findall(r"\w+", completion.lower())[: len(wanted)]
    if not wanted:  # signs alone
        return float(completion.strip().startswith(option))
    lengths = [0] * (len(wanted) + 1)
    for word in words:
        before = lengths[:]
        for place, other in enumerate(wanted, start=1):
            lengths[place] = (
                before[place - 1] + 1 if word == other else max(before[place], lengths[place - 1])
            )
    return 2 * lengths[-1] / (len(words) + len(wanted))
