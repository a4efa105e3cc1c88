"""Model passes over rendered examples: batches by length, made from all examples, and columns of what is stored."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from learnable.measures.keep import Found, fill, known
from learnable.measures.kind import MeasureKind, Row, as_found
from learnable.measures.kinds import MEASURES
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.types import Launch, Measure, MeasuredModel, Rendered, Work

WORTH_SAYING_S = 10.0


def measure_of(
    model: str, *, rendering: str, max_length: int, kind: str = "nll", alone: bool = False
) -> Measure:
    """Return the identity of a pass over examples.

    Args:
        model: Key of the model that measures, its adapter on or off.
        rendering: Identity of what made the tokens, which may be another model's tokenizer and chat template.
        max_length: Longest sequence in tokens.
        kind: See ``MEASURES``.
        alone: The answers are measured without what stands before them, see ``answers_alone``.
    """
    parameters: dict[str, Any] = {"rendering": rendering, "max_length": max_length}
    return Measure(
        kind=kind, model=model, parameters=parameters | ({"context": "answer header"} if alone else {})
    )


def planned(rendered: Sequence[Rendered], *, batch_tokens: int) -> list[list[int]]:
    """Return batches of positions, the longest examples first; those without a response token cost no pass.

    They are made from all examples, before looking at the store: a run that goes on after a crash computes the same
    batches as an unbroken one, hence the same bits.

    Args:
        rendered: n examples.
        batch_tokens: Most tokens of a batch, padding included; a longer example is a batch of its own.
    """
    scored = [position for position, example in enumerate(rendered) if example.mask.any()]
    scored.sort(key=_by_length(rendered))
    batches: list[list[int]] = []
    longest = 0
    for position in scored:
        longest = max(longest, len(rendered[position].ids))
        if not batches or (len(batches[-1]) + 1) * longest > batch_tokens:
            batches.append([])
            longest = len(rendered[position].ids)
        batches[-1].append(position)
    return batches


def _by_length(rendered: Sequence[Rendered]) -> Callable[[int], tuple[int, bytes, int, str]]:
    """Return the order of batches: the longest first, and answers to one question beside each other.

    Such answers share the tokens of their question, which a batch computes once.
    """
    questions = [
        example.ids[: int(example.mask.argmax()) if example.mask.any() else None].tobytes()
        for example in rendered
    ]
    longest: dict[bytes, int] = {}
    for question, example in zip(questions, rendered, strict=True):
        longest[question] = max(len(example.ids), longest.get(question, 0))

    def place(position: int) -> tuple[int, bytes, int, str]:
        question, example = questions[position], rendered[position]
        return -longest[question], question, -len(example.ids), example.id

    return place


def take(
    opened: Callable[[], AbstractContextManager[MeasuredModel]],
    measures: Sequence[Measure],
    rendered: Sequence[Rendered],
    *,
    store: Store,
    label: str,
    also: Sequence[Measure] = (),
    counts: bool = True,
    end_ids: Collection[int] = (),
    launch: Launch | None = None,
    batch_tokens: Callable[[Any], int] | None = None,
) -> int:
    """Measure what is missing, in one pass for all kinds that share one; return how many tokens that took.

    Args:
        opened: Opens the model within a block; not called where nothing is missing.
        measures: What must be known, of one model under one role.
        rendered: n examples.
        store: Where results are kept.
        label: What is said, and what the progress bar says.
        also: What the same passes say beside that, stored where it is not there yet.
        counts: Whether the tokens are part of what the step at work costs, and said; those of an evaluation are not.
        end_ids: Tokens that end a turn, for the nll of these.
        launch: Begins a batch of kinds whose pass takes a second input, and which therefore name none.
        batch_tokens: Tells how many tokens, padding included, a batch of a model takes; what a forward pass takes when
            not given.
    """
    launches = dict.fromkeys(MEASURES[measure.kind].launch or launch for measure in measures)
    passes = [
        _Pass(given, opened, rendered, label=label, counts=counts, end_ids=end_ids, batch_tokens=batch_tokens)
        for given in launches
        if given is not None
    ]
    for each in passes:
        each.run(each.of(measures, launch), each.of(also, launch), store)
    return sum(each.tokens for each in passes)


class _Pass:
    """One kind of pass over examples, which several kinds of measures may share."""

    def __init__(
        self,
        launch: Launch,
        opened: Callable[[], AbstractContextManager[MeasuredModel]],
        rendered: Sequence[Rendered],
        *,
        label: str,
        counts: bool,
        end_ids: Collection[int],
        batch_tokens: Callable[[Any], int] | None,
    ) -> None:
        self._batch_tokens = batch_tokens
        self._launch, self._opened, self._rendered = launch, opened, rendered
        self._scored = [example for example in rendered if example.mask.any()]
        self._label, self._counts, self._end_ids = label, counts, end_ids
        self._kinds: list[MeasureKind] = []
        self.tokens = 0

    def of(self, measures: Sequence[Measure], launch: Launch | None) -> list[Measure]:
        """Return the measures that this pass gives, where those that name no launch have this one."""
        return [each for each in measures if (MEASURES[each.kind].launch or launch) is self._launch]

    def run(self, wanted: Sequence[Measure], also: Sequence[Measure], store: Store) -> None:
        """Measure what is missing of ``wanted``; what the store has of each token is not measured again for ``also``."""
        self._kinds = [MEASURES[measure.kind] for measure in (*wanted, *also)]
        ids = [example.id for example in self._scored]
        how: dict[str, Any] = {"store": store, "label": self._label, "size": self._size}
        fill(wanted, ids, self._measured, also=also, **how)
        if self._counts and not self.tokens:
            say(f"{self._label}: {len(ids):,} examples are stored already")
        for whole in wanted:
            if MEASURES[whole.kind].value is as_found:
                fill(also, ids, partial(self._read, store, whole), **how)

    def _size(self, position: int) -> int:
        return len(self._scored[position].ids)

    def _measured(self, missing: Collection[int]) -> Iterator[Found]:
        """Run the batches of what is missing."""
        self.tokens = sum(map(self._size, missing))
        if self._counts:
            say(
                f"{self._label}: {len(missing):,} examples, {self.tokens:,} tokens to measure; "
                f"{len(self._scored) - len(missing):,} stored already"
            )
        return self._batches(missing)

    def _batches(self, missing: Collection[int]) -> Iterator[Found]:
        with self._opened() as model:
            most = model.batch_tokens if self._batch_tokens is None else self._batch_tokens(model)
            whole = planned(self._scored, batch_tokens=most)
            batches = [rest for batch in whole if (rest := [place for place in batch if place in missing])]
            before = model.work
            examples = [[self._scored[place] for place in batch] for batch in batches]
            for number, values in model.measure(self._launch, examples):
                yield self._found(batches[number], values)
            _say_speed(model, model.work - before, self._label)

    def _read(self, store: Store, whole: Measure, missing: Collection[int]) -> Iterator[Found]:
        """Take from the store what a pass found that was kept whole."""
        places = sorted(missing)
        stored = store.read(whole, pl.Series("id", [self._scored[place].id for place in places]))
        yield self._found(places, [np.asarray(found) for found in stored[whole.kind]], counts=False)

    def _found(self, places: Sequence[int], values: Iterable[Any], *, counts: bool = True) -> Found:
        rows: list[dict[str, Row]] = [
            {
                kind.name: (stored,)
                for kind in self._kinds
                if (stored := kind.value(self._scored[place], value, self._end_ids)) is not None
            }
            for place, value in zip(places, values, strict=True)
        ]
        return Found(places, rows, sum(map(self._size, places)) if counts and self._counts else 0)


def _say_speed(model: MeasuredModel, work: Work, label: str) -> None:
    """Say how fast a pass was that took long enough to tell, and how much of its time went into what."""
    if work.seconds < WORTH_SAYING_S:
        return
    parts = [
        f"{work.tokens / work.seconds:,.0f} tokens/s",
        f"{work.padding / (work.computed + work.padding):.1%} padding",
    ]
    if shared := work.tokens - work.computed:
        parts.append(f"{shared / work.tokens:.1%} of the tokens shared and computed once")
    peak = model.peak_operations_per_s
    # Timed while something else was at work here, the peak is none.
    if peak and (share := work.operations / work.seconds / peak) <= 1:
        parts.append(f"{share:.0%} of the peak of matrix products")
    say(f"{label}: {', '.join(parts)}")


def column(measure: Measure, frame: pl.DataFrame, *, store: Store) -> pl.Series:
    """Return a column of a table of scores, (n,): NaN, or null of a list, where nothing is stored.

    Args:
        measure: Of one column, such as ``nll``: its loss per response token in nats, float32.
        frame: n rows with ``id`` and ``response_tokens``.
        store: Where the pass was stored.
    """
    kind = MEASURES[measure.kind]
    stored = known(measure, frame.filter(pl.col("response_tokens") > 0)["id"], store=store)
    joined = frame.select("id").join(stored, on="id", how="left", maintain_order="left")
    return kind.column(joined[kind.name], frame)
