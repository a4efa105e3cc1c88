"""What looks wrong with a run: plain sentences with the figure seen and what to do.

| warning | fires when |
|---|---|
| shortfall | the caller says that the budget was not reached |
| tiny selection | fewer than `FEW_KEPT` examples were chosen |
| memorized reference | the reference is not cross-fitted, and more than `MEMORIZED_SHARE` of the examples fell below \
`MEMORIZED_AFTER_NATS` from `MEMORIZED_BEFORE_NATS` or more |
| nothing learned | more than `NEGATIVE_SHARE` of the learnability scores are below 0 |
| short answers | the median response of the chosen has fewer than `SHORT_ANSWER_RATIO` of the tokens of the pool's \
median (at least `FEW_KEPT` chosen) |
| score follows length | Spearman correlation of the score with response tokens is beyond ±`LENGTH_CORRELATION` \
(at least `CORRELATION_EXAMPLES` scored) |
| text left out | the chat template leaves out text of the rows |
| learning to stop | the score counts the tokens that end a turn, and they make more than `END_OF_TURN_SHARE` of the \
whole fall of the loss |
| truncated examples | more than `TRUNCATED_SHARE` of the examples were cut at the length limit |
| undefined scores | more than `UNDEFINED_SHARE` of the examples have no score |
| duplicate rows | more than `DUPLICATE_SHARE` of the rows read repeat an example |
| lost source | none of a source's examples was chosen, though it has at least `LOST_SOURCE_EXAMPLES` examples and \
`LOST_SOURCE_SHARE` of the pool, and a random choice of the same size would keep at least `LOST_SOURCE_EXPECTED`; \
or so much holds for the lost sources together, and they are more than `LOST_SOURCES_DEVIATIONS` standard deviations \
above what a random choice loses |
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from learnable.pages.facts import Facts, View, view_of
from learnable.pages.tables import median, spearman
from learnable.pages.wording import decimal, listing, plural, share
from learnable.scorers import END_OF_TURN_SHARE, SCORERS, end_of_turn_share

FEW_KEPT = 10
MEMORIZED_AFTER_NATS = 0.1
MEMORIZED_BEFORE_NATS = 0.5
MEMORIZED_SHARE = 0.10
NEGATIVE_SHARE = 0.50
SHORT_ANSWER_RATIO = 0.5
LENGTH_CORRELATION = 0.5
CORRELATION_EXAMPLES = 30
TRUNCATED_SHARE = 0.05
UNDEFINED_SHARE = 0.05
DUPLICATE_SHARE = 0.05
LOST_SOURCE_EXAMPLES = 20
LOST_SOURCE_SHARE = 0.02
LOST_SOURCE_EXPECTED = 5.0
"""With 5 expected, a random choice misses the whole source less than once in 100 runs (e^-5)."""
LOST_SOURCES_DEVIATIONS = 3.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that is looked for: ``needs`` names the columns without which it cannot be."""

    name: str
    needs: tuple[str, ...]
    find: Callable[[View], str | None]


@dataclass(frozen=True, kw_only=True)
class Cautions:
    """What was found: sentences, names of the checks that stayed silent, names of those that could not be made."""

    warnings: tuple[str, ...]
    clear: tuple[str, ...]
    impossible: tuple[str, ...]


def warnings_of(facts: Facts) -> list[str]:
    """Say what looks wrong with a run, most damaging first.

    Args:
        facts: What the report is made from.

    Returns:
        Plain sentences, each with its figure and what to do; empty when nothing looks suspicious. The module's
        table lists what is looked for, with thresholds.
    """
    return list(cautions_of(view_of(facts)).warnings)


def cautions_of(view: View) -> Cautions:
    """Make every check that the given columns allow."""
    warnings, clear, impossible = [], [], []
    for check in CHECKS:
        if not view.has(*check.needs):
            impossible.append(check.name)
        elif (warning := check.find(view)) is not None:
            warnings.append(warning)
        else:
            clear.append(check.name)
    return Cautions(warnings=tuple(warnings), clear=tuple(clear), impossible=tuple(impossible))


def _shortfall(view: View) -> str | None:
    reason = view.facts.shortfall
    return f"The selection is smaller than asked ({view.facts.budget}): {reason}" if reason else None


