"""Model passes over rendered examples: batches by length, made from all examples, and columns of what is stored."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from learnable.measures.keep import Found, fill, known
from learnable.measures.kinds import MEASURES, MeasureKind, Row, as_found
from learnable.runs.progress import say
from learnable.runs.store import Store
from learnable.types import Launch, Measure, MeasuredModel, Rendered, Work

WORTH_SAYING_S = 10.0


def measure_of(
    model: str, *, rendering: str, max_length: int, kind: str = "nll", alone: bool = False, **more: Any
) -> Measure:
    """Return the identity of a pass over examples.

    Args:
        model: Key of the model that measures, its adapter on or off.
        rendering: Identity of what made the tokens, which may be another model's tokenizer and chat template.
        max_length: Longest sequence in tokens.
        kind: See ``MEASURES``.
        alone: The answers are measured without what stands before them, see ``answers_alone``.
        more: What else it depends on, by name.
    """
    parameters = {"rendering": rendering, "max_length": max_length, **more}
    return Measure(
        kind=kind, model=model, parameters=parameters | ({"context": "answer header"} if alone else {})
    )


def planned(rendered: Sequence[Rendered], *, batch_tokens: int) -> list[list[int]]:
    """Return batches of positions, the longest examples first; those without a response token cost no pass.

    They are made from all examples, before looking at the store: a run that goes on after a crash computes the same
    batches as an unbroken one, hence the same bits. Padding counts; a longer example is a batch of its own.
    """
    scored = [position for position, example in enumerate(rendered) if example.mask.any()]
    questions = {place: rendered[place].ids[: rendered[place].mask.argmax()].tobytes() for place in scored}
    group: dict[bytes, int] = {}
    for place, question in questions.items():
        group[question] = max(len(rendered[place].ids), group.get(question, 0))
    # Answers to one question stand beside each other: a batch computes its tokens once.
    scored.sort(key=lambda i: (-group[questions[i]], questions[i], -len(rendered[i].ids), rendered[i].id))
    batches: list[list[int]] = []
    longest = 0
    for position in scored:
        longest = max(longest, len(rendered[position].ids))
        if not batches or (len(batches[-1]) + 1) * longest > batch_tokens:
            batches.append([])
            longest = len(rendered[position].ids)
        batches[-1].append(position)
    return batches


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
    scored, tokens = [example for example in rendered if example.mask.any()], 0
    for given in dict.fromkeys(MEASURES[measure.kind].launch or launch for measure in measures):
        if given is None:
            continue
        wanted, beside = (
            [each for each in some if (MEASURES[each.kind].launch or launch) is given]
            for some in (measures, also)
        )
        run = _Pass(
            opened=opened,
            launch=given,
            kinds=[MEASURES[measure.kind] for measure in (*wanted, *beside)],
            scored=scored,
            label=label,
            counts=counts,
            end_ids=end_ids,
            batch_tokens=batch_tokens,
        )
        run.fill(wanted, beside, store)
        tokens += run.tokens
    return tokens


@dataclass(kw_only=True)
class _Pass:
    """One kind of pass over examples, which several kinds of measures may share; see ``take``."""

    opened: Callable[[], AbstractContextManager[MeasuredModel]]
    launch: Launch
    kinds: Sequence[MeasureKind]
    scored: Sequence[Rendered]
    label: str
    counts: bool
    end_ids: Collection[int]
    batch_tokens: Callable[[Any], int] | None
    tokens: int = 0

    def fill(self, wanted: Sequence[Measure], also: Sequence[Measure], store: Store) -> None:
        """Measure what is missing of ``wanted``; what the store has of each token is not measured again for ``also``."""
        ids = [example.id for example in self.scored]
        how: dict[str, Any] = {"store": store, "label": self.label, "size": self._size}
        fill(wanted, ids, self._measured, also=also, **how)
        if self.counts and not self.tokens:
            say(f"{self.label}: {len(ids):,} examples are stored already")
        for whole in wanted:
            if MEASURES[whole.kind].value is as_found:
                fill(also, ids, partial(self._read, store, whole), **how)

    def _size(self, position: int) -> int:
        return len(self.scored[position].ids)

    def _measured(self, missing: Collection[int]) -> Iterator[Found]:
        """Say what is missing, and run its batches."""
        self.tokens = sum(map(self._size, missing))
        if self.counts:
            say(
                f"{self.label}: {len(missing):,} examples, {self.tokens:,} tokens to measure; "
                f"{len(self.scored) - len(missing):,} stored already"
            )
        return self._batches(missing)

    def _batches(self, missing: Collection[int]) -> Iterator[Found]:
        with self.opened() as model:
            most = model.batch_tokens if self.batch_tokens is None else self.batch_tokens(model)
            whole = planned(self.scored, batch_tokens=most)
            batches = [rest for batch in whole if (rest := [place for place in batch if place in missing])]
            before = model.work
            examples = [[self.scored[place] for place in batch] for batch in batches]
            for number, values in model.measure(self.launch, examples):
                yield self._found(batches[number], values)
            forward = self.batch_tokens is None
            _say_speed(model, model.work - before, self.label, forward=forward)

    def _read(self, store: Store, whole: Measure, missing: Collection[int]) -> Iterator[Found]:
        """Take from the store what a pass found that was kept whole."""
        places = sorted(missing)
        stored = store.read(whole, pl.Series("id", [self.scored[place].id for place in places]))
        yield self._found(places, [np.asarray(found) for found in stored[whole.kind]], counts=False)

    def _found(self, places: Sequence[int], values: Iterable[Any], *, counts: bool = True) -> Found:
        rows: list[dict[str, Row]] = [
            {
                kind.name: (stored,)
                for kind in self.kinds
                if (stored := kind.value(self.scored[place], value, self.end_ids)) is not None
            }
            for place, value in zip(places, values, strict=True)
        ]
        return Found(places, rows, sum(map(self._size, places)) if counts and self.counts else 0)


def nll_of(
    model: Any,
    rendered: Sequence[Rendered],
    *,
    max_length: int,
    store: Store,
    label: str,
    counts: bool = True,
) -> tuple[pl.DataFrame, int]:
    """Return ``id`` and ``nll`` (nats) of each example that has an answer, each once, and how many tokens that took.

    The model is loaded, and measures what it renders; the other arguments are those of ``take`` and of ``measure_of``.
    """
    measure = measure_of(model.key, rendering=model.renderer.key, max_length=max_length)
    examples = list({each.id: each for each in rendered if each.mask.any()}.values())
    tokens = take(lambda: nullcontext(model), [measure], examples, store=store, label=label, counts=counts)
    return known(measure, [each.id for each in examples], store=store).select("id", "nll"), tokens


def _say_speed(model: MeasuredModel, work: Work, label: str, *, forward: bool = True) -> None:
    """Say how fast a pass was that took long enough to tell, and how much of its time went into what.

    The latter is known of passes that are ``forward`` alone.
    """
    if work.seconds < WORTH_SAYING_S:
        return
    if not forward:
        say(f"{label}: {work.tokens / work.seconds:,.0f} tokens/s")
        return
    padding = work.padding / (work.computed + work.padding)
    parts = [f"{work.tokens / work.seconds:,.0f} tokens/s", f"{padding:.1%} padding"]
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
