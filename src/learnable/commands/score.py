"""``learnable score``: the losses of a pool, and formulas over them."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from cyclopts import Parameter
from numpy.typing import NDArray

from learnable.commands.inputs import is_made, look_up, pool_of, rows_of, target_rows
from learnable.commands.network import GRADIENT_EPOCHS, Network, gradient_epochs, passes_said
from learnable.commands.options import Data, DryRun, Flat, MaxLength, ModelName, Output, StoreFolder
from learnable.measures import PASSES, Role, roles_of
from learnable.objects.given import compared_with, finished
from learnable.objects.measuring import Vectors
from learnable.objects.model import Model
from learnable.objects.results import BY_TARGET, VECTORS, as_array
from learnable.objects.scoring import methods_of, needs_of
from learnable.objects.scoring import score as measured
from learnable.pools import Pool
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.records import DONE, Outcome
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Aim, Loading, Reading
from learnable.types import ModelRef


def score(
    data: Data,
    *,
    model: ModelName = "starter",
    reference: str | None = None,
    target: str | None = None,
    null: str | None = None,
    warmup: str | None = None,
    scorers: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    aim: Aim = Aim(),
    max_length: MaxLength = None,
    vectors: Vectors = "none",
    on: str | None = None,
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "scores",
) -> Outcome:
    """Measure the losses of a pool, and score every example by formulas over them.

    Args:
        reference: Folder that `learnable train` wrote, or a fine-tuned model or LoRA adapter of your own.
        target: File with a few rows of your task, answers included, or what `learnable load` made of it, for scorers
            that measure against it. Rows of the pool that are rows of it get no score. A column `subtask` names parts.
        null: Folder of a reference that was trained with `--prompt none`, for pvi and hard_not_wrong.
        warmup: Folder of a training with `--keep-epochs`, for less.
        scorers: Names of scorers (see `learnable list`); learnability, difference and length_matched when a
            reference is given, else loss.
        vectors: Vectors of the examples, which some selectors need: of the model (its last hidden states, one more
            pass), or of `wordllama` (word vectors from a pip package, no pass).
        on: Where the model runs: here, or `ray[:ADDRESS]`, a model on each GPU of a Ray cluster, or on its CPUs.
    """
    methods = methods_of(list(dict.fromkeys(scorers or ())), has_reference=reference is not None)
    given: dict[str, Any] = {"reference": reference, "null": null, "warmup": warmup}
    made = not dry_run or all(is_made(each) for each in given.values() if each is not None)
    keeps_losses = "loss after" in _facts_of(reference)  # they cost no pass
    needs = needs_of(methods, reference, null, target, warmup, keeps_losses=keeps_losses)
    passes = passes_of(roles_of(needs) - ({"reference"} if keeps_losses else set()), vectors)
    network = Network.of(model, loading, max_length=max_length, on=on, dry_run=dry_run)
    for each in given.values() if made else ():
        look_up(each, loading, reference=True)
    pool, loaded = pool_of(data, reading, output, dry_run=dry_run)
    aimed = None if target is None else pool_of([target], Reading(), f"{output}-target", dry_run=dry_run)
    awaits = [*network.awaits, *([] if made else ["after the reference"])]
    inputs = {"pool": loaded.identity} | ({} if network.awaits else {"base": network.identity})
    links, kept = {"pool": loaded.folder}, Store(Path(store))
    _add_inputs({} if awaits else given, network.ref, aimed, inputs, links)

    def work(folder: Path) -> Finished:
        table = measured(
            rows_of(pool, loaded),
            Model(model, on=on, **asdict(replace(loading, dtype=network.ref.dtype))),
            **given,
            target=None if aimed is None else target_rows(*aimed),
            aim=aim,
            scorers=methods,
            max_length=network.longest,
            vectors=vectors,
            store=kept,
            output=folder,
        )
        facts, cost = table.facts, table.costs["score"]
        return Finished(facts=facts, tokens=cost.tokens, pool_tokens=facts["tokens"])

    epochs = gradient_epochs(methods.values(), _facts_of(warmup).get("kept epochs", GRADIENT_EPOCHS))
    priced: dict[str, Any] = {"needs": needs, "store": kept, "aim": aim, "epochs": epochs}
    priced["target"] = 0 if aimed is None else len(aimed[0])
    parameters: dict[str, Any] = {"max_length": network.longest, "vectors": vectors}
    parameters["scorers"] = {name: fingerprint(method) for name, method in methods.items()}
    step = Step(
        verb="score",
        parameters=parameters | ({"aim": fingerprint(aim)} if aimed else {}),
        inputs=inputs,
        sources={name: source_of(method) for name, method in methods.items()},
        links=links,
        says=passes_said(passes, aim, epochs, rows=len(pool)),
        awaits=awaits,
        plan=lambda: network.scoring(pool, passes, **priced),
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def _add_inputs(
    given: Mapping[str, str | None],
    ref: ModelRef,
    aimed: tuple[Pool, Outcome] | None,
    inputs: dict[str, str],
    links: dict[str, Path],
) -> None:
    """Add what a base is compared with, and a target, to the inputs of a step, and to its links what a step made."""
    if aimed is not None:
        inputs["target"], links["target"] = target_rows(*aimed).as_target.identity, aimed[1].folder
    for role, each in given.items():
        if each is not None:
            inputs[role] = compared_with(each, ref).identity
            links |= {role: Path(each)} if (Path(each) / DONE).is_file() else {}


def vectors_of(folder: Path) -> NDArray[np.float32] | None:
    """Return the vectors that were measured with a table of scores, (n, d) in its order; None if there are none."""
    file = folder / VECTORS
    return as_array(pl.read_parquet(file)["vector"]) if file.is_file() else None


def said_by_target(folder: Path, scorer: str) -> NDArray[np.float32] | None:
    """Return what each row of the target says of each example by a score, (n, t); None if the score does not say it."""
    file = folder / BY_TARGET
    if not file.is_file() or scorer not in pl.read_parquet_schema(file):
        return None
    return as_array(pl.read_parquet(file, columns=[scorer])[scorer])


def _facts_of(trained: str | None) -> Mapping[str, Any]:
    """Return the facts of a training; none of one that is not made yet, or not by us."""
    there = trained is not None and (Path(trained) / DONE).is_file()
    return finished(trained, "train").facts if trained is not None and there else {}


def passes_of(roles: Collection[Role], vectors: Vectors) -> list[str]:
    """Return the names of the passes that a table of scores costs."""
    asked = {*roles, *(["similarity"] if vectors == "model" else [])}
    return [name for role, name in PASSES.items() if role in asked]
