"""The recipe ``less``: choose what helps a target, by gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from learnable.commands import load, score, train
from learnable.commands.inputs import look_up
from learnable.commands.options import Files, Flat, Listed, MaxLength, ModelName, TargetColumns
from learnable.commands.select import Selecting
from learnable.data import of_another
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import choose, load_pool
from learnable.settings import Loading, Reading, WarmUp


@dataclass(frozen=True, kw_only=True)
class ByGradients(Selecting):
    """How to choose by LESS; see ``Selecting`` for the fields."""

    by: str = "less"


@recipe
def less(
    data: Files,
    *,
    target: str,
    target_columns: TargetColumns = None,
    model: ModelName = "starter",
    budget: str = "5%",
    warmup: WarmUp = WarmUp(),
    scorers: Annotated[Sequence[str], Listed] = ("less",),
    choosing: Annotated[ByGradients, Flat] = ByGradients(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    processes: int = 1,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Choose the examples whose training steps go where the gradients of a target point.

    Train adapters on a part of the pool, and keep each epoch. There, compare Adam's step for each example with the
    gradients of the target's rows, and keep those that agree most with a part of the target (LESS, arXiv 2402.04333).

    Args:
        target: A few rows of your task, answers included; a column `subtask` names its parts.
        budget: 5% (of the examples), 500 (examples), or 50000tokens; also as --budget.tokens 50000.
        scorers: Such as less@adam=exact, less@checkpoints=2 or less@store=sketch; `--by` says which one chooses.
        processes: How many train the warm-up side by side, on a GPU each or on some cores each.
    """
    choosing.check(scorers)
    look_up(model, loading)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    pool = load_pool(run, data, budget, reading)
    task = run.step("target", load, [target], reading=of_another(target, reading, own=target_columns))
    kept: dict[str, Any] = {"keep_epochs": True, "layers": "attention", "processes": processes}
    kept |= {"reference": warmup, "target": task.path}
    trained = run.step("warmup", train, [pool.path], **kept, **network)
    aimed: dict[str, Any] = {"target": task.path, "warmup": trained.path, "scorers": list(scorers)}
    scores = run.step("scores", score, [pool.path], **aimed, **network, store=run.store)
    choose(run, scores, budget, choosing, loading)
