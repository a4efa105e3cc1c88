"""One page of sections: what a section may hold, and the one template that writes all of them."""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from learnable.packages import install, is_installed, needed
from learnable.pages.words import setting
from learnable.runs.progress import say_once
from learnable.visible import visible

CONFIG: dict[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titlePadding": 8,
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "tickCount": 6,
    },
    "legend": {
        "labelColor": "var(--text)",
        "labelFontSize": 13,
        "symbolOpacity": 1,
        "columnPadding": 16,
        "orient": "top",
    },
    "text": {"color": "var(--text)", "fontSize": 12},
}
"""Of all pictures."""
PAINTER = "vl_convert"
"""The package that holds the scripts of the pictures."""

_SIGNS = re.compile(r"([@/,:_])(?=.)")


Cells = Sequence[str]
"""Of a line of a table: texts, and cells with a style of their own."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart.

    Args:
        name: Unlike those of all other pictures of the page.
        spec: Its Vega-Lite specification.
        label: What it shows, in one sentence for those who cannot see it.
        remark: On its limits.
        caption: How to read it.
    """

    name: str
    spec: dict[str, Any]
    label: str
    remark: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Panels:
    """Small pictures side by side."""

    pictures: Sequence[Picture]
    kind: str = "panels"


Part = Markup | Picture | Panels
"""What a section may hold."""


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
    parts = [part for section in sections for part in section.parts]
    pictures = [part for part in parts if isinstance(part, Picture)]
    pictures += [picture for part in parts if isinstance(part, Panels) for picture in part.pictures]
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
            first=_section(opening.first, drawn=drawn) if opening.first else "",
            body=joined(_section(section, drawn=drawn) for section in sections),
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


def joined(parts: Iterable[str]) -> Markup:
    """Put parts one after the other, each in a line."""
    return Markup("\n").join(parts)


def breakable(name: str) -> Markup:
    """Return a long name that may be broken after its signs."""
    if isinstance(name, Markup):
        return name
    parts = _SIGNS.sub(r"\1\n", visible(name)).split("\n")
    return Markup("<wbr>").join(escape(part) for part in parts)


def text(words: str, kind: str = "") -> Markup:
    """A paragraph; ``kind`` names its style."""
    return markup("<p{kind}>{words}</p>", kind=class_of(kind), words=words)


def remark(words: str) -> Markup:
    """A paragraph in small print."""
    return text(words, "remark")


def heading(words: str, level: int = 3) -> Markup:
    """The heading of a part of a section."""
    return markup("<h{level}>{words}</h{level}>", level=level, words=breakable(words))


def bullets(items: Iterable[str | tuple[str, str]], kind: str = "") -> Markup:
    """A list of sentences; one may be a pair of a style and a sentence."""
    pairs = [("", item) if isinstance(item, str) else item for item in items]
    lines = [markup("<li{kind}>{words}</li>", kind=class_of(style), words=words) for style, words in pairs]
    return markup("<ul{kind}>{lines}</ul>", kind=class_of(kind), lines=joined(lines))


def terms(pairs: Iterable[tuple[str, str]], kind: str) -> Markup:
    """Words and what they mean."""
    form = "<div><dt>{name}</dt><dd>{meaning}</dd></div>"
    lines = [markup(form, name=breakable(name), meaning=meaning) for name, meaning in pairs]
    return markup("<dl{kind}>{lines}</dl>", kind=class_of(kind), lines=joined(lines))


def keys(given: Iterable[tuple[str, str, str]]) -> Markup:
    """A legend: the colour, the style and the words of each key."""
    form = '<li class="{style}" style="--key: {colour}">{words}</li>'
    lines = [markup(form, colour=colour, style=style, words=words) for colour, style, words in given]
    return markup('<ul class="keys">{lines}</ul>', lines=joined(lines))


def fold(summary: str, parts: Iterable[str], *, is_open: bool = False, kind: str = "") -> Markup:
    """Parts that are seen once the summary is clicked."""
    form = '<details class="instances {kind}"{state}>\n<summary>{summary}</summary>\n{parts}\n</details>'
    state = Markup(" open" if is_open else "")
    return markup(form, kind=kind, state=state, summary=summary, parts=joined(parts))


def box(kind: str, parts: Iterable[str]) -> Markup:
    """Parts that are laid out together, as ``kind`` has it."""
    return markup("<div{kind}>\n{parts}\n</div>", kind=class_of(kind), parts=joined(parts))


