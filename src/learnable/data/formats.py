"""The shapes that fine-tuning rows come in: which columns each has.

Nothing is guessed: what cannot be read as a conversation that ends in an answer is refused with the reason.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from learnable.data.layout import ColumnLayout, preference_error
from learnable.data.names import (
    BESIDE,
    CHOSEN,
    COMPLETIONS,
    CONTEXTS,
    OPTION,
    OPTIONS,
    OTHER_COMPLETIONS,
    OTHER_PROMPTS,
    OTHER_TURNS,
    PREFERRED,
    PROMPTS,
    REASONINGS,
    REJECTED,
    SCORES,
    STRENGTHS,
    TURNS,
    doubt,
    plain,
)
from learnable.data.turns import as_turns
from learnable.data.values import Row, UnknownKeysError, UnusableRowError, shown_keys
from learnable.errors import did_you_mean
from learnable.types import Example, Pair

PREFERENCE = "preference"
"""Name of the format whose rows are pairs."""
Columns = Mapping[str, tuple[str, ...]]
"""Parts of a conversation, and the columns that hold them."""

_KNOWN = {
    "prompt": (*PROMPTS, "inputs"),
    "response": COMPLETIONS,
    "context": CONTEXTS,
    "reasoning": REASONINGS,
    "messages": (*TURNS, *OTHER_TURNS),
    **BESIDE,
}
"""Columns that some format reads: where another one reads something else instead, they are in doubt."""
_ALL_PROMPTS = (*PROMPTS, *OTHER_PROMPTS)
_ALL_COMPLETIONS = (*COMPLETIONS, *OTHER_COMPLETIONS)


class RowFormat(NamedTuple):
    """How one kind of row is told from others.

    ``keys`` says in words which keys tell it; ``columns`` gives the columns of each part of a conversation among the keys
    of a row, by their usual name where one is missing, or nothing.
    """

    keys: str
    columns: Callable[[Sequence[str]], Columns]


def format_of(keys: Sequence[str]) -> str | None:
    """Return the format that these keys tell; turns by another name count where nothing else does."""
    for name, known in FORMATS.items():
        parts = known.columns(keys)
        is_whole = {column for names in parts.values() for column in names} <= set(keys)
        if parts and is_whole and (name != "messages" or _first(keys, ("messages",))):
            return name
    return "messages" if _first(keys, OTHER_TURNS) else None


def find_layout(
    row: Row, *, format: str | None = None, columns: Mapping[str, Sequence[str]] | None = None
) -> ColumnLayout:
    """Return how the columns of a row make a conversation: the same for all rows with values in the same columns.

    A key without a value counts only when nothing else fits. ``format`` and ``columns`` are those that were named; a
    row that no format fits, or without a column that was named, is an ``UnusableRowError``.
    """
    given = {part: tuple(names) for part, names in (columns or {}).items()}
    ignored = given.pop("ignore", ())
    for part in ("messages", "prompt", "response"):
        for name in given.get(part, ()):
            if name not in row:
                raise UnusableRowError(
                    f"no column {name!r} to take the {part} from", hint=did_you_mean(name, row)
                )
    named = {*ignored, *(name for names in given.values() for name in names)}
    filled = [key for key, value in row.items() if value is not None]
    # A pair without one of its answers is a bad pair, and no conversation.
    sides = [key for key in row if plain(key) in (*CHOSEN, *REJECTED)]
    told = [key for key in row if key in filled or (key in sides and not {*sides}.isdisjoint(filled))]
    for keys in (told, list(row)):
        found, parts = _parts([key for key in keys if key not in named], format, given)
        if found is not None:
            # A format that was named leaves no doubt about its conversation.
            settled = {*given} if format is None else {*given, "messages", "prompt", "response"}
            return _layout(found, {**parts, **given}, filled, ignored=ignored, settled=settled)
    raise _unknown(row, format)


def _parts(keys: Sequence[str], format: str | None, given: Columns) -> tuple[str | None, Columns]:
    """Return the format that keys are of, and the columns of its parts; None where they are of none."""
    if "rejected" in given and format in (None, PREFERENCE):
        return PREFERENCE, _preference(keys, given)
    if format is None and "messages" in given:
        return "messages", {}
    if format is not None or not {"prompt", "response"} & given.keys():
        known = format_of(keys) if format is None else format
        parts = FORMATS[known].columns(keys) if known else {}
        return (known if parts else None), parts
    # To a prompt or an answer that was named belong the other one, and what stands beside them.
    turns = _first(keys, (*TURNS, *OTHER_TURNS))
    if "prompt" not in given and turns is not None and _first(keys, PROMPTS) is None:
        return "messages", {"messages": (turns,)}
    parts = _pair(keys, () if "prompt" in given else _ALL_PROMPTS, _ALL_COMPLETIONS)
    return ("prompt_completion", parts) if parts["response"] or "response" in given else (None, {})


def _layout(
    format: str, parts: Columns, filled: Sequence[str], *, ignored: Sequence[str], settled: set[str]
) -> ColumnLayout:
    """Return the layout of a format, with what stands beside the conversation and what is in doubt."""
    if "messages" in parts:
        unusable = {"prompt", "context", "history"} | (set() if "response" in parts else {"reasoning"})
        if wrong := [f"{part}={names[0]}" for part, names in parts.items() if names and part in unusable]:
            raise UnusableRowError(
                f"{wrong[0]} has no place beside turns ({parts['messages'][0]!r})",
                hint="name prompt and response as well, or leave it out: --columns ignore=...",
            )
    used = {*ignored, *(name for names in parts.values() for name in names)}
    free = [key for key in filled if key not in used]
    beside = {part: _all(free, names) for part, names in BESIDE.items() if part not in parts}
    if "messages" in parts:
        beside.pop("history", None)
    used.update(name for names in beside.values() for name in names)
    others = [key for key in filled if key not in used]
    plain_names = [plain(key) for key in filled]
    doubts = {key: _doubt(plain(key), plain_names, settled, whole="messages" in parts) for key in others}
    return ColumnLayout(
        format=format,
        doubts={key: part for key, part in doubts.items() if part is not None},
        others=(*others, *(key for key in ignored if key in filled)),
        **parts,
        **beside,
    )


def _doubt(name: str, names: Sequence[str], settled: set[str], *, whole: bool) -> str | None:
    """Return the part that a column may be which nothing reads."""
    for part, known in _KNOWN.items():
        if name in known:
            # Beside a whole conversation, which has its prompts and answers, others are what it was made of.
            return None if part in settled or (whole and part in ("prompt", "response")) else part
    return doubt(name, names)


def _first(keys: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the key that has the first of these names."""
    return next(iter(_all(keys, names)), None)


