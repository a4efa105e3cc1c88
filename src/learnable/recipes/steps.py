"""Steps that recipes share: load rows, choose by their scores or train on them in several ways, and show what came of it."""

from collections.abc import Callable, Sequence
from typing import Any

from learnable import data as rows
from learnable.commands import load, report, select
from learnable.commands.inputs import look_up
from learnable.commands.select import Selecting
from learnable.errors import SelectionError
from learnable.evaluators import build_evaluator, parse
from learnable.recipes.run import Run
from learnable.runs.records import Outcome
from learnable.settings import Loading, Reading
from learnable.types import Budget


def load_pool(
    run: Run, data: Sequence[str], budget: str, reading: Reading, *, holdout: float = 0.0
) -> Outcome:
    """Load the rows to choose from; a budget above them is an error before anything costly runs."""
    asked = Budget.parse(budget).examples
    pool = run.step("pool", load, list(data), reading=reading, holdout=holdout)
    rows.load_pool(pool.folder).check_kind(pairs=False)
    examples = pool.facts["examples"]
    if asked is not None and asked > examples:
        raise SelectionError(
            f"the budget of {asked:,} examples is above the pool, which has {examples:,}",
            hint="lower the budget, or give more data",
        )
    return pool


def choose(run: Run, scores: Outcome, budget: str, choosing: Selecting, loading: Loading) -> Outcome:
    """Choose by the scores, and write the page; return the selection."""
    chosen = run.step("selection", select, scores.path, budget=budget, choosing=choosing)
    shown: dict[str, Any] = {"title": run.name, "command": run.command, "loading": loading}
    run.step("report", report, chosen.path, store=run.store, **shown)
    return chosen


def trial(
    run: Run,
    name: str,
    command: Callable[..., Outcome],
    data: Sequence[str],
    reading: Reading,
    *,
    holdout: float = 0.0,
    asked: Sequence[str] = (),
    page: bool = True,
    **options: Any,
) -> None:
    """Load rows, have a command train on them in several ways, and write the page of it, if it has one.

    The model that the ``options`` name and the evaluations that are ``asked`` are looked up before anything is read.
    """
    for evaluation in asked:
        build_evaluator(parse(evaluation))
    look_up(options["model"], options["loading"])
    pool = run.step("pool", load, list(data), reading=reading, holdout=holdout)
    done = run.step(name, command, [pool.path], store=run.store, **options)
    if page:
        run.step("report", report, done.path, title=run.name, command=run.command)
