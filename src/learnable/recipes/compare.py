"""The recipe ``compare``: does choosing help?"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from learnable import commands
from learnable.commands.compare import BY, HOLDOUT_SHARE
from learnable.commands.inputs import look_up
from learnable.commands.options import Confidence, FilesOrStarter, Flat, Listed, MaxLength, ModelName
from learnable.experiments import parse_methods
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import trial
from learnable.settings import Loading, Reading, Reference, Tuning


@recipe
def compare(
    data: FilesOrStarter = ("starter",),
    *,
    model: ModelName = "starter",
    by: Annotated[Sequence[str], Listed] = BY,
    budget: Annotated[Sequence[str], Listed] = ("15%",),
    seeds: int = 3,
    evaluate: Annotated[Sequence[str], Listed] = ("heldout",),
    holdout: float = HOLDOUT_SHARE,
    reference: Reference = Reference(),
    tuning: Tuning = Tuning(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    vectors: Literal["model", "wordllama"] = "model",
    confidence: Confidence = 0.95,
    on: str | None = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Tell whether choosing helps: train on equal token budgets chosen by different methods, and evaluate.

    Each method trains a few times with other seeds. The report says with intervals what was better than a random draw on
    rows that were held out, and what it cost.

    Args:
        by: Methods, each NAME@key=value/SELECTOR (see `learnable compare --help`).
        budget: 15% (of the tokens of the pool) or 50000tokens; several draw a curve.
        seeds: Trainings of each method.
        evaluate: Evaluations: `heldout` for the rows that --holdout sets aside, or heldout:FILE, exact_match:FILE ...
        holdout: Share of the data that is set aside.
        vectors: Vectors for the selectors that need them: of the model, or of `wordllama`.
        on: Where losses are measured: here, or `ray[:ADDRESS]`, a Ray cluster. Trainings are here.
    """
    parse_methods(by, reference=reference, columns=None)
    look_up(reference.model, loading, reference=True)
    options: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length, "on": on}
    options |= {"by": list(by), "budget": list(budget), "evaluate": list(evaluate), "seeds": seeds}
    options |= {"reference": reference, "tuning": tuning, "vectors": vectors, "confidence": confidence}
    trial(run, "comparison", commands.compare, data, reading, holdout=holdout, asked=evaluate, **options)
