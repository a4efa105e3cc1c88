"""A selection in, one HTML page out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.data import names_of, readable
from learnable.errors import UsageError
from learnable.objects.results import Picked
from learnable.objects.rows import Rows
from learnable.objects.scoring import against, passes_by
from learnable.pages import SelectionFacts, examples_to_spell
from learnable.pools import Pool
from learnable.runs.files import write_text
from learnable.runs.price import Cost
from learnable.selectors.vectors import vendi
from learnable.types import Example

TOKEN_EXAMPLES = 4
"""Examples of a report with the losses of their tokens, where no other number is asked for."""


def report(
    picked: Picked,
    path: str | os.PathLike[str] = "report.html",
    *,
    title: str = "selection",
    tokens: int = TOKEN_EXAMPLES,
) -> Path:
    """Write one HTML page about a selection; it opens offline.

    Args:
        picked: What ``select`` gave.
        path: The file to write.
        title: Heading of the page.
        tokens: Examples to show with the losses of their tokens, which are measured now; 0 for none.

    Raises:
        UsageError: If something of another type is given.
        DiskError: If the file cannot be written.
    """
    if not isinstance(picked, Picked):
        raise UsageError(
            f"a report is about what select gave, got {type(picked).__name__}",
            hint="picked = learnable.select(scores); of a folder, use learnable.commands.report",
        )
    from learnable.pages.selection import render_selection

    scores = picked.scores
    facts = selection_facts(
        title=title,
        command=f"learnable.report(picked, {os.fspath(path)!r})",
        scored=scores.facts,
        chosen=picked.facts,
        pool=scores.rows.pool,
        scores=scores.frame,
        kept=picked.kept,
        dropped=picked.dropped,
        reference=scores.settings,
        costs=scores.costs,
        pulled=pulled_in(scores.says.get(picked.facts["by"]), scores.target, scores.frame["id"], picked.kept),
        spread=spread_of(scores.vectors, scores.frame["id"], picked.kept),
    )
    if ids := examples_to_spell(facts, tokens):
        base, ref = scores.model, scores.model.ref
        compared = None if scores.reference is None else against(scores.reference, ref)
        how: dict[str, Any] = {"max_length": scores.facts["max_length"], "store": base.store}
        passes = passes_by(base, ref, scores.reference, compared, **how)
        facts = replace(facts, tokens=passes.views(some(scores.rows.pool, ids)))
    write_text(Path(path), render_selection(facts))
    return Path(path)


def selection_facts(
    *,
    scored: Mapping[str, Any],
    chosen: Mapping[str, Any],
    pool: Pool | None,
    costs: Mapping[str, Cost],
    **shown: Any,
) -> SelectionFacts:
    """Return what a report says of a selection, and shows of it as it is.

    Where losses were given, ``scored`` has no facts, and there is no pool.
    """
    by = str(chosen["by"])
    return SelectionFacts(
        model=f"{scored['model']} ({scored['dtype']})" if scored else "not known: the losses were given",
        by=by,
        higher_is_better=not chosen["lowest"],
        budget=str(chosen["budget"]),
        examples=readable(pool.examples) if pool else None,
        rows=pool.rows if pool else None,
        files=names_of(pool.files) if pool else [],
        scorers=list(scored["scorers"]) if scored else [by],
        steps=list(costs.items()),
        lowest_first=scored.get("lowest first", ()),
        shortfall=chosen["shortfall"],
        left_out=scored.get("left out"),
        **shown,
    )


def spread_of(
    vectors: NDArray[np.float32] | None, ids: pl.Series, kept: pl.DataFrame
) -> tuple[float, float] | None:
    """Return the Vendi scores of the chosen examples and of as many drawn at random, see ``SelectionFacts``.

    ``vectors`` are those of the examples ``ids``, (n, d); NaN where there is none.
    """
    if vectors is None:
        return None
    there = np.isfinite(vectors).all(axis=1)
    chosen = np.flatnonzero(ids.is_in(kept["id"].implode()).to_numpy() & there)
    if not len(chosen):
        return None
    drawn = np.random.default_rng(0).choice(np.flatnonzero(there), len(chosen), replace=False)
    return vendi(vectors[chosen]), vendi(vectors[drawn])


def pulled_in(
    said: NDArray[np.float32] | None, target: Rows | None, ids: pl.Series, kept: pl.DataFrame
) -> pl.DataFrame | None:
    """Return what pulled each chosen example in (``SelectionFacts``), of what each row, or each subtask, says (n, t)."""
    if said is None or target is None:
        return None
    aim = target.as_target
    names = [each.messages[0].content for each in aim.examples]
    if said.shape[1] != len(names):
        names = sorted(set(aim.subtasks))
    places = {name: place for place, name in enumerate(ids)}
    chosen = [name for name in kept["id"] if np.isfinite(said[places[name]]).all()]
    best = [int(said[places[name]].argmax()) for name in chosen]
    values = [float(said[places[name], place]) for name, place in zip(chosen, best, strict=True)]
    return pl.DataFrame(
        {"id": chosen, "target": [names[place] for place in best], "value": values},
        schema={"id": pl.String, "target": pl.String, "value": pl.Float64},
    )


def some(pool: Pool, ids: Sequence[str]) -> list[Example]:
    """Return the examples with these ids, in their order."""
    few = replace(pool, conversations=pool.conversations.filter(pl.col("id").is_in(ids)))
    known = {example.id: example for example in few.iter_examples()}
    return [known[id] for id in ids]
