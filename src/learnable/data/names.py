"""What the names of columns say: which part of a conversation a column holds, and which columns leave that in doubt."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from learnable.errors import UsageError, did_you_mean

PARTS = {
    "messages": "turns",
    "system": "system",
    "history": "earlier turns",
    "prompt": "user",
    "context": "user",
    "reasoning": "reasoning",
    "response": "answer",
    "rejected": "rejected answer",
    "preferred": "which answer is better",
    "strength": "strength",
    "tools": "tools",
    "label": "wanted or not",
    "ignore": "nothing",
}
"""The parts that ``--columns`` can name, and what each becomes, in words."""

TURNS = ("messages", "conversations")
OTHER_TURNS = ("conversation", "dialogue", "dialog")
PROMPTS = ("prompt", "query", "question", "instruction", "problem")
OTHER_PROMPTS = ("inputs", "input", "user", "human")
COMPLETIONS = ("completion", "response", "solution", "answer", "output")
OTHER_COMPLETIONS = ("targets", "target", "assistant")
CONTEXTS = ("context", "input")
REASONINGS = ("reasoning_content", "reasoning", "thinking")
BESIDE = {
    "system": ("system", "system_prompt", "system_message", "system_instruction", "sys_prompt"),
    "history": ("history", "chat_history", "conversation_history"),
    "tools": ("tools", "functions"),
    "label": ("label", "kto_tag", "desirable", "is_desirable"),
}
"""Names of the parts that stand beside any conversation."""
CHOSEN = ("chosen", "preferred_output", "chosen_response")
REJECTED = ("rejected", "non_preferred_output", "rejected_response")
STRENGTHS = ("strength", "margin")
SCORES = re.compile(r"(chosen|rejected)_(?:score|rating)|(?:score|rating)_(chosen|rejected)")
PREFERRED = re.compile(r"preference|preferred|winner|better(_response_id)?|label|annotator_?\d+")
"""Columns that say which of two answers is better."""
OPTION = re.compile(r"(output|response|answer|completion|conversation)_?(\d|[a-h])")
"""Columns of answers that are compared, told apart by a number or a letter."""
OPTIONS = (("1", "2"), ("a", "b"), ("0", "1"))

NEVER_TEXT = ("media", "spans")
"""Doubts that no text of a conversation settles."""

# A name that ends so tells something about a row, and is no part of it.
_ABOUT = re.compile(
    r"ids?|idx|index|uuid|hash|key|name|type|kind|category|class|source|dataset|split|subset|domain|topic|tags?|lang|"
    r"language|license|url|link|date|time|timestamp|version|model|len|length|tokens|count|num|scores?|rating|quality|"
    r"difficulty|level|effort|budget|mode|cutoff|fingerprint|status|flag|enabled"
)
_MEDIA = re.compile(r"(.*_)?(images?|imgs?|audios?|videos?)(_?(urls?|paths?|files?|bytes|base64))?")
_CHOICE = re.compile(r"(options?|choices?|endings?|distractors?|op)_?([a-e]|\d)?")
_LETTERS = frozenset("abcdefgh")
_CONTEXT = re.compile(
    r"contexts?|passages?|documents?|article|paragraphs?|background|knowledge|evidence|story|table|schema|support"
)
_REASONING = frozenset(("reasoning", "thinking", "thought", "thoughts", "cot", "rationale"))
_SYSTEM = re.compile(r"(sys|system)(_.+|prompt)?")


@lru_cache(maxsize=10_000)
def plain(name: str) -> str:
    """Return a name without what people write differently: case, spaces and dashes inside."""
    return re.sub(r"(?<=\w)[ -](?=\w)", "_", name).casefold()


def doubt(name: str, names: Iterable[str]) -> str | None:
    """Return which part of a conversation a column may hold that no format reads; None where the name says none.

    ``name`` is that of the column, ``names`` are those of all columns of the row, plain.
    """
    if _MEDIA.fullmatch(name):
        return "media"
    if _CHOICE.fullmatch(name) or (name in _LETTERS and {"a", "b"} <= set(names)):
        return "choices"
    words = name.split("_")
    if name in ("train_detail", "training_detail"):
        return "spans"
    if _ABOUT.fullmatch(words[-1]):
        return None
    if not _REASONING.isdisjoint(words):
        return "reasoning"
    if _CONTEXT.fullmatch(words[-1]):
        return "context"
    return "system" if _SYSTEM.fullmatch(name) else None


def parse_columns(given: str | Mapping[str, str | Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Read which columns are which part: ``prompt=query_nl,response=shell_command``, or an object of the same.

    A part that is named again gets both columns. A text that begins with ``{`` is read as JSON: names with commas.
    """
    if given is None:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for part, columns in given.items() if isinstance(given, Mapping) else _pairs(given):
        if part not in PARTS:
            raise UsageError(
                f"columns: {part!r} is no part of a conversation", hint=did_you_mean(part, PARTS)
            )
        listed = [columns] if isinstance(columns, str) else columns
        named = tuple(listed) if isinstance(listed, list | tuple) else ()
        if not named or not all(isinstance(name, str) and name for name in named):
            raise UsageError(f"columns: {part} is {columns!r}, not the name of a column", hint=_EXAMPLE)
        found[part] = (*found.get(part, ()), *named)
    columns = [column for named in found.values() for column in named]
    if twice := {column for column in columns if columns.count(column) > 1}:
        raise UsageError(f"columns: {sorted(twice)[0]!r} is named twice", hint="give every column one part")
    for part, named in found.items():
        if len(named) > 1 and part not in ("prompt", "context", "ignore", "preferred", "strength"):
            raise UsageError(
                f"columns: {part} is one column, got {' and '.join(named)}", hint="name one of them"
            )
    return found


def _pairs(text: str) -> Iterable[tuple[str, str | Sequence[str]]]:
    if text.lstrip().startswith("{"):
        try:
            return list(dict(json.loads(text)).items())
        except ValueError as error:
            raise UsageError(f"columns: {text!r} is not valid JSON: {error}", hint=_EXAMPLE) from error
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if wrong := [part for part, equals, column in pairs if not equals or not column.strip()]:
        raise UsageError(f"columns: {wrong[0]!r} is not part=column", hint=_EXAMPLE)
    return [(part.strip(), column.strip()) for part, _, column in pairs]


_EXAMPLE = "write --columns prompt=query_nl,response=shell_command"
