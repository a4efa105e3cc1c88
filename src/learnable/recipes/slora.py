"""The recipe ``slora``: fine-tune where the rows of several owners may not be pooled."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from learnable.commands.compare import HOLDOUT_SHARE
from learnable.commands.experiment import tried
from learnable.commands.federate import federate
from learnable.commands.federated_arms import ClientTuning, Federating
from learnable.commands.options import Files, Flat, MaxLength, ModelName
from learnable.federation import check_flower
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import trial
from learnable.settings import Loading, Reading, Tuning


@recipe
def slora(
    data: Files,
    *,
    model: ModelName = "starter",
    federating: Annotated[Federating, Flat] = Federating(),
    holdout: float = HOLDOUT_SHARE,
    tuning: ClientTuning = ClientTuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Find out what fine-tuning loses where the rows of several owners may not be pooled, and how to lose less.

    The rows are divided among clients, unevenly. In each round every client trains, and a server averages what they send:
    adapters, or first a few weights and then adapters from the decomposition of their change (SLoRA, arXiv 2308.06522).
    One training on all rows stands beside, and held-out rows judge.

    Args:
        holdout: Share of the rows that is held out to judge on.
    """
    check_flower(by="learnable run slora")
    federating.federated(tuning)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    how: dict[str, Any] = {"federating": federating, "tuning": Tuning(**asdict(tuning))}
    how |= {"asked": federating.evaluate, "holdout": holdout}
    trial(run, "federated", partial(tried, federate), data, reading, **how, **network)
