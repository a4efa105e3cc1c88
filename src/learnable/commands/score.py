"""``learnable score``: the losses of a pool, and formulas over them."""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
from cyclopts import Parameter
from numpy.typing import NDArray

from learnable.commands.inputs import Network, is_made, look_up, pool_of, rows_of
from learnable.commands.options import Flat, Output
from learnable.measures import Role, roles_of
from learnable.objects.given import compared_with, finished
from learnable.objects.model import Model
from learnable.objects.results import VECTORS
from learnable.objects.scoring import Vectors, as_array, methods_of, needs_of
from learnable.objects.scoring import score as measured
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.records import DONE, Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Loading, Reading


def score(
    data: list[str],
    *,
    model: str = "starter",
    reference: str | None = None,
    scorers: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: int | None = None,
    vectors: Vectors = "none",
    on: str | None = None,
    store: str = "runs/store",
    dry_run: bool = False,
    output: Output = "scores",
) -> Outcome:
    """Measure the losses of a pool, and score every example by formulas over them.

    Args:
        data: Files, or a folder that `learnable load` wrote.
        model: Folder, hub id, GGUF file, or `starter`.
        reference: Folder that `learnable train` wrote, or a fine-tuned model or LoRA adapter of your own.
        scorers: Names of scorers (see `learnable list`); learnability, difference and length_matched when a
            reference is given, else loss.
        loading: How to load the model.
        reading: How to read rows.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        vectors: Vectors of the examples, which some selectors need: of the model (its last hidden states, one more
            pass), or of `wordllama` (word vectors from a pip package, no pass).
        on: Where the model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
        store: Folder of measurements; what is in it is never measured twice.
        dry_run: Say what would run, and run nothing.
        output: Folder to write.
    """
    methods = methods_of(scorers, has_reference=reference is not None)
    # A dry run of a recipe has not made its reference yet.
    made = reference is None or not dry_run or is_made(reference)
    keeps_losses = _kept_losses(reference)
    needs = needs_of(methods, has_reference=reference is not None, keeps_losses=keeps_losses)
    passes = passes_of(roles_of(needs) - ({"reference"} if keeps_losses else set()), vectors)
    network = Network.of(model, loading, max_length=max_length, on=on, dry_run=dry_run)
    look_up(reference if made else None, loading, reference=True)
    pool, loaded = pool_of(data, reading, output, dry_run=dry_run)
    inputs, links, kept = {"pool": loaded.identity}, {"pool": loaded.folder}, Store(Path(store))
    awaits = [*network.awaits, *([] if made else ["after the reference"])]
    if not network.awaits:
        inputs["base"] = network.identity
    if reference is not None and not awaits:
        inputs["reference"] = compared_with(reference, network.ref).identity
        links |= {"reference": Path(reference)} if (Path(reference) / DONE).is_file() else {}

    def work(folder: Path) -> Finished:
        table = measured(
            rows_of(pool, loaded),
            Model(model, on=on, **asdict(replace(loading, dtype=network.ref.dtype))),
            reference=reference,
            scorers=methods,
            max_length=network.longest,
            vectors=vectors,
            store=kept,
        )
        table.write(folder)
        tokens = table.costs["score"].tokens
        return Finished(facts=table.facts, tokens=tokens, pool_tokens=table.facts["tokens"])

    step = Step(
        verb="score",
        parameters={
            "scorers": {name: fingerprint(method) for name, method in methods.items()},
            "max_length": network.longest,
            "vectors": vectors,
        },
        inputs=inputs,
        sources={name: source_of(method) for name, method in methods.items()},
        links=links,
        says=[f"1 {name} pass over {len(pool):,} examples" for name in passes],
        awaits=awaits,
        plan=lambda: network.pricing.scoring(pool, passes, needs=needs, store=kept),
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def vectors_of(folder: Path) -> NDArray[np.float32] | None:
    """Return the vectors that were measured with a table of scores, (n, d) in its order; None if there are none."""
    file = folder / VECTORS
    return as_array(pl.read_parquet(file)["vector"]) if file.is_file() else None


def _kept_losses(reference: str | None) -> bool:
    """Tell whether a reference kept the losses of its last epoch, so that they cost no pass."""
    if reference is None or not (Path(reference) / DONE).is_file():
        return False
    return "loss after" in finished(reference, "train").facts


def passes_of(roles: Collection[Role], vectors: Vectors) -> list[str]:
    """Return the names of the passes that a table of scores costs."""
    passes = {
        "base": "base" in roles,
        "answer-alone": "alone" in roles,
        "reference": "reference" in roles,
        "embedding": vectors == "model",
    }
    return [name for name, wanted in passes.items() if wanted]