def _tiny(view: View) -> str | None:
    kept = view.kept.height
    if kept >= FEW_KEPT:
        return None
    chosen = "No example was" if kept == 0 else f"Only {plural(kept, 'example was', 'examples were')}"
    return (
        f"{chosen} chosen, fewer than {FEW_KEPT}: the figures about the selection mean little, and so will training "
        "on it. Raise the budget, loosen the thresholds or give more data."
    )


def _memorized(view: View) -> str | None:
    both = view.frame.select("loss_before", "loss_after").drop_nulls()
    high = pl.col("loss_before") >= MEMORIZED_BEFORE_NATS
    collapsed = both.filter(high & (pl.col("loss_after") < MEMORIZED_AFTER_NATS)).height
    reference = view.facts.reference
    if reference.get("folds") or collapsed <= MEMORIZED_SHARE * both.height:
        return None
    seen = (
        "Use reference.folds=2, so that no example is scored by a model that trained on it."
        if reference.get("kind") == "trained"
        else "If the reference was trained on these examples, use one that was not (reference.folds=2 trains such a pair)."
    )
    return (
        f"The reference seems to have memorized part of the pool: the loss of {share(collapsed, both.height)} of the "
        f"examples ({collapsed:,} of {both.height:,}) fell from {MEMORIZED_BEFORE_NATS} or more to below "
        f"{MEMORIZED_AFTER_NATS} nats per token, so a high score there may mean “seen”, not “learnable”. {seen}"
    )


def _negative(view: View) -> str | None:
    values = view.frame["learnability"].drop_nulls()
    below = values.filter(values < 0).len()
    if below <= NEGATIVE_SHARE * values.len():
        return None
    return (
        f"{share(below, values.len())} of the learnability scores ({below:,} of {values.len():,}) are below 0: on "
        "most of the pool the reference does worse than the base model, so it has learned nothing general. Train "
        "the reference for more epochs or with a higher learning rate, and see that its training loss goes down."
    )


_BY_LENGTH = (
    "Compare it with a selection by length_matched, which compares answers of about the same length "
    "(select.by=length_matched, or learnable select --by length_matched)."
)


def _short_answers(view: View) -> str | None:
    pool = median(view.scored["response_tokens"])
    chosen = median(view.kept["response_tokens"])
    if view.kept.height < FEW_KEPT or pool is None or chosen is None or chosen >= SHORT_ANSWER_RATIO * pool:
        return None
    return (
        f"The selection is dominated by short answers: its median response has {decimal(chosen, 0)} tokens, the "
        f"pool's has {decimal(pool, 0)}. {_BY_LENGTH}"
    )


def _length(view: View) -> str | None:
    rho, n = spearman(view.scored, "score_used", "response_tokens")
    if rho is None or n < CORRELATION_EXAMPLES or abs(rho) <= LENGTH_CORRELATION:
        return None
    prefers = "long" if (rho > 0) == view.facts.higher_is_better else "short"
    return (
        f"The score follows the length of the answer: Spearman correlation of {view.facts.by} with response tokens is "
        f"{decimal(rho, 2)} (n = {n:,}), so choosing by it is largely choosing {prefers} answers. {_BY_LENGTH}"
    )


def _left_out(view: View) -> str | None:
    if view.facts.left_out is None:
        return None
    cut = view.facts.left_out
    return (
        f"{cut[0].upper()}{cut[1:]}: that text is neither scored nor learned. Give a chat template that keeps it "
        "(loading.chat_template=my.jinja, or --chat-template my.jinja), unless the model is meant to work so."
    )


def _stopping(view: View) -> str | None:
    whole = end_of_turn_share(view.frame)
    method = SCORERS.get(view.facts.by)
    needs = getattr(method, "needs", ())
    if whole is None or whole <= END_OF_TURN_SHARE or "loss_after" not in needs or "end_nll_after" in needs:
        return None
    return (
        f"Much of what is learned is to stop: {whole:.0%} of the whole fall of the loss is that of the token that ends a "
        f"turn, which the reference learns from all examples alike, and {view.facts.by} counts it. Compare it with a selection "
        "by text_learnability, which leaves it out (score.scorers=[text_learnability] select.by=text_learnability, or "
        "learnable score --scorers text_learnability)."
    )


