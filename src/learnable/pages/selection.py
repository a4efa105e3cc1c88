"""The page of a selection."""

from collections.abc import Mapping
from typing import Any

import polars as pl
import scipy
from markupsafe import Markup

from learnable.pages import html
from learnable.pages import selection_pictures as pictures
from learnable.pages.page import Part, Picture, Section, write_page
from learnable.pages.selection_facts import (
    SHOWN_INSTANCES,
    SelectionFacts,
    by_length,
    by_source,
    information,
    reasons,
    spearman,
    to_read,
    undefined_places,
)
from learnable.pages.selection_others import others_section
from learnable.pages.tokens import spelled, token_parts
from learnable.pages.warnings import SELECTION_CHECKS, kept_apart, look, warnings_section
from learnable.pages.words import (
    count,
    decimal,
    duration,
    first_of_all,
    memory,
    plural,
    share,
    snippet,
)
from learnable.runs.price import Cost
from learnable.scorers import RANKS, end_of_turn_share

SHOWN_SOURCES, SHOWN_TARGETS = 10, 20


def render_selection(facts: SelectionFacts) -> str:
    """Write the report of one selection as a self-contained page: HTML of about 1 MB plus 0.3 kB per example drawn."""
    pool, kept = facts.frame.height, facts.chosen.height
    losses, length, scores = _losses(facts), _length(facts), _scores(facts)
    charts = (losses, scores) if facts.by in RANKS else (scores, losses)
    chart = next((each for each in charts if any(isinstance(part, Picture) for part in each.parts)), None)
    looked = look(SELECTION_CHECKS, facts)
    sections = [
        *(each for each in (losses, scores) if each is not chart),
        length,
        _mix(facts),
        *filter(None, [others_section(facts)]),
        *([] if facts.pulled is None else [_target(facts, facts.pulled)]),
        *([_information(facts)] if facts.has("pvi") else []),
        _words(facts),
        _read(facts),
        _left_out(facts),
        _cost(facts),
        _method(facts),
    ]
    has_dots = any(isinstance(part, Picture) for section in (losses, length) for part in section.parts)
    return write_page(
        sections,
        title=f"{facts.title}: {count(kept)} of {count(pool)} examples, by {facts.by}",
        kicker=facts.title,
        headline=f"{count(kept)} of {plural(pool, 'example')} chosen",
        lead=html.markup(
            "Asked for <strong>{budget}</strong>, the {end} <strong>{by}</strong> first, as <strong>{model}</strong> sees "
            "them.{distrust}",
            budget=facts.budget,
            end="highest" if facts.higher_is_better else "lowest",
            by=facts.by,
            model=facts.model,
            distrust=looked.link,
        ),
        tiles=_tiles(facts),
        onward=facts.onward,
        chart=chart,
        first=warnings_section(looked),
        command=("To repeat this run", facts.command),
        points=pictures.points(facts) if has_dots else None,
    )


def _tiles(facts: SelectionFacts) -> list[tuple[str, str, str]]:
    """The first figures to see: name, value, remark."""
    rows = facts.rows
    pool, kept, undefined = facts.frame.height, facts.chosen.height, facts.undefined.height
    tokens, kept_tokens = _tokens(facts.frame), _tokens(facts.chosen)
    ways = {"repeated": facts.duplicates, "held out": facts.held_out, "of the evaluation": facts.avoided}
    left = sum(frame.height for frame in (*ways.values(), facts.unread))
    apart = (
        f"{', '.join(way for way, frame in ways.items() if frame.height or way == 'repeated')} or unreadable"
    )
    never = "no score, never chosen" if undefined else "every example has a score"
    of_tokens = "" if tokens is None else f"{share(kept_tokens or 0, tokens)} of {tokens:,}"
    return [
        (
            "rows read",
            count(None if rows is None else rows.height),
            "" if rows is None else f"{left:,} {apart}",
        ),
        ("examples", count(pool), plural(facts.frame["source"].n_unique(), "source")),
        ("scored", count(pool - undefined), share(pool - undefined, pool) + " of the examples"),
        ("undefined", count(undefined), never),
        ("kept", count(kept), share(kept, pool) + " of the examples"),
        ("tokens kept", count(kept_tokens), of_tokens),
    ]


