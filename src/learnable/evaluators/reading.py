"""Rows of an evaluation file as examples: the only place of this room that touches files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from learnable.data.records import place
from learnable.data.sources import base_name, locate, read_records
from learnable.data.turns import Turns
from learnable.errors import DataError, UsageError, did_you_mean
from learnable.runs.identity import example_id, fingerprint, turn_content
from learnable.runs.progress import say
from learnable.types import Example, Message

Row = Mapping[str, Any]

PROMPTS = ("prompt", "query", "question", "instruction", "text")
REFERENCES = ("reference", "response", "answer", "output", "completion")


@dataclass(frozen=True, kw_only=True)
class Item:
    """What an evaluator makes of a row.

    Args:
        messages: The prompt turns, and the reference answer as last assistant turn where there is one.
        grading: What grading needs beside the messages; part of the identity.
    """

    messages: tuple[Message, ...]
    grading: Mapping[str, Any]


def read_items(
    path: str | None,
    item: Callable[[Row], Item],
    *,
    evaluator: str,
    n: int | None,
    seed: int,
    source_column: str | None = None,
) -> list[Example]:
    """Return the distinct examples of a file, in its order; ``meta`` is the row with what grading needs.

    Args:
        path: A file, a folder or pattern of files, a folder written by ``datasets``, a hub id, or a starter set such
            as ``starter-task-test``.
        item: Makes an item of a row, or raises ``ValueError`` with the reason why it cannot.
        evaluator: Its name, for messages.
        n: How many examples to draw; None keeps all.
        seed: Seeds the draw.
        source_column: Column that names the source of a row; the name of the file when not given.

    Raises:
        DataError: If the file or a row of it cannot be read.
        UsageError: If no path is given.
    """
    if path is None:
        raise UsageError(f"{evaluator} needs a file", hint=f"write {evaluator}:PATH")
    examples = []
    for source in locate(path):
        name = base_name(source.kind, source.path)
        for number, record in enumerate(read_records(source.kind, source.path)):
            where = place(name, row=number, line=record.line)
            if record.value is None:
                raise DataError(f"{where}: {record.reason}", hint=record.hint)
            try:
                named = _source(record.value, source_column, default=source.source)
                made = item(record.value)
            except ValueError as error:
                raise DataError(f"{where}: {error}", hint=f"is this a file for {evaluator}?") from error
            meta = {**record.value, **made.grading}
            identity = item_id(made.messages, made.grading)
            examples.append(Example(id=identity, messages=made.messages, source=named, meta=meta))
    if not examples:
        raise DataError(f"{path} has no rows", hint="each row is an item to ask")
    return drawn(distinct(examples, path), n=n, seed=seed)


def item_id(messages: Sequence[Message], grading: Mapping[str, Any]) -> str:
    """Return the identity of an item: a hash of its turns and of what grading needs, if that is more than the turns."""
    if not grading:
        return example_id(messages)
    return fingerprint([[turn_content(message) for message in messages], dict(grading)])


def distinct(examples: Iterable[Example], name: str) -> list[Example]:
    """Return the examples without repeats; how many there were is said on standard error."""
    given = list(examples)
    first = {example.id: example for example in reversed(given)}
    kept = [example for example in given if first[example.id] is example]
    if len(kept) < len(given):
        say(f"{name}: {len(given) - len(kept):,} of {len(given):,} rows are repeats and count once")
    return kept


def drawn(examples: Sequence[Example], *, n: int | None, seed: int) -> list[Example]:
    """Return ``n`` of the examples in their order, chosen by a hash of each: more rows do not reshuffle the others.

    Raises:
        UsageError: If ``n`` is not above 0.
    """
    if n is None:
        return list(examples)
    if n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    chosen = {example.id for example in sorted(examples, key=lambda e: fingerprint([seed, e.id]))[:n]}
    return [example for example in examples if example.id in chosen]


def column(row: Row, name: str | None, usual: Sequence[str]) -> str:
    """Return the name of the column to use: the one that is asked for, else the first usual one with a value.

    Raises:
        ValueError: If there is none.
    """
    if name is not None:
        if name not in row:
            raise ValueError(f"no column {name!r}; {did_you_mean(name, row)}")
        return name
    found = next((usually for usually in usual if row.get(usually) is not None), None)
    if found is None:
        raise ValueError(f"none of the columns {', '.join(usual)} has a value; seen: {', '.join(row)}")
    return found


def text(row: Row, name: str | None, usual: Sequence[str] = ()) -> str:
    """Return the text of a column; a number is written out.

    Raises:
        ValueError: If the column is missing, empty, or neither text nor a number.
    """
    found = column(row, name, usual)
    value = row[found]
    written = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    if written is None:
        raise ValueError(f"column {found!r} is {type(value).__name__}, not text")
    if not written.strip():
        raise ValueError(f"column {found!r} is empty")
    return written


def asked(row: Row, name: str | None, *, suffix: str | None = None) -> tuple[Message, ...]:
    """Return the prompt turns of a row: its ``messages`` up to the last question, or one question.

    Args:
        row: The row.
        name: Column of the question; found when not given.
        suffix: Added to the last turn after an empty line.

    Raises:
        ValueError: If the row holds no question.
    """
    if name is None and row.get("messages") is not None:
        turns = _turns(row)
        while turns and turns[-1].role == "assistant":
            turns.pop()
        if not turns:
            raise ValueError("messages holds no question")
    else:
        question = text(row, name, PROMPTS)
        context = row.get("input") if name is None and row.get("instruction") == question else None
        if isinstance(context, str) and context.strip():
            question = f"{question}\n\n{context}"
        turns = [Message(role="user", content=question)]
    if suffix:
        turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n\n{suffix}")
    return tuple(turns)


def _turns(row: Row) -> list[Message]:
    """Return the turns in ``messages``.

    Raises:
        ValueError: If they cannot be read, or the row has tools, which no evaluator that generates offers to a model.
    """
    turns = Turns(set())
    messages = turns.read(row["messages"], "messages")
    turns.add_tools(row.get("tools"), "'tools'")
    if turns.tools:
        raise ValueError("a question with tools cannot be asked: heldout:PATH takes the loss of such rows")
    return messages


def answered(row: Row, name: str | None, usual: Sequence[str] = REFERENCES) -> str:
    """Return the reference answer of a row: a column, or the last assistant turn of its ``messages``.

    Returns:
        The text, empty if the row holds none: such a row is asked and counted as ungradable.

    Raises:
        ValueError: If no row of this kind could hold one: the column is not there.
    """
    if name is None and row.get("messages"):
        last = _turns(row)[-1]
        return last.content if last.role == "assistant" else ""
    if name is None:
        present = [usually for usually in usual if usually in row]
        name = next(
            (usually for usually in present if row[usually] is not None), present[0] if present else None
        )
    found = column(row, name, usual) if name is None or name not in row else name
    if row[found] is None or row[found] == "":
        return ""
    return text(row, found)


def _source(row: Row, name: str | None, *, default: str) -> str:
    if name is None:
        return default
    return str(row[column(row, name, ())])
