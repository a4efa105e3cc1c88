"""The one loop of all measures: what is missing is asked for, and stored at once."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from learnable.measures.kind import Row
from learnable.measures.kinds import MEASURES
from learnable.runs.progress import bar
from learnable.runs.step import note
from learnable.runs.store import Store
from learnable.types import Measure

STORE_EVERY_S = 10.0


class Found(NamedTuple):
    """What was found at once.

    ``rows``: for each of the ``positions`` what was found, by kind; ``tokens`` count for the step at work.
    """

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
    waiting, last = _Waiting(by_kind, absent, store), time.monotonic()
    found = ask(missing)
    try:
        with bar(label, sum(map(size, missing))) as progress:
            for some in found:
                waiting.add([ids[place] for place in some.positions], some)
                progress.advance(sum(map(size, some.positions)))
                if time.monotonic() - last >= STORE_EVERY_S:
                    waiting.store()
                    last = time.monotonic()
    finally:
        waiting.store()


class _Waiting:
    """What was found, and is not stored yet."""

    def __init__(
        self, measures: Mapping[str, Measure], absent: Mapping[str, Collection[str]], store: Store
    ) -> None:
        self._measures, self._absent, self._store = measures, absent, store
        self._rows: dict[str, list[Row]] = {kind: [] for kind in measures}
        self._tokens = 0

    def add(self, ids: Sequence[str], found: Found) -> None:
        for identity, row in zip(ids, found.rows, strict=True):
            for kind, stored in row.items():
                if identity in self._absent.get(kind, ()):
                    self._rows[kind].append((identity, *stored))
        self._tokens += found.tokens

    def store(self) -> None:
        for kind, rows in self._rows.items():
            if rows:
                self._store.write(self._measures[kind], MEASURES[kind].frame(rows))
                rows.clear()
        note(self._tokens)
        self._tokens = 0


def known(measure: Measure, ids: Sequence[str] | pl.Series, *, store: Store) -> pl.DataFrame:
    """Return what is stored of some ids: ``id`` and the columns of the kind, in their order, without those unknown."""
    wanted = pl.Series("id", ids, dtype=pl.String)
    there = wanted.filter(~wanted.is_in(store.missing(measure, wanted).implode()))
    return store.read(measure, there) if len(there) else MEASURES[measure.kind].frame([])