def _tokens(frame: pl.DataFrame) -> int | None:
    return int(frame["tokens"].sum()) if "tokens" in frame.columns else None


def _losses(facts: SelectionFacts) -> Section:
    missing = html.remark("No picture: it takes examples with both a loss before and a loss after.")
    parts: list[Part] = [pictures.plane(facts) or missing]
    if facts.has("loss_before", "loss_after", "response_tokens", "end_nll_before", "end_nll_after"):
        shares = {"pool": end_of_turn_share(facts.frame), "selection": end_of_turn_share(facts.chosen)}
        said = [f"{part:.0%} in the {name}" for name, part in shares.items() if part is not None]
        if said:
            about = "Learning to stop, the share of the whole fall of the loss that is that of the token which ends a turn"
            parts.append(html.text(f"{about}: {', '.join(said)}."))
    return Section(id="plane", nav="losses", title="What the reference learned", parts=parts)


def _scores(facts: SelectionFacts) -> Section:
    why = "no example has a value of" if facts.has("score") else "there is no column"
    parts = [pictures.spread(facts) or html.remark(f"No picture: {why} {facts.by}.")]
    return Section(id="spread", nav="scores", title="How the scores are spread", parts=parts)


def _length(facts: SelectionFacts) -> Section:
    by = facts.by
    missing = html.remark(f"No picture: it takes values of {by} and response tokens.")
    parts: list[Part] = [pictures.length(facts) or missing]
    rows = []
    for name in dict.fromkeys([by, *facts.scorers]):
        if name in facts.frame.columns:
            found = [spearman(facts.frame, name, other) for other in ("response_tokens", "loss_before")]
            figures = [figure for rho, n in found for figure in (decimal(rho, 2), count(n))]
            used = "used" if name == by else ""
            rows.append(html.row([html.head_cell(name, used, scope="row"), *figures], used))
    if rows:
        caption = (
            "Spearman correlation of each score (0 = unrelated, ±1 = same order), with the number of examples "
            "behind it"
        )
        head = ["score", "with response tokens", "n", "with loss before", "n"]
        parts.append(html.table(caption, head, rows, label="Correlations of the scores", kind="narrow"))
    return Section(id="length", nav="length", title="Does the score just follow length?", parts=parts)


def _mix(facts: SelectionFacts) -> Section:
    words = (
        "Lift is the share of the selection divided by the share of the pool: 1 is what a random choice gives, "
        "2 is twice that, 0 is gone."
    )
    parts: list[Part] = [html.text(words)]
    sources, lengths = by_source(facts), by_length(facts)
    if sources.height:
        about = "Share of all examples in the pool beside share of the chosen ones."
        picture = pictures.mix(facts, sources, name="sources", title="source", caption=about)
        parts += [html.heading("By source"), *([picture] if picture else [])]
        caption, more = "Pool and selection per source", sources.height - SHOWN_SOURCES
        parts.append(_groups_table(facts, sources.head(SHOWN_SOURCES), caption, "source"))
        if more > 0:
            rest = _groups_table(facts, sources.tail(more), f"{caption}, the smaller ones", "source")
            parts.append(html.fold(plural(more, "more source"), [rest]))
    if lengths.height:
        about = "The bins hold about equally many examples of the pool."
        picture = pictures.mix(facts, lengths, name="lengths", title="response tokens", caption=about)
        parts += [html.heading("By length of the answer"), *([picture] if picture else [])]
        caption = "Pool and selection per response length"
        parts.append(_groups_table(facts, lengths, caption, "response tokens"))
    else:
        parts.append(html.remark("No figures by length: response tokens are not known."))
    if facts.spread is not None:
        ours, drawn = (decimal(score, 1) for score in facts.spread)
        about = "the number of examples without anything in common that would be spread as far"
        parts.append(html.text(f"Vendi score ({about}): {ours}; of as many drawn at random: {drawn}."))
    return Section(id="mix", nav="sources", title="What the selection is made of", parts=parts)


