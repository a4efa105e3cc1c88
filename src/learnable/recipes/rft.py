"""The recipe ``rft``: learn a reward model from demonstrations, and train the model by it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

from learnable.commands.compare import HOLDOUT_SHARE
from learnable.commands.experiment import tried
from learnable.commands.options import Flat, Listed, MaxLength, ModelName
from learnable.commands.reinforce import Rewarding, reinforce
from learnable.packages import needed
from learnable.recipes.irft import StartTuning
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import trial
from learnable.settings import Loading, Reading, Tuning


@dataclass(frozen=True, kw_only=True)
class PolicyTuning(Tuning):
    """How to train the policy; see ``Tuning`` for the fields."""

    learning_rate: float | None = 1e-5


@recipe
def rft(
    data: Annotated[Sequence[str], Listed],
    *,
    model: ModelName = "starter",
    rewarding: Annotated[Rewarding, Flat] = Rewarding(),
    holdout: float = HOLDOUT_SHARE,
    sft: StartTuning = StartTuning(),
    reward: Tuning = Tuning(),
    policy: PolicyTuning = PolicyTuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Learn a reward that puts demonstrations above the model's own answers, and train the model by that reward.

    Fine-tune the model on the rows, have it answer them itself, train a reward model on the pairs (TRL's RewardTrainer), and
    the model by the reward with KL to its start (TRL's RLOOTrainer). Says on held-out rows whether the reward tells
    demonstrations apart, and what the policy gained (RFT, arXiv 2405.17888). It needs the extra `rft`.

    Args:
        data: Demonstrations: files (.jsonl, .json, .csv, .parquet ...), folders and patterns of them, or hub ids.
        holdout: Share of the rows that is held out to judge on.
        policy: How to train the policy; its batch counts answers, two of each prompt.
    """
    needed("trl", by="learnable run rft", extra="rft")
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    how: dict[str, Any] = {"sft": Tuning(**asdict(sft)), "reward": reward, "policy": Tuning(**asdict(policy))}
    how |= {"rewarding": rewarding, "holdout": holdout}
    trial(run, "policy", partial(tried, reinforce), data, reading, page=False, **how, **network)
