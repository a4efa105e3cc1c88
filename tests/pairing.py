"""Pairs that tests make of turns, as reading makes them of rows."""

from learnable.data.pairs import context, identity_of
from learnable.errors import DataError
from learnable.types import Conversation, Pair


def pair_of(prompt, chosen, rejected, *, source, tools="", strength=None):
    """Return a pair with its identity; a ``DataError`` where an answer is not by the assistant, or both are the same.

    Earlier answers in the prompt become context: what a pair compares are its two answers.
    """
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer.role != "assistant":
            raise DataError(f"the {name} answer is by {answer.role!r}, not by the assistant")
    if chosen == rejected:
        raise DataError(f"both answers of a pair are the same: {chosen.content[:40]!r}")
    asked = context(prompt)
    both = Conversation(messages=(*asked, chosen), tools=tools, rejected=rejected)
    return Pair(
        id=identity_of(both),
        prompt=asked,
        chosen=chosen,
        rejected=rejected,
        source=source,
        tools=tools,
        strength=strength,
    )
