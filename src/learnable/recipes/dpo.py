"""The recipe ``dpo``: how many preference pairs suffice, which, and by which loss."""

from collections.abc import Sequence
from typing import Annotated, Any

from learnable.commands import prefer
from learnable.commands.options import Flat, Listed, MaxLength, ModelName, Several
from learnable.commands.prefer import TEST_SHARE, Preferring
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import trial
from learnable.settings import Loading, Reading, Tuning


@recipe
def dpo(
    data: Annotated[Sequence[str], Listed],
    *,
    model: ModelName = "starter",
    preferring: Annotated[Preferring, Flat] = Preferring(),
    test: Annotated[Sequence[str], Several] = (),
    holdout: float = TEST_SHARE,
    tuning: Tuning = Tuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Tell how many preference pairs suffice, which ones, and by which loss, and whether a model only learned length.

    Train on growing shares of the pairs (after arXiv 2410.16586), by DPO and others such as davir (arXiv 2310.13008), on random
    pairs and on those that a model trained on the other half tells apart least (arXiv 2508.04149). Held-out prompts tell with
    intervals how often each model has come to prefer the chosen answer, and how much that goes with its length.

    Args:
        data: Preference pairs: files (.jsonl, .json, .csv, .parquet ...), folders and patterns of them, or hub ids.
        test: Other pairs to judge on too, each a file.
        holdout: Share of the prompts of each source that is set aside to judge on.
        tuning: How to train; the learning rate is 5e-5 for LoRA and 5e-7 for full fine-tuning when not given.
    """
    preferring.check(tuning)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    how: dict[str, Any] = {"preferring": preferring, "test": list(test), "tuning": tuning}
    trial(run, "preferences", prefer, data, reading, holdout=holdout, **how, **network)
