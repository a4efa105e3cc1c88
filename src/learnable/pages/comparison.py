"""The page of a comparison: which ways to choose differ from a random draw, what they cost, and what to distrust.

Everything is said in words and with its interval; what was not seen is said as plainly as what was.
"""

from collections.abc import Sequence

import polars as pl
from markupsafe import Markup

from learnable.experiments import RANDOM, jaccard, only_in
from learnable.pages import comparison_pictures as pictures
from learnable.pages.comparison_answers import KINDS, context_of, findings, gain_of, headline, paybacks
from learnable.pages.comparison_facts import ByBudget, Comparison, ComparisonFacts, MethodLine, comparison_of
from learnable.pages.comparison_warnings import COMPARISON_CHECKS
from learnable.pages.contest import distrust_link, probability
from learnable.pages.excerpts import excerpt, turns_of
from learnable.pages.page import (
    Opening,
    Panels,
    Part,
    Section,
    box,
    bullets,
    cell,
    fold,
    head_cell,
    heading,
    markup,
    remark,
    row,
    settings_table,
    table,
    text,
    write_page,
)
from learnable.pages.warnings import Looked, look, warnings_section
from learnable.pages.words import NOTHING, count, decimal, duration, finite, plural, share

SHOWN_ITEMS = 20
SHOWN_POOL_SOURCES = 6
SHOWN_ITEM_SOURCES = 8
SHOWN_EXAMPLES = 3


def render_comparison(facts: ComparisonFacts) -> str:
    """Write the report of one comparison as a self-contained page.

    Args:
        facts: What the report is made from.

    Returns:
        HTML of about 1 MB, whatever the number of items.
    """
    comparison = comparison_of(facts)
    looked = look(COMPARISON_CHECKS, comparison)
    sections = [
        _answer(comparison),
        _differences(comparison),
        _curves(comparison),
        _cost(comparison),
        _choice(comparison),
        _sources(comparison),
        warnings_section(looked, nav="distrust", more=_in_pool(facts.overlap)),
        _method(facts),
    ]
    return write_page(_opening(comparison, looked), sections)


def _opening(comparison: Comparison, looked: Looked) -> Opening:
    facts = comparison.facts
    said = headline(comparison)
    trained = facts.arms.filter(facts.arms["tokens"] > 0).unique("model")
    budgets = [count(budget) for budget in comparison.budgets]
    several = f"{budgets[0]} to {budgets[-1]}" if len(budgets) > 1 else budgets[0]
    evaluations, methods = len(comparison.evaluated), len(comparison.methods) - 1
    return Opening(
        title=f"{facts.title}: {said}",
        kicker=facts.title,
        headline=said,
        lead=markup(
            "<strong>{model}</strong> was trained on equal token budgets, chosen in {ways} and at random.{distrust}",
            model=facts.model,
            ways=plural(methods, "way"),
            distrust=distrust_link(looked.warnings),
        ),
        tiles=[
            ("evaluations", count(evaluations), "each answers for itself" if evaluations > 1 else ""),
            ("methods", count(methods), "and a random draw"),
            ("budgets", count(len(budgets)), f"{several} tokens"),
            ("seeds", count(comparison.trainings), "trainings of each method"),
            ("models trained", count(trained.height), f"on {count(int(trained['tokens'].sum()))} tokens"),
            ("pool", count(facts.scores.height), plural(int(facts.scores["tokens"].sum()), "token")),
        ],
        command=("To repeat this page", facts.command),
    )


def _answer(comparison: Comparison) -> Section:
    parts: list[Part] = [
        text(
            "Every method stands against a random draw of the same number of tokens, trained in the same way."
        )
    ]
    for each in comparison.evaluated:
        trainings = max((line.seeds for line in each.compared), default=0)
        about = f"{each.unit}, {each.side}; {plural(each.items, 'item')} graded, {plural(trainings, 'training')} of each method"
        said = [
            (kind if kind in ("better", "worse") else "", markup("<strong>{what}:</strong> {words}", what=KINDS[kind], words=words))
            for kind, words in findings(each).items()
        ]  # fmt: skip
        inside = [
            remark(about),
            bullets(said or ["Nothing was compared."]),
        ]
        if context := context_of(each):
            inside.append(remark(context))
        parts.append(box("answer", [heading(each.label), *inside]))
    return Section(id="answer", nav="answer", title="Does choosing help?", parts=parts)