def _groups_table(facts: SelectionFacts, groups: pl.DataFrame, caption: str, first: str) -> Markup:
    pool, kept = facts.frame.height, facts.chosen.height
    rows = []
    for name, examples, tokens, chosen, mean_score in groups.iter_rows():
        lift = decimal((chosen / kept) / (examples / pool) if kept else None, 2)
        numbers = (count(examples), count(chosen), lift, share(chosen, examples))
        rows.append((name, *numbers, count(tokens), decimal(mean_score)))
    head = [first, "examples", "kept", "lift", "kept share", "tokens", f"mean {facts.by}"]
    return html.table(caption, head, rows)


def _words(facts: SelectionFacts) -> Section:
    measured = {each.id: each for each in facts.tokens if each.scored}
    rows = pl.DataFrame({"id": list(measured)}, schema={"id": pl.String})
    examples = []
    if facts.examples is not None:
        for example in rows.join(facts.frame, on="id", maintain_order="left").iter_rows(named=True):
            shown = spelled(measured[example["id"]], example["source"], example.get("loss_after"))
            examples.append(_excerpt(facts, example, shown, level=3))
    missing = facts.tokens_missing
    parts: list[Part] = [html.remark(missing)] if missing else []
    parts += token_parts(list(measured.values()), examples) if measured else []
    compares = not measured or any(each.compares for each in measured.values())
    title = "Which words it learned" if compares else "Which words it loses on"
    return Section(id="tokens", nav="words", title=title, parts=parts, kind="tokens")


def _target(facts: SelectionFacts, pulled: pl.DataFrame) -> Section:
    """Say how many chosen examples each row of the target pulled in, and show the first of each."""
    first = pulled.join(facts.chosen.select("id", "rank"), on="id").sort("rank")
    counts = first.group_by("target", maintain_order=True).agg(pl.len(), pl.col("id", "value").first())
    texts = {} if facts.examples is None else dict(facts.examples.select("id", "messages").iter_rows())
    rows = []
    for target, number, example, value in counts.sort("len", descending=True).head(SHOWN_TARGETS).iter_rows():
        turns = texts.get(example) or [{"content": example}]
        asked = snippet(str(turns[0]["content"] or ""))
        rows.append([snippet(target), count(number), asked, decimal(value, 2)])
    caption = (
        f"The {first_of_all(len(rows), counts.height)} rows or parts of the target that pulled most examples in, each with the "
        f"first of them, and what it says of that by {facts.by}"
    )
    head = ["of the target", "examples", "such as", "value"]
    parts = [html.table(caption, head, rows, worded=(0, 2), label="What the target pulled in")]
    return Section(id="target", nav="target", title="What the target pulled in", parts=parts)


def _information(facts: SelectionFacts) -> Section:
    """Say how many bits of its answers this model can tell from the questions, in the pool and in the selection."""
    groups = information(facts)
    rows = [
        [name, *(figure for values in both for figure in (count(len(values)), _mean_with_interval(values)))]
        for name, *both in groups[: 1 + SHOWN_SOURCES]
    ]
    caption = (
        "Mean PVI in bits an example (I_V), with its 95% interval by leaving out one example at a time"
        f"{first_of_all(len(rows) - 1, len(groups) - 1)}"
    )
    title = "How much the questions tell of the answers"
    parts = [
        html.table(caption, ["source", "examples", "pool", "kept", "selection"], rows, label=title),
        html.remark(
            "The intervals do not count that another training of the two references gives other figures; those of a "
            "selection that leaves out what is below 0 are above 0 by choice."
        ),
    ]
    return Section(id="information", nav="information", title=title, parts=parts)


def _mean_with_interval(values: pl.Series) -> str:
    mean = decimal(values.mean(), 2)
    if len(values) < 2:
        return mean
    reach = scipy.special.stdtrit(len(values) - 1, 0.975) * float(values.std()) / len(values) ** 0.5  # type: ignore[arg-type]
    low, high = (decimal(float(values.mean()) + side * reach, 2) for side in (-1, 1))  # type: ignore[arg-type]
    return f"{mean} ({low} to {high})"


