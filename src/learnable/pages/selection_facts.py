"""What the page of a selection is made from, and the one table that all its parts read."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from learnable.data import HELD_OUT, in_evaluation
from learnable.data.decontamination import IN_EVALUATION, way_found
from learnable.pages.tokens import TokenView
from learnable.pages.words import count, finite
from learnable.runs.price import Cost

LENGTH_BINS = 5
SHOWN_INSTANCES = 20
SHOWN_REASONS = 20
BEST, BORDER, WORST = 8, 4, 8
_NUMBERS = ("loss_before", "loss_after", "learnability", "difference")


@dataclass(frozen=True, kw_only=True)
class SelectionFacts:
    """All that a report says about one run.

    Only ``id`` is needed in ``scores``; a part of the page whose columns are missing is left out and says so.

    Args:
        title: Name of the recipe, such as ``lobass``.
        command: Command that repeats the run.
        model: Display name of the model.
        reference: Settings of the reference, shown as a table. ``kind`` (``trained``, ``given`` or ``columns``) and
            ``folds`` (0 = in-sample) change what is said; other keys are only shown.
        by: Score that the selection used.
        higher_is_better: Whether high values of that score are kept.
        budget: What was asked for, in words.
        examples: Columns ``id``, ``source``, ``messages``; None when there are no texts.
        rows: Every row read: ``file``, ``row``, ``line``, ``id``, ``reason``; None when not known.
        files: Base names, in the order of ``rows["file"]``.
        scores: ``id``, ``source``, ``tokens``, ``response_tokens``, ``truncated``, ``undefined``, ``loss_before``,
            ``loss_after`` (nats per token) and one column per scorer; NaN is undefined.
        scorers: Names of the scorer columns.
        kept: ``id``, ``rank`` (0 = first picked), ``gain``.
        dropped: ``id``, ``reason``.
        steps: What was done, such as ``train the reference``, and what it cost.
        lowest_first: Names of the scorer columns whose low values are good.
        shortfall: Why the selection is smaller than the budget, in a sentence; None when it is not.
        left_out: What the chat template leaves out of the rows, in words; None where that is nothing.
        pulled: What pulled each chosen example in: ``id``, ``target`` (a row of the target, or a part of it, in words) and
            ``value``, what that says of the example; None where there is no target, or the score does not tell.
        spread: Vendi scores of the chosen ones and of as many drawn at random; None where there are no vectors.
        tokens: A few examples with the losses of their tokens.
        tokens_missing: What is missing of that and why, in a sentence; None when nothing is, or none were asked for.
        looked_at_evaluation: Whether evaluation files were to be avoided when the rows were read.
        onward: What there is now and what can be done next, each with a path or a command.
    """

    title: str
    command: str
    model: str
    reference: Mapping[str, Any]
    by: str
    higher_is_better: bool
    budget: str
    examples: pl.DataFrame | None
    rows: pl.DataFrame | None
    files: Sequence[str]
    scores: pl.DataFrame
    scorers: Sequence[str]
    kept: pl.DataFrame
    dropped: pl.DataFrame
    steps: Sequence[tuple[str, Cost]]
    lowest_first: Collection[str] = ()
    shortfall: str | None = None
    left_out: str | None = None
    pulled: pl.DataFrame | None = None
    spread: tuple[float, float] | None = None
    tokens: Sequence[TokenView] = ()
    tokens_missing: str | None = None
    looked_at_evaluation: bool = False
    onward: Sequence[tuple[str, str]] = ()

    @cached_property
    def frame(self) -> pl.DataFrame:
        """One line per example of the pool: the columns of ``scores``, with null for whatever is not finite.

        Beside them ``score_used`` (null = undefined), ``merit`` (the same, higher is better), ``is_kept``, ``rank`` and
        ``reason`` (why it was not kept).
        """
        given = set(self.scores.columns)
        numbers = [name for name in dict.fromkeys([*_NUMBERS, *self.scorers, self.by]) if name in given]
        floats = [pl.col(name).cast(pl.Float64) for name in numbers]
        frame = self.scores.with_columns(pl.when(number.is_finite()).then(number) for number in floats)
        score = pl.col(self.by) if self.by in given else pl.lit(None, pl.Float64)
        source = pl.col("source").cast(pl.String) if "source" in given else pl.lit(None, pl.String)
        undefined = pl.col("undefined").cast(pl.String) if "undefined" in given else pl.lit(None, pl.String)
        frame = frame.with_columns(
            pl.col("id").cast(pl.String),
            source=source.fill_null("unknown"),
            undefined=undefined,
            score_used=score,
            merit=score if self.higher_is_better else -score,
        ).drop("rank", "is_kept", "reason", strict=False)
        ranks = self.kept.select(pl.col("id").cast(pl.String), pl.col("rank").cast(pl.Int64), is_kept=True)
        reasons = self.dropped.select(pl.col("id", "reason").cast(pl.String))
        for more in (ranks, reasons.unique("id", keep="first", maintain_order=True)):
            frame = frame.join(more, on="id", how="left", maintain_order="left")
        return frame.with_columns(pl.col("is_kept").fill_null(value=False))

    @cached_property
    def ledger(self) -> pl.DataFrame:
        """The rows read, each with its ``place``: a line of a file, or a row."""
        rows = self.rows
        if rows is None:
            rows = pl.DataFrame(schema=dict.fromkeys(("file", "row", "line", "id", "reason"), pl.Int64))
        names, other = dict(enumerate(self.files)), pl.format("file {}", "file")
        file = pl.col("file").replace_strict(names, default=other, return_dtype=pl.String)
        number = pl.coalesce(pl.format(":{}", "line"), pl.format(", row {}", pl.col("row") + 1), pl.lit(""))
        place = file.fill_null("no file") + number
        return rows.with_columns(pl.col("id", "reason").cast(pl.String), place=place)

    def has(self, *names: str) -> bool:
        """Tell whether all of these columns (or ``score``, ``rows``) were given."""
        known = {"score": self.by in self.scores.columns, "rows": self.rows is not None}
        return all(known.get(name, name in self.scores.columns) for name in names)

    @cached_property
    def scored(self) -> pl.DataFrame:
        """The examples that the score is defined for."""
        defined = (
            pl.col("score_used") if self.has("score") else pl.when(pl.col("undefined").is_null()).then(1)
        )
        return self.frame.filter(defined.is_not_null())

    @cached_property
    def chosen(self) -> pl.DataFrame:
        """The chosen examples, in the order picked."""
        return self.frame.filter("is_kept").sort("rank", maintain_order=True)

    @cached_property
    def ranked(self) -> pl.DataFrame:
        """The scored examples, best first."""
        return self.scored.sort("merit", "id", descending=[True, False], nulls_last=True)

    @cached_property
    def undefined(self) -> pl.DataFrame:
        """The examples without a score; ``undefined`` always says why."""
        rest = self.frame.join(self.scored.select("id"), on="id", how="anti", maintain_order="left")
        return rest.with_columns(pl.col("undefined").fill_null(f"no value of {self.by}"))

    @cached_property
    def unread(self) -> pl.DataFrame:
        """The rows that could not be read: they have no id."""
        return self.ledger.filter(pl.col("reason").is_not_null() & pl.col("id").is_null())

    @cached_property
    def held_out(self) -> pl.DataFrame:
        """The rows that were held out for evaluation."""
        return self.ledger.filter(pl.col("id").is_not_null() & (pl.col("reason") == HELD_OUT))

    @cached_property
    def duplicates(self) -> pl.DataFrame:
        """The rows that repeat an example: they have its id."""
        apart = (pl.col("reason") == HELD_OUT) | pl.col("reason").str.starts_with(IN_EVALUATION)
        return self.ledger.filter(pl.col("id").is_not_null() & ~apart)

    @cached_property
    def avoided(self) -> pl.DataFrame:
        """The rows that stand in an evaluation file."""
        return in_evaluation(self.ledger)

    @cached_property
    def cutoff(self) -> float | None:
        """The least good score among the chosen; None when nothing was chosen."""
        merit = finite(self.chosen["merit"].min())
        return merit if merit is None or self.higher_is_better else -merit


def spearman(frame: pl.DataFrame, one: str, other: str) -> tuple[float | None, int]:
    """Spearman rank correlation (ties get their mean rank) and the number of rows that have both values."""
    if one not in frame.columns or other not in frame.columns:
        return None, 0
    both = frame.select(one=pl.col(one).cast(pl.Float64), other=pl.col(other).cast(pl.Float64)).drop_nulls()
    if both.height < 3:
        return None, both.height
    return finite(both.select(pl.corr("one", "other", method="spearman")).item()), both.height


def by_source(facts: SelectionFacts) -> pl.DataFrame:
    """Return what the selection took of each source, the largest source first.

    Returns:
        Columns ``name``, ``examples``, ``tokens``, ``kept``, ``mean_score``; null is undefined.
    """
    return _grouped(facts, facts.frame, "source").sort("examples", "name", descending=[True, False])


def by_length(facts: SelectionFacts) -> pl.DataFrame:
    """Return the same per response length, in bins that hold about equally many examples of the pool."""
    if not facts.has("response_tokens"):
        return pl.DataFrame()
    frame = facts.frame.filter(pl.col("response_tokens").is_not_null())
    lengths = frame["response_tokens"].cast(pl.Int64).to_numpy()
    if lengths.size == 0:
        return pl.DataFrame()
    edges = np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1], method="lower")
    tops = np.unique(np.append(edges, lengths.max()))
    bottoms = np.append(lengths.min(), tops[:-1] + 1)
    names = [
        f"{low:,}" if low == high else f"{low:,}\N{EN DASH}{high:,}"
        for low, high in zip(bottoms, tops, strict=True)
    ]
    groups = _grouped(facts, frame.with_columns(bin=pl.Series(np.searchsorted(tops, lengths))), "bin").sort(
        "name"
    )
    return groups.with_columns(name=pl.Series([names[number] for number in groups["name"]], dtype=pl.String))


def _grouped(facts: SelectionFacts, frame: pl.DataFrame, key: str) -> pl.DataFrame:
    tokens = pl.col("tokens").sum() if facts.has("tokens") else pl.lit(None, pl.Int64)
    return frame.group_by(name=key, maintain_order=True).agg(
        examples=pl.len(), tokens=tokens, kept=pl.col("is_kept").sum(), mean_score=pl.col("score_used").mean()
    )


def information(facts: SelectionFacts) -> list[tuple[str, pl.Series, pl.Series]]:
    """Return the PVI in bits of the examples of the pool and of the chosen ones: of all, then of each source of several."""
    known = facts.frame.select("source", "is_kept", pl.col("pvi").fill_nan(None)).drop_nulls()
    groups = [("all", known)]
    if known["source"].n_unique() > 1:
        parts = known.partition_by("source", as_dict=True).items()
        groups += sorted(
            ((name, part) for (name,), part in parts), key=lambda group: (-group[1].height, group[0])
        )
    return [(name, part["pvi"], part.filter("is_kept")["pvi"]) for name, part in groups]


def reasons(facts: SelectionFacts) -> list[tuple[str, str, str]]:
    """What was left out and why: rows while reading, then examples while selecting; rare reasons are put together."""
    found = []
    repeated = facts.duplicates.with_columns(reason=pl.lit("repeats an earlier example"))
    for stage, frames in (
        ("reading", (facts.unread, repeated, facts.held_out, way_found(facts.avoided))),
        ("selecting", (facts.dropped,)),
    ):
        for frame in frames:
            why = frame.select(pl.col("reason").cast(pl.String).fill_null("no reason given"))
            counts = why.group_by("reason", maintain_order=True).len().sort("len", descending=True)
            found += [(stage, reason, count(number)) for reason, number in counts.head(SHOWN_REASONS).rows()]
            if (rest := counts.slice(SHOWN_REASONS)).height:
                found.append((stage, f"{count(rest.height)} other reasons", count(int(rest["len"].sum()))))
    return found


def undefined_places(facts: SelectionFacts) -> list[tuple[str, str]]:
    """The first examples without a score, by file and line where the rows are known, each with its reason."""
    missing = facts.undefined.head(SHOWN_INSTANCES).select("id", "undefined")
    places = (
        facts.ledger.drop_nulls("id").unique("id", keep="first", maintain_order=True).select("id", "place")
    )
    found = missing.join(places, on="id", how="left", maintain_order="left")
    return found.select(pl.coalesce("place", "id"), "undefined").rows()


def examples_to_spell(facts: SelectionFacts, number: int) -> list[str]:
    """Return ids of a few scored examples: the first chosen ones, one in the middle, and the least good one left out.

    Args:
        facts: The selection.
        number: How many; 1 is a chosen one, 2 a chosen and a left-out one.
    """
    ranked = facts.ranked["id"].to_list()
    kept = facts.chosen["id"].to_list()
    chosen = kept[: max(1, number - 2)]
    out = set(ranked).difference(kept)
    worst = [id for id in reversed(ranked) if id in out][: max(0, number - 1)][:1]
    rest = [id for id in ranked if id not in {*chosen, *worst}]
    middle = rest[len(rest) // 2 :][: 1 if number > 2 else 0]
    return [*chosen, *middle, *worst][:number]


def to_read(facts: SelectionFacts) -> list[tuple[str, str, pl.DataFrame]]:
    """Pick the examples to show by the score used, under headings: none twice, and no heading without examples."""
    if facts.examples is None or not facts.has("score"):
        return []
    kept, rest = facts.ranked.filter("is_kept"), facts.ranked.filter(~pl.col("is_kept"))
    shelves = (
        ("Best of the chosen", "The highest scores in the selection.", kept, BEST),
        ("Just in", "The chosen examples with the least good scores.", kept.reverse(), BORDER),
        ("Just out", "The best scores that were not chosen; each says why.", rest, BORDER),
        ("Worst", "The least good scores of all, the worst one first.", facts.ranked.reverse(), WORST),
    )
    found, taken = [], list[str]()
    for title, about, frame, number in shelves:
        new = frame.filter(~pl.col("id").is_in(taken)).head(number)
        taken += new["id"].to_list()
        if new.height:
            found.append((title, about, new.reverse() if title == "Just in" else new))
    return found
