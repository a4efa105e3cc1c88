"""The page of a comparison: which ways to choose differ from a random draw, what they cost, and what to distrust.

Everything is said in words and with its interval; what was not seen is said as plainly as what was.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import polars as pl
from markupsafe import Markup

from learnable.data.overlap import jaccard
from learnable.experiments import RANDOM
from learnable.pages import comparison_facts as answers
from learnable.pages import comparison_pictures as pictures
from learnable.pages import html
from learnable.pages.comparison_facts import COMPARISON_CHECKS, ComparisonFacts
from learnable.pages.contest import ContestFacts, Evaluated, Line
from learnable.pages.contest_warnings import method_section
from learnable.pages.page import Panels, Part, Section, write_page
from learnable.pages.warnings import look, warnings_section
from learnable.pages.words import (
    NOTHING,
    capital,
    count,
    decimal,
    duration,
    finite,
    first_of_all,
    plural,
    probability,
    share,
)

SHOWN_ITEMS = 20
SHOWN_POOL_SOURCES = 6
SHOWN_ITEM_SOURCES = 8
SHOWN_EXAMPLES = 3


def render_comparison(comparison: ComparisonFacts) -> str:
    """Write the report of one comparison as a self-contained page: HTML of about 1 MB, whatever the number of items."""
    looked = look(COMPARISON_CHECKS, comparison)
    opening, above = pictures.all_differences(comparison.evaluated, to=comparison.draw)
    opening = opening or pictures.growth(comparison)
    sections = [
        answer_section(comparison),
        differences_section(
            comparison,
            above,
            partial(_rows, comparison),
            title=f"Differences to {comparison.draw}" if comparison.is_contest else "All figures",
        ),
        _curves(comparison),
        _cost(comparison),
        _choice(comparison),
        _sources(comparison),
        warnings_section(looked, nav="distrust", more=_in_pool(comparison.overlap)),
        _method(comparison),
    ]
    budgets = [count(budget) for budget in comparison.budgets]
    several = f"{budgets[0]} to {budgets[-1]}" if len(budgets) > 1 else budgets[0]
    evaluations = len(comparison.evaluated)
    return write_page(
        sections,
        kicker=comparison.title,
        headline=comparison.headed(answers.headline(comparison)),
        lead=html.markup(
            "<strong>{model}</strong> was trained on {how}.{distrust}",
            model=comparison.model,
            how=_ways(comparison),
            distrust=looked.link,
        ),
        tiles=[
            ("evaluations", count(evaluations), "each answers for itself" if evaluations > 1 else ""),
            *(
                [("methods", count(len(comparison.contestants) - 1), f"and {comparison.draw}")]
                if comparison.is_contest
                else []
            ),
            ("budgets", count(len(budgets)), f"{several} tokens"),
            *comparison.tiles,
            (
                "pool",
                count(comparison.scores.height),
                plural(int(comparison.scores["tokens"].sum()), "token"),
            ),
        ],
        onward=comparison.onward,
        chart=opening,
        command=("To repeat this page", comparison.command),
    )


def _ways(comparison: ComparisonFacts) -> str:
    ways, draw = plural(len(comparison.contestants) - 1, "way"), comparison.draw
    if not comparison.is_contest:
        return draw if len(comparison.budgets) == 1 else f"random draws of {len(comparison.budgets)} sizes"
    if comparison.baseline == RANDOM:
        return f"equal token budgets, chosen in {ways} and at random"
    return f"equal token budgets, in {ways} beside {draw}"


def answer_section(contest: ContestFacts) -> Section:
    """Return what the run found, and what was seen on each evaluation."""
    parts: list[Part] = [html.text(contest.fair or f"Every arm stands against {contest.baseline}.")]
    if contest.findings:
        parts.append(html.bullets(contest.findings))
    form = "<strong>{what}:</strong> {who}"
    for each in contest.evaluated:
        trainings = max((line.seeds for line in each.compared), default=each.baseline.seeds)
        items, times = plural(each.items, "item"), plural(trainings, "training")
        of_each = f" of each {contest.arm_word}" if each.compared else ""
        about = f"{each.unit}, {each.side}" + (f"; {items} graded, {times}{of_each}" if each.items else "")
        said = [
            (
                outcome if outcome in ("better", "worse") else "",
                html.markup(form, what=capital(what), who=html.eased(who)),
            )
            for outcome, what, who in contest.seen_on(each)
        ]
        inside = [html.heading(each.label), html.remark(about), *([html.bullets(said)] if said else [])]
        if context := contest.context_of(each):
            inside.append(html.remark(context) if said else html.text(context))
        elif not said:
            inside.append(html.text("It has no value: see what to distrust."))
        parts.append(html.box("answer", inside))
    return Section(id="answer", nav="answer", title=contest.question, parts=parts)


def differences_section(
    contest: ContestFacts,
    above: Sequence[Sequence[Part]],
    rows_of: Callable[[Evaluated], list[Markup]],
    *,
    title: str,
) -> Section:
    """Return the table of each evaluation, with what stands above it."""
    parts: list[Part] = []
    numbers = ("value", "tokens", "examples", "steps", "ungraded")
    head = [contest.arm_word, "seen", f"difference to {contest.baseline}", "p", *numbers]
    for each, pictured in zip(contest.evaluated, above, strict=True):
        caption = f"Values on {each.label} ({each.unit}, {each.side})"
        table = html.table(caption, head, rows_of(each), kind="dense", worded=(1,))
        parts += [html.heading(each.label), *pictured, table]
    return Section(id="differences", nav="differences", title=title, parts=parts)


def _rows(comparison: ComparisonFacts, each: Evaluated) -> list[Markup]:
    several, rows = len(comparison.budgets) > 1, list[Markup]()
    for budget in each.budgets:
        rows += [_over(f"budget of {count(budget)} tokens")] if several else []
        rows += ranked_rows(each, [line for line in each.lines if line.budget_tokens == budget])
    if each.beside:
        to = f"; the difference is to {comparison.standard} of {count(comparison.budget)} tokens"
        rows.append(_over(f"other budgets, not part of the contest{to if several else ''}"))
        rows += [_row_of(each, line) for line in each.beside]
    return rows


def ranked_rows(each: Evaluated, lines: Sequence[Line]) -> list[Markup]:
    """Return lines of a table, best value first; what could not be graded comes last."""
    sign = -1 if each.higher_is_better else 1
    ranked = sorted(lines, key=lambda line: math.inf if line.value is None else sign * line.value)
    return [_row_of(each, line) for line in ranked]


def _over(words: str) -> Markup:
    return html.row([html.head_cell(words, scope="row", span=9)], "over")


def _row_of(each: Evaluated, line: Line) -> Markup:
    """Return a line of the table of one evaluation."""
    cells: list[str] = [
        line.arm,
        html.cell(line.words, kind="word verdict"),
        each.difference_cell(line),
        NOTHING if line.p is None else probability(line.p).removeprefix("= "),
        each.value_cell(line),
        *map(count, (line.tokens, line.examples, line.steps, line.ungraded)),
    ]
    return html.row(cells, kind=line.outcome if line.outcome in ("better", "worse", "baseline") else "")


def _curves(comparison: ComparisonFacts) -> Section:
    parts: list[Part] = []
    for number, each in enumerate(comparison.evaluated):
        if drawn := pictures.curves(f"curve-{number}", each):
            about = html.remark(f"{each.unit}, {each.side}")
            parts += [html.heading(each.label), about, Panels(pictures=drawn)]
    if parts:
        about = html.text(
            f"Grey is {comparison.standard}, the line with dots is the method. The whiskers are the intervals of the "
            "difference to it: where one crosses the grey line, no difference was seen."
        )
        parts.insert(0, about)
    return Section(id="curve", nav="budgets", title="Value against budget", parts=parts)


def _cost(comparison: ComparisonFacts) -> Section:
    evaluated = comparison.evaluated
    parts: list[Part] = [html.bullets(answers.paybacks(comparison))]
    if picture := pictures.seconds(comparison):
        parts.append(picture)
    head = ["method", "scoring", "reference", "training", "choosing ÷ training time"]
    labels = [html.head_cell(each.label, kind="word label") for each in evaluated]
    rows = []
    for line in comparison.arms_at(comparison.budget):
        timed = line.score_s is not None and line.reference_s is not None and line.training_s
        choosing = ((line.score_s or 0) + (line.reference_s or 0)) / (line.training_s or 1) if timed else None
        spent = (
            (line.score_tokens, line.score_s),
            (line.reference_tokens, line.reference_s),
            (line.tokens, line.training_s),
        )
        cells = [
            html.cell(count(tokens or None), (duration(time) if time else "not timed") if tokens else "")
            for tokens, time in spent
        ]
        gains = [answers.gain_of(each, line.arm, comparison.budget) for each in evaluated]
        rows.append([line.arm, *cells, decimal(choosing or None, 1), *gains])
    caption = f"Tokens and time: choosing is paid once, training each time ({comparison.at_largest})"
    worded = range(len(head), len(head) + len(labels))
    parts.append(html.table(caption, [*head, *labels], rows, label="Cost and gain per method", worded=worded))
    parts += comparison.took
    return Section(id="cost", nav="cost", title="Cost beside gain", parts=parts)


def _choice(comparison: ComparisonFacts) -> Section:
    if not comparison.is_contest:
        return Section(id="choice", title="What each method chose", parts=[])
    source = pl.col("source").cast(pl.String).fill_null("unknown")
    pool = comparison.scores.with_columns(source, id=pl.col("id").cast(pl.String))
    sizes = pool.group_by("source").len().sort("len", "source", descending=[True, False])
    sources = sizes["source"].to_list()[:SHOWN_POOL_SOURCES] if sizes.height > 1 else []
    chosen = comparison.first(comparison.budget)
    rows: list[Markup | list[str]] = [html.row(_make_up("the pool", pool, sources), kind="baseline")]
    rows += [_make_up(method, _by_id(ids).join(pool, on="id"), sources) for method, ids in chosen.items()]
    made_of = html.table(
        "Make-up of the selections beside the pool",
        ["method", "examples", "tokens", "response tokens, median", "loss before, mean", *sources],
        rows,
        label="Make-up of the selections",
    )
    about = html.remark(f"With the first seed, {comparison.at_largest}.")
    parts = [about, made_of, *_overlap(comparison, chosen), *_alone(comparison, pool, chosen)]
    return Section(id="choice", nav="choices", title="What each method chose", parts=parts)


def _by_id(ids: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"id": ids}, schema={"id": pl.String})


def _make_up(name: str, chosen: pl.DataFrame, sources: Sequence[str]) -> list[str]:
    losses = (
        chosen["loss_before"].cast(pl.Float64).fill_nan(None) if "loss_before" in chosen.columns else None
    )
    return [
        name,
        count(chosen.height),
        count(int(chosen["tokens"].sum())),
        decimal(chosen["response_tokens"].median(), 0),
        decimal(None if losses is None else losses.mean()),
        *(share(chosen.filter(pl.col("source") == source).height, chosen.height) for source in sources),
    ]


def _overlap(comparison: ComparisonFacts, chosen: dict[str, list[str]]) -> list[Part]:
    """How far the selections overlap; nothing for a single method."""
    if len(chosen) < 2:
        return []
    rows: list[list[str]] = []
    for number, (one, mine) in enumerate(chosen.items(), start=1):
        values = [None if other == one else finite(jaccard(mine, ids)) for other, ids in chosen.items()]
        cells = [
            html.cell("·" if other == one else decimal(value, 2), share=value or 0.0)
            for other, value in zip(chosen, values, strict=True)
        ]
        rows.append([f"{number} {one}", *cells])
    caption = "Jaccard index: examples in both over examples in either; 1 is the same selection."
    drawn = len(chosen.get(comparison.baseline, ())) / max(comparison.scores.height, 1)
    if drawn:
        caption += f" Two random draws of this size share about {decimal(drawn / (2 - drawn), 2)}."
    form = '<abbr title="{method}">{number}</abbr>'
    numbers = [html.markup(form, method=method, number=number) for number, method in enumerate(chosen, 1)]
    shared = html.table(
        caption, ["method", *numbers], rows, kind="narrow heat", label="Overlap of the selections"
    )
    return [html.heading("How far the selections overlap"), shared]


def _alone(comparison: ComparisonFacts, pool: pl.DataFrame, chosen: dict[str, list[str]]) -> list[Part]:
    """Examples that one method chose and no other; the random draw is left aside."""
    others = {name: ids for name, ids in chosen.items() if name != comparison.baseline}
    if len(others) < 2:
        return []
    about = "No other method chose these; the random draw is left aside, since its choice means nothing."
    parts: list[Part] = [html.heading("Examples that only one method chose"), html.text(about)]
    times = Counter(name for ids in others.values() for name in set(ids))
    told = pool.head(0)
    if comparison.examples is not None:
        told = pool.join(comparison.examples.select(pl.col("id").cast(pl.String), "messages"), on="id")
    for method, taken in others.items():
        ids, excerpts = [name for name in taken if times[name] == 1], []
        shown = _by_id(ids[:SHOWN_EXAMPLES]).join(told, on="id", maintain_order="left")
        for example in shown.iter_rows(named=True):
            losses = {"its score": example.get(method), "loss before": example.get("loss_before")}
            figures = [(name, decimal(value)) for name, value in losses.items() if finite(value) is not None]
            figures += [("response tokens", count(finite(example["response_tokens"]))), ("id", example["id"])]
            note, turns = f"chosen by {method} only", html.turns_of(example["messages"])
            excerpts.append(html.excerpt(example["source"], turns, note=note, figures=figures, style="kept"))
        if excerpts:
            which = f"{count(len(ids))} of {count(len(taken))} chosen by no other"
            summary = f"{method}: {which}{first_of_all(len(excerpts), len(ids))}"
            parts.append(html.fold(summary, excerpts, style="only"))
        else:
            own = f"{plural(len(ids), 'example')} of its own; the texts were not given"
            said = own if ids else "all that it chose, another method chose too"
            parts.append(html.text(f"{method}: {said}.", kind="remark only"))
    return parts


def _sources(comparison: ComparisonFacts) -> Section:
    """Say where an effect comes from, without verdicts."""
    tables = []
    for each in comparison.evaluated:
        here = (pl.col("evaluation") == each.label) & (pl.col("budget_tokens") == comparison.budget)
        results = comparison.results.filter(here & pl.col("value").is_finite()).with_columns(
            pl.col("source").cast(pl.String).fill_null("unknown"), pl.col("value").cast(pl.Float64)
        )
        is_random = pl.col("method") == comparison.baseline
        base = results.filter(is_random).select("seed", "id", base="value")
        pairs = results.filter(~is_random).join(base, on=["seed", "id"])
        sizes = pairs.group_by("source").agg(items=pl.col("id").n_unique())
        sizes = sizes.sort("items", "source", descending=[True, False])
        if sizes.height < 2:  # all are of one source
            continue
        shown = sizes.head(SHOWN_ITEM_SOURCES).rows()
        means = pairs.group_by("method", "source").agg(mean=(pl.col("value") - pl.col("base")).mean())
        found = {(method, source): finite(mean) for method, source, mean in means.iter_rows()}
        hidden = sizes.height - len(shown)
        caption = f"Difference per source on {each.label} ({each.unit}, {each.side})"
        table = html.table(
            caption + (f"; {plural(hidden, 'smaller source')} left out" if hidden else ""),
            ["method", *(html.head_cell(source, plural(items, "item")) for source, items in shown)],
            [
                [method, *(each.signed(found.get((method, source))) for source, _ in shown)]
                for method in comparison.contestants[1:]
            ],
            label=caption,
        )
        tables.append(table)
    about = (
        f"Mean difference to {comparison.standard} {comparison.at_largest}, by source of the evaluation items. These are figures "
        "without intervals: they show where to look, and decide nothing."
    )
    parts = [html.text(about), *tables] if tables else []
    return Section(id="sources", nav="sources", title="Differences per source", parts=parts)


def _in_pool(overlap: pl.DataFrame) -> list[Part]:
    """Name the evaluation items that stand in the pool."""
    form = '<code>{item}</code> of {evaluation}: {kind_} as <code>{pool}</code>{others}: <span dir="auto">{shared}</span>'
    items = []
    for item in overlap.head(SHOWN_ITEMS).rename({"kind": "kind_"}).to_dicts():
        more = item["pool_rows"] - 1
        items.append(html.markup(form, others=f" and {plural(more, 'other row')}" if more else "", **item))
    first = first_of_all(len(items), overlap.height)
    summary = f"Evaluation items that stand in the pool: {count(overlap.height)}{first}"
    return [html.fold(summary, [html.bullets(items)])] if items else []


def _method(comparison: ComparisonFacts) -> Section:
    first = (
        "At a budget every method gets the same tokens (prompt and response), the same number of steps, the same schedule and "
        "the same seeds. The untuned model and the full pool have other budgets: they give the scale, and take no part in the "
        "contest."
    )
    last = (
        "Payback compares means: after how many trainings the time of choosing is won back, because a random draw would need "
        "more tokens for the same value.",
        "All of it belongs to this model, this pool, these budgets and these evaluations.",
    )
    return method_section(comparison, first=first, widened_for="methods and budgets", last=last)