def _read(facts: SelectionFacts) -> Section:
    parts: list[Part] = []
    texts = pl.DataFrame() if facts.examples is None else facts.examples
    for title, about, frame in to_read(facts):
        here = texts.select(pl.col("id").cast(pl.String), "messages").join(frame, on="id", how="semi")
        messages = dict(here.iter_rows())
        shown = [_excerpt(facts, each, html.turns_of(messages.get(each["id"]))) for each in frame.to_dicts()]
        parts += [html.heading(title), html.text(about), *shown]
    if not parts:
        why = "no example has a score" if facts.has("score") else f"there is no column {facts.by}"
        if facts.examples is None:
            why = "the scores came from a table without texts"
        parts.append(html.remark(f"Nothing to read: {why}."))
    return Section(id="read", nav="examples", title="Read some examples", parts=parts)


def _excerpt(
    facts: SelectionFacts, example: dict[str, Any], parts: list[Markup], *, level: int = 4
) -> Markup:
    chosen = example["is_kept"]
    out = f"not chosen: {example['reason'] or 'no reason given'}"
    scores = [name for name in dict.fromkeys([facts.by, *facts.scorers]) if name in example]
    figures = [(name, decimal(example[name])) for name in scores]
    if example.get("loss_before") is not None:
        after = f" → {decimal(example['loss_after'])}" if "loss_after" in example else ""
        figures.append(("loss", decimal(example["loss_before"]) + after))
    if example.get("response_tokens") is not None:
        figures.append(("response tokens", count(example["response_tokens"])))
    return html.excerpt(
        example["source"],
        parts,
        note=f"chosen, pick {example['rank'] + 1:,}" if chosen else out,
        figures=[*figures, ("id", example["id"])],
        style="kept" if chosen else "",
        level=level,
    )


def _left_out(facts: SelectionFacts) -> Section:
    rows = facts.rows
    pool, kept, dropped = facts.frame.height, facts.chosen.height, facts.dropped.height
    repeated, held, unread = facts.duplicates.height, facts.held_out.height, facts.unread.height
    avoided = facts.avoided.height
    lines = []
    if rows is not None:
        apart = f"{plural(held, 'row')} held out for evaluation + " if held else ""
        apart += f"{plural(avoided, 'row')} of evaluation files + " if avoided else ""
        said = f"{plural(pool, 'example')} + {plural(repeated, 'repeated row')} + {apart}{plural(unread, 'unreadable row')}"
        lines.append(_sum("row", rows.height, f" read = {said}", pool + repeated + held + avoided + unread))
    lines.append(_sum("example", pool, f" = {count(kept)} kept + {count(dropped)} left out", kept + dropped))
    parts: list[Part] = [html.bullets(lines)]
    if why := reasons(facts):
        caption, head = "Why rows and examples were left out", ["while", "reason", "number"]
        parts.append(html.table(caption, head, why, label="Reasons", heads=1, worded=(0, 1)))
    else:
        parts.append(html.remark("Nothing was left out."))
    lost = facts.unread.head(SHOWN_INSTANCES).select("place", "reason").rows()
    form = '<code>{place}</code> <span dir="auto">{why}</span>'
    for name, whole, items in (
        ("Rows that could not be read", unread, lost),
        ("Examples without a score", facts.undefined.height, undefined_places(facts)),
    ):
        if items:
            shown = [html.markup(form, place=place, why=why) for place, why in items]
            summary = f"{name}: {count(whole)}{first_of_all(len(items), whole)}"
            parts.append(html.fold(summary, [html.bullets(shown)]))
    return Section(id="left-out", nav="left out", title="What was left out, and why", parts=parts)


def _sum(noun: str, whole: int, words: str, accounted: int) -> str:
    """Say what a number is made of, and what of it is missing."""
    said = plural(whole, noun) + words
    if accounted == whole:
        return f"{said}."
    missing = f"(that makes {count(accounted)}: {plural(abs(whole - accounted), noun)} not accounted for)"
    return html.markup("{said} <strong>{missing}</strong>.", said=said, missing=missing)


