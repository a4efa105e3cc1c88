"""Scores in, a selection out: what is taken over from the scorers, and the figures of what was chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import SelectionError, UsageError
from learnable.objects.given import checked_settings
from learnable.objects.results import Picked, ScoreTable
from learnable.runs.progress import say
from learnable.scorers import RANKS
from learnable.selectors import SELECTORS, Choosing, choose, count_asked, turns_of
from learnable.spec import build
from learnable.types import Budget, Selection, Selector


def chosen(
    scores: pl.DataFrame | pl.LazyFrame,
    choosing: Choosing,
    *,
    budget: Budget,
    method: Selector,
    rules: Mapping[str, Any],
    vectors: Callable[[], NDArray[np.float32] | None],
    said: Callable[[], NDArray[np.float32] | None],
    pins: Mapping[str, Sequence[str]] | None = None,
    bans: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Selection, dict[str, Any], float | None]:
    """Choose by a score as its scorer and its paper have it, see ``choose`` and ``scoring.rules_of``.

    Figures to show come with the selection, and the highest score that held, the scorer's own included. A highest score that is given goes before the paper's. ``vectors`` is called where they are looked at, ``said`` where
    it is what each row of a target says of each example by this score, (n, t).
    """
    by = choosing.by
    limit = rules.get("max score", {}).get(by)
    if limit is not None and choosing.max_score is None:
        say(f"{by} above {limit:g} is left out, as in its paper; --max-score inf keeps it")
        choosing = replace(choosing, max_score=limit)
    choosing = replace(choosing, lowest=choosing.lowest != (by in rules["lowest first"]))
    alike = choosing.per_cluster != "none" or choosing.max_similarity is not None
    looked_at: NDArray[np.float32] | None
    if getattr(method, "by_target", False):
        looked_at = in_turns(said(), rules.get("subtasks", ()), by=by, alike=alike)
    else:
        looked_at = vectors() if alike or getattr(method, "needs_vectors", False) else None
    selection = choose(
        scores, choosing, budget=budget, method=method, vectors=looked_at, pins=pins, bans=bans
    )
    facts = _facts(scores.lazy(), selection.kept, budget, by)
    facts |= {"selector": choosing.selector, "lowest": choosing.lowest}
    return selection, facts, choosing.max_score


def in_turns(
    said: NDArray[np.float32] | None, subtasks: Sequence[str], *, by: str, alike: bool
) -> NDArray[np.float32]:
    """Return what each turn of a round says of each example, (n, turns), of what each row, or each subtask, says (n, t).

    ``alike``: vectors are looked at too.
    """
    if alike:
        raise UsageError(
            "round_robin looks at the target's rows, max_similarity and per_cluster at vectors: not both",
            hint="choose with one of them",
        )
    if said is None:
        raise SelectionError(
            f"{by} does not tell what each row of a target says of an example",
            hint="select by relevance or less, scored with --target FILE; or give --selector top_k",
        )
    return said[:, turns_of(list(subtasks))] if said.shape[1] == len(subtasks) else said


def select(
    scores: ScoreTable,
    budget: float | str | Budget = "6%",
    *,
    by: str | None = None,
    selector: str | Selector = "top_k",
    pin: Sequence[str] = (),
    ban: Sequence[str] = (),
    **choosing: Any,
) -> Picked:
    """Choose examples within a budget.

    Args:
        scores: What ``score`` gave.
        budget: 0.06 or "6%" (of the examples), 500 (examples) or "50000tokens"; or a ``Budget``.
        by: Score to choose by; ``learnability`` where it is there, else the first score, when not given.
        selector: Name of a method, or one of your own.
        pin: Ids to choose first; they count against the budget.
        ban: Ids never to choose.
        choosing: Fields of ``Choosing``, as the options of `learnable select`: ``per_source`` and ``per_cluster``
            (``none``, ``equal`` or ``proportional``), ``clusters``, ``max_similarity``, ``where``, ``lowest``, ``seed``,
            ``min_loss_before``, ``max_loss_after``, ``min_score``, ``max_score``.

    Raises:
        UsageError: If something of another type is given, or a setting is not known.
        SelectionError: If the scores cannot satisfy the budget or the conditions.
    """
    if not isinstance(scores, ScoreTable):
        raise UsageError(
            f"rows are chosen from what score gave, got {type(scores).__name__}",
            hint="scores = learnable.score(rows, model); of a folder, use learnable.commands.select",
        )
    names, named = scores.facts["scorers"], selector if isinstance(selector, str) else type(selector).__name__
    by = by or ("learnability" if "learnability" in names else names[0])
    settings = checked_settings(choosing, Choosing, without=("by", "selector"))
    selection, facts, _ = chosen(
        scores.frame,
        Choosing(by=by, selector=named, **settings),
        budget=_budget(budget),
        method=build("selector", selector, SELECTORS) if isinstance(selector, str) else selector,
        rules=scores.facts,
        vectors=lambda: scores.vectors,
        said=lambda: scores.says.get(by),
        pins={"pin": list(pin)} if pin else None,
        bans={"ban": list(ban)} if ban else None,
    )
    return Picked(scores=scores, kept=selection.kept, dropped=selection.dropped, facts=facts)


def _budget(given: Any) -> Budget:
    if isinstance(given, Budget):
        return given
    if isinstance(given, str):
        return Budget.parse(given)
    if isinstance(given, float):
        return Budget(fraction=given)
    if isinstance(given, int) and not isinstance(given, bool):
        return Budget(examples=given)
    raise UsageError(
        f"a budget is a share, a number of examples or a text, got {given!r}",
        hint='write 0.06, 500, "6%" or "50000tokens"',
    )


def _facts(scores: pl.LazyFrame, kept: pl.DataFrame, budget: Budget, by: str) -> dict[str, Any]:
    """Return figures of a selection: what was asked for, what there is of it, and what is lacking and why."""
    there = scores.collect_schema().names()
    told = RANKS[by] if RANKS.get(by) in there else by
    frame = scores.select(name for name in there if name in {"id", "tokens", told}).collect()
    ours = frame.join(kept.select("id"), on="id", how="semi")
    tokens = int(ours["tokens"].sum()) if "tokens" in frame.columns else None
    asked, reached, unit, enough = count_asked(budget, frame.height), ours.height, "examples", 1.0
    if budget.tokens is not None:
        reached, unit, enough = tokens or 0, "tokens", 0.95
    shortfall = f"only {reached:,} of {asked:,} {unit} qualify or fit. Loosen where or the thresholds, or lower the budget."
    if budget.fraction == 1:
        shortfall = f"{frame.height - reached:,} of {frame.height:,} examples do not qualify; the dropped ones are listed with their reasons."
    return {
        "budget": str(budget),
        "by": by,
        "pool": frame.height,
        "kept": ours.height,
        "kept_tokens": tokens,
        "pool_tokens": int(frame["tokens"].sum()) if tokens is not None else None,
        "mean_of": told,
        "mean_kept": _mean(ours[told]),
        "mean_pool": _mean(frame[told]),
        "shortfall": shortfall if reached < asked * enough else None,
    }


def _mean(scores: pl.Series) -> float | None:
    mean = scores.cast(pl.Float64).fill_nan(None).mean()
    return float(mean) if isinstance(mean, float) else None
