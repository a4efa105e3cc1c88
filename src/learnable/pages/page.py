"""One page of sections: what a section may hold, and the one template that writes all of them."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from learnable.packages import install, is_installed, needed
from learnable.pages.html import box, code_line, joined, markup, remark, shown
from learnable.runs.progress import say_once

PAINTER = "vl_convert"
"""The package that holds the scripts of the pictures."""


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


def write_page(
    sections: Iterable[Section],
    *,
    kicker: str,
    headline: str,
    lead: str,
    tiles: Sequence[tuple[str, str, str]],
    command: tuple[str, str],
    title: str = "",
    onward: Sequence[tuple[str, str]] = (),
    chart: Section | None = None,
    first: Section | None = None,
    points: Mapping[str, list[Any]] | None = None,
    script: str = "",
) -> str:
    """Write a self-contained page.

    The page makes no network request: its content security policy forbids all of them, and allows no script but those
    it carries (by hash), so that texts from the data can never run.

    Args:
        sections: What it says; one without parts is left out.
        kicker: Above the headline.
        headline: What the page says, in one line.
        lead: A paragraph.
        tiles: The first figures: name, value and remark.
        command: What it does, and the command.
        title: Of the window; kicker and headline when not given.
        onward: What there is now and what can be done next, each with a path or a command; above ``command``.
        chart: The section that stands first: the one picture that says most.
        first: A section before the list of parts.
        points: Data that several pictures share, column by column.
        script: File of this room that makes parts of the page answer to keys.
    """
    sections = [section for section in sections if section.parts]
    parts = [part for section in filter(None, [chart, first, *sections]) for part in section.parts]
    pictures = [part for part in parts if isinstance(part, Picture)]
    pictures += [picture for part in parts if isinstance(part, Panels) for picture in part.pictures]
    drawn = bool(pictures) and is_installed(PAINTER)
    if pictures and not drawn:
        say_once(f"the page is written without its pictures; they need more: {install('pages')}")
    scripts = [_inline(_vega()), _inline(_resource("page.js"))] if drawn else []
    scripts += [_inline(_resource(script))] if script else []
    page = _environment().get_template("page.html.j2")
    return str(
        page.render(
            kicker=kicker,
            headline=headline,
            lead=lead,
            tiles=tiles,
            onward=[(words, code_line(code)) for words, code in (*onward, command)],
            title=title or f"{kicker}: {headline}",
            sections=sections,
            opening=joined(_section(each, drawn=drawn) for each in (chart, first) if each),
            body=joined(_section(section, drawn=drawn) for section in sections),
            style=Markup(_resource("style.css")),
            scripts=[Markup(script) for script in scripts],
            hashes=[
                base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
            ],
            payload={"points": points or {}, "charts": {each.name: each.spec for each in pictures}},
            drawn=drawn,
        )
    )


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
    return markup(form, kind=section.kind, id=section.id, title=section.title, parts=parts)


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("learnable.pages", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
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
