"""Whether an answer keeps to a format: an object with the right keys, and the right label in it."""

import ast
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from learnable.errors import UsageError
from learnable.evaluators.exact_match import normalised
from learnable.evaluators.kinds import ungraded
from learnable.evaluators.reading import Item, Row, RowSettings, answered, asked, with_reference
from learnable.types import Example, Grade

Syntax = Literal["json", "python"]

_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Format(RowSettings):
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
        max_new_tokens: Most tokens of a completion.
    """

    name: ClassVar[str] = "format"
    keys: tuple[str, ...] = ()
    label: str | None = None
    syntax: Syntax = "json"
    check: Literal["all", "keys", "parses"] = "all"
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.label is not None and self.keys and self.label not in self.keys:
            raise UsageError(f"label={self.label} is none of keys={','.join(self.keys)}")

    def item(self, row: Row) -> Item:
        """Return a row with a question and, where keys or label come from it, a reference.

        Whatever is checked, the reference is part of a row's identity, by which rows are drawn.
        """
        question, reference = asked(row, self.prompt_column), ""
        if self.label is not None or not self.keys or self.answer is not None:
            try:
                reference = answered(row, self.answer)
            except ValueError:
                if self.check != "parses" or self.answer is not None:
                    raise
        return with_reference(question, reference)

    def grade(self, example: Example, completion: str) -> Grade:
        """Return 1 or 0; NaN when what is checked, the label or keys, is not in the reference."""
        expected, known = self._expected(str(example.meta.get("reference", "")))
        if self.check == "all" and self.label is not None and not expected:
            return ungraded(f"the reference has no {self.label!r}")
        keys = self.keys or known
        if self.check == "keys" and not keys:
            return ungraded("the reference is no object with keys, and keys= is not given")
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
        return _plain(found[self.label], self.syntax) if self.label in found else "", tuple(found)


def _object(text: str, syntax: Syntax) -> tuple[dict[Any, Any] | None, str]:
    """Return the object that a text is and how it is written, or None and why it is none."""
    fenced = _FENCE.fullmatch(text.strip())
    bare = (fenced.group(1) if fenced is not None else text).strip()
    if not bare:
        return None, "empty"
    name = "JSON" if syntax == "json" else "Python literal"
    try:
        found = json.loads(bare, parse_constant=_no_constant) if syntax == "json" else literal(bare)
        written = _written(found, syntax)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        # Python's own message ends with the address of what it stumbled over, or is empty where it ran out of stack.
        return None, f"no {name}: {str(error).partition(': <ast')[0] or 'nested too deeply'}"
    if not isinstance(found, dict):
        return None, f"{name}, but a {type(found).__name__} and no object"
    return found, written


def literal(text: str) -> Any:
    """Return the value of a Python literal; of another text, any error of ``ast.literal_eval``."""
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
    if missing := [key for key in keys if key not in found]:
        return f"lacks {', '.join(map(repr, missing))}"
    extra = [key for key in found if key not in keys] if keys else []
    return f"has {', '.join(map(repr, extra))} beside the keys" if extra else ""


def _plain(value: Any, syntax: Syntax) -> str:
    return normalised(value if isinstance(value, str) else _written(value, syntax))
