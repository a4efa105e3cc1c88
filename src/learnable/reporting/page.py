"""Puts figures, pictures and texts into one HTML file that needs nothing from outside."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from learnable.reporting import charts, dots, drawing, tables, wording
from learnable.reporting.cautions import cautions_of
from learnable.reporting.excerpts import shelves
from learnable.reporting.facts import Facts, View, view_of


def render(facts: Facts) -> str:
    """Write the report of one run as a self-contained page.

    The page makes no network request: its content security policy forbids all of them, and allows no script but the
    two it carries (by hash), so that texts from the data can never run.

    Args:
        facts: What the report is made from.

    Returns:
        HTML of about 1 MB plus 0.3 kB per example drawn.
    """
    from markupsafe import Markup

    view = view_of(facts)
    pictures = _pictures(view)
    payload = {
        "config": drawing.CONFIG,
        "points": dots.points(view) if {"plane", "length"} & pictures.keys() else {},
        "charts": {name: picture.spec for name, picture in pictures.items()},
    }
    scripts = [_inline(_vega()), _inline(_resource("page.js"))] if pictures else []
    return str(
        _environment()
        .get_template("template.html.j2")
        .render(
            facts=facts,
            view=view,
            style=Markup(_resource("style.css")),
            scripts=[Markup(script) for script in scripts],
            hashes=[_hash(script) for script in scripts],
            payload=payload,
            pictures=pictures,
            headline=_headline(view),
            cautions=cautions_of(view),
            correlations=tables.correlations(view),
            sources=tables.by_source(view),
            lengths=tables.by_length(view) if view.has("response_tokens") else [],
            shelves=shelves(view),
            reasons=tables.reasons(view),
            unread=tables.unread_instances(view),
            undefined=tables.undefined_instances(view),
            total=tables.total(facts.steps),
            rows_read=None if facts.rows is None else facts.rows.height,
            pool_tokens=_tokens(view.frame),
        )
    )


def _pictures(view: View) -> dict[str, drawing.Picture]:
    pool, kept = view.frame.height, view.kept.height
    sources = tables.by_source(view)
    lengths = tables.by_length(view) if view.has("response_tokens") else []
    drawn = [
        charts.plane(view),
        charts.spread(view, tables.histogram(view)),
        charts.length(view),
        charts.mix(sources, name="sources", title="source", pool=pool, kept=kept)
        if len(sources) > 1
        else None,
        charts.mix(lengths, name="lengths", title="response tokens", pool=pool, kept=kept)
        if len(lengths) > 1
        else None,
    ]
    return {picture.name: picture for picture in drawn if picture is not None}


def _headline(view: View) -> list[tuple[str, str, str]]:
    """The first figures to see: name, value, remark."""
    facts = view.facts
    pool, kept = view.frame.height, view.kept.height
    tokens, kept_tokens = _tokens(view.frame), _tokens(view.kept)
    rows = None if facts.rows is None else facts.rows.height
    left = view.duplicates.height + view.unread.height
    undefined = view.undefined.height
    return [
        ("rows read", wording.count(rows), "" if rows is None else f"{left:,} repeated or unreadable"),
        ("examples", wording.count(pool), wording.plural(view.frame["source"].n_unique(), "source")),
        (
            "scored",
            wording.count(pool - undefined),
            wording.share(pool - undefined, pool) + " of the examples",
        ),
        (
            "undefined",
            wording.count(undefined),
            "no score, never chosen" if undefined else "every example has a score",
        ),
        ("kept", wording.count(kept), wording.share(kept, pool) + " of the examples"),
        (
            "tokens kept",
            wording.count(kept_tokens),
            "" if tokens is None else f"{wording.share(kept_tokens or 0, tokens)} of {tokens:,}",
        ),
    ]


def _tokens(frame: Any) -> int | None:
    return int(frame["tokens"].sum()) if "tokens" in frame.columns else None


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("learnable.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    compact = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    environment.policies["json.dumps_kwargs"] = compact
    for word in (
        wording.count,
        wording.share,
        wording.decimal,
        wording.duration,
        wording.memory,
        wording.setting,
        wording.plural,
    ):
        environment.filters[word.__name__] = word
    return environment


@cache
def _vega() -> str:
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version))


def _resource(name: str) -> str:
    return files("learnable.reporting").joinpath(name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script as it may stand in a page: no character or sequence that the HTML parser would change or end at."""
    return script.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