def cell(words: str, small: str = "", *, kind: str = "", share: float | None = None) -> Markup:
    """A cell of a table with small print below it; ``share`` of its colour, from 0 to 1."""
    colour = Markup("") if share is None else markup(' style="--share: {share:.3f}"', share=share)
    below = markup("<small>{small}</small>", small=small) if small else ""
    return markup(
        "<td{kind}{colour}>{words}{below}</td>", kind=class_of(kind), colour=colour, words=words, below=below
    )


def head_cell(words: str, small: str = "", *, scope: str = "col", kind: str = "", span: int = 1) -> Markup:
    """The name of a column or of a line, with small print after it."""
    return markup(
        '<th scope="{scope}" dir="auto"{kind}{span}>{words}{after}</th>',
        scope=scope,
        kind=class_of(kind),
        span=markup(' colspan="{span}"', span=span) if span > 1 else "",
        words=breakable(words),
        after=markup(" <small>{small}</small>", small=small) if small else "",
    )


def row(cells: Cells, kind: str = "", *, heads: int = 0, worded: Sequence[int] = ()) -> Markup:
    """A line of a table; ``table`` says what the arguments are."""
    shown = [
        each
        if isinstance(each, Markup) and each.startswith(("<td", "<th"))
        else head_cell(each, scope="row")
        if place == heads
        else cell(each, kind="word" if place in worded else "")
        for place, each in enumerate(cells)
    ]
    return markup("<tr{kind}>{cells}</tr>", kind=class_of(kind), cells=joined(shown))


def table(
    caption: str,
    head: Cells,
    rows: Iterable[Cells | Markup],
    *,
    over: Cells = (),
    foot: Cells = (),
    heads: int = 0,
    worded: Sequence[int] = (),
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
    body = [each if isinstance(each, Markup) else row(each, heads=heads, worded=worded) for each in rows]
    return markup(
        '<div class="wide" role="region" aria-label="{label}" tabindex="0">\n<table{kind}>\n<caption>{caption}</caption>\n'
        "{head}<tbody>{body}</tbody>{foot}\n</table>\n</div>",
        label=label or caption,
        kind=class_of(kind),
        caption=caption,
        head=markup(
            "<thead>{over}{head}</thead>", over=_columns(over, (), "over"), head=_columns(head, worded)
        )
        if head
        else "",
        body=joined(body),
        foot=markup("<tfoot>{row}</tfoot>", row=row(foot, heads=heads)) if foot else "",
    )


def _columns(names: Cells, worded: Sequence[int], kind: str = "") -> Markup:
    cells = [
        name
        if isinstance(name, Markup) and name.startswith("<th")
        else head_cell(name, kind="word" if place in worded else "")
        if name
        else Markup("<td></td>")
        for place, name in enumerate(names)
    ]
    return markup("<tr{kind}>{cells}</tr>", kind=class_of(kind), cells=joined(cells)) if cells else Markup("")


def class_of(kind: str) -> Markup:
    """Return a style as an attribute."""
    return markup(' class="{kind}"', kind=kind) if kind else Markup("")


def settings_table(caption: str, settings: Mapping[str, Any], *, label: str) -> list[Part]:
    """Return settings as a table; none where there are none."""
    rows = [(name, setting(value)) for name, value in settings.items()]
    return [table(caption, (), rows, label=label, kind="narrow", worded=(1,))] if rows else []


def _drawn(part: Part, *, drawn: bool) -> Markup:
    """Return a part; pictures are places that the script of the page draws in, or say what they would show."""
    if isinstance(part, Panels):
        return box(part.kind, [_drawn(picture, drawn=drawn) for picture in part.pictures])
    if isinstance(part, Markup):
        return part
    form = '<div class="chart" id="chart-{name}" role="img" aria-label="{label}"></div>'
    place = (
        markup(form, name=part.name, label=part.label) if drawn else remark(f"Not drawn here: {part.label}")
    )
    form = "<figure>\n{place}\n<figcaption>{caption} {remark}</figcaption>\n</figure>"
    return markup(form, place=place, caption=part.caption, remark=part.remark)


def _section(section: Section, *, drawn: bool) -> Markup:
    form = '<section{kind} aria-labelledby="{id}">\n<h2 id="{id}">{title}</h2>\n{parts}\n</section>'
    parts = joined(_drawn(part, drawn=drawn) for part in section.parts)
    return markup(form, kind=class_of(section.kind), id=section.id, title=section.title, parts=parts)


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
