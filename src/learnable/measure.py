"""Which model passes are missing, and running them: batches by length, every result stored at once."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.runs.progress import bar, say
from learnable.runs.step import note
from learnable.runs.store import Store
from learnable.types import AnswerHeader, Measure, MeasuredModel, Rendered, Work

END_NLL = "end_nll"
SUMS = ("nll", END_NLL)
"""Measures of one number for each example: the nll of all response tokens, and of those among them that end a turn."""
STORE_EVERY_S = 10.0
WORTH_SAYING_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The passes that a measure still costs.

    ``batches`` hold positions in the rendered examples, longest first; ``tokens`` counts those without padding.
    """

    measure: Measure
    batches: list[list[int]]
    examples: int
    tokens: int
    stored: int


def lengths(rendered: Sequence[Rendered]) -> pl.DataFrame:
    """Return what rendering alone tells.

    Returns:
        A frame with ``id``, ``tokens`` (prompt and response), ``response_tokens``, ``truncated``, and ``undefined``:
        why an example has no loss, null where it has one.
    """
    response = [int(example.mask.sum()) for example in rendered]
    return pl.DataFrame(
        {
            "id": [example.id for example in rendered],
            "tokens": [len(example.ids) for example in rendered],
            "response_tokens": response,
            "truncated": [example.truncated for example in rendered],
            "undefined": [
                None if count else _why_empty(example)
                for count, example in zip(response, rendered, strict=True)
            ],
        },
        schema={
            "id": pl.String,
            "tokens": pl.Int64,
            "response_tokens": pl.Int64,
            "truncated": pl.Boolean,
            "undefined": pl.String,
        },
    )


def _why_empty(example: Rendered) -> str:
    if example.refused:
        return example.refused
    if example.truncated:
        return f"the prompt fills the length limit of {len(example.ids)} tokens, no response token is left"
    return "the chat template leaves no response token"


def measure_of(
    model: MeasuredModel, *, rendering: str, max_length: int, kind: str = "nll", alone: bool = False
) -> Measure:
    """Return the identity of a pass of a model as it is now (its adapter on or off).

    Args:
        model: The model that measures.
        rendering: Identity of what made the tokens, which may be another model's tokenizer and chat template.
        max_length: Longest sequence in tokens.
        kind: ``nll`` (summed over the response), ``token_nll`` (each response token) or ``embedding``.
        alone: The answers are measured without what stands before them, see ``answers_alone``.
    """
    parameters: dict[str, Any] = {"rendering": rendering, "max_length": max_length}
    return Measure(
        kind=kind, model=model.key, parameters=parameters | ({"context": "answer header"} if alone else {})
    )


def answers_alone(rendered: Sequence[Rendered], *, header: AnswerHeader) -> list[Rendered]:
    """Return the same response tokens without what they answer: each answer behind the header of an answer.

    Args:
        rendered: n examples.
        header: See ``Renderer.answer_header``; where other marks stand before an answer, such as another beginning of a
            thought, they are its header. Without one the first token of an answer would have nothing to be predicted
            from, and the two losses of IFD would not be over the same tokens.
    """
    return [_alone(example, header) for example in rendered]


def _alone(example: Rendered, header: AnswerHeader) -> Rendered:
    counted = np.flatnonzero(example.mask)
    answers = np.split(counted, np.flatnonzero(np.diff(counted) > 1) + 1)  # of each turn
    parts = [(header.opening, False)]
    for answer in answers:
        parts += [(_marks_before(answer, example.ids, header.marks), False), (example.ids[answer], True)]
    return Rendered(
        id=example.id,
        ids=np.concatenate([ids for ids, _ in parts]).astype(np.int32),
        mask=np.concatenate([np.full(len(ids), fill_value=counts) for ids, counts in parts]),
        truncated=example.truncated,
        refused=example.refused,
    )