def _all(keys: Iterable[str], names: Sequence[str], *, besides: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the keys that have one of these names, in the order of the names."""
    found = [key for key in keys if plain(key) in names and key not in besides]
    return tuple(sorted(found, key=lambda key: names.index(plain(key))))


def _turns(*names: str) -> Callable[[Sequence[str]], Columns]:
    return lambda keys: {"messages": (_first(keys, names) or names[0],)}


def _pair(keys: Sequence[str], prompts: Sequence[str], completions: Sequence[str]) -> Columns:
    prompt = _all(keys, prompts)[:1]
    return {
        "prompt": prompt,
        "context": _all(keys, CONTEXTS, besides=prompt),
        "reasoning": _all(keys, REASONINGS),
        "response": _all(keys, completions)[:1],
    }


def _prompt_completion(keys: Sequence[str]) -> Columns:
    parts = _pair(keys, _ALL_PROMPTS, _ALL_COMPLETIONS)
    return parts if parts["prompt"] and parts["response"] else {}


def _alpaca(keys: Sequence[str]) -> Columns:
    parts = _pair(keys, ("instruction",), ("output",))
    usual = {"prompt": parts["prompt"] or ("instruction",), "response": parts["response"] or ("output",)}
    return {**parts, **usual}


def _preference(keys: Sequence[str], given: Columns | None = None) -> Columns:
    """Return the columns of two answers, or of two conversations with their prompt, and of which is better.

    ``given`` are the columns that were named; they are not among the keys.
    """
    named = given or {}
    chosen, rejected = _first(keys, CHOSEN), _first(keys, REJECTED)
    labels = tuple(key for key in keys if PREFERRED.fullmatch(plain(key)))
    parts: dict[str, tuple[str, ...]] = {}
    if "rejected" in named:
        whole = named.get("messages") if "response" not in named else None
        chosen = (named.get("response") or whole or (chosen or _first(keys, _ALL_COMPLETIONS),))[0]
        rejected = named["rejected"][0]
    elif (chosen is None or rejected is None) and labels and (options := _options(keys)):
        chosen, rejected = options
        parts["preferred"] = labels
    if chosen is None or rejected is None:
        return {}
    parts |= {"rejected": (rejected,), "strength": _strength(keys)}
    prompt = named.get("prompt", (None,))[0] or _first(keys, _ALL_PROMPTS)
    turns = _first(keys, (*TURNS, *OTHER_TURNS))
    if "messages" in named:
        return parts | ({} if named["messages"] == (chosen,) else {"response": (chosen,)})
    if prompt is None:
        return parts | (
            {"messages": (chosen,)} if turns is None else {"messages": (turns,), "response": (chosen,)}
        )
    context = _all(keys, CONTEXTS, besides=(prompt,))
    return parts | {"prompt": (prompt,), "context": context, "response": (chosen,)}


def _options(keys: Sequence[str]) -> tuple[str, str] | None:
    """Return the columns of two answers of one name, such as output_1 and output_2; where there are three, none are."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        if told := OPTION.fullmatch(plain(key)):
            found.setdefault(told[1], {})[told[2]] = key
    for marked in found.values():
        if tuple(sorted(marked)) in OPTIONS:
            one, other = sorted(marked)
            return marked[one], marked[other]
    return None


def _strength(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the column of a difference, or those of the scores of both answers."""
    scores = {told[1] or told[2]: key for key in keys if (told := SCORES.fullmatch(plain(key)))}
    both = (scores["chosen"], scores["rejected"]) if len(scores) == 2 else ()
    return _all(keys, STRENGTHS)[:1] or both


def as_row(example: Example | Pair) -> dict[str, Any]:
    """Return an example as a row of turns, with its source: what is written is read as the same."""
    turns = _pair_row(example) if isinstance(example, Pair) else {"messages": as_turns(example.messages)}
    return turns | ({"tools": example.tools} if example.tools else {}) | {"source": example.source}


def _pair_row(pair: Pair) -> dict[str, Any]:
    sides = {
        # What is not learned of a pair needs no mark.
        "prompt": [
            {key: value for key, value in turn.items() if key != "weight"} for turn in as_turns(pair.prompt)
        ],
        "chosen": as_turns([pair.chosen]),
        "rejected": as_turns([pair.rejected]),
    }
    return sides | ({} if pair.strength is None else {"strength": pair.strength})


FORMATS: dict[str, RowFormat] = {
    # The first one: rows of pairs may hold the chosen conversation under another key too.
    PREFERENCE: RowFormat("chosen and rejected, or two answers and which is better", _preference),
    "messages": RowFormat("messages", _turns("messages", *OTHER_TURNS)),
    "sharegpt": RowFormat("conversations", _turns("conversations")),
    "alpaca": RowFormat("instruction, input, output", _alpaca),
    "prompt_completion": RowFormat(
        f"one of {'/'.join(PROMPTS)} and one of {'/'.join(COMPLETIONS)}", _prompt_completion
    ),
}


def _unknown(row: Row, format: str | None) -> UnusableRowError:
    if preference := preference_error(list(row)):
        return preference
    if format == PREFERENCE:
        keys = f"{shown_keys(CHOSEN)} and one of {shown_keys(REJECTED)}"
        return UnusableRowError(f"none of the keys {keys} is there, nor two answers and a label")
    if format is not None:
        return UnusableRowError(
            f"none of the keys {', '.join(PROMPTS)} is there with one of {', '.join(COMPLETIONS)}"
        )
    return UnknownKeysError(f"no known format fits the keys: {shown_keys(row)}", hint=_hint(row))


def _hint(row: Row) -> str:
    words = ["messages", "conversations", "output", *PROMPTS, *COMPLETIONS]
    for key in (key for key in row if plain(key) not in words):
        close = difflib.get_close_matches(plain(str(key)), words, n=1, cutoff=0.75)
        if close:
            meant = f"did you mean {close[0]!r} instead of {shown_keys([key])}?"
            return f"{meant} Or say what the columns are: --columns prompt=...,response=..."
    known = "; ".join(f"{name} ({known.keys})" for name, known in FORMATS.items())
    return f"say what the columns are: --columns prompt=...,response=...; known formats: {known}"
