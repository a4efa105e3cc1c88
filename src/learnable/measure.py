"""Which model passes are missing, and running them: batches by length, every result stored at once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from learnable.progress import bar
from learnable.store import Store
from learnable.types import Measure, Model, Rendered

STORE_EVERY_S = 10.0


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


def nll_measure(model: Model, *, rendering: str, max_length: int) -> Measure:
    """Return the identity of the nll pass of a model as it is now (its adapter on or off).

    Args:
        model: The model that measures.
        rendering: Identity of what made the tokens, which may be another model's tokenizer and chat template.
        max_length: Longest sequence in tokens.
    """
    return Measure(kind="nll", model=model.key, parameters={"rendering": rendering, "max_length": max_length})


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
    scored.sort(key=lambda position: (-len(rendered[position].ids), rendered[position].id))
    missing = set(
        store.missing(measure, pl.Series("id", [rendered[p].id for p in scored], dtype=pl.String)).to_list()
    )
    batches: list[list[int]] = []
    current: list[int] = []
    for position in scored:
        if current and (len(current) + 1) * len(rendered[current[0]].ids) > batch_tokens:
            batches.append(current)
            current = []
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


def run(todo: Plan, model: Model, rendered: Sequence[Rendered], *, store: Store, label: str) -> None:
    """Run the planned batches; results are stored every few seconds, so that a killed run goes on where it was."""
    if not todo.batches:
        return
    ids: list[str] = []
    nlls: list[np.ndarray] = []
    last = time.monotonic()
    with bar(label, todo.tokens) as progress:
        for batch in todo.batches:
            examples = [rendered[position] for position in batch]
            nlls.append(model.nll(examples))
            ids.extend(example.id for example in examples)
            progress.advance(sum(len(example.ids) for example in examples))
            if time.monotonic() - last >= STORE_EVERY_S:
                _flush(todo.measure, ids, nlls, store)
                ids, nlls, last = [], [], time.monotonic()
    if ids:
        _flush(todo.measure, ids, nlls, store)


def _flush(measure: Measure, ids: list[str], nlls: list[np.ndarray], store: Store) -> None:
    store.write(measure, pl.DataFrame({"id": ids, "nll": np.concatenate(nlls)}))


def mean_loss(measure: Measure, frame: pl.DataFrame, *, store: Store) -> pl.Series:
    """Return the stored loss per response token in nats, float32 (n,), NaN where ``frame`` says it is undefined.

    Args:
        measure: The nll pass.
        frame: n rows with ``id`` and ``response_tokens``.
        store: Where the pass was stored.
    """
    defined = frame.filter(pl.col("response_tokens") > 0)
    if defined.is_empty():
        return pl.Series("loss", [float("nan")] * frame.height, dtype=pl.Float32)
    nll = store.read(measure, defined["id"])
    joined = frame.join(nll.select("id", "nll"), on="id", how="left", maintain_order="left")
    loss = joined["nll"] / joined["response_tokens"]
    return loss.fill_null(float("nan")).cast(pl.Float32).alias("loss")
