"""Whether an answer keeps to a format: JSON with the right keys, and the right label in it."""

import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from learnable.errors import UsageError
from learnable.evaluating.exact_match import question_of
from learnable.evaluating.extraction import normalised
from learnable.evaluating.kinds import Kind
from learnable.evaluating.reading import Item, Row, answered, asked, read_items
from learnable.types import Example, Grade, Message

_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Format:
    """Whether a completion is a JSON object with exactly the right keys, and the right value at one of them.

    The object may stand in a code fence; prose around it counts as a wrong format.

    Args:
        keys: The keys, in any order; those of the reference when not given and it is a JSON object; else any.
        label: Key whose value must be the reference's, compared without case. The reference is a JSON object with
            that key, or the value itself.
        answer: Column of the reference.
        prompt_column: Column of the question.
        max_new_tokens: Most tokens of a completion.
        source_column: Column that names the source of a row.
        n: How many examples to draw; all when not given.
        seed: Seeds the draw.
    """

    kind: ClassVar[Kind] = "generation"
    unit: ClassVar[str] = "share correct"
    higher_is_better: ClassVar[bool] = True
    keys: tuple[str, ...] = ()
    label: str | None = None
    answer: str | None = None
    prompt_column: str | None = None
    max_new_tokens: int = 256
    source_column: str | None = None
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.label is not None and self.keys and self.label not in self.keys:
            raise UsageError(f"label={self.label} is none of keys={','.join(self.keys)}")

    def read(self, path: str | None) -> list[Example]:
        """Return rows with a question and, where keys or label come from it, a reference."""
        return read_items(
            path,
            self._item,
            evaluator="format",
            n=self.n,
            seed=self.seed,
            source_column=self.source_column,
        )

    def _item(self, row: Row) -> Item:
        needs_reference = self.label is not None or not self.keys or self.answer is not None
        reference = answered(row, self.answer) if needs_reference else ""
        closing = (Message(role="assistant", content=reference),) if reference else ()
        grading = {"reference": reference}
        return Item(messages=(*asked(row, self.prompt_column), *closing), grading=grading)

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """Return the turns without the reference."""
        return question_of(example)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return 1 or 0; NaN when the label is not in the reference."""
        reference = str(example.meta.get("reference", ""))
        expected, known = self._expected(reference)
        if self.label is not None and not expected:
            return Grade(value=float("nan"), why=f"the reference has no {self.label!r}")
        found, problem = _json_object(completion)
        if found is None:
            return Grade(value=0.0, why=problem)
        answer = json.dumps(found, ensure_ascii=False)
        why = _wrong_keys(found, self.keys or known)
        if not why and self.label is not None and _plain(found.get(self.label)) != expected:
            why = f"{self.label!r} is not {expected!r}"
        return Grade(value=float(not why), answer=answer, why=why)

    def _expected(self, reference: str) -> tuple[str, tuple[str, ...]]:
        """Return the value that the label must have, and the keys of the reference."""
        found, _ = _json_object(reference)
        if found is None:
            return normalised(reference), ()
        value = _plain(found[self.label]) if self.label in found else ""
        return value, tuple(found)


def _json_object(text: str) -> tuple[dict[str, Any] | None, str]:
    """Return the object that a text is, or None and why it is none."""
    fenced = _FENCE.fullmatch(text.strip())
    bare = fenced.group(1) if fenced is not None else text.strip()
    if not bare:
        return None, "empty"
    try:
        found = json.loads(bare, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return None, f"no JSON: {error}"
    if not isinstance(found, dict):
        return None, f"JSON, but a {type(found).__name__} and no object"
    return found, ""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _wrong_keys(found: dict[str, Any], keys: tuple[str, ...]) -> str:
    if not keys:
        return ""
    missing = [key for key in keys if key not in found]
    if missing:
        return f"lacks {', '.join(map(repr, missing))}"
    extra = [key for key in found if key not in keys]
    return f"has {', '.join(map(repr, extra))} beside the keys" if extra else ""


def _plain(value: Any) -> str:
    return normalised(value if isinstance(value, str) else json.dumps(value))
