"""What to distrust: plain sentences with the figure seen and what to do; here those of a selection, and how all are said."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import polars as pl
from markupsafe import Markup

from learnable.data.decontamination import AVOIDED_DOUBT, MUCH_AVOIDED
from learnable.pages.html import bullets, markup, text
from learnable.pages.page import Part, Section
from learnable.pages.selection_facts import SelectionFacts, spearman
from learnable.pages.words import decimal, finite, listing, plural, share
from learnable.scorers import END_OF_TURN_SHARE, SCORERS, end_of_turn_share

Read = TypeVar("Read")
Found = str | list[str] | None
"""Sentences of a check, none where all is well; None says that it could not be made."""

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
class Looked:
    """What was looked for: sentences, names of the checks that stayed silent, names of those that could not be made."""

    warnings: list[str]
    clear: list[str]
    impossible: list[str]

    @property
    def link(self) -> Markup:
        """Where the opening of a page sends the reader; nothing without warnings."""
        form = ' <a class="whole" href="#cautions">{number} to distrust</a>.' if self.warnings else ""
        return markup(form, number=plural(len(self.warnings), "thing"))


def look(checks: Mapping[str, Callable[[Read], Found]], read: Read) -> Looked:
    """Make every check of a table, the most damaging first; each says when it speaks."""
    found = {name: check(read) for name, check in checks.items()}
    warnings = [[said] if isinstance(said, str) else said for said in found.values() if said]
    return Looked(
        warnings=[sentence for sentences in warnings for sentence in sentences],
        clear=[name for name, said in found.items() if not said and said is not None],
        impossible=[name for name, said in found.items() if said is None],
    )


def warnings_section(looked: Looked, *, nav: str = "", more: Sequence[Part] = ()) -> Section:
    """Return the section of a page that says what to distrust, and what was looked for.

    Args:
        looked: What was found.
        nav: Word in the list of parts.
        more: Parts below.
    """
    seen = looked.warnings
    parts: list[Part] = [bullets(seen, kind="warnings")] if seen else []
    title = f"{plural(len(seen), 'thing')} to distrust"
    if not seen:
        title = "Nothing suspicious seen" + (", as far as these figures go" if looked.impossible else "")
    for words, rest, names in (
        (f"Looked for{', and not seen' if seen else ''}:", "", looked.clear),
        ("Could not be looked for", " (not given what it takes):", looked.impossible),
    ):
        if names:
            form = "<strong>{words}</strong>{rest} {names}."
            parts.append(text(markup(form, words=words, rest=rest, names=", ".join(names)), kind="checked"))
    kind = "" if seen else " partial" if looked.impossible else " clear"
    return Section(id="cautions", nav=nav, title=title, parts=[*parts, *more], kind=f"cautions{kind}")


def _shortfall(facts: SelectionFacts) -> Found:
    """The caller says that the budget was not reached."""
    reason = facts.shortfall
    return f"The selection is smaller than asked ({facts.budget}): {reason}" if reason else ""


def _tiny(facts: SelectionFacts) -> Found:
    """Fewer than `FEW_KEPT` examples were chosen."""
    kept = facts.chosen.height
    if kept >= FEW_KEPT:
        return ""
    chosen = "No example was" if kept == 0 else f"Only {plural(kept, 'example was', 'examples were')}"
    return (
        f"{chosen} chosen, fewer than {FEW_KEPT}: the figures about the selection mean little, and so will training "
        "on it. Raise the budget, loosen the thresholds or give more data."
    )


def _memorized(facts: SelectionFacts) -> Found:
    """Not cross-fitted, and more than `MEMORIZED_SHARE` fell below `MEMORIZED_AFTER_NATS` from `MEMORIZED_BEFORE_NATS` or more."""
    both = facts.frame.select("loss_before", "loss_after").drop_nulls()
    high = pl.col("loss_before") >= MEMORIZED_BEFORE_NATS
    collapsed = both.filter(high & (pl.col("loss_after") < MEMORIZED_AFTER_NATS)).height
    reference = facts.reference
    if reference.get("folds") or collapsed <= MEMORIZED_SHARE * both.height:
        return ""
    seen = (
        "Use --reference.folds 2, so that no example is scored by a model that trained on it."
        if reference.get("kind") == "trained"
        else "If the reference was trained on these examples, use one that was not (--reference.folds 2 trains such a pair)."
    )
    return (
        f"The reference seems to have memorized part of the pool: the loss of {share(collapsed, both.height)} of the "
        f"examples ({collapsed:,} of {both.height:,}) fell from {MEMORIZED_BEFORE_NATS} or more to below "
        f"{MEMORIZED_AFTER_NATS} nats per token, so a high score there may mean “seen”, not “learnable”. {seen}"
    )


def _negative(facts: SelectionFacts) -> Found:
    """More than `NEGATIVE_SHARE` of the learnability scores are below 0."""
    values = facts.frame["learnability"].drop_nulls()
    below = values.filter(values < 0).len()
    if below <= NEGATIVE_SHARE * values.len():
        return ""
    return (
        f"{share(below, values.len())} of the learnability scores ({below:,} of {values.len():,}) are below 0: on "
        "most of the pool the reference does worse than the base model, so it has learned nothing general. Train "
        "the reference for more epochs or with a higher learning rate, and see that its training loss goes down."
    )


def _length(facts: SelectionFacts) -> Found:
    """Answers are short, or the score follows their length: one matter, and said as one.

    The median response of at least `FEW_KEPT` chosen has fewer than `SHORT_ANSWER_RATIO` of the tokens of the pool's, or the
    score's rank correlation with response tokens is beyond ±`LENGTH_CORRELATION` (`CORRELATION_EXAMPLES` or more scored).
    """
    said = []
    pool, chosen = (finite(frame["response_tokens"].median()) for frame in (facts.scored, facts.chosen))
    enough = facts.chosen.height >= FEW_KEPT
    if enough and pool is not None and chosen is not None and chosen < SHORT_ANSWER_RATIO * pool:
        said.append(
            f"The selection is dominated by short answers: its median response has {decimal(chosen, 0)} tokens, the "
            f"pool's has {decimal(pool, 0)}."
        )
    rho, n = spearman(facts.scored, "score_used", "response_tokens") if facts.has("score") else (None, 0)
    if rho is not None and n >= CORRELATION_EXAMPLES and abs(rho) > LENGTH_CORRELATION:
        prefers = "long" if (rho > 0) == facts.higher_is_better else "short"
        said.append(
            f"The score follows the length of the answer: Spearman correlation of {facts.by} with response tokens is "
            f"{decimal(rho, 2)} (n = {n:,}), so choosing by it is largely choosing {prefers} answers."
        )
    if not said:
        return ""
    matched = (
        "Compare it with a selection by length_matched, which compares answers of about the same length "
        "(--by length_matched)."
    )
    bounded = (
        "If the task is not about that length, bound it, as in --where 'response_tokens BETWEEN 20 AND 200', and "
        "compare."
    )
    return " ".join([*said, matched if facts.has("loss_before", "loss_after") else bounded])


def _left_out(facts: SelectionFacts) -> Found:
    """The chat template leaves out text of the rows."""
    if facts.left_out is None:
        return ""
    cut = facts.left_out
    return (
        f"{cut[0].upper()}{cut[1:]}: that text is neither scored nor learned. Give a chat template that keeps it "
        "(--chat-template my.jinja), unless the model is meant to work so."
    )


def _stopping(facts: SelectionFacts) -> Found:
    """The score counts the tokens that end a turn, and they make more than `END_OF_TURN_SHARE` of the whole fall of the loss."""
    whole = end_of_turn_share(facts.frame)
    method = SCORERS.get(facts.by)
    needs = getattr(method, "needs", ())
    if whole is None or whole <= END_OF_TURN_SHARE or "loss_after" not in needs or "end_nll_after" in needs:
        return ""
    return (
        f"Much of what is learned is to stop: {whole:.0%} of the whole fall of the loss is that of the token that ends a "
        f"turn, which the reference learns from all examples alike, and {facts.by} counts it. Compare it with a selection "
        "by text_learnability, which leaves it out (--scorers text_learnability --by text_learnability)."
    )


def _truncated(facts: SelectionFacts) -> Found:
    """More than `TRUNCATED_SHARE` of the examples were cut at the length limit."""
    cut = int(facts.frame["truncated"].fill_null(value=False).sum())
    if cut <= TRUNCATED_SHARE * facts.frame.height:
        return ""
    return (
        f"{share(cut, facts.frame.height)} of the examples ({cut:,} of {facts.frame.height:,}) were cut at the length "
        "limit and are judged by their beginning only. Raise the length limit if memory allows, or split long examples."
    )


def _undefined(facts: SelectionFacts) -> Found:
    """More than `UNDEFINED_SHARE` of the examples have no score."""
    missing, whole = facts.undefined, facts.frame.height
    if missing.height <= UNDEFINED_SHARE * whole:
        return ""
    reason = str(missing["undefined"].value_counts(sort=True)["undefined"][0])
    return (
        f"{share(missing.height, whole)} of the examples ({missing.height:,} of {whole:,}) have no score and could not "
        f"be chosen; most common reason: {reason}. Look at the instances below and repair the data or the settings."
    )


def _duplicates(facts: SelectionFacts) -> Found:
    """More than `DUPLICATE_SHARE` of the rows read repeat an example."""
    again, rows = facts.duplicates.height, facts.ledger.height
    if again <= DUPLICATE_SHARE * rows:
        return ""
    return (
        f"{share(again, rows)} of the rows read ({again:,} of {rows:,}) repeat an example that was already there; each was used "
        "once. Check that no file was given twice, and that repetition was not meant as a weight."
    )


def kept_apart(avoided: int, read: int) -> str:
    """Say how many of the rows read were left out for the evaluation, and what such a search does not find."""
    return (
        f"{plural(avoided, 'row')} of {read:,} read stood in the evaluation files that were to be avoided, and "
        f"{'was' if avoided == 1 else 'were'} left out. A paraphrase or a translation is not found."
    )


def much_avoided(avoided: int, read: int) -> str:
    """Say that a large share of the rows read stands in the evaluation files; nothing where it is small."""
    if avoided <= MUCH_AVOIDED * read:
        return ""
    return f"{share(avoided, read)} of the rows read ({avoided:,} of {read:,}) {AVOIDED_DOUBT}."


def _much_avoided(facts: SelectionFacts) -> Found:
    """More than `MUCH_AVOIDED` of the rows read stand in the evaluation files to avoid; none were named, none were sought."""
    if not (facts.looked_at_evaluation or facts.avoided.height):
        return None
    return much_avoided(facts.avoided.height, facts.ledger.height)


def _lost_sources(facts: SelectionFacts) -> Found:
    """None of a source's examples was chosen, though chance would keep some.

    It has `LOST_SOURCE_EXAMPLES` examples and `LOST_SOURCE_SHARE` of the pool, and a random choice of the same size would
    keep `LOST_SOURCE_EXPECTED`; or so much holds for the lost sources together, and they are more than
    `LOST_SOURCES_DEVIATIONS` standard deviations above what a random choice loses.
    """
    whole = max(facts.frame.height, 1)
    chosen = facts.chosen.height / whole

    def weighs(size: pl.Expr) -> pl.Expr:
        """Too many to be missed by chance, and enough to matter."""
        large = (size >= LOST_SOURCE_EXAMPLES) & (size >= LOST_SOURCE_SHARE * whole)
        return large & (size * chosen >= LOST_SOURCE_EXPECTED)

    groups = facts.frame.group_by("source").agg(examples=pl.len(), kept=pl.col("is_kept").sum())
    lost = groups.filter(pl.col("kept") == 0)
    missed = (1 - chosen) ** groups["examples"].to_numpy()  # by a random choice of that share of the pool
    spread = float((missed * (1 - missed)).sum()) ** 0.5
    if lost.height <= missed.sum() + LOST_SOURCES_DEVIATIONS * spread:
        lost = lost.filter(weighs(pl.col("examples")))
    if lost.is_empty() or not lost.select(weighs(pl.col("examples").sum())).item():
        return ""
    lost = lost.sort("examples", "source", descending=[True, False])
    names = [f"{name} ({size:,} examples)" for name, size in lost.select("source", "examples").iter_rows()]
    return (
        f"{lost.height:,} of {plural(groups.height, 'source')} {'is' if lost.height == 1 else 'are'} gone from the "
        f"selection: {listing(names)}. A random choice of the same size would keep about {int(lost['examples'].sum()) * chosen:,.0f} of "
        "their examples. If the model must keep what they teach, give every source its share "
        "(--per-source proportional)."
    )


def _given(check: Callable[[SelectionFacts], Found], *columns: str) -> Callable[[SelectionFacts], Found]:
    """Return a check that cannot be made without some columns."""
    return lambda facts: check(facts) if facts.has(*columns) else None


_FALL = ("loss_before", "loss_after", "response_tokens", "end_nll_before", "end_nll_after")
SELECTION_CHECKS: dict[str, Callable[[SelectionFacts], Found]] = {
    "selection smaller than the budget": _shortfall,
    "tiny selection": _tiny,
    "memorized reference": _given(_memorized, "loss_before", "loss_after"),
    "reference that learned nothing": _given(_negative, "learnability"),
    "a choice by length": _given(_length, "response_tokens"),
    "text left out by the chat template": _left_out,
    "learning to stop": _given(_stopping, *_FALL),
    "truncated examples": _given(_truncated, "truncated"),
    "undefined scores": _undefined,
    "duplicate rows": _given(_duplicates, "rows"),
    "rows of the evaluation": _given(_much_avoided, "rows"),
    "sources gone from the selection": _given(_lost_sources, "source"),
}