def _differences(comparison: Comparison) -> Section:
    parts: list[Part] = []
    several = len(comparison.budgets) > 1
    for number, each in enumerate(comparison.evaluated):
        parts.append(heading(each.label))
        if picture := pictures.differences(f"differences-{number}", each):
            parts.append(picture)
        else:
            known = any(line.low is not None for line in each.compared)
            why = (
                "no item is graded otherwise than with the random draw"
                if known
                else "no difference has an interval"
            )
            parts.append(remark(f"No picture: {why}."))
        rows = []
        for budget in each.budgets:
            if several:
                rows.append(_over(f"budget of {count(budget)} tokens"))
            rows += [_row(each, line) for line in each.at(budget)]
        if each.outside:
            to = (
                f"; the difference is to the random draw of {count(comparison.budget)} tokens"
                if several
                else ""
            )
            rows += [
                _over(f"other budgets, not part of the contest{to}"),
                *(_row(each, line) for line in each.outside),
            ]
        head = [
            "method",
            "seen",
            "difference to random",
            "p",
            "value",
            "tokens",
            "examples",
            "steps",
            "ungraded",
        ]
        caption = f"Values on {each.label} ({each.unit}, {each.side})"
        parts.append(table(caption=caption, kind="dense", head=head, worded=(1,), rows=rows))
    return Section(id="differences", nav="differences", title="Differences to a random draw", parts=parts)


def _over(words: str) -> Markup:
    return row([head_cell(words, scope="row", span=9)], "over")


def _row(each: ByBudget, line: MethodLine) -> Markup:
    cells: list[str] = [
        line.arm,
        cell(line.words, kind="word verdict"),
        each.difference_cell(line),
        NOTHING if line.p is None else probability(line.p).removeprefix("= "),
        each.value_cell(line),
        *map(count, (line.tokens, line.examples, line.steps, line.ungraded)),
    ]
    return row(cells, kind=line.outcome if line.outcome in ("better", "worse", "baseline") else "")


def _curves(comparison: Comparison) -> Section:
    parts: list[Part] = []
    for number, each in enumerate(comparison.evaluated):
        if drawn := pictures.curves(f"curve-{number}", each):
            about = remark(f"{each.unit}, {each.side}")
            parts += [heading(each.label), about, Panels(pictures=drawn)]
    if parts:
        about = text(
            "Grey is the random draw, the line with dots is the method. The whiskers are the intervals of the "
            "difference to it: where one crosses the grey line, no difference was seen."
        )
        parts.insert(0, about)
    return Section(id="curve", nav="budgets", title="Value against budget", parts=parts)


def _cost(comparison: Comparison) -> Section:
    facts = comparison.facts
    parts: list[Part] = [bullets(paybacks(comparison))]
    if picture := pictures.seconds(comparison):
        parts.append(picture)
    head = ["method", "scoring", "reference", "training", "choosing ÷ training time"]
    labels = [head_cell(each.label, kind="word label") for each in comparison.evaluated]
    parts.append(
        table(
            label="Cost and gain per method",
            caption=f"Tokens and time: choosing is paid once, training each time ({comparison.at_largest})",
            head=[*head, *labels],
            worded=range(len(head), len(head) + len(labels)),
            rows=[_cost_row(comparison, line) for line in comparison.at_largest_budget],
        )
    )
    if facts.tokens:
        words = (
            f"The whole comparison took {duration(facts.seconds)} and {plural(facts.tokens, 'token')} in its last run; "
            "what was stored before is not in these figures."
        )
        parts.append(remark(words))
    return Section(id="cost", nav="cost", title="Cost beside gain", parts=parts)


def _cost_row(comparison: Comparison, line: MethodLine) -> list[str]:
    timed = line.score_s is not None and line.reference_s is not None and line.training_s
    choosing = ((line.score_s or 0) + (line.reference_s or 0)) / line.training_s if timed else None
    spent = (
        (line.score_tokens, line.score_s),
        (line.reference_tokens, line.reference_s),
        (line.tokens, line.training_s),
    )
    cells = [
        cell(count(tokens or None), (duration(seconds) if seconds else "not timed") if tokens else "")
        for tokens, seconds in spent
    ]
    gains = [gain_of(each, line.arm, comparison.budget) for each in comparison.evaluated]
    return [line.arm, *cells, decimal(choosing or None, 1), *gains]


