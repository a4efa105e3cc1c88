"""The page of a selection."""

from typing import Any

from learnable.pages import charts, dots, drawing, tables, wording
from learnable.pages.cautions import cautions_of
from learnable.pages.document import document
from learnable.pages.excerpts import shelves
from learnable.pages.facts import Facts, View, view_of
from learnable.pages.token_section import token_section
from learnable.scorers import end_of_turn_share


def render(facts: Facts) -> str:
    """Write the report of one selection as a self-contained page.

    Args:
        facts: What the report is made from.

    Returns:
        HTML of about 1 MB plus 0.3 kB per example drawn.
    """
    view = view_of(facts)
    pictures = _pictures(view)
    return document(
        "selection.html.j2",
        styles=["tokens.css"],
        pictures=pictures,
        points=dots.points(view) if {"plane", "length"} & pictures.keys() else None,
        facts=facts,
        view=view,
        headline=_headline(view),
        cautions=cautions_of(view),
        stopping=_stopping(view),
        correlations=tables.correlations(view),
        sources=tables.by_source(view),
        lengths=tables.by_length(view) if view.has("response_tokens") else [],
        shelves=shelves(view),
        spelled=token_section(view),
        reasons=tables.reasons(view),
        unread=tables.unread_instances(view),
        undefined=tables.undefined_instances(view),
        total=tables.total(facts.steps),
        rows_read=None if facts.rows is None else facts.rows.height,
        pool_tokens=_tokens(view.frame),
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
    left = view.duplicates.height + view.held_out.height + view.unread.height
    apart = "repeated, held out or unreadable" if view.held_out.height else "repeated or unreadable"
    undefined = view.undefined.height
    return [
        ("rows read", wording.count(rows), "" if rows is None else f"{left:,} {apart}"),
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


def _stopping(view: View) -> list[str]:
    """Which share of the fall of the loss is learning to stop: in the pool, and in the selection; none if not known."""
    if not view.has("loss_before", "loss_after", "response_tokens", "end_nll_before", "end_nll_after"):
        return []
    shares = {"pool": end_of_turn_share(view.frame), "selection": end_of_turn_share(view.kept)}
    return [f"{share:.0%} in the {name}" for name, share in shares.items() if share is not None]


def _tokens(frame: Any) -> int | None:
    return int(frame["tokens"].sum()) if "tokens" in frame.columns else None
