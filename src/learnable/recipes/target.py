"""The recipe ``target``: choose what helps a task, and see whether it did."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

from learnable import commands
from learnable.commands import load, report, score
from learnable.commands.compare import HOLDOUT_SHARE, TARGET_HELD_BACK, apart, held_back_words
from learnable.commands.inputs import heldout_of, look_up
from learnable.commands.options import Files, Flat, MaxLength, ModelName, ScorerNames, TargetColumns
from learnable.commands.select import Selecting
from learnable.data import of_another
from learnable.errors import UsageError
from learnable.evaluators import evaluations_of
from learnable.experiments import parse_method
from learnable.objects.measuring import Vectors
from learnable.recipes.run import Run, recipe
from learnable.recipes.steps import choose, load_pool
from learnable.runs.progress import say
from learnable.runs.records import Outcome
from learnable.settings import Aim, Loading, Reading, Reference, Tuning
from learnable.types import Budget

SCORERS = ("relevance",)

_BESIDE = {"by", "selector", "export", "license", "seed"}
"""What stands in the name of a way to choose, or does not change what is chosen; the seeds are those of a comparison."""
_COMPARED = {
    "lowest",
    "per_source",
    "per_cluster",
    "clusters",
    "max_similarity",
    "where",
    "min_score",
    "max_score",
}
"""Options of choosing that a comparison takes."""


@dataclass(frozen=True, kw_only=True)
class ByTarget(Selecting):
    """How to choose towards a target; see ``Selecting`` for the fields."""

    by: str = "relevance"
    selector: str = "round_robin"


@dataclass(frozen=True, kw_only=True)
class ThreeEpochs(Tuning):
    """How to train on few rows; see ``Tuning`` for the fields."""

    epochs: float = 3.0


@recipe
def target(
    data: Files,
    *,
    target: str,
    target_columns: TargetColumns = None,
    test: str | None = None,
    model: ModelName = "starter",
    budget: str = "5%",
    scorers: ScorerNames = SCORERS,
    vectors: Vectors = "none",
    choosing: Annotated[ByTarget, Flat] = ByTarget(),
    aim: Aim = Aim(),
    seeds: int = 3,
    holdout: float = HOLDOUT_SHARE,
    tuning: ThreeEpochs = ThreeEpochs(),
    reading: Annotated[Reading, Flat] = Reading(),
    loading: Annotated[Loading, Flat] = Loading(),
    max_length: MaxLength = None,
    run: Annotated[Run, Flat] = Run(),
) -> None:
    """Choose the rows of a large pool that help a task of which you have a few rows, and see whether they did.

    By default each row of the task in turn takes the row of the pool that the model sees most alike (relevance, RDS+,
    arXiv 2503.01807): one pass over the pool. Another score goes with `--scorers dsir --by dsir --selector top_k`; for
    gradients see `learnable run less`. Then the model is trained on the choice and on random draws of as many tokens,
    and judged on rows of the task that nothing was aimed at, and on rows of the pool.

    Args:
        target: A few rows of your task, answers included; a column `subtask` names its parts.
        test: Other rows of the task to judge on; when not given, three of ten rows of the target are held back for it.
        budget: 5% (of the examples), 500 (examples), or 50000tokens; also as --budget.tokens 50000.
        vectors: Vectors of the examples, which some selectors need: of the model, or of `wordllama`.
        seeds: Trainings on the choice, and on random draws; 0 for none.
        holdout: Share of the pool that is held out to see what was forgotten.
    """
    choosing.check(scorers)
    whole = _method(choosing) if seeds else ""
    look_up(model, loading)
    pool = load_pool(run, data, budget, reading, holdout=holdout if seeds else 0.0)
    read = partial(of_another, reading=reading, own=target_columns)
    task, test = _task(run, target, test, read, back=0.0 if test or not seeds else TARGET_HELD_BACK)
    if seeds:
        _check_judged(task, test)
    network: dict[str, Any] = {"model": model, "loading": loading, "max_length": max_length}
    aimed: dict[str, Any] = {"target": task.path, "aim": aim, "store": run.store}
    scored: dict[str, Any] = {"scorers": list(scorers), "vectors": vectors, **aimed, **network}
    scores = run.step("scores", score, [pool.path], **scored)
    chosen = choose(run, scores, budget, choosing, loading)
    if not seeds:
        return
    judged = [f"heldout:{test or heldout_of(task)}", *["heldout"] * bool(holdout)]
    # As many tokens as were chosen; a dry run knows them of a share only.
    tokens = _share(budget, pool.facts["examples"]) if run.dry_run else f"{chosen.facts['kept_tokens']}tokens"
    compared = run.step(
        "comparison",
        commands.compare,
        [pool.path],
        by=[whole],
        budget=[tokens],
        evaluate=judged,
        seeds=seeds,
        tuning=Tuning(**asdict(tuning)),
        vectors="wordllama" if vectors == "wordllama" else "model",
        **aimed,
        **network,
    )
    run.step("verdict", report, compared.path, title=run.name, command=run.command)


def _task(
    run: Run, target: str, test: str | None, read: Callable[[str], Reading], *, back: float
) -> tuple[Outcome, str | None]:
    """Load the target, a share of it held back; return it, and the test, loaded where its columns are named."""
    task = run.step("target", load, [target], reading=read(target), holdout=back)
    if test and (own := read(test)).columns:
        test = run.step("test", load, [test], reading=own).path
    return task, test


def _check_judged(task: Outcome, test: str | None) -> None:
    """Refuse rows to judge on that the choice is aimed at, and a target of which none are held back; say how many are."""
    if test:
        judged_on = f"heldout:{test}"
        apart(task, [judged_on], evaluations_of([judged_on]))
        return
    back = task.facts["held out"]
    if not back:
        raise UsageError(
            f"of {task.facts['examples']} rows of the target none can be held back to judge on",
            hint="give more rows of the task, or others with --test FILE, or --seeds 0 to train nothing",
        )
    say(held_back_words(back, of=back + task.facts["examples"]))


def _method(choosing: Selecting) -> str:
    """Return a way to choose as a comparison names it; refuse one that it does not have."""
    options, usual = asdict(choosing), asdict(ByTarget())
    changed = {name: value for name, value in options.items() if value != usual[name] and name not in _BESIDE}
    if other := sorted(changed.keys() - _COMPARED):
        raise UsageError(
            f"the comparison with random draws cannot choose with --{other[0].replace('_', '-')}",
            hint="leave it out, or give --seeds 0: rows are chosen, and nothing is trained on them",
        )
    name, _, own = choosing.by.partition("@")
    settings = [f"{key}={str(value).lower() if value is True else value}" for key, value in changed.items()]
    whole = "@".join([name, *[",".join([*([own] if own else []), *settings])] * bool(own or settings)])
    whole += "" if choosing.selector == "top_k" else f"/{choosing.selector}"
    parse_method(whole, reference=Reference())
    return whole


def _share(budget: str, examples: int) -> str:
    """Return a budget as a share of the tokens, if it is a number of examples."""
    asked = Budget.parse(budget).examples
    return budget if asked is None else f"{100 * asked / examples:g}%"
