"""The one loop of all measures: what is missing is asked for, and stored at once."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from learnable.measures.kinds import MEASURES, Row
from learnable.runs.progress import bar
from learnable.runs.step import note
from learnable.runs.store import Store
from learnable.types import Measure

STORE_EVERY_S = 10.0


class Found(NamedTuple):
    """For each of the ``positions`` what was found at once, by kind; ``tokens`` count for the step at work."""

    positions: Sequence[int]
    rows: Sequence[Mapping[str, Row]]
    tokens: int = 0


Ask = Callable[[Collection[int]], Iterable[Found]]
"""Asks for what is missing, by position; what it gives may come in any order, and may lack some."""


def fill(
    measures: Sequence[Measure],
    ids: Sequence[str],
    ask: Ask,
    *,
    store: Store,
    label: str,
    size: Callable[[int], int],
    also: Sequence[Measure] = (),
) -> None:
    """Ask for what is not stored yet, and store it every few seconds, so that a killed run goes on where it was.

    Args:
        measures: What must be known; a position is asked for where one of them is missing.
        ids: n ids; of equal ones the first stands for all.
        ask: Called once, where anything is missing. What it closes over is up to it: a model, a second input.
        store: Where results are kept.
        label: What the progress bar says.
        size: How much of the progress a position is.
        also: What is stored where it is found and not there yet.
    """
    places: dict[str, int] = {}
    for place, identity in enumerate(ids):
        places.setdefault(identity, place)
    wanted = pl.Series("id", list(places), dtype=pl.String)
    by_kind = {measure.kind: measure for measure in (*measures, *also)}
    absent = {kind: set(store.missing(measure, wanted).to_list()) for kind, measure in by_kind.items()}
    missing = {places[identity] for measure in measures for identity in absent[measure.kind]}
    if not missing:
        return
    waiting: dict[str, list[Row]] = {kind: [] for kind in by_kind}
    tokens: list[int] = []

    found, last = ask(missing), time.monotonic()
    try:
        with bar(label, sum(map(size, missing))) as progress:
            for some in found:
                for place, row in zip(some.positions, some.rows, strict=True):
                    for kind, stored in row.items():
                        if ids[place] in absent.get(kind, ()):
                            waiting[kind].append((ids[place], *stored))
                tokens.append(some.tokens)
                progress.advance(sum(map(size, some.positions)))
                if time.monotonic() - last >= STORE_EVERY_S:
                    _keep(waiting, tokens, by_kind, store)
                    last = time.monotonic()
    finally:
        _keep(waiting, tokens, by_kind, store)


def _keep(
    waiting: Mapping[str, list[Row]], tokens: list[int], measures: Mapping[str, Measure], store: Store
) -> None:
    """Store what was found, and take it off the lists."""
    for kind, rows in waiting.items():
        if rows:
            store.write(measures[kind], MEASURES[kind].frame(rows))
            rows.clear()
    note(sum(tokens))
    tokens.clear()


def known(measure: Measure, ids: Sequence[str] | pl.Series, *, store: Store) -> pl.DataFrame:
    """Return what is stored of some ids: ``id`` and the columns of the kind, in their order, without those unknown."""
    found = store.known(measure, pl.Series("id", ids, dtype=pl.String))
    return MEASURES[measure.kind].frame([]) if found is None else found
