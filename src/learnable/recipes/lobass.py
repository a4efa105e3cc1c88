"""The recipe ``lobass``: choose what this model can learn."""

from collections.abc import Sequence
from typing import Annotated, Any

from learnable.commands import load, report, score, select, train
from learnable.commands.inputs import look_up
from learnable.commands.options import Flat, Listed
from learnable.commands.select import Selecting
from learnable.errors import SelectionError
from learnable.objects.scoring import WITH_REFERENCE, Vectors
from learnable.recipes.run import Run, recipe
from learnable.runs.records import Outcome
from learnable.settings import Loading, Reading, Reference
from learnable.types import Budget


@recipe
def lobass(
    data: Annotated[Sequence[str], Listed] = ("starter",),
    *,
    model: str = "starter",
    budget: str = "6%",
    scorers: Annotated[Sequence[str], Listed] = WITH_REFERENCE,
    vectors: Vectors = "none",
    choosing: Annotated[Selecting, Flat] = Selecting(),
    reference: Reference = Reference(),
    processes: int = 1,
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: int | None = None,
    on: str | None = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Choose the examples that this model can learn.

    Fine-tune a reference on the pool, compare each example's loss before and after, and keep those whose loss fell
    most, relative to where it stood (LoBaSS / DavIR, arXiv 2310.13008).

    Args:
        data: Files (.jsonl, .json, .csv, .parquet ...), folders and patterns of them, hub ids, or `starter`.
        model: Folder, hub id, GGUF file, or `starter`.
        budget: 6% (of the examples), 500 (examples), or 50000tokens; also as --budget.tokens 50000.
        scorers: Names of scorers (see `learnable list scorers`).
        vectors: Vectors of the examples, which some selectors need: of the model, or of `wordllama`.
        choosing: How to choose.
        reference: How to get the model after fine-tuning.
        processes: How many train the reference side by side, on a GPU each or on some cores each.
        reading: How to read rows.
        loading: How to load the model.
        max_length: Longest example in tokens; 2,048 or the model's own limit when not given.
        on: Where losses are measured: here, or `ray[:ADDRESS]`, a Ray cluster.
        run: Where to write.
    """
    choosing.check(scorers)
    look_up(model, loading)
    look_up(reference.model, loading, reference=True)
    asked = Budget.parse(budget)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    pool = run.step("pool", load, list(data), reading=reading)
    _check_budget(asked, pool)
    trained = run.step("reference", train, [pool.path], reference=reference, processes=processes, **network)
    formulas: dict[str, Any] = {"scorers": list(scorers), "vectors": vectors, "on": on}
    scores = run.step(
        "scores", score, [pool.path], reference=trained.path, **formulas, **network, store=run.store
    )
    chosen = run.step("selection", select, scores.path, budget=budget, choosing=choosing)
    shown: dict[str, Any] = {"title": "lobass", "command": run.command}
    run.step("report", report, chosen.path, **shown, loading=loading, store=run.store)


def _check_budget(budget: Budget, pool: Outcome) -> None:
    """Find a budget above the pool before anything costly runs."""
    examples = pool.facts["examples"]
    if budget.examples is not None and budget.examples > examples:
        raise SelectionError(
            f"the budget of {budget.examples:,} examples is above the pool, which has {examples:,}",
            hint="lower the budget, or give more data",
        )
