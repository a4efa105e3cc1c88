"""The dots of the scatter plots: which examples are drawn, and what is known about each."""

from typing import Any

import numpy as np
import polars as pl

from learnable.pages.drawing import CHOSEN, REST
from learnable.pages.facts import View
from learnable.pages.wording import NOTHING, snippet

SHOWN_POINTS = 4_000
SHOWN_CHOSEN = 2_000


def points(view: View) -> dict[str, list[Any]]:
    """The dots of the scatter plots, column by column: a fixed sample that prefers the chosen.

    Returns:
        Lists of equal length, at most `SHOWN_POINTS`; the chosen come last, so that they are drawn on top.
    """
    frame = _sample(view.scored)
    numbers = {
        "before": "loss_before",
        "after": "loss_after",
        "score": "score_used",
        "response": "response_tokens",
    }
    columns: dict[str, list[Any]] = {
        name: _rounded(frame[column]) for name, column in numbers.items() if column in frame.columns
    }
    columns["group"] = [CHOSEN if kept else REST for kept in frame["is_kept"]]
    columns["source"] = [snippet(name) for name in frame["source"]]
    if view.facts.by != "learnability" and view.has("learnability"):
        columns["S"] = _rounded(frame["learnability"])
    if view.has("tokens"):
        columns["tokens"] = frame["tokens"].to_list()
    if view.facts.examples is None:
        columns["id"] = frame["id"].to_list()
        return columns
    texts = view.facts.examples.select(pl.col("id").cast(pl.String), "messages")
    found = frame.select("id").join(texts, on="id", how="left", maintain_order="left")["messages"].to_list()
    columns["question"] = [_start(messages, answer=False) for messages in found]
    columns["answer"] = [_start(messages, answer=True) for messages in found]
    return columns


def _sample(frame: pl.DataFrame) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    kept, rest = frame.filter("is_kept"), frame.filter(~pl.col("is_kept"))
    if kept.height > SHOWN_CHOSEN:
        kept = kept[np.sort(rng.choice(kept.height, SHOWN_CHOSEN, replace=False))]
    room = SHOWN_POINTS - kept.height
    if rest.height > room:
        rest = rest[np.sort(rng.choice(rest.height, room, replace=False))]
    return pl.concat([rest, kept])


def _rounded(values: pl.Series) -> list[float | None]:
    return [None if value is None else float(f"{value:.4g}") for value in values.to_list()]


def _start(messages: list[dict[str, str]] | None, *, answer: bool) -> str:
    said = [
        m["content"] or ""
        for m in messages or ()
        if (m["role"] == "assistant") == answer and m["role"] != "system"
    ]
    return snippet(said[0]) if said else NOTHING


def tooltip(view: View) -> list[Any]:
    """What a dot tells when the pointer is on it."""
    import altair as alt

    given = [
        ("score", alt.Tooltip("score:Q", title=view.facts.by, format=".3f")),
        ("learnability", alt.Tooltip("S:Q", title="S", format=".3f")),
        ("loss_before", alt.Tooltip("before:Q", title="loss before", format=".3f")),
        ("loss_after", alt.Tooltip("after:Q", title="loss after", format=".3f")),
        ("response_tokens", alt.Tooltip("response:Q", title="response tokens", format=",")),
        ("tokens", alt.Tooltip("tokens:Q", title="tokens", format=",")),
    ]
    texts = ["id"] if view.facts.examples is None else ["question", "answer"]
    numbers = [
        tip for name, tip in given if view.has(name) and (name != "learnability" or view.facts.by != name)
    ]
    return [
        alt.Tooltip("group:N", title="which"),
        alt.Tooltip("source:N"),
        *numbers,
        *(alt.Tooltip(f"{t}:N") for t in texts),
    ]


def remark(view: View, number: int) -> str:
    """Say how many of the scored examples are drawn."""
    shown = min(number, _sample(view.scored).height)
    if shown == number:
        return f"All scored examples ({number:,}) are drawn."
    kept = view.kept.height
    chosen = f"all {kept:,}" if kept <= SHOWN_CHOSEN else f"{SHOWN_CHOSEN:,} of the {kept:,}"
    return f"{shown:,} of {number:,} scored examples are drawn, {chosen} chosen ones among them; the others are a fixed random sample."
