"""What the page of a trial is made from: arms trained in different ways, each beside one of them, and what to distrust."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from learnable.experiments import FOR_THIS_SEED
from learnable.pages import contest_warnings as shared
from learnable.pages.contest import JUDGED, ContestFacts, counted
from learnable.pages.warnings import Found
from learnable.pages.words import plural


@dataclass(frozen=True, kw_only=True)
class TrialFacts(ContestFacts):
    """All that a report says about one trial.

    Args:
        lead: What was done, a sentence or two.
        about: What each arm is, in the order of the tables.
        beside: Arms that give the scale only.
        tables: Further figures by their caption.
        courses: How proportions went, step by step, by what they are of: ``step``, ``source``, ``pi``.
        order: Where trainings in several orders met each row, see ``slopes_of``; None where that is not looked at.
        alike: In what the arms are alike, a sentence or two.
        mixtures: Share of the tokens of each ``source``, a column for each mixture; None where nothing is mixed.
        said: What the trial itself says is to be distrusted.
        notes: What must be known of how it was made.
    """

    lead: str
    about: Mapping[str, str]
    beside: Sequence[str]
    tables: Mapping[str, pl.DataFrame]
    courses: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    order: pl.DataFrame | None = None
    alike: str = "All arms but those that give the scale are trained on as many tokens."
    mixtures: pl.DataFrame | None = None
    said: Sequence[str] = ()
    notes: Sequence[str] = ()

    def competes(self, row: Mapping[str, Any]) -> bool:
        """Tell whether an arm does more than give the scale."""
        return row["arm"] not in self.beside


def headline(trial: TrialFacts) -> str:
    """What was seen on all evaluations, in one line."""
    lines = [line for each in trial.evaluated for line in each.compared]
    one_seed = FOR_THIS_SEED if trial.trainings == 1 else ""
    if not {line.outcome for line in lines} & set(JUDGED):
        return f"Nothing that was graded can tell the arms from {trial.baseline}"
    return f"{plural(len(lines), 'comparison')} with {trial.baseline}{one_seed}: {counted(lines)}"


TRIAL_CHECKS: dict[str, Callable[[TrialFacts], Found]] = {
    "what the trial itself says": lambda trial: list(trial.said),
    "models that did not move": shared.did_not_move,
    "evaluations that cannot tell arms apart": shared.cannot_tell,
    "training that shows no effect": shared.no_effect,
    "rows of the evaluation": shared.many_avoided,
    "ungraded answers": shared.ungraded,
    "few evaluation items": shared.few_items,
    "few seeds": shared.few_seeds,
    "losses only": shared.only_losses,
}
