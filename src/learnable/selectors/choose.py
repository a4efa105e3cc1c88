"""Puts a budget, shares, thresholds, a where-expression and near-duplicate removal around a selector."""

from collections.abc import Callable

import numpy as np
import polars as pl

from learnable.errors import SelectionError, UsageError, closest, did_you_mean
from learnable.selectors import eligible
from learnable.selectors.budget import Picked, count_asked, fill
from learnable.selectors.eligible import Choosing, Listed, PerSource
from learnable.selectors.ranking import TopK
from learnable.selectors.vectors import Flags, Floats, Rows, check_similarity, clusters_of, required
from learnable.types import Budget, Selection, Selector

COUNTS = frozenset({"tokens", "response_tokens"})
"""Numbers that a table has without having been scored."""
OTHER_BUDGET = "give the budget in examples or as a fraction"


def choose(
    scores: pl.DataFrame | pl.LazyFrame,
    choosing: Choosing,
    *,
    budget: Budget,
    method: Selector,
    vectors: Floats | None = None,
    pins: Listed | None = None,
    bans: Listed | None = None,
) -> Selection:
    """Choose examples within a budget; the outcome does not depend on the order of the rows.

    Kept examples stand by score, the pinned ones first. They and the dropped ones are all n.

    Args:
        scores: n rows with ``id``, ``source``, ``tokens``, the score, and what conditions mention; other columns are
            not read.
        choosing: How. Of equal shares, what a small source cannot use goes to the others; proportional ones are of
            what is left after thresholds. What is undefined meets no threshold, and is NULL in ``where``.
        budget: How much to keep. A fraction is of all n examples, rounded down but at least 1; tokens count prompt and
            response and are never exceeded: picks that do not fit are passed over, up to ``PASS_OVER`` in a row.
        method: The one that ``choosing`` names.
        vectors: One for each row of ``scores``, of any length, (n, d). A row whose vector is not finite is not eligible.
        pins: Ids to choose whatever their score and the conditions, by the name of a list. They count against the
            budget, and against the share of their source or cluster (one without a finite vector has no cluster). The
            method does not look at them, and their gain is NaN.
        bans: Ids never to choose, likewise.

    Raises:
        UsageError: If ``per_source`` and ``per_cluster`` are both given, or a number is out of range.
        SelectionError: If the budget is above the pool, a column or the vectors are missing, nothing qualifies, the
            pinned rows alone exceed the budget, or an id is not in the pool, or pinned and banned.
    """
    frame = _needed(scores.lazy(), choosing, budget)
    unit, total = "examples" if budget.tokens is None else "tokens", count_asked(budget, frame.height)
    _check_budget(frame, budget, unit, total)
    _check_vectors(frame.height, vectors, method, choosing)
    frame, vectors = by_id(frame, None if vectors is None else np.asarray(vectors, dtype=np.float32))
    values = frame[choosing.by].cast(pl.Float32).to_numpy() * np.float32(-1 if choosing.lowest else 1)
    tokens = None if budget.tokens is None else frame["tokens"].to_numpy().astype(np.int64)
    pinned = eligible.pinned_rows(frame["id"], pins or {})
    # A pinned row qualifies, but one without a vector has no place among the others.
    placed = pinned if vectors is None else pinned & np.isfinite(vectors).all(axis=1)
    columns = scores.lazy().collect_schema().names()
    reasons = eligible.reasons_against(frame, choosing, vectors=vectors, columns=columns)
    reasons = eligible.with_bans(reasons, frame["id"], bans or {}, pinned=pinned)
    reasons = reasons.zip_with(pl.Series(~placed), pl.Series([None], dtype=pl.String))
    if vectors is not None and (limit := choosing.max_similarity) is not None:
        merits = np.where(pinned, np.float32(np.inf), values)
        reasons = eligible.with_near_duplicates(reasons, frame["id"], merits, vectors, max_similarity=limit)
    members = np.flatnonzero((reasons.is_null().to_numpy() & ~pinned) | placed)
    rng = np.random.default_rng(choosing.seed)
    _check_pinned(_cost(pinned, tokens), unit, total)
    picked = fill(
        _asking(method, values, vectors, rng),
        _groups(frame, members, choosing, vectors),
        tokens=tokens,
        total=total - _cost(pinned & ~placed, tokens),
        equal="equal" in (choosing.per_source, choosing.per_cluster),
        rng=rng,
        pinned=pinned,
        by_count=getattr(method, "by_count", False),
    )
    name = type(method).__name__
    how = f"among the best by {choosing.by}" if isinstance(method, TopK) else f"picked by {name}"
    reasons = reasons.fill_null(f"not {how} within the budget")
    return _selection(frame["id"], values, pinned, picked, reasons, budget)


def _needed(scores: pl.LazyFrame, choosing: Choosing, budget: Budget) -> pl.DataFrame:
    """Return the columns of scores that are looked at."""
    schema = scores.collect_schema()
    _check_asked(schema, choosing, budget)
    needed = eligible.columns_needed(schema, choosing) | {"id"}
    needed |= {"source"} if choosing.per_source != "none" else set()
    needed |= {"tokens"} if budget.tokens is not None else set()
    return scores.select(name for name in schema if name in needed).collect()


