"""``learnable leakage``: was a benchmark trained on? Options in several orders, a verdict for the set, and a page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from learnable.commands.inputs import look_up
from learnable.commands.leak_search import Detecting, Search
from learnable.commands.likelihoods import SERVER, LocalTexts, TextModel, text_model
from learnable.commands.onward import typed
from learnable.commands.options import DryRun, Flat, ModelName, Output, StoreFolder, unusual, words_of
from learnable.errors import UsageError
from learnable.evaluators.leakage import ChoiceItem
from learnable.experiments.leakage import UNDEFINED
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.records import Outcome
from learnable.runs.step import Step, run
from learnable.runs.store import Store
from learnable.settings import Loading


def leakage(
    benchmark: str,
    *,
    model: ModelName = "starter",
    adapter: str | None = None,
    reference: str | None = None,
    clean: str | None = None,
    detecting: Annotated[Detecting, Flat] = Detecting(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: int | None = None,
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "leakage",
) -> Outcome:
    """Tell whether a model was trained on a multiple-choice benchmark, by its log-probabilities alone.

    The model may be on a server that gives log-probabilities of a given text: --model openai:URL#NAME. A verdict is as good as
    what it is compared with: give a reference, or clean items. No detection is no proof that nothing was leaked.

    Args:
        benchmark: A file of items (columns A, B, ..., or choices, or options inside the instruction),
            multiple_choice:PATH@key=value, or lm_eval:TASK.
        adapter: LoRA adapter that the model wears, or what `learnable train` wrote.
        reference: Model that was not trained on the benchmark, such as the base of a fine-tuned one; with an adapter its
            base when not given.
        clean: Items like those of the benchmark that the model was not trained on.
        max_length: Longest item in tokens; 2,048 or the model's own limit when not given.
    """
    for name in (model, reference):
        if name is not None and not name.startswith(SERVER):
            look_up(name, loading)
    look_up(adapter, loading, reference=True)
    sets = {"benchmark": detecting.items(benchmark)}
    if clean is not None:
        sets["clean"] = _others(replace(detecting, truth=None).items(clean), sets["benchmark"], clean)
    how: dict[str, Any] = {
        "max_length": max_length,
        "as_user": detecting.rendering == "chat",
        "dry_run": dry_run,
    }
    models: dict[str, TextModel] = {"model": text_model(model, loading, adapter=adapter, **how)}
    if reference is not None or adapter is not None:
        models["reference"] = text_model(reference or model, loading, **how)
    if len({each.identity for each in models.values() if each.identity}) < len(models) and not dry_run:
        raise UsageError(
            "the reference is the model itself: nothing can differ",
            hint="give another, or leave --reference out",
        )
    given = {"model": model, "adapter": adapter, "reference": reference, "clean": clean}
    said = unusual(given, dict.fromkeys(given)) | unusual(vars(detecting), vars(Detecting()))
    command = typed("leakage", benchmark, *words_of(said))
    settings = {**vars(detecting), "max_length": max_length}
    local = [each for each in models.values() if isinstance(each, LocalTexts)]
    search = Search(detecting=detecting, sets=sets, models=models, store=Store(Path(store)))
    step = Step(
        verb="leakage",
        parameters={name: value for name, value in settings.items() if value is not None},
        inputs={
            **{name: fingerprint([[item.id, item.leaked] for item in items]) for name, items in sets.items()},
            **{name: each.identity for name, each in models.items()},
        },
        sources={"leakage": source_of(UNDEFINED), "items": source_of(sets["benchmark"][0])},
        says=[search.says],
        awaits=list(dict.fromkeys(each for one in local for each in one.network.awaits)),
        plan=search.price,
        work=lambda folder: search.work(folder, {"benchmark": benchmark, "clean": clean}, command=command),
    )
    return run(step, output, dry_run=dry_run)


def _others(items: list[ChoiceItem], asked: Sequence[ChoiceItem], name: str) -> list[ChoiceItem]:
    """Return the clean items; a ``UsageError`` where they are items of the benchmark."""
    same = {each.id for each in asked} & {each.id for each in items}
    if same:
        raise UsageError(
            f"{len(same):,} items of {name} are in the benchmark too",
            hint="clean items are others than those in doubt",
        )
    return items