def _cost(facts: SelectionFacts) -> Section:
    steps, pool = facts.steps, _tokens(facts.frame)
    if not steps:
        parts = [html.remark("No steps were recorded.")]
    else:
        together = Cost(
            tokens=sum(cost.tokens for _, cost in steps),
            passes=sum(cost.passes for _, cost in steps),
            seconds=sum(cost.seconds for _, cost in steps),
            peak_memory_bytes=max(cost.peak_memory_bytes for _, cost in steps),
        )
        words: str = "Nothing was run: every figure was already there."
        if together.tokens:
            words = html.markup(
                "{tokens} went through the model: <strong>{epochs} epochs over the pool</strong> (one is {pool}). "
                "Training takes about three times the work of scoring per token, which this does not weigh.",
                tokens=plural(together.tokens, "token"),
                epochs=decimal(together.tokens / pool if pool else None, 2),
                pool=plural(pool or 0, "token"),
            )
        head = ["step", "time", "tokens", "passes", "tokens/s", "peak memory"]
        rows = [_cost_row(name, cost) for name, cost in steps]
        foot = _cost_row("together", together)
        parts = [html.text(words)] if pool or not together.tokens else []
        parts.append(html.table("Cost per step", head, rows, label="Cost", foot=foot))
    return Section(id="cost", nav="cost", title="What it cost", parts=parts)


def _cost_row(name: str, cost: Cost) -> list[str]:
    speed = cost.tokens / cost.seconds if cost.tokens and cost.seconds else None
    numbers = [count(cost.tokens or None), decimal(cost.passes or None, 2), count(speed)]
    return [name, duration(cost.seconds), *numbers, memory(cost.peak_memory_bytes)]


_FORMULAS: Mapping[str, str] = {
    "learnability": html.markup(
        "<var>S</var> = 1 \N{MINUS SIGN} <var>loss after</var> / <var>loss before</var>: the part of its loss that training took away. "
        "1 is all, 0 is none, below 0 it got worse. (LoBaSS, later DavIR: arXiv 2310.13008.)"
    ),
    "difference": html.markup(
        "<var>loss before</var> \N{MINUS SIGN} <var>loss after</var>, in nats per token: the same without the division. It favours "
        "examples that had a high loss to begin with, noise among them."
    ),
}


def _trained_on(reference: Mapping[str, Any]) -> str | None:
    """Return in words which rows a reference was trained on, None where these are all, or not known."""
    if reference.get("rows") == "trimmed":
        rounds, folds = reference["rounds"], reference.get("folds")
        again = f", chosen again {rounds - 1} times by learnability" if rounds > 1 else ""
        seen = "" if folds else " It has seen these and not the others, so part of each score is memory."
        which = f"{reference['share']:.0%} of the examples, those with the lowest base loss{again}"
        return f"The reference was trained on {which}.{seen}"
    if reference.get("rows") == "trusted":
        both = reference["trusted rows in the pool"]
        return f"The reference was trained on {reference['trusted rows']:,} trusted rows, {both:,} of which stand in the pool."
    return None


def _method(facts: SelectionFacts) -> Section:
    reference = facts.reference
    notes: list[str] = list(filter(None, [_trained_on(reference)]))
    if folds := reference.get("folds"):
        notes.append(
            f"The reference is cross-fitted over {folds} folds: no example was scored by a model that trained on it."
        )
    elif reference.get("kind") == "trained" and "rows" not in reference:
        notes.append(
            html.markup(
                "The reference is in-sample: it was trained on the examples that it scores, as in the paper. Part of each "
                "score is memory; <code>--reference.folds 2</code> costs one epoch as well and scores every example with a "
                "model that has not seen it."
            )
        )
    if facts.looked_at_evaluation or facts.avoided.height:
        notes.append(kept_apart(facts.avoided.height, facts.ledger.height))
    notes += [
        "These figures belong to this model. Another model learns other examples.",
        "A loss knows nothing of quality, truth or safety: a wrong answer in a learnable style scores high. Read the "
        "examples above.",
        "Whether the selection trains a better model is not shown here; train on it and on a random selection of the same "
        "size, and compare.",
    ]
    words = (
        "The loss of an example is measured on its response only, in nats per token, by the model itself: before "
        "(base model) and after (reference, the same model fine-tuned). From the two:"
    )
    parts = [
        html.text(words),
        html.terms(_FORMULAS.items(), kind="formulas"),
        *html.settings_table("The reference", reference, label="Reference"),
        html.bullets(notes),
    ]
    return Section(id="method", nav="method", title="How this was made, and what it cannot say", parts=parts)