def _truncated(view: View) -> str | None:
    cut = int(view.frame["truncated"].fill_null(value=False).sum())
    if cut <= TRUNCATED_SHARE * view.frame.height:
        return None
    return (
        f"{share(cut, view.frame.height)} of the examples ({cut:,} of {view.frame.height:,}) were cut at the length "
        "limit and are judged by their beginning only. Raise the length limit if memory allows, or split long examples."
    )


def _undefined(view: View) -> str | None:
    missing, whole = view.undefined, view.frame.height
    if missing.height <= UNDEFINED_SHARE * whole:
        return None
    reason = str(missing["undefined"].value_counts(sort=True)["undefined"][0])
    return (
        f"{share(missing.height, whole)} of the examples ({missing.height:,} of {whole:,}) have no score and could not "
        f"be chosen; most common reason: {reason}. Look at the instances below and repair the data or the settings."
    )


def _duplicates(view: View) -> str | None:
    rows = view.facts.rows
    if rows is None or view.duplicates.height <= DUPLICATE_SHARE * rows.height:
        return None
    return (
        f"{share(view.duplicates.height, rows.height)} of the rows read ({view.duplicates.height:,} of "
        f"{rows.height:,}) repeat an example that was already there; each was used once. Check that no file was "
        "given twice, and that repetition was not meant as a weight."
    )


def _lost_sources(view: View) -> str | None:
    chosen = view.kept.height / max(view.frame.height, 1)
    groups = view.frame.group_by("source").agg(examples=pl.len(), kept=pl.col("is_kept").sum())
    gone = groups.filter(pl.col("kept") == 0)
    lost = gone if _more_than_by_chance(groups, chosen) else gone.filter(_weighs(pl.col("examples"), view))
    if lost.is_empty() or not lost.select(_weighs(pl.col("examples").sum(), view)).item():
        return None
    lost = lost.sort("examples", "source", descending=[True, False])
    names = [f"{name} ({size:,} examples)" for name, size in lost.select("source", "examples").iter_rows()]
    return (
        f"{lost.height:,} of {plural(groups.height, 'source')} {'is' if lost.height == 1 else 'are'} gone from the "
        f"selection: {listing(names)}. A random choice of the same size would keep about {int(lost['examples'].sum()) * chosen:,.0f} of "
        "their examples. If the model must keep what they teach, give every source its share "
        "(select.per_source=proportional, or learnable select --per-source proportional)."
    )


def _weighs(size: pl.Expr, view: View) -> pl.Expr:
    """Tell whether so many examples are too many to be missed by chance, and enough to matter."""
    whole = view.frame.height
    large = (size >= LOST_SOURCE_EXAMPLES) & (size >= LOST_SOURCE_SHARE * whole)
    return large & (size * view.kept.height >= LOST_SOURCE_EXPECTED * whole)


def _more_than_by_chance(groups: pl.DataFrame, chosen: float) -> bool:
    """Tell whether more sources are gone than a random choice of that share of the pool loses."""
    missed = (1 - chosen) ** groups["examples"].to_numpy()
    spread = float((missed * (1 - missed)).sum()) ** 0.5
    gone = groups.filter(pl.col("kept") == 0).height
    return bool(gone > missed.sum() + LOST_SOURCES_DEVIATIONS * spread)


CHECKS = (
    Check(name="selection smaller than the budget", needs=(), find=_shortfall),
    Check(name="tiny selection", needs=(), find=_tiny),
    Check(name="memorized reference", needs=("loss_before", "loss_after"), find=_memorized),
    Check(name="reference that learned nothing", needs=("learnability",), find=_negative),
    Check(name="mostly short answers", needs=("response_tokens",), find=_short_answers),
    Check(name="score that follows length", needs=("score", "response_tokens"), find=_length),
    Check(name="text left out by the chat template", needs=(), find=_left_out),
    Check(
        name="learning to stop",
        needs=("loss_before", "loss_after", "response_tokens", "end_nll_before", "end_nll_after"),
        find=_stopping,
    ),
    Check(name="truncated examples", needs=("truncated",), find=_truncated),
    Check(name="undefined scores", needs=(), find=_undefined),
    Check(name="duplicate rows", needs=("rows",), find=_duplicates),
    Check(name="sources gone from the selection", needs=("source",), find=_lost_sources),
)
