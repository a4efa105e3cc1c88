"""What other scores of the same table would choose, beside what was chosen."""

import polars as pl
from markupsafe import Markup

from learnable.pages import html
from learnable.pages.page import Section
from learnable.pages.selection_facts import View
from learnable.pages.words import count, decimal, finite, share, snippet

SHOWN_EXAMPLES, SHOWN_PARTS = 3, 3


def other_choices(view: View) -> dict[str, pl.DataFrame]:
    """Return for each other score the examples that it puts first, as many as were chosen, by its name.

    Scores that are defined for fewer examples are left out. Conditions, shares of sources and lists of ids do not count here.
    """
    wanted, found = view.kept.height, {}
    for name in view.facts.scorers:
        if name == view.facts.by or name not in view.frame.columns:
            continue
        highest = name not in view.facts.lowest_first
        first = view.frame.drop_nulls(name).sort(name, "id", descending=[highest, False]).head(wanted)
        if 0 < first.height == wanted:
            found[name] = first
    return found


def others_section(view: View) -> Section | None:
    """Show side by side what was chosen and what other scores would choose; None where there is no other score."""
    others = other_choices(view)
    if not others:
        return None
    choices = {f"{view.facts.by} (chosen)": view.kept} | others
    rows = [_described(view, name, frame) for name, frame in [*choices.items(), ("all examples", view.frame)]]
    caption = (
        f"The {count(view.kept.height)} examples that were chosen, and as many that each other score of this table puts first: "
        "from the same losses, without conditions or shares"
    )
    head = [
        "by",
        "examples",
        "also chosen",
        "tokens",
        "response tokens (median)",
        "loss before (mean)",
        "most from",
    ]
    parts = [html.table(caption, head, rows, worded=(6,), label="What other scores would choose")]
    for name, frame in others.items():
        if lines := _only_there(view, frame):
            parts.append(html.fold(f"First by {name}, and not chosen", [html.bullets(lines)]))
    return Section(id="others", nav="other scores", title="What other scores would choose", parts=parts)


def _described(view: View, name: str, frame: pl.DataFrame) -> list[str]:
    """Return what a choice is made of, in the cells of a row."""
    sources = frame["source"].value_counts(sort=True).sort("count", "source", descending=[True, False])
    most = [
        f"{source} {share(number, frame.height)}" for source, number in sources.head(SHOWN_PARTS).iter_rows()
    ]
    tokens = int(frame["tokens"].sum()) if view.has("tokens") else None
    length = finite(frame["response_tokens"].median()) if view.has("response_tokens") else None
    loss = finite(frame["loss_before"].mean()) if view.has("loss_before") else None
    figures = [
        count(frame.height),
        count(int(frame["is_kept"].sum())),
        count(tokens),
        decimal(length, 0),
        decimal(loss, 2),
    ]
    return [name, *figures, ", ".join(most)]


def _only_there(view: View, frame: pl.DataFrame) -> list[Markup]:
    """Return the first examples of another choice that were not chosen, a line each; none where there are no texts."""
    if view.facts.examples is None:
        return []
    texts = view.facts.examples.select(pl.col("id").cast(pl.String), "messages")
    alone = frame.filter(~pl.col("is_kept")).head(SHOWN_EXAMPLES)
    lines = []
    for source, turns in (
        alone.join(texts, on="id", maintain_order="left").select("source", "messages").iter_rows()
    ):
        asked, answer = (snippet(str(turn["content"] or "")) for turn in (turns[0], turns[-1]))
        form = '<strong>{source}</strong>: <span dir="auto">{asked}</span> → <span dir="auto">{answer}</span>'
        lines.append(html.markup(form, source=source, asked=asked, answer=answer))
    return lines
