"""The tables of ``conditions.py`` in Markdown: what was chosen, what came of it, what it takes."""

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from corruption import KINDS, SUBTLE
from evidence import shown_evaluation
from numpy.typing import NDArray

from learnable.commands.method_scores import MethodScores
from learnable.data.overlap import jaccard
from learnable.experiments import Arm, Method, difference
from learnable.experiments.run import ArmRun
from learnable.pages.selection_facts import spearman
from learnable.scorers import SCORERS
from learnable.settings import Reference
from learnable.spec import build

if TYPE_CHECKING:
    from conditions import Trial

TRAINED_PER_S, MEASURED_PER_S = 430, 1_500
"""Tokens a second of the starter model on one thread, for ``--price``."""
NOISE = (*KINDS[1:], *SUBTLE)


def shown(
    title: str,
    methods: Sequence[Method],
    ran: ArmRun,
    scored: MethodScores,
    arms: Sequence[Arm],
    akin: Container[str],
) -> list[str]:
    """Return the evaluations of one table, and what was chosen, also of ids that are ``akin`` to the held-out rows."""
    table = ran.frames["table"].rename({"arm": "method"}).with_columns(_short(pl.col("method")))
    lines = [f"### {title}\n"]
    for label in table["evaluation"].unique(maintain_order=True):
        lines += [*shown_evaluation(table.filter(pl.col("evaluation") == label), label), ""]
    return [*lines, *shown_chosen(methods, scored, arms, akin), ""]


def _short(name: pl.Expr) -> pl.Expr:
    """Name a file of trusted rows without its folder."""
    return name.str.replace(r"rows=.*/trusted\.jsonl", "rows=trusted")


def shown_chosen(
    methods: Sequence[Method], scored: MethodScores, arms: Sequence[Arm], akin: Container[str]
) -> list[str]:
    """Return for each method, as means over seeds, what it chose and how well its score tells clean rows from corrupted."""
    source = dict(scored.lengths.select("id", "source").iter_rows())
    kinds = [kind for kind in NOISE if kind in set(source.values())]
    heads = [*(f"{kind}, %" for kind in kinds), "corrupted, %", "of the first table, %", "AUC"]
    lines = [
        f"| method | rows | response tokens | {' | '.join(heads)} |",
        f"| --- | ---: | ---: |{' ---: |' * len(heads)}",
    ]
    for method in methods:
        own = [arm for arm in arms if arm.label == method.label and arm.budget_tokens]
        if not own:
            continue
        sources = [[source[name] for name in arm.ids if name in source] for arm in own]
        shares = [
            100 * np.mean([np.mean([one == kind for one in some]) for some in sources]) for kind in kinds
        ]
        tokens = np.mean([arm.response_tokens for arm in own])
        auc = clean_above_corrupted(method, scored)
        name = pl.select(_short(pl.lit(method.label))).item()
        cells = [name, f"{np.mean([len(some) for some in sources]):,.0f}", f"{tokens:,.0f}"]
        of_first = 100 * np.mean(
            [np.mean([each in akin for each in arm.ids if each in source]) for arm in own]
        )
        cells += [f"{share:.1f}" for share in [*shares, sum(shares), of_first]]
        lines.append(f"| {' | '.join(cells)} | {'' if auc is None else format(auc, '.2f')} |")
    return lines


def clean_above_corrupted(method: Method, scored: MethodScores) -> float | None:
    """Return the chance that a clean row stands above a corrupted one (AUC), ties half; None without a score or noise."""
    frame = scored.frames[method.label]
    if not method.takes_score:
        return None
    scorer = build("scorer", method.score, SCORERS)
    known = frame.with_columns(score=pl.col(method.score).fill_nan(None)).drop_nulls("score")
    if scorer.higher_is_better == method.lowest:
        known = known.with_columns(score=-pl.col("score"))
    clean = ~known["source"].is_in(list(NOISE)).to_numpy()
    above, below = int(clean.sum()), int((~clean).sum())
    if not above or not below:
        return None
    ranks = known["score"].rank("average").to_numpy()
    return float((ranks[clean].sum() - above * (above + 1) / 2) / (above * below))


