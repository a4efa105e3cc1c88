"""Preference pairs: their identity, and their two answers as conversations."""

from collections.abc import Sequence

from learnable.errors import DataError
from learnable.runs.identity import example_id, fingerprint
from learnable.types import Example, Message, Pair


def pair_of(prompt: Sequence[Message], chosen: Message, rejected: Message, *, source: str) -> Pair:
    """Return a pair with its identity; a ``DataError`` where an answer is not by the assistant, or both are the same."""
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer.role != "assistant":
            raise DataError(f"the {name} answer is by {answer.role!r}, not by the assistant")
    if chosen == rejected:
        raise DataError(f"both answers of a pair are the same: {chosen.content[:40]!r}")
    answers = [example_id([*prompt, answer]) for answer in (chosen, rejected)]
    return Pair(
        id=fingerprint(answers), prompt=tuple(prompt), chosen=chosen, rejected=rejected, source=source
    )


def answers_of(pair: Pair) -> tuple[Example, Example]:
    """Return the chosen and the rejected conversation, whose ids are those of the same conversations elsewhere."""

    def conversation(answer: Message) -> Example:
        messages = (*pair.prompt, answer)
        return Example(id=example_id(messages), messages=messages, source=pair.source, meta=pair.meta)

    return conversation(pair.chosen), conversation(pair.rejected)
