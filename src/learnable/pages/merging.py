"""The page of a merge: what a model of several orders is worth beside one training, and whether the order shows at all."""

import polars as pl
from markupsafe import Markup

from learnable.experiments.singles import BEST, SINGLE
from learnable.pages import html
from learnable.pages import lesson_pictures as pictures
from learnable.pages.contest import Evaluated, Line, method_section, probability
from learnable.pages.imbalance import imbalance_section
from learnable.pages.merging_facts import (
    MERGING_CHECKS,
    MergingContest,
    MergingFacts,
    headline,
    merging_contest,
)
from learnable.pages.page import Panels, Part, Section, write_page
from learnable.pages.warnings import look, warnings_section
from learnable.pages.words import NOTHING, capital, count, decimal, duration, enumeration, plural


def render_merging(facts: MergingFacts) -> str:
    """Write the report of one merge as a self-contained page."""
    contest = merging_contest(facts)
    looked = look(MERGING_CHECKS, contest)
    sections = [
        _answer(contest),
        _values(contest),
        imbalance_section(facts.order, confidence=facts.confidence),
        _merges(contest),
        warnings_section(looked, nav="distrust"),
        _method(contest),
    ]
    copies = facts.arms.filter(pl.col("model").is_not_null() & pl.col("arm").str.starts_with("order "))
    models = copies["model"].n_unique()
    return write_page(
        sections,
        kicker=facts.title,
        headline=headline(contest),
        lead=html.markup(
            "<strong>{model}</strong> was trained on {rows} in {orders}, and the models were merged by {mergers}.{distrust}",
            model=facts.model,
            rows=plural(facts.pool, "row"),
            orders=plural(facts.orders, "order"),
            mergers=enumeration(list(facts.mergers)),
            distrust=looked.link,
        ),
        tiles=[
            ("orders", count(facts.orders), "trainings that are merged"),
            ("sets", count(contest.trainings), "of trainings"),
            ("models trained", count(models), f"on {plural(int(copies['tokens'].sum()), 'token')} an epoch"),
            ("slope", decimal(contest.slopes["first"].slope, 4), "nats per token over the first epoch"),
        ],
        command=("To repeat this page", facts.command),
    )


def _answer(contest: MergingContest) -> Section:
    words = (
        f"Every arm stands beside a single training: the mean over the {contest.facts.orders} orders, so that no order's luck "
        f"counts. “{BEST}” is chosen on one half of the items and judged on the other."
    )
    parts: list[Part] = [html.text(words)]
    for number, each in enumerate(contest.evaluated):
        about = f"{each.unit}, {each.side}; {plural(each.items, 'item')} graded"
        said = [
            (
                outcome if outcome in ("better", "worse") else "",
                html.markup("<strong>{what}:</strong> {who}", what=capital(what), who=who),
            )
            for outcome, what, who in contest.findings(each)
        ]
        inside = [html.heading(each.label), html.remark(about), html.bullets(said)]
        inside += [html.text(words) for words in _beside_average(contest, each)]
        if context := contest.context_of(each):
            inside.append(html.remark(context))
        parts.append(html.box("answer", inside))
        domain = pictures.domain_of([each]) if any(line.half for line in each.lines) else []
        if domain:
            picture = pictures.arm_values(f"values-{number}", each, domain, title=each.label)
            parts.append(Panels(pictures=[picture], kind="panels plots"))
        else:
            parts.append(html.remark(each.no_picture))
    return Section(id="answer", nav="answer", title="Does merging help?", parts=parts)


def _beside_average(contest: MergingContest, each: Evaluated) -> list[str]:
    """Say how the other mergers stand beside the average: whether choosing, or noise, is worth something."""
    beside = contest.beside_average.get(each.label)
    if beside is None:
        return []
    said = [
        f"{line.arm} {line.words}: {beside.signed(line.difference)} ({beside.between(line.low, line.high, signed=True)}; "
        f"p {probability(line.p)})"
        for line in beside.compared
    ]
    return [f"Beside the average: {'; '.join(said)}."]


def _values(contest: MergingContest) -> Section:
    parts: list[Part] = []
    for each in contest.evaluated:
        rows = [_row(each, line) for line in each.lines]
        head = ["arm", "value", "difference", "seen", "p", "steps", "training"]
        caption = f"Values on {each.label} ({each.unit}, {each.side})"
        parts.append(html.table(caption, head, rows, kind="dense", worded=(3,)))
    note = (
        f"Small print is the interval of the value, and that of the difference to {SINGLE}. Steps and training time are those of "
        "all trainings that an arm needs, means over the sets."
    )
    return Section(id="values", nav="figures", title="All figures", parts=[*parts, html.remark(note)])


def _row(each: Evaluated, line: Line) -> Markup:
    kind = line.outcome if line.competes and line.outcome in ("better", "worse", "baseline") else ""
    cells = [
        line.arm,
        each.value_cell(line),
        each.difference_cell(line),
        html.cell(line.words if line.competes else "gives the scale", kind=f"word {kind}"),
        NOTHING if line.p is None else probability(line.p).removeprefix("= "),
        count(line.steps),
        duration(line.training_s or 0),
    ]
    return html.row(cells, kind=kind)


def _merges(contest: MergingContest) -> Section:
    rows = [
        [
            row["merger"],
            count(row["seed"]),
            count(row["parameters"]),
            f"{row['zero']:.2%}",
            f"{row['replaceable']:.2%}",
            decimal(row["cosine"], 3),
        ]
        for row in contest.facts.merges.to_dicts()
    ]
    head = [
        "merge",
        "set",
        "parameters that changed",
        "changes that are zero",
        "zero in some models only",
        "lowest cosine",
    ]
    note = (
        "The cosine is that between the changes of two models. Resampling can matter for parameters that are the base's in some "
        "models only: few, unless weights are trained or saved in bfloat16."
    )
    table = html.table("What was merged", head, rows, kind="dense")
    return Section(id="merges", nav="merges", title="What was merged", parts=[table, html.remark(note)])


def _method(contest: MergingContest) -> Section:
    return method_section(
        contest,
        first="All trainings of a set begin alike and see the same rows; they differ in the order of these. Merged models cost "
        "all trainings of a set, and one model to run. All are graded in float32, so that rounding takes no part.",
        widened_for="arms",
        alone=", and the comparison with the average stands alone",
        last=(
            "noise has the mean and the variance of selection without choosing. What selection gains over the average and not "
            "over noise comes from choosing.",
            "All of it belongs to this model, these rows and these settings.",
        ),
    )
