"""Puts a budget, shares, thresholds, a where-expression and near-duplicate removal around a selector."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import SelectionError, UsageError, closest, did_you_mean
from learnable.selectors.budget import Picked, count_asked, fill
from learnable.selectors.eligible import (
    Thresholds,
    columns_needed,
    reasons_against,
    with_near_duplicates,
)
from learnable.selectors.pins import Listed, pinned_rows, reasons_banned
from learnable.selectors.top_k import TopK
from learnable.selectors.vectors import check_similarity, clusters_of, required
from learnable.types import Budget, Selection, Selector

PerSource = Literal["none", "equal", "proportional"]
COUNTS = frozenset({"tokens", "response_tokens"})
"""Numbers that a table has without having been scored."""


def choose(
    scores: pl.DataFrame | pl.LazyFrame,
    *,
    by: str,
    budget: Budget,
    selector: Selector | None = None,
    lowest: bool = False,
    per_source: PerSource = "none",
    per_cluster: PerSource = "none",
    clusters: int = 100,
    vectors: NDArray[np.float32] | None = None,
    max_similarity: float | None = None,
    where: str | None = None,
    thresholds: Thresholds | None = None,
    seed: int = 0,
    pins: Listed | None = None,
    bans: Listed | None = None,
) -> Selection:
    """Choose examples within a budget; the outcome does not depend on the order of the rows.

    Args:
        scores: n rows with ``id``, ``source``, ``tokens``, the score, and what ``where`` and ``thresholds`` mention;
            other columns are not read.
        by: The score column.
        budget: How much to keep. A fraction is of all n examples, rounded down but at least 1; tokens count prompt and
            response and are never exceeded: a pick that does not fit is passed over, until ``PASS_OVER`` in a row
            did not fit.
        selector: The method; top-k by default.
        lowest: Prefer low scores.
        per_source: ``equal``: every source the same share (what a small source cannot use goes to the others);
            ``proportional``: every source its share of what is left after thresholds.
        per_cluster: The same for clusters of similar vectors; not together with ``per_source``.
        clusters: How many clusters to look for; at most one for two examples.
        vectors: One for each row of ``scores``, of any length, (n, d). Where given, a row whose vector is not finite
            is not eligible.
        max_similarity: Drop what has a larger cosine similarity to an eligible row with a better score, before
            anything is selected.
        where: A condition in SQL over the columns, such as ``loss_before > 0.5 AND tokens < 800``; what is undefined
            is NULL in it.
        thresholds: The three conditions of LoBaSS and a highest score; what is undefined meets none of them.
        seed: For selectors that draw, and for the clusters.
        pins: Ids to choose whatever their score, and whatever ``where``, ``thresholds`` and ``max_similarity`` say, by
            the name of a list. They count against the budget, and against the share of their source or cluster (one
            without a finite vector has no cluster). The method picks the others without looking at them. Their gain is
            NaN.
        bans: Ids never to choose, likewise.

    Returns:
        Kept examples, the pinned ones first, by score; and dropped ones. Together they are all n.

    Raises:
        UsageError: If ``per_source`` and ``per_cluster`` are both given, or a number is out of range.
        SelectionError: If the budget is above the pool, a column or the vectors are missing, nothing qualifies, the
            pinned rows alone exceed the budget, or an id is not in the pool, or pinned and banned.
    """
    method, thresholds = selector or TopK(), thresholds or Thresholds()
    schema = scores.lazy().collect_schema()
    _check_columns(schema, by, budget, per_source)
    frame = _read(scores, columns_needed(schema, by, where=where, thresholds=thresholds), budget, per_source)
    _check_budget(frame, budget)
    _check_vectors(frame.height, vectors, method, per_cluster, max_similarity)
    _check_shares(per_source, per_cluster, clusters)
    frame, vectors = by_id(frame, None if vectors is None else np.asarray(vectors, dtype=np.float32))
    values = frame[by].cast(pl.Float32).to_numpy() * np.float32(-1 if lowest else 1)
    pinned = pinned_rows(frame["id"], pins or {})
    names = schema.names()
    reasons = reasons_against(frame, by, where=where, thresholds=thresholds, vectors=vectors, columns=names)
    reasons = _with_bans(frame["id"], reasons, pinned=pinned, bans=bans)
    # A pinned row qualifies, but one without a vector has no place among the others.
    placed = pinned if vectors is None else pinned & np.isfinite(vectors).all(axis=1)
    if pinned.any():
        reasons = reasons.zip_with(pl.Series(~placed), pl.Series([None], dtype=pl.String))
    if vectors is not None and max_similarity is not None:
        merits = np.where(pinned, np.float32(np.inf), values)
        reasons = with_near_duplicates(reasons, frame["id"], merits, vectors, max_similarity=max_similarity)
    members = np.flatnonzero((reasons.is_null().to_numpy() & ~pinned) | placed)
    labels = _sources(frame, per_source)[members]
    if vectors is not None and per_cluster != "none" and len(members):
        labels = clusters_of(vectors[members], clusters=clusters, seed=seed)
    rng = np.random.default_rng(seed)

    def ask(rows: NDArray[np.int64], k: int) -> Picked:
        theirs = None if vectors is None else vectors[rows]
        picks = method(values[rows], k=k, vectors=theirs, groups=None, rng=rng)
        return rows[picks.index], picks.gain

    tokens = frame["tokens"].to_numpy().astype(np.int64) if budget.tokens is not None else None
    total = count_asked(budget, frame.height)
    _check_pinned(pinned, tokens, total)
    index, gain = fill(
        ask,
        _grouped(members, labels),
        tokens=tokens,
        total=total - _cost(pinned & ~placed, tokens),
        equal="equal" in (per_source, per_cluster),
        rng=rng,
        pinned=pinned if pinned.any() else None,
    )
    index, gain = _with_pinned(pinned, values, index, gain)
    if not len(index):
        raise SelectionError(
            f"none of the best examples fits the budget of {budget}", hint="raise the budget"
        )
    how = f"among the best by {by}" if isinstance(method, TopK) else f"picked by {type(method).__name__}"
    reasons = reasons.fill_null(f"not {how} within the budget")
    kept, dropped = _kept_and_dropped(frame["id"], index, gain, pinned, reasons)
    return Selection(kept=kept, dropped=dropped, by=by, budget=budget)


def _read(
    scores: pl.DataFrame | pl.LazyFrame, conditions: set[str], budget: Budget, per_source: PerSource
) -> pl.DataFrame:
    """Return the columns that a selection needs, in their order."""
    names = {"id"} | conditions | ({"source"} if per_source != "none" else set())
    names |= {"tokens"} if budget.tokens is not None else set()
    return scores.lazy().select(name for name in scores.lazy().collect_schema() if name in names).collect()


def _with_bans(
    ids: pl.Series, reasons: pl.Series, *, pinned: NDArray[np.bool_], bans: Listed | None
) -> pl.Series:
    """Return why rows are not eligible, bans before all other reasons.

    Raises:
        SelectionError: If nothing is left to choose.
    """
    if bans:
        banned = reasons_banned(ids, bans, pinned=pinned)
        reasons = banned.zip_with(banned.is_not_null(), reasons)
    if not reasons.null_count() and not pinned.any():
        raise SelectionError(
            "no example qualifies", hint=f"for example: {reasons[0]}; loosen where or the thresholds"
        )
    return reasons


def _with_pinned(
    pinned: NDArray[np.bool_],
    values: NDArray[np.float32],
    index: NDArray[np.int64],
    gain: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return what is kept and its gain, the pinned rows first, by score and without a gain."""
    first = np.flatnonzero(pinned)
    first = first[np.argsort(-values[first], kind="stable")]
    unknown = np.full(len(first), np.nan, dtype=np.float32)
    return np.concatenate([first, index]), np.concatenate([unknown, gain])


