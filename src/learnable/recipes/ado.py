"""The recipe ``ado``: in what proportions to train on several sources."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from learnable.commands.experiment import tried
from learnable.commands.mixtures import SourceArms, mix
from learnable.commands.options import Flat, Listed, MaxLength, ModelName
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import trial
from learnable.settings import Loading, Reading, Tuning


@recipe
def ado(
    data: Annotated[Sequence[str], Listed],
    *,
    model: ModelName = "starter",
    mixing: Annotated[SourceArms, Flat] = SourceArms(),
    tuning: Tuning = Tuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Find out in what proportions to train on several sources, while the training runs.

    Each source gets the share of the tokens that its loss asks for: more where it falls faster (ADO, arXiv 2410.11820). The
    natural and the uniform mixture stand beside it, at equal tokens, and held-out rows of each source judge.

    Args:
        data: A file for each source (.jsonl, .json, .csv, .parquet ...), or rows whose `--source-column` names it.
    """
    _ = mixing.mixtures
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    trial(run, "mixtures", partial(tried, mix), data, reading, mixing=mixing, tuning=tuning, **network)
