"""Who may be chosen at all: thresholds, a condition, defined scores and vectors, near-duplicates, pins and bans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from learnable.errors import SelectionError
from learnable.selectors.vectors import Flags, Floats, distinct

PerSource = Literal["none", "equal", "proportional"]


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """How to choose by the scores. The first three conditions are those of LoBaSS v1 (section 3.3), in nats per token.

    Args:
        min_loss_before: Drop what the model knows already: base loss under this.
        max_loss_after: Drop what is too hard for it: reference loss above this.
        min_score: Drop scores under this.
        max_score: Drop scores above this.
        by: Score to choose by.
        selector: Method (see `learnable list selectors`).
        per_source: Share of each source: none (all compete), equal, or proportional to its size.
        per_cluster: The same for clusters of similar examples; needs vectors (`learnable score --vectors model`).
        clusters: How many clusters.
        max_similarity: Drop near-duplicates first: what is more alike than this (cosine, such as 0.95) to an example
            with a better score; needs vectors.
        where: Condition in SQL over the score columns, such as "loss_before > 0.5 AND tokens < 800".
        lowest: Choose the lowest scores.
        seed: For methods that draw.
    """

    min_loss_before: float | None = None
    max_loss_after: float | None = None
    min_score: float | None = None
    max_score: float | None = None
    by: str = "learnability"
    selector: str = "top_k"
    per_source: PerSource = "none"
    per_cluster: PerSource = "none"
    clusters: int = 100
    max_similarity: float | None = None
    where: str | None = None
    lowest: bool = False
    seed: int = 0


Listed = Mapping[str, Sequence[str]]
"""Ids by the name of the file that lists them."""
THRESHOLDS = {
    "min_loss_before": "loss_before",
    "max_loss_after": "loss_after",
    "min_score": "",
    "max_score": "",
}
"""What each is about: a column of losses, or the score."""


def columns_needed(schema: pl.Schema, choosing: Choosing) -> set[str]:
    """Return the columns that ``reasons_against`` reads."""
    by, where = choosing.by, choosing.where
    named = {about or by for name, about in THRESHOLDS.items() if getattr(choosing, name) is not None}
    if where is not None:
        condition = _parsed(where, schema.names()).meta
        named |= set(schema if condition.has_multiple_outputs() else condition.root_names())
    return {by} | ({"undefined", *named} & set(schema))


def reasons_against(
    frame: pl.DataFrame, choosing: Choosing, *, vectors: Floats | None, columns: Sequence[str]
) -> pl.Series:
    """Return for each row why it may not be chosen, String (n,), null where it may.

    ``frame`` has n rows with ``columns_needed``, ``vectors`` (n, d) must be finite, and ``columns`` are all there are,
    to name them when ``where`` asks for another.
    """
    by, where = choosing.by, choosing.where
    undefined = pl.col("undefined") if "undefined" in frame.columns else pl.lit(None, dtype=pl.String)
    rules = [(_lacks(by), pl.coalesce(undefined, pl.lit(f"{by} is undefined")))]
    for name, about in THRESHOLDS.items():
        limit, column = getattr(choosing, name), about or by
        if limit is None:
            continue
        if column not in frame.columns:
            raise SelectionError(f"the threshold {name} needs a column {column!r}", hint="leave it out")
        rules.append((_lacks(column), pl.coalesce(undefined, pl.lit(f"{column} is undefined"))))
        if name.startswith("min"):
            rules.append((pl.col(column) < limit, pl.lit(f"{column} < {limit:g}")))
        else:
            rules.append((pl.col(column) > limit, pl.lit(f"{column} > {limit:g}")))
    if where is not None:
        rules.append((pl.lit(~_holds(frame, where, columns)), pl.lit(f"not where {where}")))
    if vectors is not None:
        broken = pl.Series(~np.isfinite(vectors).all(axis=1))
        rules.append((pl.lit(broken), pl.lit("its vector is undefined")))
    first = pl.coalesce(pl.when(fails).then(reason) for fails, reason in rules)
    return frame.select(why=first.cast(pl.String))["why"]


def with_near_duplicates(
    reasons: pl.Series,
    ids: pl.Series,
    values: Floats,
    vectors: Floats,
    *,
    max_similarity: float,
) -> pl.Series:
    """Return the reasons with those against rows that are too similar to an eligible row with a higher value.

    Of equal ``values`` (n,) the first row stays, which ``ids`` name. Others of its ``vectors`` (n, d) have a cosine
    similarity of more than ``max_similarity``.

    Source: SemDeDup (2303.09540) keeps one of each group of vectors this similar; it looks inside clusters only and
    keeps the one farthest from the centre, this looks everywhere and keeps the best.
    """
    eligible = np.flatnonzero(reasons.is_null().to_numpy())
    ranking = eligible[np.argsort(-values[eligible], kind="stable")]
    stay, twin, cosine = distinct(vectors[ranking], max_similarity=max_similarity)
    places = np.delete(np.arange(len(ranking)), stay)
    names = ids.gather(ranking[twin[places]]).str.head(8)
    found = [
        f"near-duplicate of {name} (cosine {similarity:.2f})"
        for name, similarity in zip(names, cosine[places], strict=True)
    ]
    return reasons.clone().scatter(ranking[places], found)


def _holds(frame: pl.DataFrame, where: str, columns: Sequence[str]) -> pl.Series:
    condition = _parsed(where, columns)
    try:
        holds = frame.fill_nan(None).select(holds=condition)["holds"]
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise _not_evaluated(where, columns, error) from error
    if holds.dtype != pl.Boolean or holds.len() != frame.height:
        raise SelectionError(
            f"where {where!r} is not a condition on each row", hint="compare columns, as in tokens < 800"
        )
    return holds.fill_null(value=False)


def _parsed(where: str, columns: Sequence[str]) -> pl.Expr:
    try:
        return pl.sql_expr(where)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise _not_evaluated(where, columns, error) from error


def _not_evaluated(where: str, columns: Sequence[str], error: Exception) -> SelectionError:
    return SelectionError(
        f"cannot evaluate where {where!r}: {str(error).splitlines()[0]}",
        hint=f"write SQL over these columns: {', '.join(columns)}",
    )


def _lacks(column: str) -> pl.Expr:
    values = pl.col(column).cast(pl.Float64)
    return values.is_null() | values.is_nan()


def pinned_rows(ids: pl.Series, pins: Listed) -> Flags:
    """Return which rows of a pool are pinned, bool (n,); an id that is not in it is a SelectionError."""
    pinned = np.zeros(len(ids), dtype=np.bool_)
    for name, listed in pins.items():
        pinned |= _found(ids, name, listed).to_numpy()
    return pinned


def with_bans(reasons: pl.Series, ids: pl.Series, bans: Listed, *, pinned: Flags) -> pl.Series:
    """Return the reasons, bans first; refuse ids that are unknown or pinned, and a pool with nothing left."""
    banned = pl.Series("why", [None], dtype=pl.String).new_from_index(0, len(ids))
    for name, listed in bans.items():
        found = _found(ids, name, listed)
        if (both := ids.filter(found & pl.Series(pinned))).len():
            raise SelectionError(
                f"{both.len():,} of the rows to ban in {name} are pinned too, such as {both[0]!r}",
                hint="take them out of one of the files",
            )
        banned = banned.zip_with(banned.is_not_null() | ~found, pl.Series([f"banned by {name}"]))
    reasons = banned.zip_with(banned.is_not_null(), reasons)
    if not reasons.null_count() and not pinned.any():
        raise SelectionError(
            "no example qualifies", hint=f"for example: {reasons[0]}; loosen where or the thresholds"
        )
    return reasons


def _found(ids: pl.Series, name: str, listed: Sequence[str]) -> pl.Series:
    wanted = pl.Series("id", listed, dtype=pl.String).unique(maintain_order=True)
    found = ids.is_in(wanted.implode())
    missing = wanted.filter(~wanted.is_in(ids.filter(found).implode()))
    if missing.is_empty():
        return found
    whole = ids.filter(ids.str.starts_with(missing[0]))
    hint = "take them out, or take ids of the table that is chosen from"
    if whole.len():
        hint = f"ids are given whole: {missing[0]!r} is the beginning of {whole[0]!r}"
    raise SelectionError(
        f"{missing.len():,} of {wanted.len():,} ids in {name} are not in the pool, such as {missing[0]!r}",
        hint=hint,
    )
