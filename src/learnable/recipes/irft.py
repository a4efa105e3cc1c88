"""The recipe ``irft``: learn a reward from demonstrations, by contrasting them with the model's own answers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

from learnable.commands.compare import HOLDOUT_SHARE
from learnable.commands.experiment import tried
from learnable.commands.imitate import Imitating, StageTuning, imitate
from learnable.commands.options import Flat, Listed, MaxLength, ModelName
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import trial
from learnable.settings import Loading, Reading, Tuning


@dataclass(frozen=True, kw_only=True)
class StartTuning(Tuning):
    """How to fine-tune before the first stage; see ``Tuning`` for the fields."""

    epochs: float = 2.0


@recipe
def irft(
    data: Annotated[Sequence[str], Listed],
    *,
    model: ModelName = "starter",
    imitating: Annotated[Imitating, Flat] = Imitating(),
    holdout: float = HOLDOUT_SHARE,
    sft: StartTuning = StartTuning(),
    tuning: StageTuning = StageTuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Get more out of demonstrations by contrasting them with the model's own answers.

    Fine-tune the model on the rows. Then, stage by stage, have it answer the same questions itself, and train it to prefer
    the demonstrations to its answers, without leaving the model as the stage began (IRFT, arXiv 2405.17888; SPIN is
    `--stages 1`). Plain fine-tuning on as many tokens stands beside.

    Args:
        data: Demonstrations: files (.jsonl, .json, .csv, .parquet ...), folders and patterns of them, or hub ids.
        holdout: Share of the rows that is held out to judge on.
    """
    imitating.objective(tuning)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    how: dict[str, Any] = {"sft": Tuning(**asdict(sft)), "tuning": Tuning(**asdict(tuning))}
    how |= {"imitating": imitating, "asked": imitating.evaluate, "holdout": holdout}
    trial(run, "imitation", partial(tried, imitate), data, reading, **how, **network)
