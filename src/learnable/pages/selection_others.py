"""What other scores of the same table would choose, beside what was chosen."""

import polars as pl
from markupsafe import Markup

from learnable.pages import html
from learnable.pages.page import Section
from learnable.pages.selection_facts import SelectionFacts
from learnable.pages.words import count, decimal, share, snippet

SHOWN_EXAMPLES, SHOWN_PARTS = 3, 3


def other_choices(facts: SelectionFacts) -> dict[str, pl.DataFrame]:
    """Return for each other score the examples that it puts first, as many as were chosen, by its name.

    Scores that are defined for fewer examples are left out. Conditions, shares of sources and lists of ids do not count here.
    """
    wanted, found = facts.chosen.height, {}
    for name in facts.scorers:
        if name == facts.by or name not in facts.frame.columns:
            continue
        highest = name not in facts.lowest_first
        first = facts.frame.drop_nulls(name).sort(name, "id", descending=[highest, False]).head(wanted)
        if 0 < first.height == wanted:
            found[name] = first
    return found


def others_section(facts: SelectionFacts) -> Section | None:
    """Show side by side what was chosen and what other scores would choose; None where there is no other score."""
    others = other_choices(facts)
    if not others:
        return None
    choices = {f"{facts.by} (chosen)": facts.chosen, **others, "all examples": facts.frame}
    rows = [[name, *_described(facts, frame)] for name, frame in choices.items()]
    caption = (
        f"The {count(facts.chosen.height)} examples that were chosen, and as many that each other score of this table puts first: "
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
        if lines := _only_there(facts, frame):
            parts.append(html.fold(f"First by {name}, and not chosen", [html.bullets(lines)]))
    return Section(id="others", nav="other scores", title="What other scores would choose", parts=parts)


def _described(facts: SelectionFacts, frame: pl.DataFrame) -> list[str]:
    """Return what a choice is made of, in the cells of a row."""
    sources = frame["source"].value_counts(sort=True).sort("count", "source", descending=[True, False])
    most = [
        f"{source} {share(number, frame.height)}" for source, number in sources.head(SHOWN_PARTS).iter_rows()
    ]
    tokens = int(frame["tokens"].sum()) if facts.has("tokens") else None
    length = frame["response_tokens"].median() if facts.has("response_tokens") else None
    loss = frame["loss_before"].mean() if facts.has("loss_before") else None
    counts = (frame.height, int(frame["is_kept"].sum()), tokens)
    return [*map(count, counts), decimal(length, 0), decimal(loss, 2), ", ".join(most)]


def _only_there(facts: SelectionFacts, frame: pl.DataFrame) -> list[Markup]:
    """Return the first examples of another choice that were not chosen, a line each; none where there are no texts."""
    if facts.examples is None:
        return []
    texts = facts.examples.select(pl.col("id").cast(pl.String), "messages")
    alone = frame.filter(~pl.col("is_kept")).head(SHOWN_EXAMPLES)
    lines = []
    for source, turns in (
        alone.join(texts, on="id", maintain_order="left").select("source", "messages").iter_rows()
    ):
        asked, answer = (snippet(str(turn["content"] or "")) for turn in (turns[0], turns[-1]))
        form = '<strong>{source}</strong>: <span dir="auto">{asked}</span> → <span dir="auto">{answer}</span>'
        lines.append(html.markup(form, source=source, asked=asked, answer=answer))
    return lines
