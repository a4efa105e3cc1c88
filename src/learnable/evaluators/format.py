"""Whether an answer keeps to a format: an object with the right keys, and the right label in it."""

import ast
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from learnable.errors import UsageError
from learnable.evaluators.exact_match import question_of
from learnable.evaluators.extraction import normalised
from learnable.evaluators.kinds import Kind
from learnable.evaluators.reading import Item, Row, answered, asked, read_items
from learnable.types import Example, Grade, Message

Syntax = Literal["json", "python"]

_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Format:
    """Whether a completion is an object with exactly the right keys, and the right value at one of them.

    The object may stand in a code fence; prose around it counts as a wrong format.

    Args:
        keys: The keys, in any order; those of the reference when not given and it is an object; else any.
        label: Key whose value must be the reference's, compared without case. The reference is an object with
            that key, or the value itself.
        syntax: ``json``; or ``python``: a dict literal, in which single quotes are right (the format of DELIA's own
            files; JSON whose values are texts and numbers is one too). Holds for completion and reference.
        check: ``all``; ``keys``: an object with the right keys, whatever the label; ``parses``: any object. The last
            two take the same settings and rows as the first, so that the three can stand side by side.
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
    syntax: Syntax = "json"
    check: Literal["all", "keys", "parses"] = "all"
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
        reference = self._reference(row)
        closing = (Message(role="assistant", content=reference),) if reference else ()
        grading = {"reference": reference}
        return Item(messages=(*asked(row, self.prompt_column), *closing), grading=grading)

    def _reference(self, row: Row) -> str:
        """Return the reference, whatever is checked: it is part of a row's identity, by which rows are drawn."""
        if self.label is None and self.keys and self.answer is None:
            return ""
        try:
            return answered(row, self.answer)
        except ValueError:
            if self.check == "parses" and self.answer is None:
                return ""
            raise

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """Return the turns without the reference."""
        return question_of(example)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return 1 or 0; NaN when what is checked, the label or keys, is not in the reference."""
        expected, known = self._expected(str(example.meta.get("reference", "")))
        if self.check == "all" and self.label is not None and not expected:
            return Grade(value=float("nan"), why=f"the reference has no {self.label!r}")
        keys = self.keys or known
        if self.check == "keys" and not keys:
            return Grade(
                value=float("nan"), why="the reference is no object with keys, and keys= is not given"
            )
        found, written = _object(completion, self.syntax)
        if found is None:
            return Grade(value=0.0, why=written)
        why = "" if self.check == "parses" else _wrong_keys(found, keys)
        if self.check == "all" and not why and self.label is not None:
            right = self.label in found and _plain(found[self.label], self.syntax) == expected
            why = "" if right else f"{self.label!r} is not {expected!r}"
        return Grade(value=float(not why), answer=written, why=why)

    def _expected(self, reference: str) -> tuple[str, tuple[str, ...]]:
        """Return the value that the label must have, and the keys of the reference."""
        found, _ = _object(reference, self.syntax)
        if found is None:
            return normalised(reference), ()
        value = _plain(found[self.label], self.syntax) if self.label in found else ""
        return value, tuple(found)


def _object(text: str, syntax: Syntax) -> tuple[dict[Any, Any] | None, str]:
    """Return the object that a text is and how it is written, or None and why it is none."""
    fenced = _FENCE.fullmatch(text.strip())
    bare = (fenced.group(1) if fenced is not None else text).strip()
    if not bare:
        return None, "empty"
    name = "JSON" if syntax == "json" else "Python literal"
    try:
        found = json.loads(bare, parse_constant=_no_constant) if syntax == "json" else _literal(bare)
        written = _written(found, syntax)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        # Python's own message ends with the address of what it stumbled over, or is empty where it ran out of stack.
        reason = str(error).partition(": <ast")[0] or "nested too deeply"
        return None, f"no {name}: {reason}"
    if not isinstance(found, dict):
        return None, f"{name}, but a {type(found).__name__} and no object"
    return found, written


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as an escape that Python does not know
        return ast.literal_eval(text)


def _written(value: Any, syntax: Syntax) -> str:
    """Return the value as text that can be stored: half a surrogate pair, which JSON lets pass, is escaped again."""
    text = json.dumps(value, ensure_ascii=False) if syntax == "json" else repr(value)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _wrong_keys(found: dict[Any, Any], keys: tuple[str, ...]) -> str:
    if not keys:
        return ""
    missing = [key for key in keys if key not in found]
    if missing:
        return f"lacks {', '.join(map(repr, missing))}"
    extra = [key for key in found if key not in keys]
    return f"has {', '.join(map(repr, extra))} beside the keys" if extra else ""


def _plain(value: Any, syntax: Syntax) -> str:
    return normalised(value if isinstance(value, str) else _written(value, syntax))
