"""``learnable score``: the losses of a pool, and formulas over them."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
from cyclopts import Parameter
from numpy.typing import NDArray

from learnable.commands.inputs import is_made, look_up, most_bad, opened, pinned, pool_of, to_fetch
from learnable.commands.options import Flat, Output
from learnable.commands.prices import Pricing
from learnable.measures import Role, roles_of
from learnable.objects.given import finished, length_limit, reference_identity, reference_models, render_rows
from learnable.objects.scoring import (
    WITH_REFERENCE,
    WITHOUT_REFERENCE,
    Vectors,
    as_array,
    needs_of,
    score_rows,
)
from learnable.runs.files import write_frame
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.records import DONE, Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.scorers import SCORERS
from learnable.settings import Loading, Reading
from learnable.spec import build
from learnable.types import ModelRef, Pool, Scorer

VECTORS = "vectors.parquet"


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
    names = list(scorers or (WITHOUT_REFERENCE if reference is None else WITH_REFERENCE))
    methods: dict[str, Scorer] = {name: build("scorer", name, SCORERS) for name in names}
    keeps_losses = _kept_losses(reference)
    needs = needs_of(methods, has_reference=reference is not None, keeps_losses=keeps_losses)
    passes = passes_of(roles_of(needs) - ({"reference"} if keeps_losses else set()), vectors)
    ref = ModelRef(name=model, **asdict(loading))
    longest = length_limit(ref, max_length)
    # A dry run of a recipe has not made its reference yet.
    made = reference is None or not dry_run or is_made(reference)
    look_up(reference if made else None, loading, reference=True)
    pool, loaded = pool_of(data, reading, output, dry_run=dry_run)
    from learnable.models.source import identify

    fetch = to_fetch(ref) if dry_run else []
    awaits = list(fetch)
    inputs, links = {"pool": loaded.identity}, {"pool": loaded.folder}
    if not awaits:
        ref = pinned(ref, on=on)
        inputs["base"] = identify(ref)
    loading = replace(loading, dtype=ref.dtype)
    if reference is not None and not made:
        awaits.append("after the reference")
    elif reference is not None and not awaits:
        inputs["reference"] = reference_identity(reference, loading, inputs["base"])
        if (Path(reference) / DONE).is_file():
            links["reference"] = Path(reference)
    scoring = _Scoring(
        ref=ref,
        loading=loading,
        reference=reference,
        methods=methods,
        pool=pool,
        longest=longest,
        vectors=vectors,
        on=on,
        store=Store(Path(store)),
    )
    step = Step(
        verb="score",
        parameters={
            "scorers": {name: fingerprint(method) for name, method in methods.items()},
            "max_length": longest,
            "vectors": vectors,
        },
        inputs=inputs,
        sources={name: source_of(method) for name, method in methods.items()},
        links=links,
        says=[f"1 {name} pass over {len(pool):,} examples" for name in passes],
        awaits=awaits,
        plan=lambda: Pricing(ref=ref, longest=longest, on=on, here=not fetch).scoring(
            pool, passes, needs=needs, store=scoring.store
        ),
        work=partial(scoring.work, most_refused=most_bad(loaded)),
    )
    return run(step, output, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """What is to be measured, and the formulas over it."""

    ref: ModelRef
    loading: Loading
    reference: str | None
    methods: dict[str, Scorer]
    pool: Pool
    longest: int
    vectors: Vectors
    on: str | None
    store: Store

    def work(self, folder: Path, *, most_refused: float) -> Finished:
        """Measure what is missing, and write the table of scores."""
        network = opened(self.ref, on=self.on)
        examples = list(self.pool.iter_examples())
        scored = score_rows(
            network,
            self.pool,
            render_rows(network.renderer, examples, max_length=self.longest, most_refused=most_refused),
            self.methods,
            references=reference_models(self.reference, self.loading) if self.reference else None,
            whole=lambda name: opened(
                ModelRef(name=name, **asdict(replace(self.loading, revision=None))), on=self.on
            ),
            store=self.store,
            max_length=self.longest,
            vectors=self.vectors,
        )
        write_frame(scored.frame, folder / "scores.parquet")
        if scored.vectors is not None:
            write_frame(scored.frame.select("id", vector=scored.vectors), folder / VECTORS)
        return Finished(facts=scored.facts, tokens=scored.tokens, pool_tokens=scored.facts["tokens"])


def vectors_of(folder: Path) -> NDArray[np.float32] | None:
    """Return the vectors that were measured with a table of scores, (n, d) in its order; None if there are none."""
    file = folder / VECTORS
    return as_array(pl.read_parquet(file)["vector"]) if file.is_file() else None


def _kept_losses(reference: str | None) -> bool:
    """Return whether a reference kept the losses of its last epoch, so that they cost no pass."""
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
