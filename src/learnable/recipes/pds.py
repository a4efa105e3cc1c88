"""The recipe ``pds``: choose what a training would need more of to reach the target."""

from dataclasses import dataclass
from typing import Annotated, Any

from learnable.commands import load, score
from learnable.commands.inputs import look_up
from learnable.commands.options import Files, Flat, MaxLength, ModelName, TargetColumns
from learnable.commands.select import Selecting
from learnable.data import of_another
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import choose, load_pool
from learnable.settings import Aim, Loading, Reading


@dataclass(frozen=True, kw_only=True)
class ByWorth(Selecting):
    """How to choose by PDS; see ``Selecting`` for the fields."""

    by: str = "pds"
    selector: str = "gumbel_top_k"


@recipe
def pds(
    data: Files,
    *,
    target: str,
    target_columns: TargetColumns = None,
    model: ModelName = "starter",
    budget: str = "40%",
    aim: Aim = Aim(),
    choosing: Annotated[ByWorth, Flat] = ByWorth(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Choose the examples that a training needs more of to make the target likely.

    Train for a few steps, and carry the target's gradient back through them: an example is worth what more of it would
    take from the target's loss (PDS, arXiv 2410.07064). Rows are drawn by that, higher ones likelier.

    Args:
        target: Rows of what is to become likely, answers included.
        budget: 40% (of the examples), 500 (examples), or 50000tokens; also as --budget.tokens 50000.
    """
    choosing.check(["pds"])
    look_up(model, loading)
    pool = load_pool(run, data, budget, reading)
    task = run.step("target", load, [target], reading=of_another(target, reading, own=target_columns))
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    aimed: dict[str, Any] = {"target": task.path, "aim": aim, "scorers": ["pds"]}
    scores = run.step("scores", score, [pool.path], **aimed, **network, store=run.store)
    choose(run, scores, budget, choosing, loading)
