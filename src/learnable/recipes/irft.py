"""The recipe ``irft``: learn a reward from demonstrations, by contrasting them with the model's own answers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from learnable.commands import load, report
from learnable.commands.compare import HOLDOUT_SHARE
from learnable.commands.imitate import imitate
from learnable.commands.imitation_arms import Imitating, StageTuning
from learnable.commands.inputs import look_up
from learnable.commands.options import Flat, Listed, MaxLength, ModelName
from learnable.evaluators import build_evaluator, parse
from learnable.recipes.run import Run, recipe
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
        imitating: How the reward is learned, and what that is compared with.
        holdout: Share of the rows that is held out to judge on.
        sft: How to fine-tune before the first stage.
        tuning: How to train in each stage, and in plain fine-tuning beside.
    """
    imitating.objective(tuning)
    for evaluation in imitating.evaluate:
        build_evaluator(parse(evaluation))
    look_up(model, loading)
    pool = run.step("pool", load, list(data), reading=reading, holdout=holdout)
    imitated = run.step(
        "imitation",
        imitate,
        [pool.path],
        model=model,
        imitating=imitating,
        sft=Tuning(**asdict(sft)),
        tuning=Tuning(**asdict(tuning)),
        loading=loading,
        max_length=max_length,
        store=run.store,
    )
    run.step("report", report, imitated.path, title=run.name, command=run.command)
