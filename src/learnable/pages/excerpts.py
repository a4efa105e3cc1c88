"""Examples to read: the best, those around the border, and the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SHORT_CHARACTERS = 500
_PREVIEW_CHARACTERS = 280
_FULL_CHARACTERS = 8_000
_SHOWN_MESSAGES = 12
_ROLES = {"system": "System", "user": "Question", "assistant": "Answer", "tool": "Result of a tool"}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: its text, the start to show while it is folded ("" = not folded), and characters left out."""

    role: str
    text: str
    preview: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """One example with its figures; ``state`` says whether it was chosen, or why not."""

    id: str
    source: str
    is_kept: bool
    state: str
    figures: tuple[tuple[str, str], ...]
    turns: tuple[Turn, ...]
    left_out: int


def turns_of(messages: Sequence[Mapping[str, str | None]] | None) -> tuple[tuple[Turn, ...], int]:
    """Return the first messages of a conversation, as they are shown, and how many more there are."""
    given = messages or ()
    turns = tuple(_turn(str(each["role"]), each["content"] or "") for each in given[:_SHOWN_MESSAGES])
    return turns, max(0, len(given) - _SHOWN_MESSAGES)


def _turn(role: str, text: str) -> Turn:
    folded = len(text) > _SHORT_CHARACTERS
    return Turn(
        role=_ROLES.get(role, role),
        text=text[:_FULL_CHARACTERS],
        preview=text[:_PREVIEW_CHARACTERS].rstrip() + "…" if folded else "",
        left_out=max(0, len(text) - _FULL_CHARACTERS),
    )
