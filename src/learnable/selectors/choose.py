"""Puts a budget, shares per source, thresholds and a where-expression around a selector."""

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import SelectionError, did_you_mean
from learnable.selectors.top_k import TopK
from learnable.types import Budget, Selection, Selector

PASS_OVER = 20
"""Picks in a row that may be too long for what is left of a token budget before the selection ends.

Without an end, the last few tokens would be filled with any short row, however low its score.
"""

PerSource = Literal["none", "equal", "proportional"]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The three conditions of LoBaSS v1 (section 3.3), each optional; losses in nats per token.

    Args:
        min_loss_before: Drop what the model knows already: base loss under this.
        max_loss_after: Drop what is too hard for it: reference loss above this.
        min_score: Drop scores under this.
    """

    min_loss_before: float | None = None
    max_loss_after: float | None = None
    min_score: float | None = None


def choose(
    scores: pl.DataFrame,
    *,
    by: str,
    budget: Budget,
    selector: Selector | None = None,
    lowest: bool = False,
    per_source: PerSource = "none",
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
        where: A condition in SQL over the columns, such as ``loss_before > 0.5 AND tokens < 800``; what is undefined
            is NULL in it.
        thresholds: The three conditions of LoBaSS; an undefined loss meets none of them.
        seed: For selectors that draw.

    Returns:
        Kept and dropped examples; together they are all n.

    Raises:
        SelectionError: If the budget is above the pool, a column is missing, or nothing qualifies.
    """
    _check(scores, by, budget, per_source)
    frame = scores.sort("id")
    reasons = _reasons(frame, by, where, thresholds or Thresholds())
    eligible = np.flatnonzero([reason is None for reason in reasons])
    if not len(eligible):
        raise SelectionError(
            "no example qualifies", hint=f"for example: {reasons[0]}; loosen where or the thresholds"
        )
    rng, method, by_tokens = np.random.default_rng(seed), selector or TopK(), budget.tokens is not None
    values = frame[by].cast(pl.Float32).to_numpy() * np.float32(-1 if lowest else 1)
    tokens = frame["tokens"].to_numpy().astype(np.int64) if by_tokens else np.ones(len(values), np.int64)
    groups = _groups(frame, eligible, per_source)
    shares = _shares(groups, tokens, budget, len(values), per_source)
    picked = [
        _pick(method, values, tokens, members, share, by_tokens=by_tokens, rng=rng)
        for members, share in zip(groups, shares, strict=True)
    ]
    if by_tokens and len(groups) > 1:
        # Each source leaves a few tokens that its next example does not fit; together they fit some more.
        rest = np.setdiff1d(eligible, np.concatenate([index for index, _ in picked]))
        unspent = sum(shares) - sum(int(tokens[index].sum()) for index, _ in picked)
        picked.append(_pick(method, values, tokens, rest, unspent, by_tokens=True, rng=rng))
    index = np.concatenate([index for index, _ in picked])
    gain = np.concatenate([gain for _, gain in picked])
    if not len(index):
        raise SelectionError(
            f"none of the best examples fits the budget of {budget}", hint="raise the budget"
        )
    if len(groups) > 1:
        order = np.lexsort((index, -gain))
        index, gain = index[order], gain[order]
    how = f"among the best by {by}" if isinstance(method, TopK) else f"picked by {type(method).__name__}"
    ids = frame["id"].to_numpy()
    left = np.setdiff1d(np.arange(len(values)), index)
    return Selection(
        kept=pl.DataFrame({"id": ids[index], "rank": np.arange(len(index)), "gain": gain}),
        dropped=pl.DataFrame(
            {"id": ids[left], "reason": [reasons[i] or f"not {how} within the budget" for i in left]},
            schema={"id": pl.String, "reason": pl.String},
        ),
        by=by,
        budget=budget,
    )


def count_asked(budget: Budget, n: int) -> int:
    """Return how many tokens or examples a budget means for a pool of n examples."""
    if budget.fraction is not None:
        # 29% of a hundred million is 28999999.999999996 in floating point.
        return max(1, int(n * budget.fraction * (1 + 1e-12)))
    return budget.tokens or budget.examples or 0


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


