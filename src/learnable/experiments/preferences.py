"""Preferences: which pairs a training sees, and what the nll of held-out answers says of what it learned to prefer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError, did_you_mean
from learnable.experiments.arms import UNTUNED, Arm
from learnable.experiments.methods import RANDOM
from learnable.experiments.table import Measured, arm_table
from learnable.objectives import LEAST_NATS, Objective
from learnable.selectors import SELECTORS, Choosing, choose
from learnable.settings import Tuning
from learnable.spec import build
from learnable.types import Budget, ModelRef, Rendered

BY: Mapping[str, tuple[str, bool]] = {
    RANDOM: ("tokens", False),
    "small_gap": ("gap", True),
    "small_abs_gap": ("abs_gap", True),
    "large_gap": ("gap", False),
    "longest_difference": ("length_difference", False),
}
"""Ways to choose pairs: the column that they go by, and whether its lowest values are kept; random ones by chance."""
ACCURACY, SHORTER, MARGIN = "preference accuracy", "accuracy where chosen is shorter", "margin"
LENGTH_BIAS, RELATIVE_BIAS, CHOSEN = "length bias", "length bias of relative margins", "loss of chosen"
NO_BIAS = (
    "it is a correlation, and the lengths of the two answers, or the margins, differ by the same in all pairs"
)
"""Why a length bias has no value."""
_ARM = ("arm", "budget_tokens", "seed")


@dataclass(frozen=True, kw_only=True)
class RenderedPair:
    """A preference pair as the model sees it: both answers behind their ``prompt``, which is known by a key."""

    id: str
    prompt: str
    source: str
    chosen: Rendered
    rejected: Rendered

    @property
    def answers(self) -> tuple[Rendered, Rendered]:
        """Chosen and rejected."""
        return self.chosen, self.rejected

    @property
    def is_whole(self) -> bool:
        """Whether both answers have tokens to score, and neither was cut off, so that they can be compared."""
        return all(each.mask.any() and not each.truncated for each in self.answers)

    @property
    def tokens(self) -> int:
        """Of both answers, the prompt twice."""
        return sum(len(each.ids) for each in self.answers)

    @property
    def length_difference(self) -> int:
        """Response tokens of the chosen answer less those of the rejected one."""
        return int(self.chosen.mask.sum()) - int(self.rejected.mask.sum())


def pair_table(pairs: Sequence[RenderedPair], gaps: Mapping[str, float] | None = None) -> pl.DataFrame:
    """Return what pairs are chosen by: ``id``, ``source``, ``tokens``, ``response_tokens``, ``undefined`` and the columns of ``BY``.

    Args:
        pairs: n pairs.
        gaps: By pair, how far a trained model prefers the chosen answer, in nats above its reference.
    """
    lines = [
        {
            "id": each.id,
            "source": each.source,
            "tokens": each.tokens,
            "response_tokens": sum(int(answer.mask.sum()) for answer in each.answers),
            "undefined": None,
            "gap": None if gaps is None else gaps.get(each.id),
            "length_difference": abs(each.length_difference),
        }
        for each in pairs
    ]
    frame = pl.DataFrame(lines, schema_overrides={"gap": pl.Float64, "undefined": pl.String})
    return frame.with_columns(abs_gap=pl.col("gap").abs())


def check_ways(written: Sequence[str]) -> None:
    """Raise a ``UsageError`` for a way to choose pairs that is not known, or is there twice."""
    for way in written:
        if way not in BY:
            raise UsageError(f"no way to choose pairs called {way!r}", hint=did_you_mean(way, BY))
    if len(set(written)) < len(written):
        raise UsageError(f"a way to choose pairs is there twice: {', '.join(written)}", hint="name it once")


@dataclass(frozen=True, kw_only=True)
class PairArms:
    """Which pairs each training sees.

    At a budget all arms take equally many tokens and steps. A share of 1 takes all pairs, which is one way only.

    Args:
        pairs: To choose from.
        table: As of ``pair_table``; gaps are there where a way goes by them.
        losses: By label; the first one trains all ways, the others the pairs of the baseline at the largest share.
        ways: Names in ``BY``; the random draw is always among them.
        shares: Of the tokens, above 0 and at most 1.
        alone: Whether each source also trains alone, beside a random draw of as many tokens.
    """

    pairs: Sequence[RenderedPair]
    table: pl.DataFrame
    losses: Mapping[str, Objective]
    ways: Sequence[str]
    shares: Sequence[float]
    alone: bool = False

    @property
    def baseline(self) -> str:
        """What the random draws by the first loss are called: that loss, where there are others."""
        return next(iter(self.losses)) if len(self.losses) > 1 else RANDOM

    @property
    def sources(self) -> list[str]:
        """The sources that train alone."""
        found = sorted({each.source for each in self.pairs})
        return found if self.alone and len(found) > 1 else []

    @property
    def budgets(self) -> dict[int, float]:
        """The shares by what they are in tokens, the smallest first."""
        whole = int(self.table["tokens"].sum())
        return {round(share * whole): share for share in sorted(self.shares)}

    @property
    def labels(self) -> list[str]:
        """The arms, without the untuned model and the baseline."""
        ways = [way for way in self.ways if way != RANDOM and min(self.shares) < 1]
        return [*ways, *list(self.losses)[1:], *(f"{source} alone" for source in self.sources)]

    def arms(self, *, base: ModelRef, tuning: Tuning, seeds: int, reference: pl.DataFrame) -> list[Arm]:
        """Return the arms, those of the first seed first; ``reference`` has ``id`` and ``reference_nll`` of each answer."""
        by_id, chosen = {each.id: each for each in self.pairs}, self.chosen(seeds)
        fewest: dict[int, int] = {}
        for (_, budget, _), (ids, _) in chosen.items():
            fewest[budget] = min(len(ids), fewest.get(budget, len(ids)))
        batch = tuning.batch_size * float(self.table["tokens"].mean())  # type: ignore[arg-type]
        arms = [Arm(label=UNTUNED, seed=0, base=base, stages=(), tuning=tuning)]
        for (label, budget, seed), (ids, objective) in chosen.items():
            answers = tuple(answer for name in ids for answer in by_id[name].answers)
            steps = max(1, min(round(budget / batch), fewest[budget]))
            arms.append(
                Arm(
                    label=label,
                    budget_tokens=budget,
                    seed=seed,
                    base=base,
                    stages=(answers,),
                    tuning=replace(tuning, seed=seed, steps=steps),
                    objective=objective,
                    stored=reference.filter(pl.col("id").is_in([each.id for each in answers])),
                )
            )
        return sorted(arms, key=lambda arm: arm.seed)

    def chosen(self, seeds: int) -> dict[tuple[str, int, int], tuple[list[str], Objective]]:
        """Return the pairs of each arm, budget and seed, and its loss."""
        first, *others = self.losses
        budgets = self.budgets
        own = {source: int(self.table.filter(source=source)["tokens"].sum()) for source in self.sources}
        found = dict[tuple[str, int, int], tuple[list[str], Objective]]()
        for seed in range(seeds):
            for budget in [*budgets, *own.values()]:
                found[self.baseline, budget, seed] = self._choose(RANDOM, budget, seed), self.losses[first]
            for way in self.ways:
                for budget, share in budgets.items():
                    if way != RANDOM and share < 1:
                        found[way, budget, seed] = self._choose(way, budget, seed), self.losses[first]
            for loss in others:
                found[loss, max(budgets), seed] = (
                    found[self.baseline, max(budgets), seed][0],
                    self.losses[loss],
                )
            for source, budget in own.items():
                ids = self.table.filter(source=source)["id"].to_list()
                found[f"{source} alone", budget, seed] = ids, self.losses[first]
        return found

    def _choose(self, way: str, tokens: int, seed: int) -> list[str]:
        if tokens >= int(self.table["tokens"].sum()):
            return self.table["id"].to_list()
        column, lowest = BY[way]
        selector = RANDOM if way == RANDOM else "top_k"
        selection = choose(
            self.table,
            Choosing(by=column, selector=selector, lowest=lowest, seed=seed),
            budget=Budget(tokens=tokens),
            method=build("selector", selector, SELECTORS),
        )
        return selection.kept["id"].to_list()


def margins(results: pl.DataFrame, pairs: Sequence[RenderedPair]) -> pl.DataFrame:
    """Return for each arm, seed and pair how far its model prefers the chosen answer, above the untuned model.

    Args:
        results: ``arm``, ``budget_tokens``, ``seed``, ``id`` (of an answer) and ``value`` (its loss, nats per token, NaN
            where it has none).
        pairs: n pairs, of which both answers are in the results.

    Returns:
        ``arm``, ``budget_tokens``, ``seed``, ``id`` (of the pair), ``prompt``, ``source``, ``length_difference``, and, NaN where
        a loss is missing, ``margin`` (nats), ``relative`` (each gain as a share of the reference nll) and ``chosen``
        (loss, nats per token).
    """
    names = ("id", "prompt", "source", "length_difference")
    lines = [
        {name: getattr(each, name) for name in names}
        | {"winner": each.chosen.id, "winner_tokens": int(each.chosen.mask.sum())}
        | {"loser": each.rejected.id, "loser_tokens": int(each.rejected.mask.sum())}
        for each in pairs
    ]
    frame = pl.DataFrame(lines)
    losses = results.select(*_ARM, "id", pl.col("value").cast(pl.Float64))
    arms = losses.select(_ARM).unique(maintain_order=True)
    known = arms.join(frame, how="cross")
    base = losses.filter(arm=UNTUNED)
    gain, scale = dict[str, pl.Expr](), dict[str, pl.Expr]()
    for side in ("winner", "loser"):
        own = losses.rename({"id": side, "value": f"{side}_loss"})
        before = base.select(pl.col("id").alias(side), pl.col("value").alias(f"{side}_before"))
        known = known.join(own, on=[*_ARM, side], how="left", nulls_equal=True, maintain_order="left")
        known = known.join(before, on=side, how="left", maintain_order="left")
        was, tokens = pl.col(f"{side}_before"), pl.col(f"{side}_tokens")
        gain[side] = (was - pl.col(f"{side}_loss")) * tokens
        scale[side] = (was * tokens).clip(lower_bound=LEAST_NATS)
    return known.select(
        *_ARM,
        *names,
        margin=(gain["winner"] - gain["loser"]).fill_null(float("nan")),
        relative=(gain["winner"] / scale["winner"] - gain["loser"] / scale["loser"]).fill_null(float("nan")),
        chosen=pl.col("winner_loss").fill_null(float("nan")),
    )


def preference_results(
    results: pl.DataFrame, tests: Mapping[str, Sequence[RenderedPair]]
) -> tuple[pl.DataFrame, list[Measured]]:
    """Return what each model prefers, in the form of an experiment's results, and what was measured.

    Several pairs of one prompt are one item: they are not independent. Means over items are means over pairs. Of a length
    bias the size counts: to prefer short answers is a bias too.

    Args:
        results: Losses of all answers as of ``run_arms``, with the untuned model among the arms.
        tests: Held-out pairs by the name of their evaluation; "" is the usual one.
    """
    frames, measured = [], []
    for name, pairs in tests.items():
        known = margins(results.filter(evaluation=answers_label(name)), pairs)
        for what, (unit, higher_is_better, values_of) in MEASURED.items():
            label = what + (f", {name}" if name else "")
            about = known.filter(pl.col("length_difference") < 0) if what == SHORTER else known
            if about.is_empty():
                continue
            if is_bias := what in (LENGTH_BIAS, RELATIVE_BIAS):  # a model that prefers nothing has none
                about = about.filter(pl.col("arm") != UNTUNED)
            parts = []
            for _, part in about.group_by(_ARM, maintain_order=True):
                named = part.head(1).select(*_ARM, evaluation=pl.lit(label))
                values = clustered(part["prompt"], part["source"], values_of(part))
                parts.append(named.join(values, how="cross"))
            found = pl.concat(parts)
            frames.append(found.with_columns(*_SIZE_OF_BIAS) if is_bias else found)
            measured.append(Measured(label=label, unit=unit, higher_is_better=higher_is_better))
    return pl.concat(frames), measured


def curve_table(
    results: pl.DataFrame,
    arms: pl.DataFrame,
    *,
    budgets: Mapping[int, float],
    evaluations: Sequence[Measured],
    baseline: str,
    confidence: float,
) -> pl.DataFrame | None:
    """Return what fewer random pairs come to beside the largest share: a table whose arms are shares, None for one alone.

    The arguments are those of ``arm_table``, ``results`` of ``preference_results``, and the ``budgets`` of ``PairArms``.
    """
    if len(budgets) < 2:
        return None
    names = {budget: f"{100 * share:g}%" for budget, share in budgets.items()}
    by_share = [
        frame.filter(pl.col("budget_tokens").is_in(list(names)), arm=baseline).with_columns(
            arm=pl.col("budget_tokens").replace_strict(names, return_dtype=pl.String),
            budget_tokens=pl.lit(None, dtype=pl.Int64),
        )
        for frame in (results, arms)
    ]
    return arm_table(*by_share, evaluations=evaluations, baseline=names[max(names)], confidence=confidence)


def curve_words(table: pl.DataFrame) -> list[str]:
    """Say of each evaluation of accuracy what fewer pairs come to, beside the largest share."""
    said = list[str]()
    for part in table.partition_by("evaluation", maintain_order=True):
        name = str(part["evaluation"][0])
        if name.partition(",")[0] != ACCURACY:
            continue
        *fewer, most = part.to_dicts()
        steps = list[str]()
        for one in fewer:
            low, high = max(one["low"], -1.0), min(one["high"], 1.0)  # of a share
            interval = "" if isnan(one["low"]) else f" ({low:+.3f} to {high:+.3f})"
            steps.append(
                f"with {one['arm']} ({one['examples']:,.0f} pairs) {one['value']:.3f}, a difference of "
                f"{one['difference']:+.3f}{interval}, {one['verdict']}"
            )
        said.append(
            f"{name} with {most['arm']} of the pairs ({most['examples']:,.0f}) {most['value']:.3f}; {'; '.join(steps)}"
        )
    return said


def enough_words(table: pl.DataFrame) -> str:
    """Say how few pairs were as good as all by the first accuracy, and which loss of it is not ruled out."""
    first = table.filter(pl.col("evaluation") == ACCURACY)
    *fewer, most = first.sort("examples").iter_rows(named=True)
    worse = [place for place, one in enumerate(fewer) if one["verdict"] == "worse"]
    enough = [one for one in fewer[worse[-1] + 1 if worse else 0 :] if not isnan(one["low"])]
    of = f"{most['examples']:,.0f} pairs"
    if enough:
        lost = min(max(-enough[0]["low"], 0.0), 1.0)
        return (
            f"{enough[0]['examples']:,.0f} of {of} were not seen to be worse than all "
            f"(a loss of {100 * lost:.0f} points of accuracy is not ruled out)"
        )
    return (
        f"Fewer than {of} were worse"
        if worse
        else f"Too little was graded to tell whether fewer than {of} suffice"
    )


def answers_label(name: str) -> str:
    """Return what the evaluation is called that gives the losses of the answers of a test."""
    return f"answers, {name}" if name else "answers"


def clustered(clusters: pl.Series, sources: pl.Series, values: NDArray[np.float64]) -> pl.DataFrame:
    """Return one value for each cluster; their mean is that of all values, their spread that of a mean over clusters.

    Args:
        clusters: (n,)
        sources: Of each value, (n,); a cluster has that of its first.
        values: (n,), NaN where there is none.

    Returns:
        ``id``, ``source``, ``value`` (NaN for a cluster without values), ``answer``, ``why``.
    """
    frame = pl.DataFrame({"id": clusters, "source": sources, "value": values}).with_columns(
        pl.col("value").fill_nan(None)
    )
    grouped = frame.group_by("id", maintain_order=True).agg(
        pl.col("source").first(), mean=pl.col("value").mean(), size=pl.col("value").count()
    )
    whole, size = pl.lit(frame["value"].mean(), dtype=pl.Float64), pl.col("size")
    typical = size.filter(size > 0).mean()
    # The linear form of a ratio: a cluster pulls the mean by its size and its distance from it.
    pulled = (
        pl.when(size == typical).then("mean").otherwise(whole + size / typical * (pl.col("mean") - whole))
    )
    return grouped.select(
        "id", "source", pulled.fill_null(float("nan")).alias("value"), answer=pl.lit(""), why=pl.lit("")
    )


def pseudo_rho(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values whose mean is Spearman's rho, and whose spread is that of rho over samples, (n,); NaN where undefined.

    They are rho plus each pair's influence on a correlation of ranks; how ranks move with the sample is left out.
    """
    there = np.isfinite(values) & np.isfinite(others)
    found = np.full(len(values), np.nan)
    ranks = [pl.Series(side[there]).rank().to_numpy() for side in (values, others)]
    if there.sum() < 2 or any(np.ptp(side) == 0 for side in ranks):
        return found
    one, other = ((side - side.mean()) / side.std() for side in ranks)
    rho = float((one * other).mean())
    found[there] = rho + one * other - rho / 2 * (one**2 + other**2)
    return found


