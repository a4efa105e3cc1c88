"""What the page of a trial is made from: arms trained in different ways, each beside one of them, and what to distrust."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from learnable.experiments import FOR_THIS_SEED
from learnable.pages import contest_warnings as shared
from learnable.pages.contest import JUDGED, Contest, ContestFacts, Evaluated, counted, line_of
from learnable.pages.warnings import Found, look
from learnable.pages.words import plural


@dataclass(frozen=True, kw_only=True)
class TrialFacts(ContestFacts):
    """All that a report says about one trial.

    Args:
        question: What was to be found out, a heading.
        lead: What was done, a sentence or two.
        about: What each arm is, in the order of the tables.
        baseline: The arm that the others are compared with.
        beside: Arms that give the scale only.
        asked_of: What the evaluation items stand for.
        tables: Further figures by their caption.
        courses: How proportions went, step by step, by what they are of: ``step``, ``source``, ``pi``.
        order: Where trainings in several orders met each row, see ``slopes_of``; None where that is not looked at.
        alike: In what the arms are alike, a sentence or two.
        said: What the trial itself says is to be distrusted.
        notes: What must be known of how it was made.
    """

    question: str
    lead: str
    about: Mapping[str, str]
    baseline: str
    beside: Sequence[str]
    asked_of: str
    tables: Mapping[str, pl.DataFrame]
    courses: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    order: pl.DataFrame | None = None
    alike: str = "All arms but those that give the scale are trained on as many tokens."
    said: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ArmTrial(Contest):
    """The facts, read."""

    facts: TrialFacts


def trial_of(facts: TrialFacts) -> ArmTrial:
    """Sort the table by evaluation."""
    evaluated = []
    for _, part in facts.table.group_by("evaluation", maintain_order=True):
        rows = part.to_dicts()
        lines = [
            line_of(row, baseline=facts.baseline, competes=row["arm"] not in facts.beside) for row in rows
        ]
        first = rows[0]
        evaluated.append(
            Evaluated(
                label=first["evaluation"],
                unit=first["unit"],
                higher_is_better=first["higher_is_better"],
                lines=tuple(lines),
            )
        )
    return ArmTrial(
        facts=facts,
        results=facts.results,
        evaluated=tuple(evaluated),
        arm_word="arm",
        baseline=facts.baseline,
        asked_of=facts.asked_of,
        trainings=max(1, facts.arms["seed"].n_unique()),
    )


def headline(trial: ArmTrial) -> str:
    """The answer in one line, over all evaluations."""
    lines = [line for each in trial.evaluated for line in each.compared]
    one_seed = FOR_THIS_SEED if trial.trainings == 1 else ""
    if not {line.outcome for line in lines} & set(JUDGED):
        return f"Nothing that was graded can tell the arms from {trial.baseline}"
    return f"{plural(len(lines), 'comparison')} with {trial.baseline}{one_seed}: {counted(lines)}"


def trial_warnings(facts: TrialFacts) -> list[str]:
    """Say what to distrust in a trial; each check says when it speaks."""
    return list(look(TRIAL_CHECKS, trial_of(facts)).warnings)


def _said(trial: ArmTrial) -> Found:
    return list(trial.facts.said)


TRIAL_CHECKS: dict[str, Callable[[ArmTrial], Found]] = {
    "what the trial itself says": _said,
    "models that did not move": shared.did_not_move,
    "evaluations that cannot tell arms apart": shared.cannot_tell,
    "training that shows no effect": shared.no_effect,
    "rows of the evaluation": shared.many_avoided,
    "ungraded answers": shared.ungraded,
    "few evaluation items": shared.few_items,
    "few seeds": shared.few_seeds,
    "losses only": shared.only_losses,
}
