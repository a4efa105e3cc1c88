"""What the columns of files were taken for, said with an example of each."""

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from learnable.data import base_name
from learnable.types import Example, Message, Pool
from learnable.visible import visible

FILES_SAID = 10
CHARACTERS = 80
"""Of each text of the example that is shown."""
TURNS_SHOWN = 4


def understood(pool: Pool) -> Iterator[str]:
    """Yield lines for people: for files that were taken for the same, what their columns became, and a conversation."""
    alike: dict[str, list[int]] = {}
    for position, file in enumerate(pool.files):
        if file.understood:
            alike.setdefault(file.understood, []).append(position)
    for said, positions in list(alike.items())[:FILES_SAID]:
        first = pool.files[positions[0]]
        more = f" and {len(positions) - 1:,} more" if len(positions) > 1 else ""
        yield f"{base_name(first.kind, first.path)}{more}: {said}"
        for example in _first(pool, positions):
            yield f"  example: {_shown(example)}"
    if len(alike) > FILES_SAID:
        yield f"{len(alike) - FILES_SAID:,} more kinds of files: pool.json of the pool says what they were taken for"


def _first(pool: Pool, files: list[int]) -> Iterator[Example]:
    own = pool.rows.filter(pl.col("file").is_in(files) & pl.col("reason").is_null()).head(1)
    frame = pool.examples.filter(pl.col("id").is_in(own["id"].to_list())).head(1)
    yield from replace(pool, examples=frame).iter_examples()


def _shown(example: Example) -> str:
    shown = example.messages[:TURNS_SHOWN]
    more = (
        [f"({len(example.messages) - len(shown)} more turns)"] if len(example.messages) > len(shown) else []
    )
    return " | ".join([*map(_turn, shown), *more])


def _turn(message: Message) -> str:
    calls = [f"{call.name}({_shortened(call.arguments)})" for call in message.tool_calls]
    thought = [f"({_shortened(message.reasoning)})"] if message.reasoning else []
    said = [_shortened(message.content)] if message.content else []
    role = message.role if message.trained else f"{message.role}, context only"
    return f"{role}: {' '.join([*thought, *said, *calls])}"


def _shortened(text: str) -> str:
    """Return the beginning of a text, with control characters as what they are called."""
    head = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"
    return visible(head).replace("\n", "\\n").replace("\t", "\\t")
