"""Markup of the pages: each function returns a piece; texts among the values stay texts."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from learnable.pages.code import coded
from learnable.pages.words import count, plural, setting
from learnable.visible import visible

Cells = Sequence[str]
"""Of a line of a table: texts, and cells with a style of their own."""

_SIGNS = re.compile(r"([@/,:_=]|[^\W_]{24})(?=.)")
_LONG = re.compile(r"\S{25,}")
_ROLES = {"system": "System", "user": "Question", "assistant": "Answer", "tool": "Result of a tool"}
_SHORT_CHARACTERS, _PREVIEW_CHARACTERS, _FULL_CHARACTERS = 500, 280, 8_000
_SHOWN_MESSAGES = 12


def markup(form: str, **values: Any) -> Markup:
    """Fill a form of markup; ``{kind}`` in it is the attribute of a style."""
    if "kind" in values:
        values["kind"] = Markup(' class="{}"').format(values["kind"]) if values["kind"] else Markup("")
    return Markup(form).format(**{name: shown(value) for name, value in values.items()})


def shown(value: Any) -> Any:
    """Return what is written for a value: texts may be of rows; markup is the page's own."""
    return visible(value) if type(value) is str else value


def joined(parts: Iterable[str]) -> Markup:
    """Put parts one after the other, each in a line."""
    return Markup("\n").join(parts)


def breakable(name: str) -> Markup:
    """Return a long name that may be broken after its signs, and within a part that no line has room for."""
    if isinstance(name, Markup):
        return name
    parts = _SIGNS.sub(r"\1\n", visible(name)).split("\n")
    return Markup("<wbr>").join(escape(part) for part in parts)


def eased(words: str) -> Markup:
    """Return a sentence in which long names may be broken after their signs."""
    if isinstance(words, Markup):
        return words
    parts, end = [], 0
    for long in _LONG.finditer(words):
        parts += [escape(visible(words[end : long.start()])), breakable(long[0])]
        end = long.end()
    return Markup("").join([*parts, escape(visible(words[end:]))])


def code_line(line: str) -> Markup:
    """Return a command or a path whose words are broken only where a line has no room for one: not at their dashes."""
    words = (Markup("<span>{}</span>").format(visible(word)) for word in line.split(" "))
    return Markup("<code>{}</code>").format(Markup(" ").join(words))


def text(words: str, kind: str = "") -> Markup:
    """A paragraph; ``kind`` names its style."""
    return markup("<p{kind}>{words}</p>", kind=kind, words=eased(words))


def remark(words: str) -> Markup:
    """A paragraph in small print."""
    return text(words, "remark")


def heading(words: str, level: int = 3) -> Markup:
    """The heading of a part of a section."""
    return markup("<h{level}>{words}</h{level}>", level=level, words=breakable(words))


def bullets(items: Iterable[str | tuple[str, str]], kind: str = "") -> Markup:
    """A list of sentences; one may be a pair of a style and a sentence."""
    pairs = [("", item) if isinstance(item, str) else item for item in items]
    lines = [markup("<li{kind}>{words}</li>", kind=style, words=eased(words)) for style, words in pairs]
    return markup("<ul{kind}>{lines}</ul>", kind=kind, lines=joined(lines))


def terms(pairs: Iterable[tuple[str, str]], kind: str) -> Markup:
    """Words and what they mean."""
    form = "<div><dt>{name}</dt><dd>{meaning}</dd></div>"
    lines = [markup(form, name=breakable(name), meaning=meaning) for name, meaning in pairs]
    return markup("<dl{kind}>{lines}</dl>", kind=kind, lines=joined(lines))


def keys(given: Iterable[tuple[str, str, str]]) -> Markup:
    """A legend: the colour, the style and the words of each key."""
    form = '<li class="{style}" style="--key: {colour}">{words}</li>'
    lines = [markup(form, colour=colour, style=style, words=words) for colour, style, words in given]
    return markup('<ul class="keys">{lines}</ul>', lines=joined(lines))


def fold(summary: str, parts: Iterable[str], *, is_open: bool = False, style: str = "") -> Markup:
    """Parts that are seen once the summary is clicked."""
    form = '<details class="instances {style}"{state}>\n<summary>{summary}</summary>\n{parts}\n</details>'
    state = Markup(" open" if is_open else "")
    return markup(form, style=style, state=state, summary=summary, parts=joined(parts))


def box(kind: str, parts: Iterable[str]) -> Markup:
    """Parts that are laid out together, as ``kind`` has it."""
    return markup("<div{kind}>\n{parts}\n</div>", kind=kind, parts=joined(parts))


def cell(words: str, small: str = "", *, kind: str = "", share: float | None = None) -> Markup:
    """A cell of a table with small print below it; ``share`` of its colour, from 0 to 1."""
    colour = Markup("") if share is None else markup(' style="--share: {share:.3f}"', share=share)
    below = markup("<small>{small}</small>", small=small) if small else ""
    return markup("<td{kind}{colour}>{words}{below}</td>", kind=kind, colour=colour, words=words, below=below)


