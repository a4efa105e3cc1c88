"""The recipe ``merge``: train in several orders, merge, and see whether it helped."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from learnable.commands.compare import HOLDOUT_SHARE
from learnable.commands.experiment import tried
from learnable.commands.merging import MERGED, Merging, merging
from learnable.commands.options import Confidence, FilesOrStarter, Flat, Listed, MaxLength, ModelName
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import trial
from learnable.recipes.target import ThreeEpochs
from learnable.settings import Loading, Reading, Tuning


@recipe
def merge(
    data: FilesOrStarter = ("starter",),
    *,
    model: ModelName = "starter",
    orders: int = 4,
    mergers: Annotated[Sequence[str], Listed] = MERGED,
    evaluate: Annotated[Sequence[str], Listed] = ("heldout",),
    holdout: float = HOLDOUT_SHARE,
    seeds: int = 1,
    tuning: ThreeEpochs = ThreeEpochs(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    confidence: Confidence = 0.95,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Train on the same rows in several orders, make one model of them, and see whether that helped.

    The place of a row in the first epoch can show in its loss after training; models of several orders even that out
    (parameter-selection merging, arXiv 2410.03743). The table has a single training (the mean over the orders), the best
    of them, their average, the selection of each parameter from one of them, and an average with as much noise.

    Args:
        orders: Trainings that are merged.
        mergers: How: select, average, noise, or a method of mergekit such as ties@density=0.5. The model of the first is
            kept.
        evaluate: Evaluations: `heldout` for the rows that --holdout sets aside, or heldout:FILE, exact_match:FILE ...
        holdout: Share of the data that is set aside.
        seeds: Sets of trainings; with one, the noise of training is not in the intervals.
    """
    how = Merging(
        orders=orders,
        mergers=mergers or MERGED,
        evaluate=evaluate or ["heldout"],
        seeds=seeds,
        confidence=confidence,
    )
    how.check(tuning)
    options: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    options |= {"how": how, "tuning": Tuning(**asdict(tuning)), "asked": how.evaluate}
    trial(run, "merging", partial(tried, merging), data, reading, holdout=holdout, **options)