def _marks_before(
    answer: NDArray[np.intp], ids: NDArray[np.int32], marks: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return what stands before an answer from the last place on that begins as the marks do; else the marks."""
    if len(marks) < 2 or not len(answer):
        return marks
    before = ids[: answer[0]]
    begins = np.flatnonzero((before[:-1] == marks[0]) & (before[1:] == marks[1]))
    return before[begins[-1] :] if len(begins) else marks


def plan(measure: Measure, rendered: Sequence[Rendered], *, store: Store, batch_tokens: int) -> Plan:
    """Group the examples into batches, and leave out what is stored.

    The batches are made from all examples, before looking at the store: a run that goes on after a crash computes the
    same batches as an unbroken one, hence the same bits. Examples without a response token cost no pass.

    Args:
        measure: What is measured.
        rendered: n examples.
        store: Where results are kept.
        batch_tokens: Most tokens of a batch, padding included; a longer example is a batch of its own.
    """
    scored = [position for position, example in enumerate(rendered) if example.mask.any()]
    scored.sort(key=_by_length(rendered))
    missing = set(
        store.missing(measure, pl.Series("id", [rendered[p].id for p in scored], dtype=pl.String)).to_list()
    )
    batches: list[list[int]] = []
    current: list[int] = []
    longest = 0
    for position in scored:
        longest = max(longest, len(rendered[position].ids))
        if current and (len(current) + 1) * longest > batch_tokens:
            batches.append(current)
            current, longest = [], len(rendered[position].ids)
        current.append(position)
    batches.append(current)
    todo = [[p for p in batch if rendered[p].id in missing] for batch in batches]
    todo = [batch for batch in todo if batch]
    return Plan(
        measure=measure,
        batches=todo,
        examples=sum(map(len, todo)),
        tokens=sum(len(rendered[p].ids) for batch in todo for p in batch),
        stored=len(scored) - len(missing),
    )


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


def run(
    todo: Plan,
    model: MeasuredModel,
    rendered: Sequence[Rendered],
    *,
    store: Store,
    label: str,
    counts: bool = True,
    end_ids: Collection[int] = (),
) -> None:
    """Run the planned batches; results are stored every few seconds, so that a killed run goes on where it was.

    With ``end_ids`` a pass of ``nll`` or ``end_nll`` stores both sums: the loss of each token is known for a moment.

    Args:
        todo: The batches.
        model: What measures.
        rendered: What was planned.
        store: Where results are kept.
        label: What the progress bar says.
        counts: Whether the tokens are part of what the step at work costs; those of an evaluation are not.
        end_ids: Tokens that end a turn.
    """
    if not todo.batches:
        return
    examples: list[Rendered] = []
    values: list[np.ndarray] = []
    tokens = 0
    batches = [[rendered[position] for position in batch] for batch in todo.batches]
    flush = (
        _both_sums(todo, batches, store, end_ids) if end_ids else partial(_flush, todo.measure, store=store)
    )
    kind = "token_nll" if end_ids else todo.measure.kind
    last, before = time.monotonic(), model.work
    with bar(label, todo.tokens) as progress:
        for number, found in model.measure(kind, batches):
            values.extend(found)
            examples.extend(batches[number])
            measured = sum(len(example.ids) for example in batches[number])
            progress.advance(measured)
            tokens += measured
            if time.monotonic() - last >= STORE_EVERY_S:
                flush(examples, values)
                note(tokens if counts else 0)
                examples, values, tokens, last = [], [], 0, time.monotonic()
    if examples:
        flush(examples, values)
        note(tokens if counts else 0)
    _say_speed(model, model.work - before, label)


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


def _flush(measure: Measure, examples: Sequence[Rendered], values: Sequence[Any], *, store: Store) -> None:
    kind = pl.Float64 if measure.kind in SUMS else pl.List(pl.Float32)
    # Of arrays of one length polars makes its Array type, whatever is asked for: parts of one measure would differ.
    column = pl.Series(measure.kind, values, dtype=kind).cast(kind)
    store.write(measure, pl.DataFrame({"id": [example.id for example in examples]}).with_columns(column))


def _both_sums(
    todo: Plan, batches: Sequence[Sequence[Rendered]], store: Store, end_ids: Collection[int]
) -> Callable[[Sequence[Rendered], Sequence[np.ndarray]], None]:
    """Return what stores both sums of a pass that gives the loss of each token, where they are not stored yet."""
    ids = pl.Series("id", [example.id for batch in batches for example in batch], dtype=pl.String)
    measures = [replace(todo.measure, kind=kind) for kind in SUMS]
    absent = [set(store.missing(measure, ids).to_list()) for measure in measures]

    def flush(examples: Sequence[Rendered], losses: Sequence[np.ndarray]) -> None:
        both = [_sums(example, found, end_ids) for example, found in zip(examples, losses, strict=True)]
        for number, (measure, wanted) in enumerate(zip(measures, absent, strict=True)):
            places = [place for place, example in enumerate(examples) if example.id in wanted]
            if places:
                _flush(measure, [examples[p] for p in places], [both[p][number] for p in places], store=store)

    return flush


def _sums(example: Rendered, losses: np.ndarray, end_ids: Collection[int]) -> tuple[float, float]:
    """Return the nll of an answer, and that of the tokens in it that end a turn, added up as the loss engine does."""
    ends = np.where(end_of_turn(example, end_ids), losses, 0)
    return tuple(float(np.cumsum(each, dtype=np.float64)[-1]) for each in (losses, ends))  # type: ignore[return-value]


def keep_sums(
    by_token: Measure, rendered: Sequence[Rendered], *, store: Store, end_ids: Collection[int]
) -> None:
    """Store what a pass over each token says about whole answers too, so that nobody measures it again.

    Args:
        by_token: A ``token_nll`` pass that was run.
        rendered: What it was run over.
        store: Where it was stored.
        end_ids: Tokens that end a turn; without them the sums over these are not stored.
    """
    scored = {example.id: example for example in rendered if example.mask.any()}
    for number, kind in enumerate(SUMS if end_ids else SUMS[:1]):
        summed = replace(by_token, kind=kind)
        missing = store.missing(summed, pl.Series("id", list(scored), dtype=pl.String))
        if len(missing):
            stored = store.read(by_token, missing)
            examples = [scored[id] for id in stored["id"]]
            losses = map(np.asarray, stored["token_nll"])
            sums = [_sums(e, found, end_ids)[number] for e, found in zip(examples, losses, strict=True)]
            _flush(summed, examples, sums, store=store)


def end_of_turn(example: Rendered, end_ids: Collection[int]) -> NDArray[np.bool_]:
    """Return which response tokens of an example end a turn, bool (R,): the last one of an answer, where it is one.

    Args:
        example: R tokens of it count.
        end_ids: Tokens that end a turn, see ``Renderer.end_ids``. An answer that was cut off ends with none.
    """
    counted = np.flatnonzero(example.mask)
    ends: NDArray[np.bool_] = np.append(np.diff(counted) > 1, True)[: len(counted)]
    for place in np.flatnonzero(ends):
        ends[place] = int(example.ids[counted[place]]) in end_ids
    return ends


def mean_loss(measure: Measure, frame: pl.DataFrame, *, store: Store) -> pl.Series:
    """Return the stored loss per response token in nats, float32 (n,), NaN where ``frame`` says it is undefined.

    Args:
        measure: The nll pass, or the pass that kept each token's.
        frame: n rows with ``id`` and ``response_tokens``.
        store: Where the pass was stored.
    """
    defined = frame.filter(pl.col("response_tokens") > 0)
    if defined.is_empty():
        return pl.Series("loss", [float("nan")] * frame.height, dtype=pl.Float32)
    stored = store.read(measure, defined["id"])
    nll = pl.col("nll") if measure.kind == "nll" else pl.col("token_nll").cast(pl.List(pl.Float64)).list.sum()
    joined = frame.join(stored.select("id", nll=nll), on="id", how="left", maintain_order="left")
    loss = joined["nll"] / joined["response_tokens"]
    return loss.fill_null(float("nan")).cast(pl.Float32).alias("loss")


def end_nll(measure: Measure, frame: pl.DataFrame, *, store: Store) -> pl.Series:
    """Return the stored nll of the tokens that end a turn in nats, float32 (n,), NaN where none is stored.

    Args:
        measure: The nll pass.
        frame: n rows with ``id`` and ``response_tokens``.
        store: Where it was stored.
    """
    ends = replace(measure, kind=END_NLL)
    defined = frame.filter(pl.col("response_tokens") > 0)["id"]
    known = defined.filter(~defined.is_in(store.missing(ends, defined).implode()))
    if known.is_empty():
        return pl.Series(END_NLL, [float("nan")] * frame.height, dtype=pl.Float32)
    joined = frame.select("id").join(store.read(ends, known), on="id", how="left", maintain_order="left")
    return joined[END_NLL].fill_null(float("nan")).cast(pl.Float32)


def listed(measure: Measure, frame: pl.DataFrame, *, store: Store) -> pl.Series:
    """Return what a pass stored as lists, List(Float32) (n,), null where ``frame`` says it is undefined.

    Args:
        measure: A ``token_nll`` or ``embedding`` pass.
        frame: n rows with ``id`` and ``response_tokens``.
        store: Where the pass was stored.
    """
    defined = frame.filter(pl.col("response_tokens") > 0)
    if defined.is_empty():
        return pl.Series(measure.kind, [None] * frame.height, dtype=pl.List(pl.Float32))
    stored = store.read(measure, defined["id"])
    joined = frame.select("id").join(stored, on="id", how="left", maintain_order="left")
    return joined[measure.kind].cast(pl.List(pl.Float32))