def head_cell(words: str, small: str = "", *, scope: str = "col", kind: str = "", span: int = 1) -> Markup:
    """The name of a column or of a line, with small print after it."""
    return markup(
        '<th scope="{scope}" dir="auto"{kind}{span}>{words}{after}</th>',
        scope=scope,
        kind=kind,
        span=markup(' colspan="{span}"', span=span) if span > 1 else "",
        words=breakable(words),
        after=markup(" <small>{small}</small>", small=small) if small else "",
    )


def row(
    cells: Cells, kind: str = "", *, heads: int = 0, worded: Collection[int] = (), scope: str = "row"
) -> Markup:
    """A line of a table; ``table`` says what the arguments are. With the scope ``col`` all its cells are heads."""
    line = []
    for place, each in enumerate(cells):
        style = "word" if place in worded else ""
        if isinstance(each, Markup) and each.startswith(("<td", "<th")):
            line.append(each)
        elif scope == "row" and place == heads:
            line.append(head_cell(each, scope=scope))
        else:
            line.append(head_cell(each, kind=style) if scope == "col" and each else cell(each, kind=style))
    return markup("<tr{kind}>{cells}</tr>", kind=kind, cells=joined(line))


def table(
    caption: str,
    head: Cells,
    rows: Iterable[Cells | Markup],
    *,
    over: Cells = (),
    foot: Cells = (),
    heads: int = 0,
    worded: Collection[int] = (),
    kind: str = "",
    label: str = "",
) -> Markup:
    """Figures.

    Args:
        caption: Says what they are; tables of a page have different ones.
        head: Names of the columns.
        rows: Lines.
        over: A line above the names of the columns, for those that belong together.
        foot: The last line.
        heads: Column of the names of the lines.
        worded: Columns of words, which begin at the left.
        kind: Style.
        label: Name of the region that can be scrolled; the caption when empty.
    """
    above = [row(over, "over", scope="col")] if over else []
    names = markup("<thead>{lines}</thead>", lines=joined([*above, row(head, scope="col", worded=worded)]))
    lines = [each if isinstance(each, Markup) else row(each, heads=heads, worded=worded) for each in rows]
    return markup(
        '<div class="wide" role="region" aria-label="{label}" tabindex="0">\n<table{kind}>\n<caption>{caption}</caption>\n'
        "{head}<tbody>{lines}</tbody>{foot}\n</table>\n</div>",
        label=label or caption,
        kind=kind,
        caption=caption,
        head=names if head else "",
        lines=joined(lines),
        foot=markup("<tfoot>{row}</tfoot>", row=row(foot, heads=heads)) if foot else "",
    )


def settings_table(caption: str, settings: Mapping[str, Any], *, label: str) -> list[Markup]:
    """Return settings as a table; none where there are none."""
    rows = [(name, setting(value)) for name, value in settings.items()]
    return [table(caption, (), rows, label=label, kind="narrow", worded=(1,))] if rows else []


def excerpt(
    title: str,
    parts: Iterable[str],
    *,
    note: str = "",
    figures: Iterable[tuple[str, str]] = (),
    style: str = "",
    level: int = 4,
) -> Markup:
    """An example to read: where it is from, a note, its figures, and its parts."""
    form = "<div{kind}><dt>{name}</dt><dd>{value}</dd></div>"
    said = [
        markup(form, kind="id" if name == "id" else "", name=name, value=value) for name, value in figures
    ]
    return markup(
        '<article class="excerpt {style}">\n<header><h{level}><span dir="auto">{title}</span>{small}</h{level}>\n{figures}'
        "</header>\n{parts}\n</article>",
        style=style,
        level=level,
        title=title,
        small=markup(" <small>{note}</small>", note=note) if note else "",
        figures=markup("<dl>{said}</dl>", said=joined(said)) if said else "",
        parts=joined(parts),
    )


def turns_of(messages: Sequence[Mapping[str, str | None]] | None) -> list[Markup]:
    """Return the first messages of a conversation as they are shown, and how many more there are."""
    given = messages or ()
    turns = [turn(str(each["role"]), each["content"] or "") for each in given[:_SHOWN_MESSAGES]]
    if (more := len(given) - _SHOWN_MESSAGES) > 0:
        turns.append(remark(f"… and {plural(more, 'more message')}, not in this page."))
    return turns or [remark("Its text was not given.")]


def turn(role: str, said: str) -> Markup:
    """Return a message as it is shown, with who said it."""
    form = '<div class="turn"><p class="role">{role}</p>\n<div>{said}</div></div>'
    return markup(form, role=_ROLES.get(role, role), said=said_in(said))


def said_in(said: str) -> Markup:
    """Return a text as it is shown: a long one is folded, a very long one says what is missing."""
    if not said.strip():
        return Markup('<div class="nothing">nothing</div>')
    whole = markup('<div class="text" dir="auto">{text}</div>', text=coded(visible(said[:_FULL_CHARACTERS])))
    if len(said) <= _SHORT_CHARACTERS:
        return whole
    more = len(said) - _FULL_CHARACTERS
    return markup(
        '<details><summary><span class="text preview" dir="auto">{start}…</span><span class="more">whole text, {number} '
        "characters</span></summary>{whole}{more}</details>",
        start=coded(visible(said[:_PREVIEW_CHARACTERS].rstrip())),
        number=count(len(said)),
        whole=whole,
        more=remark(f"… and {more:,} more characters, not in this page.") if more > 0 else "",
    )