def shown_alike(explained: Sequence[str], ran: ArmRun) -> list[str]:
    """Return what is left of a method's difference to random beside rows that are as long, and as noisy, as its choice."""
    lines = [
        "| method | against rows drawn alike in | difference | p | verdict |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    results = ran.frames["results"].filter(pl.col("evaluation") == pl.col("evaluation").first())
    for name in explained:
        for words in ("length", "length and noise"):
            beside = values_of(results, f"{name}, drawn alike in {words}")
            found = difference(
                values_of(results, name), beside, higher_is_better=False, comparisons=2 * len(explained)
            )
            interval = f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
            lines.append(f"| {name} | {words} | {interval} | {found.p:.2g} | {found.verdict} |")
    return [*lines, ""]


def shown_against_full(ran: ArmRun) -> list[str]:
    """Return the differences of chosen rows to all rows, which train for longer."""
    lines = [
        "| evaluation | method | difference to full | p | verdict |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    table = ran.frames["table"]
    names = table.filter(pl.col("budget_tokens").is_not_null())["arm"].unique(maintain_order=True).to_list()
    for label in table["evaluation"].unique(maintain_order=True):
        results = ran.frames["results"].filter(pl.col("evaluation") == label)
        for name in names:
            found = difference(
                values_of(results, name),
                values_of(results, "full"),
                higher_is_better=False,
                comparisons=len(names),
            )
            interval = f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
            lines.append(f"| {label} | {name} | {interval} | {found.p:.2g} | {found.verdict} |")
    return [*lines, ""]


def shown_draws(title: str, frames: Sequence[pl.DataFrame]) -> list[str]:
    """Return the differences to random over draws of a pool: the mean of a draw's trainings is one value of an item."""
    means = [
        frame.group_by("arm", "evaluation", "id")
        .agg(pl.col("value").mean())
        .with_columns(seed=pl.lit(number))
        for number, frame in enumerate(frames)
    ]
    results = pl.concat(means).with_columns(_short(pl.col("arm")))
    names = [name for name in sorted(results["arm"].unique()) if name not in ("random", "untuned")]
    lines = [
        f"### {title}, {len(frames)} draws\n",
        "| method | difference to random | p | verdict |",
        "| --- | ---: | ---: | --- |",
    ]
    for name in names:
        found = difference(
            values_of(results, name),
            values_of(results, "random"),
            higher_is_better=False,
            comparisons=len(names),
        )
        lines.append(
            f"| {name} | {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}) | {found.p:.2g} | {found.verdict} |"
        )
    return [*lines, ""]


def values_of(results: pl.DataFrame, arm: str) -> NDArray[np.float64]:
    """Return the values of an arm in one evaluation, (seeds, items); items by their ids."""
    wide = results.filter(pl.col("arm") == arm).pivot("id", index="seed", values="value").sort("seed")
    return wide.select(sorted(set(wide.columns) - {"seed"})).to_numpy().astype(np.float64)


def shown_proxies(
    methods: Sequence[Method], ran: ArmRun, scored: MethodScores, arms: Sequence[Arm]
) -> list[str]:
    """Return how alike each method's scores and choice are to those of the first, and what its scores cost."""
    wide, table = scored.wide(methods), ran.frames["table"]
    chosen = {arm.label: arm.ids for arm in arms if arm.seed == 0}
    first = next(method.label for method in methods if method.needs_reference)
    lines = [
        f"| method | Spearman with {first} | overlap of the choice | loss | reference tokens | scored tokens | s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method in methods:
        if method.label not in wide.columns:
            continue
        rho, _ = spearman(wide.fill_nan(None), method.label, first)
        cost, value = scored.costs[method.label], table.filter(pl.col("arm") == method.label)["value"][0]
        lines.append(
            f"| {method.label} | {0 if rho is None else rho:+.2f} | {jaccard(chosen[method.label], chosen[first]):.2f} | {value:.4f} "
            f"| {cost.reference_tokens:,} | {cost.score_tokens:,} | {cost.seconds:,.0f} |"
        )
    return [*lines, ""]


def shown_price(trials: "Sequence[Trial]") -> list[str]:
    """Return the tokens and minutes of each table as if it were the only one, as Markdown."""
    lines = [
        "| table | references | scores | trainings | evaluation | trained tokens | measured tokens | minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for trial in trials:
        references, scores, trainings, asked = _price(trial)
        trained, measured = references + trainings, scores + asked
        minutes = (trained / TRAINED_PER_S + measured / MEASURED_PER_S) / 60
        cells = [
            trial.table.title,
            *(f"{each:,.0f}" for each in (references, scores, trainings, asked, trained, measured)),
        ]
        lines.append(f"| {' | '.join(cells)} | {minutes:,.0f} |")
    return lines


def _price(trial: "Trial") -> Iterator[float]:
    """Yield the tokens of references, of scores, of trainings and of evaluations."""
    from learnable.evaluators import evaluations_of

    methods, table = trial.methods, trial.table
    pool = sum(len(each.ids) for each in trial.rendered())
    beside = sum(len(each.ids) for each in trial.beside)
    used: list[Reference] = []
    for method in methods:
        if method.needs_reference and method.reference not in used:
            used.append(method.reference)
    # Trusted rows are few, and their training is counted as nothing.
    yield sum(pool * each.passes for each in used if each.trusted is None)
    yield pool * (1 + sum(1 + each.choosing_passes[1] for each in used))
    chosen = sum(method.kind == "chosen" for method in methods)
    share = 1.0 if table.as_long else table.share
    arms = trial.seeds * chosen * len(table.counted)
    whole = trial.seeds * any(method.kind == "full" for method in methods)
    yield arms * (share * pool + beside) + whole * (pool + beside)
    asked = [f"heldout:{path}" for name, path in trial.paths.items() if name in ("heldout", "beside")]
    items = sum(trial.network.tokens(each.examples) for each in evaluations_of(asked))
    yield items * (arms + whole + 1)