def _choice(comparison: Comparison) -> Section:
    pool = _pool(comparison)
    sizes = pool.group_by("source").len().sort("len", "source", descending=[True, False])
    sources = sizes["source"].to_list()[:SHOWN_POOL_SOURCES] if sizes.height > 1 else []
    chosen = comparison.first(comparison.budget)
    rows: list[Markup | list[str]] = [row(_make_up("the pool", pool, sources), kind="baseline")]
    for method, ids in chosen.items():
        picked = pool.join(pl.DataFrame({"id": ids}, schema={"id": pl.String}), on="id", how="semi")
        rows.append(_make_up(method, picked, sources))
    made_of = table(
        "Make-up of the selections beside the pool",
        ["method", "examples", "tokens", "response tokens, median", "loss before, mean", *sources],
        rows,
        label="Make-up of the selections",
    )
    return Section(
        id="choice",
        nav="choices",
        title="What each method chose",
        parts=[
            remark(f"With the first seed, {comparison.at_largest}."),
            made_of,
            *_overlap(comparison, chosen),
            *_alone(comparison, pool, chosen),
        ],
    )


def _pool(comparison: Comparison) -> pl.DataFrame:
    source = pl.col("source").cast(pl.String).fill_null("unknown")
    return comparison.facts.scores.with_columns(source, id=pl.col("id").cast(pl.String))


def _make_up(name: str, chosen: pl.DataFrame, sources: Sequence[str]) -> list[str]:
    losses = (
        chosen["loss_before"].cast(pl.Float64).fill_nan(None) if "loss_before" in chosen.columns else None
    )
    return [
        name,
        count(chosen.height),
        count(int(chosen["tokens"].sum())),
        decimal(finite(chosen["response_tokens"].median()), 0),
        decimal(finite(losses.mean()) if losses is not None else None),
        *(share(chosen.filter(pl.col("source") == source).height, chosen.height) for source in sources),
    ]


def _overlap(comparison: Comparison, chosen: dict[str, list[str]]) -> list[Part]:
    """How far the selections overlap; nothing for a single method."""
    if len(chosen) < 2:
        return []
    pairs = {frozenset((one, other)): finite(value) for one, other, value, _ in jaccard(chosen).iter_rows()}
    rows: list[list[str]] = []
    for number, one in enumerate(chosen, start=1):
        cells = [
            cell("·", share=0.0) if one == other else _share(pairs.get(frozenset((one, other))))
            for other in chosen
        ]
        rows.append([f"{number} {one}", *cells])
    caption = "Jaccard index: examples in both over examples in either; 1 is the same selection."
    drawn = len(chosen.get(RANDOM, ())) / max(comparison.facts.scores.height, 1)
    if drawn:
        caption += f" Two random draws of this size share about {decimal(drawn / (2 - drawn), 2)}."
    numbers = [
        markup('<abbr title="{method}">{number}</abbr>', method=method, number=number)
        for number, method in enumerate(chosen, start=1)
    ]
    shared = table(caption, ["method", *numbers], rows, kind="narrow heat", label="Overlap of the selections")
    return [heading("How far the selections overlap"), shared]


def _share(value: float | None) -> Markup:
    return cell(decimal(value, 2), share=value or 0.0)


def _alone(comparison: Comparison, pool: pl.DataFrame, chosen: dict[str, list[str]]) -> list[Part]:
    """Examples that one method chose and no other; the random draw is left aside."""
    others = {name: ids for name, ids in chosen.items() if name != RANDOM}
    if len(others) < 2:
        return []
    parts: list[Part] = [
        heading("Examples that only one method chose"),
        text("No other method chose these; the random draw is left aside, since its choice means nothing."),
    ]
    for method, ids in only_in(others).items():
        excerpts = _excerpts(comparison, pool, method, ids[:SHOWN_EXAMPLES])
        if excerpts:
            first = f", the first {len(excerpts)} of them" if len(ids) > len(excerpts) else ""
            summary = f"{method}: {count(len(ids))} of {count(len(others[method]))} chosen by no other{first}"
            parts.append(fold(summary, kind="only", parts=excerpts))
        else:
            own = f"{plural(len(ids), 'example')} of its own; the texts were not given"
            said = own if ids else "all that it chose, another method chose too"
            parts.append(text(f"{method}: {said}.", kind="remark only"))
    return parts


def _excerpts(comparison: Comparison, pool: pl.DataFrame, method: str, ids: Sequence[str]) -> list[Markup]:
    if comparison.facts.examples is None:
        return []
    examples = comparison.facts.examples.select(pl.col("id").cast(pl.String), "messages")
    rows = pl.DataFrame({"id": ids}, schema={"id": pl.String}).join(pool, on="id", maintain_order="left")
    excerpts = []
    for example in rows.join(examples, on="id", maintain_order="left").iter_rows(named=True):
        known = [
            ("its score", finite(example.get(method))),
            ("loss before", finite(example.get("loss_before"))),
        ]
        figures = [(name, decimal(value)) for name, value in known if value is not None]
        figures += [("response tokens", count(finite(example["response_tokens"]))), ("id", example["id"])]
        excerpts.append(
            excerpt(
                example["source"],
                note=f"chosen by {method} only",
                figures=figures,
                kind="kept",
                parts=turns_of(example["messages"]),
            )
        )
    return excerpts


