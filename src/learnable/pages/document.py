"""One HTML file that needs nothing from outside, from a template, figures and pictures: what all pages share."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from learnable.packages import needed
from learnable.pages import words
from learnable.pages.pictures import CONFIG, Picture
from learnable.visible import visible

_SIGNS = re.compile(r"([@/,:_])(?=.)")


def document(
    template: str,
    *,
    pictures: Mapping[str, Picture],
    points: Mapping[str, list[Any]] | None = None,
    styles: Sequence[str] = (),
    **parts: Any,
) -> str:
    """Fill a template that extends ``layout.html.j2``.

    The page makes no network request: its content security policy forbids all of them, and allows no script but the
    two it carries (by hash), so that texts from the data can never run.

    Args:
        template: Its name.
        pictures: By name; the template gives each a place.
        points: Data that several pictures share, column by column.
        styles: Style sheets beside the common one.
        parts: What the template reads.
    """
    from markupsafe import Markup

    scripts = [_inline(_vega()), _inline(_resource("page.js"))] if pictures else []
    payload = {
        "config": CONFIG,
        "points": points or {},
        "charts": {name: picture.spec for name, picture in pictures.items()},
    }
    return str(
        _environment()
        .get_template(template)
        .render(
            style=Markup("".join(_resource(name) for name in ("style.css",))),
            scripts=[Markup(script) for script in scripts],
            hashes=[_hash(script) for script in scripts],
            payload=payload,
            pictures=pictures,
            **parts,
        )
    )


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
    for word in (
        words.count,
        words.share,
        words.decimal,
        words.duration,
        words.memory,
        words.setting,
        words.plural,
    ):
        environment.filters[word.__name__] = word
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Any:
    """A long name that may be broken after its signs, escaped."""
    from markupsafe import Markup, escape

    parts = _SIGNS.sub(r"\1\n", name).split("\n")
    return Markup("<wbr>").join(escape(part) for part in parts)


@cache
def _vega() -> str:
    import altair as alt

    vl_convert = needed("vl_convert", by="a page with pictures", extra="pages")
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version))


def _resource(name: str) -> str:
    return files("learnable.pages").joinpath(name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script as it may stand in a page: no character or sequence that the HTML parser would change or end at."""
    return script.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
