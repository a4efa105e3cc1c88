"""One page of sections: what a section may hold, and the one template that writes all of them."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from learnable.packages import install, is_installed, needed
from learnable.pages import words
from learnable.pages.pictures import CONFIG, Picture
from learnable.runs.progress import say_once
from learnable.visible import visible

PAINTER = "vl_convert"
"""The package that holds the scripts of the pictures."""

_SIGNS = re.compile(r"([@/,:_])(?=.)")
_ROLES = {"system": "System", "user": "Question", "assistant": "Answer", "tool": "Result of a tool"}
_SHORT_CHARACTERS = 500
_PREVIEW_CHARACTERS = 280
_FULL_CHARACTERS = 8_000
_SHOWN_MESSAGES = 12


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; ``kind`` names its style, such as ``remark``."""

    words: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """The heading of a part of a section."""

    words: str


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list of sentences; one may be a pair of a style and a sentence."""

    items: Sequence[str | tuple[str, str]]
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Words and what they mean."""

    pairs: Sequence[tuple[str, str]]
    kind: str


@dataclass(frozen=True, kw_only=True)
class Keys:
    """A legend: the colour, the style and the words of each key."""

    keys: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table, with small print below it; ``share`` of its colour, from 0 to 1."""

    words: str
    small: str = ""
    kind: str = ""
    span: int = 1
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table that has a style of its own."""

    cells: Sequence[str | Cell]
    kind: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures.

    Args:
        caption: Says what they are; tables of a page have different ones.
        head: Names of the columns.
        over: A line above these, for columns that belong together.
        rows: Lines; the cell at ``heads`` names what the line is about.
        foot: The last line.
        heads: Column of the names of the lines.
        worded: Columns of words, which begin at the left.
        kind: Style.
        label: Name of the region that can be scrolled; the caption when empty.
    """

    caption: str
    head: Sequence[str | Cell]
    rows: Sequence[Row | Sequence[str | Cell]]
    over: Sequence[str | Cell] = ()
    foot: Sequence[str | Cell] = ()
    heads: int = 0
    worded: Sequence[int] = ()
    kind: str = ""
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: who said it ("" = not shown), its text, its start while folded ("" = not folded), characters left out."""

    role: str
    text: str
    preview: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a text, with its style, and the words that are shown when it is pointed at."""

    text: str
    kind: str
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Spans:
    """A text in pieces."""

    spans: Sequence[Span]


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """An example to read: where it is from, what is to be said of it, its figures, and its parts."""

    title: str
    parts: Sequence["Part"]
    note: str = ""
    figures: Sequence[tuple[str, str]] = ()
    kind: str = ""
    level: int = 4


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Parts that are seen once the summary is clicked."""

    summary: str
    parts: Sequence["Part"]
    is_open: bool = False
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Parts that are laid out together, as ``kind`` has it."""

    parts: Sequence["Part"]
    kind: str
    heading: str = ""
    level: int = 3


Part = (
    Text | Heading | Bullets | Terms | Keys | Table | Picture | Turn | Spans | Excerpt | Fold | Box | Markup
)
"""What a section may hold; markup is the page's own."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading; ``nav`` is its word in the list of parts, "" leaves it out of that."""

    id: str
    title: str
    parts: Sequence[Part]
    nav: str = ""
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a page begins with.

    Args:
        kicker: Above the headline.
        headline: What the page says, in one line.
        lead: A paragraph.
        tiles: The first figures: name, value and remark.
        first: A section before the list of parts.
        command: What it does, and the command.
        title: Of the window.
    """

    kicker: str
    headline: str
    lead: str
    tiles: Sequence[tuple[str, str, str]]
    command: tuple[str, str]
    title: str
    first: Section | None = None


def write_page(
    opening: Opening, sections: Iterable[Section], *, points: Mapping[str, list[Any]] | None = None
) -> str:
    """Write a self-contained page.

    The page makes no network request: its content security policy forbids all of them, and allows no script but the
    two it carries (by hash), so that texts from the data can never run.

    Args:
        opening: What it begins with.
        sections: What it says; one without parts is left out.
        points: Data that several pictures share, column by column.
    """
    sections = [section for section in sections if section.parts]
    pictures = [part for section in sections for part in _all(section.parts) if isinstance(part, Picture)]
    drawn = bool(pictures) and is_installed(PAINTER)
    if pictures and not drawn:
        say_once(f"the page is written without its pictures; they need more: {install('pages')}")
    scripts = [_inline(_vega()), _inline(_resource("page.js"))] if drawn else []
    payload = {
        "config": CONFIG,
        "points": points or {},
        "charts": {picture.name: picture.spec for picture in pictures},
    }
    page = _environment().get_template("page.html.j2")
    return str(
        page.render(
            opening=opening,
            sections=sections,
            style=Markup(_resource("style.css")),
            scripts=[Markup(script) for script in scripts],
            hashes=[
                base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
            ],
            payload=payload,
            drawn=drawn,
        )
    )


def markup(form: str, **values: Any) -> Markup:
    """Fill a form of markup: texts among the values stay texts."""
    return Markup(form).format(**{name: _shown(value) for name, value in values.items()})


def breakable(name: str) -> Markup:
    """Return a long name that may be broken after its signs."""
    if isinstance(name, Markup):
        return name
    parts = _SIGNS.sub(r"\1\n", visible(name)).split("\n")
    return Markup("<wbr>").join(escape(part) for part in parts)


def settings_table(caption: str, settings: Mapping[str, Any], *, label: str) -> list[Part]:
    """Return settings as a table; none where there are none."""
    rows = [(name, words.setting(value)) for name, value in settings.items()]
    return (
        [Table(caption=caption, label=label, kind="narrow", head=(), worded=(1,), rows=rows)] if rows else []
    )


def turns_of(messages: Sequence[Mapping[str, str | None]] | None) -> list[Part]:
    """Return the first messages of a conversation as they are shown, and how many more there are."""
    given = messages or ()
    parts: list[Part] = [
        turn_of(str(each["role"]), each["content"] or "") for each in given[:_SHOWN_MESSAGES]
    ]
    if not parts:
        return [Text(words="Its text was not given.", kind="remark")]
    if (more := len(given) - _SHOWN_MESSAGES) > 0:
        parts.append(
            Text(words=f"… and {words.plural(more, 'more message')}, not in this page.", kind="remark")
        )
    return parts


def turn_of(role: str, text: str) -> Turn:
    """Return a message as it is shown: a long one is folded, a very long one says what is missing."""
    folded = len(text) > _SHORT_CHARACTERS
    return Turn(
        role=_ROLES.get(role, role),
        text=text[:_FULL_CHARACTERS],
        preview=text[:_PREVIEW_CHARACTERS].rstrip() + "…" if folded else "",
        left_out=max(0, len(text) - _FULL_CHARACTERS),
    )


def _all(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield parts, and the parts inside them."""
    for part in parts:
        yield part
        if isinstance(part, Box | Fold | Excerpt):
            yield from _all(part.parts)


def _shown(value: Any) -> Any:
    """Return what the template writes for a value: texts may be of rows; markup is the page's own."""
    return visible(value) if type(value) is str else value


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("learnable.pages", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    compact = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    environment.policies["json.dumps_kwargs"] = compact
    environment.filters |= {
        "breakable": breakable,
        "count": words.count,
        "kind": lambda part: type(part).__name__,
    }
    return environment


@cache
def _vega() -> str:
    import altair as alt

    vl_convert = needed(PAINTER, by="a page with pictures", extra="pages")
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version))


def _resource(name: str) -> str:
    return files("learnable.pages").joinpath(name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script as it may stand in a page: no character or sequence that the HTML parser would change or end at."""
    return script.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