def _sources(comparison: Comparison) -> Section:
    """Say where an effect comes from, without verdicts."""
    parts: list[Part] = [
        table for each in comparison.evaluated if (table := _source_table(comparison, each)) is not None
    ]
    if parts:
        about = (
            f"Mean difference to the random draw {comparison.at_largest}, by source of the evaluation items. These are figures "
            "without intervals: they show where to look, and decide nothing."
        )
        parts.insert(0, text(about))
    return Section(id="sources", nav="sources", title="Differences per source", parts=parts)


def _source_table(comparison: Comparison, each: ByBudget) -> Markup | None:
    """Return mean differences by source of the items; None where all are of one."""
    here = (pl.col("evaluation") == each.label) & (pl.col("budget_tokens") == comparison.budget)
    results = comparison.facts.results.filter(here & pl.col("value").is_finite()).with_columns(
        pl.col("source").cast(pl.String).fill_null("unknown"), pl.col("value").cast(pl.Float64)
    )
    is_random = pl.col("method") == RANDOM
    base = results.filter(is_random).select("seed", "id", base="value")
    pairs = results.filter(~is_random).join(base, on=["seed", "id"])
    sizes = pairs.group_by("source").agg(items=pl.col("id").n_unique())
    sizes = sizes.sort("items", "source", descending=[True, False])
    if sizes.height < 2:
        return None
    shown = list(sizes.head(SHOWN_ITEM_SOURCES).iter_rows())
    means = pairs.group_by("method", "source").agg(mean=(pl.col("value") - pl.col("base")).mean())
    found = {(method, source): finite(mean) for method, source, mean in means.iter_rows()}
    hidden = sizes.height - len(shown)
    caption = f"Difference per source on {each.label} ({each.unit}, {each.side})"
    return table(
        label=caption,
        caption=caption + (f"; {plural(hidden, 'smaller source')} left out" if hidden else ""),
        head=["method", *(head_cell(source, plural(items, "item")) for source, items in shown)],
        rows=[
            [method, *(each.signed(found.get((method, source))) for source, _ in shown)]
            for method in comparison.methods
            if method != RANDOM
        ],
    )


def _in_pool(overlap: pl.DataFrame) -> list[Part]:
    """Name the evaluation items that stand in the pool."""
    shown = overlap.head(SHOWN_ITEMS).to_dicts()
    if not shown:
        return []
    items = [
        markup(
            '<code>{item}</code> of {evaluation}: {kind} as <code>{pool}</code>{others}: <span dir="auto">{shared}</span>',
            others=f" and {plural(item['pool_rows'] - 1, 'other row')}" if item["pool_rows"] > 1 else "",
            **item,
        )
        for item in shown
    ]
    first = f", the first {len(shown)} of them" if overlap.height > len(shown) else ""
    summary = f"Evaluation items that stand in the pool: {count(overlap.height)}{first}"
    return [fold(summary, parts=[bullets(items)])]


def _method(facts: ComparisonFacts) -> Section:
    notes = [
        "At a budget every method gets the same tokens (prompt and response), the same number of steps, the same schedule and "
        "the same seeds. The untuned model and the full pool have other budgets: they give the scale, and take no part in the "
        "contest.",
        "A difference is paired: the same evaluation items, the same seeds. Its interval holds the chance of the items and of "
        "the training, and is widened for the number of methods and budgets, so that with "
        f"{100 * facts.confidence:g}% confidence all differences of one evaluation are inside together; p is corrected "
        "likewise. Several evaluations are not corrected for each other.",
        "The interval of a value stands for that value alone. Do not compare methods by whether these overlap; the differences "
        "are for that.",
        "“No difference seen” is no proof that there is none. It says that a difference smaller than half the interval cannot "
        "be told from chance here.",
        "Payback compares means: after how many trainings the time of choosing is won back, because a random draw would need "
        "more tokens for the same value.",
        "All of it belongs to this model, this pool, these budgets and these evaluations.",
    ]
    settings = settings_table("How every selection was trained", facts.settings, label="Training")
    title = "How this was made, and what it cannot say"
    return Section(id="method", nav="method", title=title, parts=[bullets(notes), *settings])
