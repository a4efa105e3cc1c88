"""The recipe ``clean``: which rows are wrong."""

from dataclasses import replace
from typing import Annotated, Any

from learnable import data as rows
from learnable.commands import load, score, train
from learnable.commands.inputs import look_up
from learnable.commands.options import FilesOrStarter, Flat, MaxLength, ModelName
from learnable.commands.suspects import Checking, suspects
from learnable.errors import UsageError
from learnable.recipes.run import Run, recipe
from learnable.recipes.vinfo import TwoFolds
from learnable.settings import Loading, Reading


@recipe
def clean(
    data: FilesOrStarter = ("starter",),
    *,
    model: ModelName | None = None,
    checking: Annotated[Checking, Flat] = Checking(),
    reference: TwoFolds = TwoFolds(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Find the rows that are wrong: a ranked list with reasons, a page to keep or drop them, a file of bans.

    Without a model texts are read, which takes seconds. With one, two references are trained on the rows in folds, one of them on
    answers alone, so that each row is judged by models that have not seen it: an answer that its question makes less likely (PVI
    below 0, arXiv 2110.08420), a loss far above its kind, a loss that rose, an end that nobody expects.

    Args:
        model: Folder, hub id, GGUF file, or `starter`; texts alone are read when not given.
    """
    checks = checking.chosen(measured=model is not None, avoids=bool(reading.avoid))
    needs = {need for check in checks.values() for need in check.needs}
    if reference.folds < 2 or reference.model is not None or reference.prompt != "given":
        raise UsageError(
            "rows are judged by references that are trained here, and have not seen them",
            hint="give --reference.folds 2 or more, and no --reference.model or --reference.prompt",
        )
    look_up(model, loading)
    # Rows of an evaluation are to be seen among the suspects, not to be left out unseen.
    pool = run.step("pool", load, list(data), reading=replace(reading, avoid=None))
    rows.load_pool(pool.folder).check_kind(pairs=False)
    scored = None
    if model is not None and needs:
        network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
        trained = run.step("reference", train, [pool.path], reference=reference, store=run.store, **network)
        given: dict[str, Any] = {"reference": trained.path, "scorers": ["learnability"]}
        if "loss_null" in needs:
            null = replace(reference, prompt="none")
            twin = run.step("null", train, [pool.path], reference=null, store=run.store, **network)
            given = {"reference": trained.path, "null": twin.path, "scorers": ["learnability", "pvi"]}
        scored = run.step("scores", score, [pool.path], **given, **network, store=run.store).path
    run.step(
        "suspects",
        suspects,
        pool.path,
        scores=scored,
        avoid=list(reading.avoid or ()),
        checking=checking,
        command=run.command,
    )
