"""What each method chose: its make-up, how far the choices overlap, and examples that only one method chose."""

import math
from dataclasses import dataclass

import polars as pl

from learnable.experiments import RANDOM, jaccard, only_in
from learnable.pages.comparison.facts import Comparison
from learnable.pages.excerpts import Excerpt, Turn, turns_of
from learnable.pages.verdicts import finite
from learnable.pages.words import count, decimal

SHOWN_SOURCES = 6
SHOWN_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A selection, or the whole pool; ``shares`` are parts of its examples, one per source shown."""

    name: str
    examples: int
    tokens: int
    response: float | None
    loss: float | None
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Jaccard indices between methods, None where undefined; ``expected`` is that of two random draws."""

    methods: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    expected: float | None


@dataclass(frozen=True, kw_only=True)
class Alone:
    """What only one method chose: how many examples, of how many, and the first of them to read."""

    method: str
    number: int
    of: int
    excerpts: tuple[Excerpt, ...]


def sources_shown(comparison: Comparison) -> list[str]:
    """The largest sources of the pool; none where there is only one."""
    sizes = _pool(comparison).group_by("source").len().sort("len", "source", descending=[True, False])
    return sizes["source"].to_list()[:SHOWN_SOURCES] if sizes.height > 1 else []


def choices(comparison: Comparison) -> list[Choice]:
    """The pool, then each selection at the largest budget, with the first seed."""
    pool, sources = _pool(comparison), sources_shown(comparison)
    found = [_choice("the pool", pool, sources)]
    for method, ids in comparison.first(comparison.budget).items():
        chosen = pool.join(pl.DataFrame({"id": ids}, schema={"id": pl.String}), on="id", how="semi")
        found.append(_choice(method, chosen, sources))
    return found


def overlap(comparison: Comparison) -> Overlap | None:
    """How far the selections at the largest budget overlap, with the first seed; None for a single method."""
    chosen = comparison.first(comparison.budget)
    if len(chosen) < 2:
        return None
    pairs = {(one, other): finite(value) for one, other, value, _ in jaccard(chosen).iter_rows()}
    cells = [
        tuple(1.0 if one == other else pairs.get((one, other), pairs.get((other, one))) for other in chosen)
        for one in chosen
    ]
    drawn = len(chosen.get(RANDOM, ())) / max(comparison.facts.scores.height, 1)
    return Overlap(methods=tuple(chosen), cells=tuple(cells), expected=drawn / (2 - drawn) if drawn else None)


def alone(comparison: Comparison) -> list[Alone]:
    """Examples that one method chose and no other; the random draw is left aside, it means nothing by its choice."""
    chosen = {name: ids for name, ids in comparison.first(comparison.budget).items() if name != RANDOM}
    if len(chosen) < 2:
        return []
    only = only_in(chosen)
    wanted = {name: ids[:SHOWN_EXAMPLES] for name, ids in only.items()}
    texts = _texts(comparison, [name for ids in wanted.values() for name in ids])
    rows = {row["id"]: row for row in _pool(comparison).iter_rows(named=True) if row["id"] in texts}
    return [
        Alone(
            method=method,
            number=len(only[method]),
            of=len(chosen[method]),
            excerpts=tuple(_excerpt(method, rows[name], *texts[name]) for name in ids if name in rows),
        )
        for method, ids in wanted.items()
    ]


def _pool(comparison: Comparison) -> pl.DataFrame:
    source = pl.col("source").cast(pl.String).fill_null("unknown")
    return comparison.facts.scores.with_columns(source, id=pl.col("id").cast(pl.String))


def _choice(name: str, chosen: pl.DataFrame, sources: list[str]) -> Choice:
    losses = (
        chosen["loss_before"].cast(pl.Float64).fill_nan(None) if "loss_before" in chosen.columns else None
    )
    mean = losses.mean() if losses is not None else None
    return Choice(
        name=name,
        examples=chosen.height,
        tokens=int(chosen["tokens"].sum()),
        response=finite(chosen["response_tokens"].median()),
        loss=finite(mean),
        shares=tuple(
            chosen.filter(pl.col("source") == source).height / chosen.height if chosen.height else math.nan
            for source in sources
        ),
    )


def _texts(comparison: Comparison, ids: list[str]) -> dict[str, tuple[tuple[Turn, ...], int]]:
    """Return turns and the number of messages left out, by id."""
    if comparison.facts.examples is None:
        return {}
    found = comparison.facts.examples.filter(pl.col("id").cast(pl.String).is_in(ids))
    return {str(name): turns_of(messages) for name, messages in found.select("id", "messages").iter_rows()}


def _excerpt(
    method: str, row: dict[str, float | str | None], turns: tuple[Turn, ...], left_out: int
) -> Excerpt:
    figures = [("response tokens", count(finite(row["response_tokens"])))]
    if finite(row.get("loss_before")) is not None:
        figures.insert(0, ("loss before", decimal(finite(row["loss_before"]))))
    if finite(row.get(method)) is not None:
        figures.insert(0, ("its score", decimal(finite(row[method]))))
    return Excerpt(
        id=str(row["id"]),
        source=str(row["source"]),
        is_kept=True,
        state=f"chosen by {method} only",
        figures=tuple(figures),
        turns=turns,
        left_out=left_out,
    )