def by_id(
    frame: pl.DataFrame, vectors: NDArray[np.float32] | None
) -> tuple[pl.DataFrame, NDArray[np.float32] | None]:
    """Return rows and vectors in ascending order of the ids; equal ids stay in their order."""
    if frame["id"].is_sorted():
        return frame, vectors
    if vectors is not None:
        order = _sorted(frame.select("id").with_row_index("order"))["order"]
        vectors = vectors[order.to_numpy()]
    return _sorted(frame), vectors


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    # Streaming: ten million ids take seconds, and a minute or more in the other engine.
    return frame.lazy().sort("id", maintain_order=True).collect(engine="streaming")


def _sources(frame: pl.DataFrame, per_source: PerSource) -> NDArray[np.int64]:
    """Return the number of each row's source among all sources in ascending order, (n,)."""
    if per_source == "none":
        return np.zeros(frame.height, dtype=np.int64)
    names = frame["source"].cast(pl.String).fill_null("")
    return names.cast(pl.Enum(names.unique().sort())).to_physical().to_numpy().astype(np.int64)


def _grouped(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each label, in ascending order of the labels; (n,) both."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(rows[order], starts)


def _kept_and_dropped(
    ids: pl.Series,
    index: NDArray[np.int64],
    gain: NDArray[np.float32],
    pinned: NDArray[np.bool_],
    reasons: pl.Series,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    left = np.ones(len(ids), dtype=np.bool_)
    left[index] = False
    kept = {"id": ids.gather(index), "rank": np.arange(len(index)), "gain": gain, "pinned": pinned[index]}
    dropped = pl.DataFrame({"id": ids, "reason": reasons}).filter(pl.Series(left))
    return pl.DataFrame(kept), dropped


def _check_columns(schema: pl.Schema, by: str, budget: Budget, per_source: PerSource) -> None:
    numeric = [name for name, kind in schema.items() if kind.is_numeric()]
    if by not in numeric:
        unscored = COUNTS.issuperset(numeric) and closest(by, numeric) is None
        hint = "score it first with `learnable score`" if unscored else did_you_mean(by, numeric)
        raise SelectionError(f"there is no score column {by!r}", hint=hint)
    if budget.tokens is not None and "tokens" not in schema:
        raise SelectionError(
            "a token budget needs a column 'tokens'", hint="give the budget in examples or as a fraction"
        )
    for column in ("id", "source") if per_source != "none" else ("id",):
        if column not in schema:
            raise SelectionError(f"there is no column {column!r}", hint=did_you_mean(column, schema.names()))


def _check_budget(frame: pl.DataFrame, budget: Budget) -> None:
    if budget.tokens is not None and not _are_counts(frame["tokens"]):
        raise SelectionError(
            "a token budget needs a whole number of tokens for every row",
            hint="give the budget in examples or as a fraction",
        )
    total = frame["tokens"].sum() if budget.tokens is not None else frame.height
    asked = count_asked(budget, frame.height)
    if asked > total:
        unit = "tokens" if budget.tokens is not None else "examples"
        raise SelectionError(
            f"the budget of {asked:,} {unit} is above the pool, which has {total:,}",
            hint="lower the budget, or give more data",
        )


def _cost(rows: NDArray[np.bool_], tokens: NDArray[np.int64] | None) -> int:
    """Return what rows take of a budget, in its unit; of a budget in examples, ``tokens`` is None."""
    return int(np.count_nonzero(rows) if tokens is None else tokens[rows].sum())


def _check_pinned(pinned: NDArray[np.bool_], tokens: NDArray[np.int64] | None, total: int) -> None:
    if (cost := _cost(pinned, tokens)) > total:
        unit = "examples" if tokens is None else "tokens"
        raise SelectionError(
            f"the pinned rows alone are {cost:,} {unit}, and the budget is {total:,}",
            hint="raise the budget, or pin fewer rows",
        )


def _are_counts(tokens: pl.Series) -> bool:
    return tokens.dtype.is_integer() and not tokens.has_nulls() and (tokens >= 0).all()


def _check_shares(per_source: PerSource, per_cluster: PerSource, clusters: int) -> None:
    if "none" not in (per_source, per_cluster):
        raise UsageError(
            f"shares are per source or per cluster, got per_source={per_source} and per_cluster={per_cluster}",
            hint="leave one of them out",
        )
    if clusters < 1:
        raise UsageError(f"clusters must be at least 1, got {clusters}")


def _check_vectors(
    n: int,
    vectors: NDArray[np.float32] | None,
    method: Selector,
    per_cluster: PerSource,
    max_similarity: float | None,
) -> None:
    if max_similarity is not None:
        check_similarity(max_similarity)
        required(vectors, "max_similarity")
    if per_cluster != "none":
        required(vectors, f"per_cluster={per_cluster}")
    if getattr(method, "needs_vectors", False):
        required(vectors, f"the selector {type(method).__name__}")
    if vectors is not None and (vectors.ndim != 2 or not vectors.size or len(vectors) != n):
        raise SelectionError(
            f"vectors of shape {vectors.shape} do not fit {n:,} rows of scores",
            hint="give one vector for each row, in the order of the rows",
        )