def _reasons(frame: pl.DataFrame, by: str, where: str | None, thresholds: Thresholds) -> list[str | None]:
    """Return for each row why it may not be chosen, or None."""
    undefined = pl.col("undefined") if "undefined" in frame.columns else pl.lit(None, dtype=pl.String)
    rules = [(_lacks(by), pl.coalesce(undefined, pl.lit(f"{by} is undefined")))]
    columns = {"min_loss_before": "loss_before", "max_loss_after": "loss_after", "min_score": by}
    for field in fields(thresholds):
        limit, column = getattr(thresholds, field.name), columns[field.name]
        if limit is None:
            continue
        if column not in frame.columns:
            raise SelectionError(f"the threshold {field.name} needs a column {column!r}", hint="leave it out")
        rules.append((_lacks(column), pl.coalesce(undefined, pl.lit(f"{column} is undefined"))))
        if field.name.startswith("min"):
            rules.append((pl.col(column) < limit, pl.lit(f"{column} < {limit:g}")))
        else:
            rules.append((pl.col(column) > limit, pl.lit(f"{column} > {limit:g}")))
    if where is not None:
        rules.append((pl.lit(~_holds(frame, where)), pl.lit(f"not where {where}")))
    first = pl.coalesce(pl.when(fails).then(reason) for fails, reason in rules)
    return frame.select(why=first)["why"].to_list()


def _holds(frame: pl.DataFrame, where: str) -> pl.Series:
    try:
        holds = frame.fill_nan(None).select(holds=pl.sql_expr(where))["holds"]
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise SelectionError(
            f"cannot evaluate where {where!r}: {str(error).splitlines()[0]}",
            hint=f"write SQL over these columns: {', '.join(frame.columns)}",
        ) from error
    if holds.dtype != pl.Boolean or holds.len() != frame.height:
        raise SelectionError(
            f"where {where!r} is not a condition on each row", hint="compare columns, as in tokens < 800"
        )
    return holds.fill_null(value=False)


def _lacks(column: str) -> pl.Expr:
    values = pl.col(column).cast(pl.Float64)
    return values.is_null() | values.is_nan()


def _groups(
    frame: pl.DataFrame, eligible: NDArray[np.int64], per_source: PerSource
) -> list[NDArray[np.int64]]:
    if per_source == "none":
        return [eligible]
    sources = frame["source"].cast(pl.String).fill_null("").to_numpy()[eligible]
    return [eligible[sources == source] for source in sorted(set(sources))]


def _shares(
    groups: list[NDArray[np.int64]], tokens: NDArray[np.int64], budget: Budget, n: int, per_source: PerSource
) -> list[int]:
    """Return each group's part of the budget, in tokens for a token budget, else in examples; the parts add up."""
    if budget.tokens is not None:
        total, sizes = budget.tokens, np.array([tokens[members].sum() for members in groups])
    else:
        total, sizes = count_asked(budget, n), np.array([len(members) for members in groups])
    total = min(total, int(sizes.sum()))
    if per_source == "equal":
        wanted = np.minimum(sizes, _water_level(sizes, total))
    else:
        wanted = sizes * (total / sizes.sum())
    shares = np.floor(wanted + 1e-9).astype(np.int64)
    # Largest remainder: what rounding down left over goes, one by one, to those who lost most by it.
    for group in np.argsort(-(wanted - shares), kind="stable")[: total - int(shares.sum())]:
        shares[group] += 1
    return [int(share) for share in shares]


def _water_level(sizes: NDArray[np.int64], total: int) -> float:
    """Return the level at which ``sum(min(sizes, level))`` is ``total``."""
    left = float(total)
    for position, size in enumerate(ordered := np.sort(sizes)):
        level = left / (len(ordered) - position)
        if size >= level:
            return level
        left -= float(size)
    return float(ordered[-1])


def _pick(
    selector: Selector,
    values: NDArray[np.float32],
    tokens: NDArray[np.int64],
    members: NDArray[np.int64],
    share: int,
    *,
    by_tokens: bool,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    k = len(members) if by_tokens else share
    picks = selector(values[members], k=k, vectors=None, groups=None, rng=rng)
    index, gain = members[picks.index], picks.gain
    if not by_tokens:
        return index, gain
    fits, left, passed_over = [], share, 0
    for position, row in enumerate(index):
        if tokens[row] <= left:
            fits.append(position)
            left -= int(tokens[row])
            passed_over = 0
        elif (passed_over := passed_over + 1) >= PASS_OVER:
            break
    return index[fits], gain[fits]
