"""Rows of an evaluation file as examples: the only place of this room that touches files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from learnable.data.records import place
from learnable.data.sources import base_name, locate, read_records
from learnable.data.turns import Turns
from learnable.errors import DataError, UsageError, did_you_mean
from learnable.evaluators.kinds import Kind
from learnable.runs.identity import example_id, fingerprint, turn_content
from learnable.runs.progress import say
from learnable.types import Example, Message

Row = Mapping[str, Any]

PROMPTS = ("prompt", "query", "question", "instruction", "text")
REFERENCES = ("reference", "response", "answer", "output", "completion")


class Item(NamedTuple):
    """What an evaluator makes of a row.

    ``messages``: the prompt turns, and the reference answer as last assistant turn where there is one.
    ``grading``: what grading needs beside the messages; part of the identity.
    """

    messages: tuple[Message, ...]
    grading: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ItemSettings:
    """What evaluators share, whatever their items are made of.

    Args:
        n: How many examples to draw; all when not given.
        seed: Seeds the draw.
    """

    kind: ClassVar[Kind] = "generation"
    unit: ClassVar[str] = "share correct"
    higher_is_better: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ()
    """What it imports when it is used; all of it comes with the extra ``evaluate``."""
    n: int | None = None
    seed: int = 0

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """Return the turns without the reference."""
        return question_of(example)


@dataclass(frozen=True, kw_only=True)
class RowSettings(ItemSettings):
    """What evaluators share whose items are the rows of a file: how a row is read.

    Args:
        prompt_column: Column of the question.
        answer: Column of the reference.
        source_column: Column that names the source of a row.
    """

    name: ClassVar[str]
    prompt_column: str | None = None
    answer: str | None = None
    source_column: str | None = None

    def read(self, path: str | None) -> list[Example]:
        """Return the rows of a file as examples, see ``read_items``."""
        return read_items(
            path, self.item, evaluator=self.name, n=self.n, seed=self.seed, source_column=self.source_column
        )

    def item(self, row: Row) -> Item:
        """Return the question of a row, with its reference; ``ValueError`` says why there is none."""
        return with_reference(asked(row, self.prompt_column), answered(row, self.answer))


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

    The path is a file, a folder or pattern of files, a folder written by ``datasets``, a hub id, or a starter set such
    as ``starter-task-test``. ``item`` makes an item of a row, or raises ``ValueError`` with the reason why it cannot.
    The other settings are those of ``RowSettings``; the source of a row is the name of its file where no column is given.

    Raises:
        DataError: If the file or a row of it cannot be read.
        UsageError: If no path is given.
    """
    if path is None:
        raise UsageError(f"{evaluator} needs a file", hint=f"write {evaluator}:PATH")
    examples = []
    for source in locate(path):
        name = base_name(source.kind, source.path)
        for number, record in enumerate(read_records(source)):
            where, row = place(name, row=number, line=record.line), record.value
            if row is None:
                raise DataError(f"{where}: {record.reason}", hint=record.hint)
            try:
                named = source.source if source_column is None else str(row[column(row, source_column, ())])
                messages, grading = item(row)
            except ValueError as error:
                raise DataError(f"{where}: {error}", hint=f"is this a file for {evaluator}?") from error
            identity, meta = item_id(messages, grading), {**row, **grading}
            examples.append(Example(id=identity, messages=messages, source=named, meta=meta))
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
    given, first = list(examples), dict[str, Example]()
    for example in given:
        first.setdefault(example.id, example)
    if len(first) < len(given):
        say(f"{name}: {len(given) - len(first):,} of {len(given):,} rows are repeats and count once")
    return list(first.values())


def drawn(examples: Sequence[Example], *, n: int | None, seed: int) -> list[Example]:
    """Return ``n`` of the examples in their order, chosen by a hash of each: more rows do not reshuffle the others."""
    if n is None:
        return list(examples)
    if n < 1:
        raise UsageError(f"n must be at least 1, got {n}")
    chosen = {example.id for example in sorted(examples, key=lambda e: fingerprint([seed, e.id]))[:n]}
    return [example for example in examples if example.id in chosen]


def column(row: Row, name: str | None, usual: Sequence[str]) -> str:
    """Return the name of the column to use: the one asked for, else the first usual one with a value; or ``ValueError``."""
    if name is not None:
        if name not in row:
            raise ValueError(f"no column {name!r}; {did_you_mean(name, row)}")
        return name
    found = next((usually for usually in usual if row.get(usually) is not None), None)
    if found is None:
        raise ValueError(f"none of the columns {', '.join(usual)} has a value; seen: {', '.join(row)}")
    return found


def text(row: Row, name: str | None, usual: Sequence[str] = ()) -> str:
    """Return the text of a column, a number written out; ``ValueError`` if it is missing, empty, or neither of them."""
    found = column(row, name, usual)
    value = row[found]
    written = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if not written.strip():
        fault = "empty" if written or value == "" else f"{type(value).__name__}, not text"
        raise ValueError(f"column {found!r} is {fault}")
    return written


def asked(row: Row, name: str | None, *, suffix: str | None = None) -> tuple[Message, ...]:
    """Return the prompt turns of a row: its ``messages`` up to the last question, or one question.

    Args:
        row: The row; ``ValueError`` if it holds no question.
        name: Column of the question; found when not given.
        suffix: Added to the last turn after an empty line.
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
    """Return the turns in ``messages``; ``ValueError`` for tools, which no evaluator that generates can offer."""
    turns = Turns(set())
    messages = turns.read(row["messages"], "messages")
    turns.add_tools(row.get("tools"), "'tools'")
    if turns.tools:
        raise ValueError("a question with tools cannot be asked: heldout:PATH takes the loss of such rows")
    return messages


def answered(row: Row, name: str | None, usual: Sequence[str] = REFERENCES) -> str:
    """Return the reference answer of a row: a column, or the last assistant turn of its ``messages``.

    It is empty if the row holds none: such a row is asked and counted as ungradable. ``ValueError`` says that no row of
    this kind could hold one: the column is not there.
    """
    if name is None and row.get("messages"):
        last = _turns(row)[-1]
        return last.content if last.role == "assistant" else ""
    if name is None:
        present = [usually for usually in usual if usually in row]
        name = next((usually for usually in present if row[usually] is not None), next(iter(present), None))
    found = column(row, name, usual)
    return "" if row[found] is None or row[found] == "" else text(row, found)


def with_reference(question: tuple[Message, ...], reference: str, **grading: Any) -> Item:
    """Return an item that is closed by its reference, if it has one."""
    closing = (Message(role="assistant", content=reference),) if reference else ()
    return Item((*question, *closing), {"reference": reference, **grading})


def question_of(example: Example) -> tuple[Message, ...]:
    """Return the turns of an example before its reference answer."""
    closed = bool(example.messages) and example.messages[-1].role == "assistant"
    return example.messages[:-1] if closed else example.messages
