"""The recipe ``vinfo``: choose what is hard for this model, not wrong, and spread."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from learnable.commands import score, train
from learnable.commands.inputs import look_up
from learnable.commands.options import FilesOrStarter, Flat, MaxLength, ModelName, ScorerNames
from learnable.commands.select import Selecting
from learnable.errors import UsageError
from learnable.objects.measuring import Vectors
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import choose, load_pool
from learnable.settings import Loading, Reading, Reference

SCORERS = ("pvi", "hardness", "hard_not_wrong")


@dataclass(frozen=True, kw_only=True)
class ByInformation(Selecting):
    """How to choose by usable information; see ``Selecting`` for the fields."""

    by: str = "hard_not_wrong"
    selector: str = "spread_top"
    min_score: float | None = 0.0


@dataclass(frozen=True, kw_only=True)
class TwoFolds(Reference):
    """How to get references that have not seen what they judge; see ``Reference`` for the fields."""

    folds: int = 2


@recipe
def vinfo(
    data: FilesOrStarter = ("starter",),
    *,
    model: ModelName = "starter",
    budget: str = "10%",
    scorers: ScorerNames = SCORERS,
    vectors: Vectors = "model",
    choosing: Annotated[ByInformation, Flat] = ByInformation(),
    reference: TwoFolds = TwoFolds(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Choose the examples that are hard for this model but not wrong, and unlike each other.

    Fine-tune two references on the pool, one on whole rows and one on answers alone; an answer that the question does
    not make likelier has no usable information (V-information, arXiv 2110.08420). Of the others the hardest of each
    length are taken, and of these the ones that stand for most (after OptiDEL, arXiv 2408.07107).

    Args:
        budget: 10% (of the examples), 500 (examples), or 50000tokens; also as --budget.tokens 50000.
        vectors: Vectors of the examples: of the model, or of `wordllama`.
    """
    choosing.check(scorers)
    if reference.folds < 2 or reference.model is not None or reference.prompt != "given":
        raise UsageError(
            "usable information needs two references that are trained here, and have not seen the rows that they judge",
            hint="give --reference.folds 2 or more, and no --reference.model or --reference.prompt",
        )
    look_up(model, loading)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    pool = load_pool(run, data, budget, reading)
    trained = run.step("reference", train, [pool.path], reference=reference, **network)
    null = run.step("null", train, [pool.path], reference=replace(reference, prompt="none"), **network)
    both: dict[str, Any] = {"reference": trained.path, "null": null.path}
    formulas: dict[str, Any] = {"scorers": list(scorers), "vectors": vectors}
    scores = run.step("scores", score, [pool.path], **both, **formulas, **network, store=run.store)
    choose(run, scores, budget, choosing, loading)