_VALUE = pl.col("value")
_SIZE_OF_BIAS = (
    pl.when(_VALUE.fill_nan(None).mean().over(*_ARM[:2]) < 0).then(-_VALUE).otherwise(_VALUE).alias("value"),
    pl.when(_VALUE.is_nan()).then(pl.lit(NO_BIAS)).otherwise("why").alias("why"),
)
"""Values with the sign of their mean over an arm's seeds, whose mean is the size of that mean; and why there are none."""


def _correct(part: pl.DataFrame) -> NDArray[np.float64]:
    return np.asarray((np.sign(part["margin"].to_numpy()) + 1) / 2, dtype=np.float64)


def _bias(column: str) -> Callable[[pl.DataFrame], NDArray[np.float64]]:
    return lambda part: pseudo_rho(
        part[column].to_numpy(), part["length_difference"].to_numpy().astype(np.float64)
    )


MEASURED: Mapping[str, tuple[str, bool, Callable[[pl.DataFrame], NDArray[np.float64]]]] = {
    ACCURACY: ("share correct", True, _correct),
    SHORTER: ("share correct", True, _correct),
    MARGIN: ("nats", True, lambda part: part["margin"].to_numpy()),
    LENGTH_BIAS: ("size of Spearman's rho", False, _bias("margin")),
    RELATIVE_BIAS: ("size of Spearman's rho", False, _bias("relative")),
    CHOSEN: ("nats per token", False, lambda part: part["chosen"].to_numpy()),
}
"""What is said of each model: its unit, whether higher is better, and what it is of the margins of an arm's pairs."""
