"""``learnable evaluate``: how good a model is, on local data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import polars as pl

from learnable.commands.inputs import look_up
from learnable.commands.network import Network
from learnable.commands.options import DryRun, Flat, ModelName, Output, StoreFolder
from learnable.errors import ModelError
from learnable.evaluators import Evaluation, check_place, evaluations_of, graded_all, parse
from learnable.experiments import interval
from learnable.objects.given import given_part
from learnable.runs.files import write_frame
from learnable.runs.identity import source_of
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Loading


def evaluate(
    evaluations: list[str],
    *,
    model: ModelName = "starter",
    adapter: str | None = None,
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: int | None = None,
    on: str | None = None,
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "evaluation",
) -> Outcome:
    """Evaluate a model on local data: held-out loss, exact answers, rules, multiple choice, any lm-eval task.

    Args:
        evaluations: Each NAME:PATH@key=value,key=value, such as heldout:eval.jsonl, exact_match:gsm8k.parquet@n=100 or
            ifeval:ifeval.jsonl (see `learnable list`).
        adapter: LoRA adapter that the model wears.
        max_length: Longest scored example in tokens; 2,048 or the model's own limit when not given.
        on: Where the model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
    """
    check_place([parse(text) for text in evaluations], on)
    look_up(model, loading)
    look_up(adapter, loading, reference=True)
    asked = evaluations_of(evaluations)
    network = Network.of(model, loading, max_length=max_length, on=on, dry_run=dry_run)
    inputs, worn = {each.label: each.identity for each in asked}, None
    if not network.awaits:
        inputs["model"] = network.identity
        if adapter is not None:
            place, kind, inputs["adapter"] = given_part(adapter, network.ref)
            worn = Path(place)
            if kind != "adapter":
                raise ModelError(
                    f"{adapter} is a whole model, not an adapter",
                    hint=f"give it as the model: --model {adapter}",
                )

    def work(folder: Path) -> Finished:
        opened = network.open()
        with opened.adapter(worn):
            grades = graded_all(opened, asked, store=Store(Path(store)), max_length=network.longest)
        write_frame(grades, folder / "results.parquet")
        return Finished(facts={"model": model, "adapter": adapter, **_summaries(asked, grades)})

    items = sum(len(each.examples) for each in asked)
    step = Step(
        verb="evaluate",
        parameters={"max_length": network.longest},
        inputs=inputs,
        sources={each.label: source_of(each.evaluator) for each in asked},
        says=[f"{items:,} evaluation items"],
        awaits=network.awaits,
        plan=lambda: network.evaluations(asked),
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def _summaries(asked: Sequence[Evaluation], grades: pl.DataFrame) -> dict[str, str]:
    """Return the mean of each evaluation with its interval, in words, by label."""
    found = {}
    for each in asked:
        mine = grades.filter(pl.col("evaluation") == each.label)
        mean = interval(mine["value"].to_numpy()[None, :])
        words = (
            f"{mean.mean:.4g} ({mean.low:.4g} to {mean.high:.4g}) {each.evaluator.unit}, {mean.items:,} items"
        )
        found[each.label] = words + (f", {mean.ungraded:,} could not be graded" if mean.ungraded else "")
    return found