def _asking(
    method: Selector, values: Floats, vectors: Floats | None, rng: np.random.Generator
) -> Callable[[Rows, int], Picked]:
    """Return what picks k of some rows by a method."""

    def ask(rows: Rows, k: int) -> Picked:
        theirs = None if vectors is None else vectors[rows]
        picks = method(values[rows], k=k, vectors=theirs, groups=None, rng=rng)
        return rows[picks.index], picks.gain

    return ask


def _groups(frame: pl.DataFrame, members: Rows, choosing: Choosing, vectors: Floats | None) -> list[Rows]:
    """Return the rows among ``members`` of each source or cluster; all of them as one where none has a share."""
    labels = _sources(frame, choosing.per_source)[members]
    if vectors is not None and choosing.per_cluster != "none" and len(members):
        labels = clusters_of(vectors[members], clusters=choosing.clusters, seed=choosing.seed)
    order = np.argsort(labels, kind="stable")
    return np.split(members[order], np.flatnonzero(np.diff(labels[order])) + 1)


def _selection(
    ids: pl.Series, values: Floats, pinned: Flags, picked: Picked, reasons: pl.Series, budget: Budget
) -> Selection:
    """Return what is kept, the pinned rows first, by score and without a gain; and all others with their reasons."""
    first = np.flatnonzero(pinned)
    first = first[np.argsort(-values[first], kind="stable")]
    index = np.concatenate([first, picked[0]])
    if not len(index):
        raise SelectionError(
            f"none of the best examples fits the budget of {budget}", hint="raise the budget"
        )
    gain = np.concatenate([np.full(len(first), np.nan, dtype=np.float32), picked[1]])
    kept = {"id": ids.gather(index), "rank": np.arange(len(index)), "gain": gain, "pinned": pinned[index]}
    left = np.ones(len(ids), dtype=np.bool_)
    left[index] = False
    dropped = pl.DataFrame({"id": ids, "reason": reasons}).filter(pl.Series(left))
    return Selection(kept=pl.DataFrame(kept), dropped=dropped)


def by_id(frame: pl.DataFrame, vectors: Floats | None) -> tuple[pl.DataFrame, Floats | None]:
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


def _sources(frame: pl.DataFrame, per_source: PerSource) -> Rows:
    """Return the number of each row's source among all sources in ascending order, (n,)."""
    if per_source == "none":
        return np.zeros(frame.height, dtype=np.int64)
    names = frame["source"].cast(pl.String).fill_null("")
    return names.cast(pl.Enum(names.unique().sort())).to_physical().to_numpy().astype(np.int64)


def _cost(rows: Flags, tokens: Rows | None) -> int:
    """Return what rows take of a budget, in its unit; of a budget in examples, ``tokens`` is None."""
    return int(np.count_nonzero(rows) if tokens is None else tokens[rows].sum())


def _check_pinned(cost: int, unit: str, total: int) -> None:
    if cost > total:
        raise SelectionError(
            f"the pinned rows alone are {cost:,} {unit}, and the budget is {total:,}",
            hint="raise the budget, or pin fewer rows",
        )


def _check_asked(schema: pl.Schema, choosing: Choosing, budget: Budget) -> None:
    by, per_source, per_cluster = choosing.by, choosing.per_source, choosing.per_cluster
    numeric = [name for name, kind in schema.items() if kind.is_numeric()]
    if by not in numeric:
        unscored = COUNTS.issuperset(numeric) and closest(by, numeric) is None
        hint = "score it first with `learnable score`" if unscored else did_you_mean(by, numeric)
        raise SelectionError(f"there is no score column {by!r}", hint=hint)
    if budget.tokens is not None and "tokens" not in schema:
        raise SelectionError("a token budget needs a column 'tokens'", hint=OTHER_BUDGET)
    for column in ("id", "source") if per_source != "none" else ("id",):
        if column not in schema:
            raise SelectionError(f"there is no column {column!r}", hint=did_you_mean(column, schema.names()))
    if "none" not in (per_source, per_cluster):
        raise UsageError(
            f"shares are per source or per cluster, got per_source={per_source} and per_cluster={per_cluster}",
            hint="leave one of them out",
        )
    if choosing.clusters < 1:
        raise UsageError(f"clusters must be at least 1, got {choosing.clusters}")


def _check_budget(frame: pl.DataFrame, budget: Budget, unit: str, asked: int) -> None:
    there = frame.height
    if budget.tokens is not None:
        tokens = frame["tokens"]
        if not tokens.dtype.is_integer() or tokens.has_nulls() or (tokens < 0).any():
            raise SelectionError(
                "a token budget needs a whole number of tokens for every row", hint=OTHER_BUDGET
            )
        there = int(tokens.sum())
    if asked > there:
        raise SelectionError(
            f"the budget of {asked:,} {unit} is above the pool, which has {there:,}",
            hint="lower the budget, or give more data",
        )


def _check_vectors(n: int, vectors: Floats | None, method: Selector, choosing: Choosing) -> None:
    if choosing.max_similarity is not None:
        check_similarity(choosing.max_similarity)
        required(vectors, "max_similarity")
    if choosing.per_cluster != "none":
        required(vectors, f"per_cluster={choosing.per_cluster}")
    if getattr(method, "needs_vectors", False):
        required(vectors, f"the selector {type(method).__name__}")
    if vectors is not None and (vectors.ndim != 2 or not vectors.size or len(vectors) != n):
        raise SelectionError(
            f"vectors of shape {vectors.shape} do not fit {n:,} rows of scores",
            hint="give one vector for each row, in the order of the rows",
        )
