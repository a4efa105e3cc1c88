"""What the page of a merge is made from, and what there is to distrust in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from learnable.experiments import FOR_THIS_SEED, UNTUNED, Imbalance, slopes_of
from learnable.experiments.singles import BEST, SINGLE
from learnable.pages import contest_warnings as shared
from learnable.pages.contest import Contest, ContestFacts, Evaluated, Line, counted, line_of
from learnable.pages.warnings import Found, look
from learnable.pages.words import plural

TWO = 2


@dataclass(frozen=True, kw_only=True)
class MergingFacts(ContestFacts):
    """All that a report says about trainings in several orders, and the models merged of them.

    Args:
        orders: Trainings of each seed.
        pool: Rows that were trained on.
        mergers: As they were written, the kept one first.
        notes: What was noticed when they were merged.
        order: See ``slopes_of``.
        merges: ``merger``, ``seed``, ``parameters``, ``zero``, ``replaceable``, ``cosine``; a line for each merge.
        against_average: The table of the mergers beside the average; None where that is not among several.
    """

    orders: int
    pool: int
    mergers: Sequence[str]
    notes: Sequence[str]
    order: pl.DataFrame
    merges: pl.DataFrame
    against_average: pl.DataFrame | None


@dataclass(frozen=True, kw_only=True)
class MergingContest(Contest):
    """The facts, read; ``beside_average`` has the lines of the mergers against the average, by evaluation."""

    facts: MergingFacts
    beside_average: Mapping[str, Evaluated]

    @cached_property
    def slopes(self) -> dict[str, Imbalance]:
        """How the place in an epoch shows."""
        return slopes_of(self.facts.order, confidence=self.facts.confidence)


def merging_contest(facts: MergingFacts) -> MergingContest:
    """Sort the tables by evaluation."""
    beside = {} if facts.against_average is None else _evaluated(facts.against_average, facts, "average")
    trained = facts.arms.filter(pl.col("arm") == SINGLE)
    return MergingContest(
        facts=facts,
        results=facts.results,
        evaluated=tuple(_evaluated(facts.table, facts, SINGLE).values()),
        arm_word="arm",
        baseline="a single training",
        asked_of="what the model will be asked",
        trainings=max(1, trained["seed"].n_unique()),
        beside_average=beside,
    )


def _evaluated(table: pl.DataFrame, facts: MergingFacts, baseline: str) -> dict[str, Evaluated]:
    graded = facts.results.with_columns(pl.col("value").cast(pl.Float64)).filter(pl.col("value").is_finite())
    means = graded.group_by("evaluation", "arm", "seed").agg(pl.col("value").mean()).sort("seed")
    by_seed = {
        (evaluation, arm): tuple(values)
        for evaluation, arm, values in means.group_by("evaluation", "arm", maintain_order=True)
        .agg("value")
        .iter_rows()
    }
    found = {}
    for (label,), part in table.group_by("evaluation", maintain_order=True):
        rows = part.to_dicts()
        lines = [
            line_of(
                row,
                baseline=baseline,
                competes=row["arm"] != UNTUNED,
                by_seed=by_seed.get((str(label), row["arm"]), ()),
            )
            for row in rows
        ]
        found[str(label)] = Evaluated(
            label=str(label),
            name=str(label),
            setting=str(label),
            lines=tuple(lines),
            unit=rows[0]["unit"],
            higher_is_better=rows[0]["higher_is_better"],
        )
    return found


def headline(contest: MergingContest) -> str:
    """What came of the model that is kept, beside a single training."""
    kept, several = contest.facts.mergers[0], len(contest.evaluated) > 1
    lines = [line for each in contest.evaluated for line in each.compared if line.arm == kept]
    seed = FOR_THIS_SEED if contest.trainings == 1 else ""
    if several:
        return f"{kept} beside a single training on {len(lines):,} evaluations{seed}: {counted(lines)}"
    return {
        "better": f"{kept} was better than a single training{seed}",
        "worse": f"{kept} was worse than a single training{seed}",
        "no difference seen": f"No difference between {kept} and a single training was seen{seed}",
    }.get(lines[0].outcome, f"{kept} and a single training could not be compared")


def of_selection(contest: MergingContest) -> list[tuple[Evaluated, Line]]:
    """Return the line of each merger beside the average, by evaluation."""
    return [(each, line) for each in contest.beside_average.values() for line in each.compared]


def merging_warnings(facts: MergingFacts) -> list[str]:
    """Say what to distrust in a merge, most damaging first; each check says when it speaks."""
    return list(look(MERGING_CHECKS, merging_contest(facts)).warnings)


def _noticed(contest: MergingContest) -> Found:
    """Models were equal, went different ways, or left nothing to resample."""
    return [f"{note[0].upper()}{note[1:]}." for note in contest.facts.notes]


def _one_way(contest: MergingContest) -> Found:
    """No merge was trained twice."""
    if contest.trainings > 1:
        return ""
    return (
        "Each merge is one model of one set of trainings: its interval is about other items, not about other trainings. "
        "Use --seeds 3; what is trained already is kept."
    )


def _last_epoch(contest: MergingContest) -> Found:
    """With one epoch the first is the last."""
    if len(contest.slopes) > 1:
        return ""
    return (
        "With one epoch, what was met last and what met which learning rate show in the slope too: give --tuning.epochs 3, or "
        "--tuning.schedule constant."
    )


def _few_orders(contest: MergingContest) -> Found:
    """Two orders were merged."""
    if contest.facts.orders > TWO:
        return ""
    return (
        f"Only {plural(contest.facts.orders, 'order')}: {BEST} has little to choose from, and selection of two with equal "
        "probabilities is their mean plus noise."
    )


MERGING_CHECKS: dict[str, Callable[[MergingContest], Found]] = {
    "models that did not move": shared.did_not_move,
    "evaluations that cannot tell arms apart": shared.cannot_tell,
    "training that shows no effect": shared.no_effect,
    "what merging noticed": _noticed,
    "one set of trainings": _one_way,
    "one epoch": _last_epoch,
    "few orders": _few_orders,
    "ungraded answers": shared.ungraded,
    "few evaluation items": shared.few_items,
    "losses only": shared.only_losses,
}
