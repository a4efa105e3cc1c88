"""The recipe ``lobass``: choose what this model can learn."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypeVar

from learnable.commands import score, train
from learnable.commands.inputs import look_up
from learnable.commands.options import FilesOrStarter, Flat, MaxLength, ModelName, ScorerNames
from learnable.commands.select import Selecting
from learnable.errors import UsageError
from learnable.objects.measuring import Vectors
from learnable.objects.scoring import WITH_REFERENCE
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import choose, load_pool
from learnable.settings import LATER, Loading, Reading, Reference

Settings = TypeVar("Settings", bound=Reference | Selecting)
REFERENCE: Mapping[str, Any] = {
    "folds": 0,
    "fraction": 1.0,
    "rows": "all",
    "model": None,
    "last_epoch_loss": False,
    "prompt": "given",
}
CHOICE: Mapping[str, Any] = {
    "by": "learnability",
    "selector": "top_k",
    "lowest": False,
    "per_source": "none",
    "per_cluster": "none",
    "max_similarity": None,
}
"""The paper's form, as far as the paper says: one reference on the whole pool, the highest scores, nothing beside them."""


@dataclass(frozen=True, kw_only=True)
class ByLearnability(Selecting):
    """How to choose what can be learned; see ``Selecting`` for the fields."""

    by: str = "length_matched"


@dataclass(frozen=True, kw_only=True)
class TrimmedReference(Reference):
    """How to get a reference that does not learn the noise of the pool; see ``Reference`` for the other fields.

    Args:
        rows: Rows that are trained on: ``trimmed`` (a share of them, those with the lowest base loss), ``all`` (the paper), or
            a file of rows that you trust, in place of the pool. When not given it is ``trimmed``. With folds, a fraction, a
            model of your own, or losses of the last epoch it is ``all``. All rows of the pool are scored.
    """

    rows: str = field(default="", metadata=LATER)

    def __post_init__(self) -> None:
        if not self.rows:
            own = self.folds or self.fraction != 1 or self.model is not None or self.last_epoch_loss
            object.__setattr__(self, "rows", "all" if own else "trimmed")
        super().__post_init__()


@recipe
def lobass(
    data: FilesOrStarter = ("starter",),
    *,
    model: ModelName = "starter",
    budget: str = "6%",
    form: Literal["paper"] | None = None,
    scorers: ScorerNames = WITH_REFERENCE,
    vectors: Vectors = "none",
    choosing: Annotated[ByLearnability, Flat] = ByLearnability(),
    reference: TrimmedReference = TrimmedReference(),
    processes: int = 1,
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    on: str | None = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Choose the examples that this model can learn.

    Fine-tune a reference, compare each example's loss before and after, and keep those whose loss fell most, relative to
    where it stood (LoBaSS / DavIR, arXiv 2310.13008). Examples are compared with others of about their length. The reference
    is trained on the half of the pool that the model finds likeliest. `--form paper` does neither.

    Args:
        budget: 6% (of the examples), 500 (examples), or 50000tokens; also as --budget.tokens 50000.
        form: `paper` holds the form of the paper, whatever the defaults are: a reference trained on the whole pool, which it
            then scores, and the highest learnability. What the paper does not say (epochs, rates) is as given.
        vectors: Vectors of the examples, which some selectors need: of the model, or of `wordllama`.
        processes: How many train the reference side by side, on a GPU each or on some cores each.
        on: Where losses are measured: here, or `ray[:ADDRESS]`, a Ray cluster.
    """
    if form == "paper":
        reference, choosing = held(reference, REFERENCE), held(choosing, CHOICE)
        scorers = list(dict.fromkeys([choosing.by, *scorers]))
    choosing.check(scorers)
    look_up(model, loading)
    look_up(reference.model, loading, reference=True)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    pool = load_pool(run, data, budget, reading)
    plain = Reference(**{each.name: getattr(reference, each.name) for each in fields(Reference)})
    trained = run.step(
        "reference", train, [pool.path], reference=plain, processes=processes, store=run.store, **network
    )
    formulas: dict[str, Any] = {"scorers": list(scorers), "vectors": vectors, "on": on}
    scores = run.step(
        "scores", score, [pool.path], reference=trained.path, **formulas, **network, store=run.store
    )
    choose(run, scores, budget, choosing, loading)


def held(settings: Settings, paper: Mapping[str, Any]) -> Settings:
    """Return settings with the paper's values; a UsageError where another value was given than that or the default."""
    usual = type(settings)()
    for name, value in paper.items():
        given = getattr(settings, name)
        if given not in (value, getattr(usual, name)):
            raise UsageError(
                f"the paper's form has {name} {value}, and {given} was given",
                hint=f"leave --form paper out, or {name}",
            )
    return replace(settings, **paper)
