"""Puts a budget, shares, thresholds, a where-expression and near-duplicate removal around a selector."""

from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import SelectionError, UsageError, did_you_mean
from learnable.selectors.budget import Picked, count_asked, fill
from learnable.selectors.eligible import Thresholds, reasons_against, with_near_duplicates
from learnable.selectors.top_k import TopK
from learnable.selectors.vectors import check_similarity, clusters_of, required
from learnable.types import Budget, Selection, Selector

PerSource = Literal["none", "equal", "proportional"]


def choose(
    scores: pl.DataFrame,
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
) -> Selection:
    """Choose examples within a budget; the outcome does not depend on the order of the rows.

    Args:
        scores: n rows with ``id``, ``source``, ``tokens``, the score, and what ``where`` and ``thresholds`` mention.
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

    Returns:
        Kept and dropped examples; together they are all n.

    Raises:
        UsageError: If ``per_source`` and ``per_cluster`` are both given, or a number is out of range.
        SelectionError: If the budget is above the pool, a column or the vectors are missing, or nothing qualifies.
    """
    method = selector or TopK()
    _check(scores, by, budget, per_source)
    _check_vectors(scores, vectors, method, per_cluster, max_similarity)
    _check_shares(per_source, per_cluster, clusters)
    order = scores["id"].arg_sort().to_numpy()
    frame, vectors = scores[order], None if vectors is None else np.asarray(vectors, dtype=np.float32)[order]
    values = frame[by].cast(pl.Float32).to_numpy() * np.float32(-1 if lowest else 1)
    reasons = reasons_against(frame, by, where=where, thresholds=thresholds or Thresholds(), vectors=vectors)
    if None not in reasons:
        raise SelectionError(
            "no example qualifies", hint=f"for example: {reasons[0]}; loosen where or the thresholds"
        )
    if vectors is not None and max_similarity is not None:
        reasons = with_near_duplicates(reasons, frame["id"], values, vectors, max_similarity=max_similarity)
    eligible = np.flatnonzero([reason is None for reason in reasons])
    if vectors is not None and per_cluster != "none":
        labels = clusters_of(vectors[eligible], clusters=clusters, seed=seed)
    else:
        labels = _sources(frame, per_source)[eligible]
    rng = np.random.default_rng(seed)

    def ask(rows: NDArray[np.int64], k: int) -> Picked:
        theirs = None if vectors is None else vectors[rows]
        picks = method(values[rows], k=k, vectors=theirs, groups=None, rng=rng)
        return rows[picks.index], picks.gain

    index, gain = fill(
        ask,
        [eligible[labels == label] for label in sorted(set(labels))],
        tokens=frame["tokens"].to_numpy().astype(np.int64) if budget.tokens is not None else None,
        total=count_asked(budget, frame.height),
        equal="equal" in (per_source, per_cluster),
        rng=rng,
    )
    if not len(index):
        raise SelectionError(
            f"none of the best examples fits the budget of {budget}", hint="raise the budget"
        )
    how = f"among the best by {by}" if isinstance(method, TopK) else f"picked by {type(method).__name__}"
    kept, dropped = _kept_and_dropped(frame["id"], index, gain, reasons, f"not {how} within the budget")
    return Selection(kept=kept, dropped=dropped, by=by, budget=budget)


def _sources(frame: pl.DataFrame, per_source: PerSource) -> NDArray[Any]:
    if per_source == "none":
        return np.zeros(frame.height, dtype=np.int64)
    return frame["source"].cast(pl.String).fill_null("").to_numpy()


def _kept_and_dropped(
    ids: pl.Series,
    index: NDArray[np.int64],
    gain: NDArray[np.float32],
    reasons: list[str | None],
    otherwise: str,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    names, left = ids.to_numpy(), np.setdiff1d(np.arange(len(ids)), index)
    kept = pl.DataFrame({"id": names[index], "rank": np.arange(len(index)), "gain": gain})
    dropped = pl.DataFrame(
        {"id": names[left], "reason": [reasons[i] or otherwise for i in left]},
        schema={"id": pl.String, "reason": pl.String},
    )
    return kept, dropped


def _check(scores: pl.DataFrame, by: str, budget: Budget, per_source: PerSource) -> None:
    numeric = [name for name, kind in scores.schema.items() if kind.is_numeric()]
    if by not in numeric:
        raise SelectionError(f"there is no score column {by!r}", hint=did_you_mean(by, numeric))
    if budget.tokens is not None and "tokens" not in scores.columns:
        raise SelectionError(
            "a token budget needs a column 'tokens'", hint="give the budget in examples or as a fraction"
        )
    if budget.tokens is not None and not _are_counts(scores["tokens"]):
        raise SelectionError(
            "a token budget needs a whole number of tokens for every row",
            hint="give the budget in examples or as a fraction",
        )
    for column in ("id", "source") if per_source != "none" else ("id",):
        if column not in scores.columns:
            raise SelectionError(f"there is no column {column!r}", hint=did_you_mean(column, scores.columns))
    total = scores["tokens"].sum() if budget.tokens is not None else scores.height
    asked = count_asked(budget, scores.height)
    if asked > total:
        unit = "tokens" if budget.tokens is not None else "examples"
        raise SelectionError(
            f"the budget of {asked:,} {unit} is above the pool, which has {total:,}",
            hint="lower the budget, or give more data",
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
    scores: pl.DataFrame,
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
    if vectors is not None and (vectors.ndim != 2 or not vectors.size or len(vectors) != scores.height):
        raise SelectionError(
            f"vectors of shape {vectors.shape} do not fit {scores.height:,} rows of scores",
            hint="give one vector for each row, in the order of the rows",
        )
