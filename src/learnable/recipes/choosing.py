"""Steps that all recipes share which choose rows: load the pool, choose by its scores, and show what was chosen."""

from collections.abc import Sequence

from learnable import data as rows
from learnable.commands import load, report, select
from learnable.commands.select import Selecting
from learnable.errors import SelectionError
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
    run.step(
        "report",
        report,
        chosen.path,
        title=run.name,
        command=run.command,
        loading=loading,
        store=run.store,
    )
    return chosen
