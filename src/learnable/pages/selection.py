"""The page of a selection."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from learnable.pages import selection_pictures as pictures
from learnable.pages.excerpts import excerpt, turns_of
from learnable.pages.page import (
    Opening,
    Part,
    Picture,
    Section,
    bullets,
    fold,
    head_cell,
    heading,
    markup,
    remark,
    row,
    settings_table,
    table,
    terms,
    text,
    write_page,
)
from learnable.pages.selection_facts import (
    CostRow,
    SelectionFacts,
    View,
    by_length,
    by_source,
    reasons,
    spearman,
    to_read,
    undefined_places,
    unread_places,
    view_of,
)
from learnable.pages.tokens import spelled, token_parts
from learnable.pages.warnings import SELECTION_CHECKS, look, warnings_section
from learnable.pages.words import count, decimal, duration, memory, plural, share
from learnable.scorers import end_of_turn_share

SHOWN_SOURCES = 25


def render_selection(facts: SelectionFacts) -> str:
    """Write the report of one selection as a self-contained page.

    Args:
        facts: What the report is made from.

    Returns:
        HTML of about 1 MB plus 0.3 kB per example drawn.
    """
    view = view_of(facts)
    sections = [
        _losses(view),
        _scores(view),
        _length(view),
        _mix(view),
        _words(view),
        _read(view),
        _left_out(view),
        _cost(view),
        _method(view),
    ]
    has_dots = any(
        isinstance(part, Picture) for section in (sections[0], sections[2]) for part in section.parts
    )
    return write_page(_opening(view), sections, points=pictures.points(view) if has_dots else None)


def _opening(view: View) -> Opening:
    facts = view.facts
    pool, kept = view.frame.height, view.kept.height
    return Opening(
        title=f"{facts.title}: {count(kept)} of {count(pool)} examples, by {facts.by}",
        kicker=facts.title,
        headline=f"{count(kept)} of {plural(pool, 'example')} chosen",
        lead=markup(
            "Asked for <strong>{budget}</strong>, the {end} <strong>{by}</strong> first, as <strong>{model}</strong> sees "
            "them.",
            budget=facts.budget,
            end="highest" if facts.higher_is_better else "lowest",
            by=facts.by,
            model=facts.model,
        ),
        tiles=_tiles(view),
        first=warnings_section(look(SELECTION_CHECKS, view)),
        command=("To repeat this run", facts.command),
    )


def _tiles(view: View) -> list[tuple[str, str, str]]:
    """The first figures to see: name, value, remark."""
    facts = view.facts
    pool, kept = view.frame.height, view.kept.height
    tokens, kept_tokens = _tokens(view.frame), _tokens(view.kept)
    rows = None if facts.rows is None else facts.rows.height
    left = view.duplicates.height + view.held_out.height + view.unread.height
    apart = "repeated, held out or unreadable" if view.held_out.height else "repeated or unreadable"
    undefined = view.undefined.height
    return [
        ("rows read", count(rows), "" if rows is None else f"{left:,} {apart}"),
        ("examples", count(pool), plural(view.frame["source"].n_unique(), "source")),
        ("scored", count(pool - undefined), share(pool - undefined, pool) + " of the examples"),
        (
            "undefined",
            count(undefined),
            "no score, never chosen" if undefined else "every example has a score",
        ),
        ("kept", count(kept), share(kept, pool) + " of the examples"),
        (
            "tokens kept",
            count(kept_tokens),
            "" if tokens is None else f"{share(kept_tokens or 0, tokens)} of {tokens:,}",
        ),
    ]


def _tokens(frame: pl.DataFrame) -> int | None:
    return int(frame["tokens"].sum()) if "tokens" in frame.columns else None


def _losses(view: View) -> Section:
    missing = remark("No picture: it takes examples with both a loss before and a loss after.")
    parts: list[Part] = [pictures.plane(view) or missing]
    if view.has("loss_before", "loss_after", "response_tokens", "end_nll_before", "end_nll_after"):
        shares = {"pool": end_of_turn_share(view.frame), "selection": end_of_turn_share(view.kept)}
        said = [f"{part:.0%} in the {name}" for name, part in shares.items() if part is not None]
        if said:
            about = "Learning to stop, the share of the whole fall of the loss that is that of the token which ends a turn"
            parts.append(text(f"{about}: {', '.join(said)}."))
    return Section(id="plane", nav="losses", title="What the reference learned", parts=parts)


def _scores(view: View) -> Section:
    why = "no example has a value of" if view.has("score") else "there is no column"
    missing = remark(f"No picture: {why} {view.facts.by}.")
    parts = [pictures.spread(view) or missing]
    return Section(id="spread", nav="scores", title="How the scores are spread", parts=parts)


def _length(view: View) -> Section:
    by = view.facts.by
    missing = remark(f"No picture: it takes values of {by} and response tokens.")
    parts: list[Part] = [pictures.length(view) or missing]
    rows = []
    for name in dict.fromkeys([by, *view.facts.scorers]):
        if name in view.frame.columns:
            found = [spearman(view.frame, name, other) for other in ("response_tokens", "loss_before")]
            figures = [figure for rho, n in found for figure in (decimal(rho, 2), count(n))]
            used = "used" if name == by else ""
            rows.append(row([head_cell(name, used, scope="row"), *figures], used))
    if rows:
        parts.append(
            table(
                label="Correlations of the scores",
                caption="Spearman correlation of each score (0 = unrelated, ±1 = same order), with the number of examples "
                "behind it",
                kind="narrow",
                head=["score", "with response tokens", "n", "with loss before", "n"],
                rows=rows,
            )
        )
    return Section(id="length", nav="length", title="Does the score just follow length?", parts=parts)


def _mix(view: View) -> Section:
    parts: list[Part] = [
        text(
            "Lift is the share of the selection divided by the share of the pool: 1 is what a random choice gives, "
            "2 is twice that, 0 is gone."
        )
    ]
    sources, lengths = by_source(view), by_length(view)
    if sources.height:
        groups = _groups_table(view, sources, "Pool and selection per source", "source")
        about = "Share of all examples in the pool beside share of the chosen ones."
        picture = pictures.mix(view, sources, name="sources", title="source", caption=about)
        parts += [heading("By source"), *([picture] if picture else [])]
        if sources.height > SHOWN_SOURCES:
            parts.append(fold(f"All {count(sources.height)} sources as a table", [groups]))
        else:
            parts.append(groups)
    if lengths.height:
        about = "The bins hold about equally many examples of the pool."
        picture = pictures.mix(view, lengths, name="lengths", title="response tokens", caption=about)
        parts += [heading("By length of the answer"), *([picture] if picture else [])]
        parts.append(
            _groups_table(view, lengths, "Pool and selection per response length", "response tokens")
        )
    else:
        parts.append(remark("No figures by length: response tokens are not known."))
    return Section(id="mix", nav="sources", title="What the selection is made of", parts=parts)


def _groups_table(view: View, groups: pl.DataFrame, caption: str, first: str) -> Markup:
    pool, kept = view.frame.height, view.kept.height
    rows = [
        (
            name,
            count(examples),
            count(chosen),
            decimal((chosen / kept) / (examples / pool) if kept else None, 2),
            share(chosen, examples),
            count(tokens),
            decimal(mean_score),
        )
        for name, examples, tokens, chosen, mean_score in groups.iter_rows()
    ]
    head = [first, "examples", "kept", "lift", "kept share", "tokens", f"mean {view.facts.by}"]
    return table(caption, head, rows)


def _words(view: View) -> Section:
    measured = {each.id: each for each in view.facts.tokens if each.scored}
    frame = pl.DataFrame({"id": list(measured)}, schema={"id": pl.String})
    frame = frame.join(view.frame, on="id", maintain_order="left")
    examples = [
        _excerpt(
            view,
            example,
            spelled(measured[example["id"]], example["source"], example.get("loss_after")),
            level=3,
        )
        for example in frame.iter_rows(named=True)
        if view.facts.examples is not None
    ]
    missing = view.facts.tokens_missing
    parts: list[Part] = [remark(missing)] if missing else []
    parts += token_parts(list(measured.values()), examples) if measured else []
    compares = not measured or any(each.compares for each in measured.values())
    title = "Which words it learned" if compares else "Which words it loses on"
    return Section(id="tokens", nav="words", title=title, parts=parts, kind="tokens")


def _read(view: View) -> Section:
    parts: list[Part] = []
    for title, about, frame in to_read(view):
        parts += [heading(title), text(about), *excerpts_of(view, frame)]
    if not parts:
        why = "no example has a score" if view.has("score") else f"there is no column {view.facts.by}"
        if view.facts.examples is None:
            why = "the scores came from a table without texts"
        parts.append(remark(f"Nothing to read: {why}."))
    return Section(id="read", nav="examples", title="Read some examples", parts=parts)


def excerpts_of(view: View, frame: pl.DataFrame) -> list[Markup]:
    """Return the examples in the rows of a frame, in its order; none where there are no texts."""
    if view.facts.examples is None:
        return []
    texts = view.facts.examples.select(pl.col("id").cast(pl.String), "messages")
    messages = dict(texts.join(frame, on="id", how="semi").iter_rows())
    return [
        _excerpt(view, example, turns_of(messages.get(example["id"])))
        for example in frame.iter_rows(named=True)
    ]


def _excerpt(view: View, example: dict[str, Any], parts: list[Markup], *, level: int = 4) -> Markup:
    chosen = example["is_kept"]
    note = (
        f"chosen, pick {example['rank'] + 1:,}"
        if chosen
        else f"not chosen: {example['reason'] or 'no reason given'}"
    )
    figures, kind = _figures(view, example), "kept" if chosen else ""
    return excerpt(example["source"], parts, note=note, figures=figures, kind=kind, level=level)


def _figures(view: View, row: dict[str, Any]) -> list[tuple[str, str]]:
    scores = [name for name in dict.fromkeys([view.facts.by, *view.facts.scorers]) if name in row]
    figures = [(name, decimal(row[name])) for name in scores]
    if row.get("loss_before") is not None:
        losses = decimal(row["loss_before"])
        if "loss_after" in row:
            losses += f" → {decimal(row['loss_after'])}"
        figures.append(("loss", losses))
    if row.get("response_tokens") is not None:
        figures.append(("response tokens", count(row["response_tokens"])))
    return [*figures, ("id", row["id"])]


def _left_out(view: View) -> Section:
    facts = view.facts
    pool, kept = view.frame.height, view.kept.height
    repeated, held, unread = view.duplicates.height, view.held_out.height, view.unread.height
    lines = []
    if facts.rows is not None:
        apart = f"{plural(held, 'row')} held out for evaluation + " if held else ""
        said = f"{plural(pool, 'example')} + {plural(repeated, 'repeated row')} + {apart}{plural(unread, 'unreadable row')}"
        lines.append(_sum("row", facts.rows.height, f" read = {said}", pool + repeated + held + unread))
    dropped = facts.dropped.height
    lines.append(_sum("example", pool, f" = {count(kept)} kept + {count(dropped)} left out", kept + dropped))
    parts: list[Part] = [bullets(lines)]
    rows = reasons(view)
    if rows:
        parts.append(
            table(
                label="Reasons",
                caption="Why rows and examples were left out",
                head=["while", "reason", "number"],
                heads=1,
                worded=(0, 1),
                rows=rows,
            )
        )
    else:
        parts.append(remark("Nothing was left out."))
    for name, whole, items in (
        ("Rows that could not be read", unread, unread_places(view)),
        ("Examples without a score", view.undefined.height, undefined_places(view)),
    ):
        if items:
            first = f", the first {len(items)} of them" if whole > len(items) else ""
            shown = [
                markup('<code>{place}</code> <span dir="auto">{why}</span>', place=place, why=why)
                for place, why in items
            ]
            parts.append(fold(f"{name}: {count(whole)}{first}", parts=[bullets(shown)]))
    return Section(id="left-out", nav="left out", title="What was left out, and why", parts=parts)


def _sum(noun: str, whole: int, words: str, accounted: int) -> str:
    """Say what a number is made of, and what of it is missing."""
    said = plural(whole, noun) + words
    if accounted == whole:
        return f"{said}."
    missing = f"(that makes {count(accounted)}: {plural(abs(whole - accounted), noun)} not accounted for)"
    return markup("{said} <strong>{missing}</strong>.", said=said, missing=missing)


def _cost(view: View) -> Section:
    steps = view.facts.steps
    parts: list[Part] = []
    tokens, pool = sum(step.tokens for step in steps), _tokens(view.frame)
    if steps and tokens and pool:
        parts.append(
            text(
                markup(
                    "{tokens} went through the model: <strong>{epochs} epochs over the pool</strong> (one is {pool}). "
                    "Training takes about three times the work of scoring per token, which this does not weigh.",
                    tokens=plural(tokens, "token"),
                    epochs=decimal(tokens / pool, 2),
                    pool=plural(pool, "token"),
                )
            )
        )
    elif steps and not tokens:
        parts.append(text("Nothing was run: every figure was already there."))
    if not steps:
        parts.append(remark("No steps were recorded."))
    else:
        head = ["step", "time", "tokens", "passes", "tokens/s", "peak memory"]
        foot = _cost_row(_together(steps))
        rows = [_cost_row(step) for step in steps]
        parts.append(table(label="Cost", caption="Cost per step", head=head, rows=rows, foot=foot))
    return Section(id="cost", nav="cost", title="What it cost", parts=parts)


def _cost_row(step: CostRow) -> list[str]:
    speed = step.tokens / step.seconds if step.tokens and step.seconds else None
    numbers = [count(step.tokens or None), decimal(step.passes or None, 2), count(speed)]
    return [step.name, duration(step.seconds), *numbers, memory(step.peak_memory_bytes)]


def _together(steps: Sequence[CostRow]) -> CostRow:
    """All steps; the peak is the highest one."""
    return CostRow(
        name="together",
        tokens=sum(step.tokens for step in steps),
        passes=sum(step.passes for step in steps),
        seconds=sum(step.seconds for step in steps),
        peak_memory_bytes=max(step.peak_memory_bytes for step in steps),
    )


_FORMULAS = (
    (
        "learnability",
        markup(
            "<var>S</var> = 1 \N{MINUS SIGN} <var>loss after</var> / <var>loss before</var>: the part of its loss that training took away. "
            "1 is all, 0 is none, below 0 it got worse. (LoBaSS, later DavIR: arXiv 2310.13008.)"
        ),
    ),
    (
        "difference",
        markup(
            "<var>loss before</var> \N{MINUS SIGN} <var>loss after</var>, in nats per token: the same without the division. It favours "
            "examples that had a high loss to begin with, noise among them."
        ),
    ),
)


def _method(view: View) -> Section:
    reference = view.facts.reference
    notes = [
        "These figures belong to this model. Another model learns other examples.",
        "A loss knows nothing of quality, truth or safety: a wrong answer in a learnable style scores high. Read the "
        "examples above.",
        "Whether the selection trains a better model is not shown here; train on it and on a random selection of the same "
        "size, and compare.",
    ]
    if folds := reference.get("folds"):
        notes.insert(
            0,
            f"The reference is cross-fitted over {folds} folds: no example was scored by a model that trained on it.",
        )
    elif reference.get("kind") == "trained":
        notes.insert(
            0,
            markup(
                "The reference is in-sample: it was trained on the examples that it scores, as in the paper. Part of each "
                "score is memory; <code>--reference.folds 2</code> costs one epoch as well and scores every example with a "
                "model that has not seen it."
            ),
        )
    parts = [
        text(
            "The loss of an example is measured on its response only, in nats per token, by the model itself: before "
            "(base model) and after (reference, the same model fine-tuned). From the two:"
        ),
        terms(_FORMULAS, kind="formulas"),
        *settings_table("The reference", reference, label="Reference"),
        bullets(notes),
    ]
    return Section(id="method", nav="method", title="How this was made, and what it cannot say", parts=parts)
