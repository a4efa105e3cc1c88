"""Texts to read: an example with its figures, the messages of a conversation, long ones folded."""

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from learnable.pages.page import class_of, joined, markup, remark
from learnable.pages.words import count, plural

_ROLES = {"system": "System", "user": "Question", "assistant": "Answer", "tool": "Result of a tool"}
_SHORT_CHARACTERS = 500
_PREVIEW_CHARACTERS = 280
_FULL_CHARACTERS = 8_000
_SHOWN_MESSAGES = 12


def excerpt(
    title: str,
    parts: Iterable[str],
    *,
    note: str = "",
    figures: Iterable[tuple[str, str]] = (),
    kind: str = "",
    level: int = 4,
) -> Markup:
    """An example to read: where it is from, a note, its figures, and its parts."""
    small = markup(" <small>{note}</small>", note=note) if note else ""
    form = "<div{kind}><dt>{name}</dt><dd>{value}</dd></div>"
    said = [
        markup(form, kind=class_of("id" if name == "id" else ""), name=name, value=value)
        for name, value in figures
    ]
    return markup(
        '<article class="excerpt {kind}">\n<header><h{level}><span dir="auto">{title}</span>{small}</h{level}>\n{figures}'
        "</header>\n{parts}\n</article>",
        kind=kind,
        level=level,
        title=title,
        small=small,
        figures=markup("<dl>{said}</dl>", said=joined(said)) if said else "",
        parts=joined(parts),
    )


def turns_of(messages: Sequence[Mapping[str, str | None]] | None) -> list[Markup]:
    """Return the first messages of a conversation as they are shown, and how many more there are."""
    given = messages or ()
    shown = [turn(str(each["role"]), each["content"] or "") for each in given[:_SHOWN_MESSAGES]]
    if (more := len(given) - _SHOWN_MESSAGES) > 0:
        shown.append(remark(f"… and {plural(more, 'more message')}, not in this page."))
    return shown or [remark("Its text was not given.")]


def turn(role: str, said: str) -> Markup:
    """Return a message as it is shown, with who said it."""
    form = '<div class="turn"><p class="role">{role}</p>\n<div>{said}</div></div>'
    return markup(form, role=_ROLES.get(role, role), said=said_in(said))


def said_in(said: str) -> Markup:
    """Return a text as it is shown: a long one is folded, a very long one says what is missing."""
    if not said.strip():
        return Markup('<div class="nothing">nothing</div>')
    whole = markup('<div class="text" dir="auto">{text}</div>', text=said[:_FULL_CHARACTERS])
    if len(said) <= _SHORT_CHARACTERS:
        return whole
    more = len(said) - _FULL_CHARACTERS
    return markup(
        '<details><summary><span class="text preview" dir="auto">{start}…</span><span class="more">whole text, {number} '
        "characters</span></summary>{whole}{more}</details>",
        start=said[:_PREVIEW_CHARACTERS].rstrip(),
        number=count(len(said)),
        whole=whole,
        more=remark(f"… and {more:,} more characters, not in this page.") if more > 0 else "",
    )
