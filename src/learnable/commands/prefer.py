"""``learnable prefer``: trainings on preference pairs, by several losses and of differing pairs, and what each learned to prefer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.commands.answer_lengths import AnswerLengths
from learnable.commands.experiment import Begun, Experiment, selections, write_frames
from learnable.commands.inputs import pool_of
from learnable.commands.load import HELDOUT
from learnable.commands.network import Network
from learnable.commands.options import (
    Confidence,
    Data,
    DryRun,
    Flat,
    Listed,
    MaxLength,
    ModelName,
    Output,
    Several,
    StoreFolder,
)
from learnable.commands.preference_gaps import FOLDS, Gaps, gaps_of
from learnable.data.overlap import CONTAMINATION, contamination, spoken
from learnable.data.pairs import answers_of, pairs_of
from learnable.errors import UsageError
from learnable.evaluators import Evaluation
from learnable.evaluators.heldout import Heldout
from learnable.experiments import RANDOM, UNTUNED, arm_table, check_settings
from learnable.experiments.preferences import (
    ACCURACY,
    BY,
    PairArms,
    RenderedPair,
    answers_label,
    check_ways,
    curve_table,
    curve_words,
    enough_words,
    margins,
    pair_table,
    preference_results,
)
from learnable.objects.preferences import (
    check_loss,
    loss_of,
    reference_nll,
    rendered_pairs,
    with_rate,
)
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.price import Price
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, run
from learnable.runs.store import Store
from learnable.settings import Loading, Reading, Tuning
from learnable.types import Pair

LOSSES, SHARES, WAYS = ("sigmoid",), ("0.2", "0.6", "1"), (RANDOM,)
TEST_SHARE = 0.2
MOST_LONGER, FEWEST_TESTS = 0.6, 200
"""Share of the pairs whose chosen answer is the longer one, and number of test pairs, from which a reader is warned."""


@dataclass(frozen=True, kw_only=True)
class Preferring:
    """Which trainings on pairs there are.

    Args:
        loss: Losses, each sigmoid (DPO), davir, ipo, hinge, or NAME@beta=0.5. The first one trains on all kinds of pairs,
            the others on all pairs at the largest fraction. Without a beta, davir takes 0.1 times the median nll of the reference.
        fractions: Shares of the tokens of the pairs, above 0 and at most 1.
        pairs_by: How pairs are chosen where not all are taken: random, small_gap (least preferred by a model that was
            trained on the other half, misleading ones included), small_abs_gap, large_gap, longest_difference.
        alone: Train on each source alone too, beside a random draw of as many tokens.
        prompts: Held-out prompts that every model answers greedily, to see how long its answers have become; 0 for none.
        seeds: Trainings of each, on pairs that are drawn anew where they are drawn.
    """

    loss: Annotated[Sequence[str], Listed] = LOSSES
    fractions: Annotated[Sequence[str], Listed] = SHARES
    pairs_by: Annotated[Sequence[str], Listed] = WAYS
    alone: bool = False
    prompts: int = 16
    seeds: int = 3
    confidence: Confidence = 0.95

    def check(self, tuning: Tuning) -> None:
        """Say what cannot be done, before anything is read.

        Raises:
            UsageError: If a name is not known or there twice, or a number is none.
        """
        check_settings(tuning, seeds=self.seeds, confidence=self.confidence)
        if self.prompts < 0:
            raise UsageError(f"prompts must be at least 0, got {self.prompts}", hint="0 asks for no answers")
        for written in self.losses:
            check_loss(written)
        check_ways(self.ways)
        if len(set(self.losses)) < len(self.losses) or not self.losses:
            raise UsageError(
                f"a loss is there twice, or none: {', '.join(self.losses)}", hint="name each once"
            )
        _ = self.shares

    @property
    def losses(self) -> list[str]:
        """As they were written, also with commas between."""
        return _split(self.loss)

    @property
    def ways(self) -> list[str]:
        """Likewise."""
        return _split(self.pairs_by)

    @property
    def shares(self) -> list[float]:
        """In ascending order; a ``UsageError`` where one is none."""
        try:
            found = sorted({float(each) for each in _split(self.fractions)})
        except ValueError as error:
            raise UsageError(
                f"fractions are numbers, got {', '.join(self.fractions)}", hint="0.2 0.6 1"
            ) from error
        if not found or not all(0 < share <= 1 for share in found):
            raise UsageError(
                f"fractions are above 0 and at most 1, got {', '.join(self.fractions)}", hint="0.2 0.6 1"
            )
        return found

    @property
    def wants_gaps(self) -> bool:
        """Whether pairs are chosen by what a trained model prefers, which takes trainings of its own."""
        return any(BY[way][0].endswith("gap") for way in self.ways) and min(self.shares) < 1


def _split(written: Sequence[str]) -> list[str]:
    """Return values that were given one by one, or with commas between."""
    return [name.strip() for each in written for name in each.split(",") if name.strip()]


def prefer(
    data: Data,
    *,
    model: ModelName = "starter",
    preferring: Annotated[Preferring, Flat] = Preferring(),
    test: Annotated[list[str] | None, Several] = None,
    tuning: Tuning = Tuning(),
    loading: Annotated[Loading, Flat] = Loading(),
    reading: Annotated[Reading, Flat] = Reading(),
    max_length: MaxLength = None,
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "preferences",
) -> Outcome:
    """Train on preference pairs, by several losses and on fewer pairs, and say what each model learned to prefer.

    Held-out pairs tell how often a model has come to prefer the chosen answer, by its gain over the untuned model, and
    whether it prefers long answers as such. Differences are to the first loss on randomly drawn pairs of as many tokens.

    Args:
        test: Other pairs to judge on too, each a file. A fifth of the prompts of the data is always set aside for that.
        tuning: How to train; the learning rate is 5e-5 for LoRA and 5e-7 for full fine-tuning when not given.
    """
    preferring.check(tuning)
    tuning = with_rate(tuning)
    network = Network.of(model, loading, max_length=max_length, dry_run=dry_run)
    loaded = pool_of(data, reading, output, holdout=TEST_SHARE, dry_run=dry_run, pairs=True)
    begun = Begun(network=network, loaded=loaded, store=Path(store))
    experiment = begun.experiment(tuning, preferring)
    tests = _tests(loaded.step, test or [], reading)
    names = ("losses", "shares", "ways", "alone", "prompts")
    step = experiment.step(
        "prefer",
        _Preferences(experiment=experiment, preferring=preferring, tests=tests),
        parameters={name: getattr(preferring, name) for name in names},
        inputs={
            f"test {name}".strip(): fingerprint([each.id for each in pairs]) for name, pairs in tests.items()
        },
        sources={written: source_of(check_loss(written)) for written in preferring.losses},
    )
    return run(step, output, dry_run=dry_run)


def _tests(loaded: Outcome, files: Sequence[str], reading: Reading) -> dict[str, list[Pair]]:
    """Return the pairs to judge on: what the load set aside under "", the others by the name of their file."""
    found, heldout = dict[str, list[Pair]](), loaded.folder / HELDOUT
    if heldout.is_file() and heldout.stat().st_size:
        found[""] = list(pairs_of(rows.read([str(heldout)], source_column="source")))
    for file in files:
        name = Path(file).name if Path(file).name not in found else file
        found[name] = list(pairs_of(rows.read([file], **asdict(replace(reading, avoid=None)))))
    if not found:
        raise UsageError(
            f"{loaded.folder} was loaded without pairs to judge on",
            hint="load it with --holdout 0.2, or name a file: --test FILE",
        )
    return found


@dataclass(frozen=True, kw_only=True)
class _Preferences:
    experiment: Experiment
    preferring: Preferring
    tests: Mapping[str, Sequence[Pair]]

    @cached_property
    def pairs(self) -> list[Pair]:
        return self.experiment.data.rows.pairs

    @cached_property
    def lengths(self) -> AnswerLengths:
        held_out = next(iter(self.tests.values()))
        return AnswerLengths.of(held_out, most=self.preferring.prompts, store=self.experiment.store)

    @property
    def trainings(self) -> list[float]:
        """The share of the tokens of each training of a seed, at most; sources alone take the whole, twice."""
        asked = self.preferring
        ways = [share for share in asked.shares if share < 1] * len(
            [way for way in asked.ways if way != RANDOM]
        )
        others = [asked.shares[-1]] * (len(asked.losses) - 1)
        return [*asked.shares, *ways, *others, *[1.0] * (2 * asked.alone)]

    @property
    def says(self) -> list[str]:
        asked, over = self.preferring, f"over {len(self.pairs):,} pairs"
        gaps = [f"{FOLDS} trainings on a half each, for gaps"] if asked.wants_gaps else []
        tests = sum(map(len, self.tests.values()))
        return [
            f"1 base pass {over}",
            *gaps,
            f"{len(self.trainings) * asked.seeds} trainings by {', '.join(asked.losses)}",
            f"{tests:,} pairs to judge on for each model",
            *([f"{written} greedy answers of each"] if (written := len(self.lengths.prompts)) else []),
        ]

    def price(self) -> Price:
        network, seeds, tuning = self.experiment.network, self.experiment.seeds, self.experiment.tuning
        examples = [answer for pair in self.pairs for answer in answers_of(pair)]
        asked = [answer for pairs in self.tests.values() for pair in pairs for answer in answers_of(pair)]
        price = network.measuring(examples, passes=1 + self.preferring.wants_gaps)
        if self.preferring.wants_gaps:
            price += network.training(examples, tuning, passes=(FOLDS - 1) * tuning.epochs, models=FOLDS)
        for share in self.trainings:
            passes = seeds * tuning.epochs
            price += network.training(examples, tuning, passes=passes, share=share, models=seeds)
        judging = network.measuring(asked) + self.lengths.price(network)
        return sum([judging] * (1 + seeds * len(self.trainings)), price)

    def work(self, folder: Path) -> Finished:
        network, asked = self.experiment.network, self.preferring
        pairs, tests, dropped = self._rendered()
        store = Store(self.experiment.store)
        nll, measured = reference_nll(
            network.ref, pairs, max_length=network.longest, store=store, load=network.open
        )
        found = {written: loss_of(written, nll) for written in asked.losses}
        losses = {written: loss for written, (loss, _) in found.items()}
        gaps = Gaps()
        if asked.wants_gaps:
            gaps = gaps_of(pairs, nll, loss=asked.losses[0], experiment=self.experiment)
        planned = PairArms(
            pairs=pairs,
            table=pair_table(pairs, gaps.nats),
            losses=losses,
            ways=asked.ways,
            shares=asked.shares,
            alone=asked.alone,
        )
        settings = self.experiment.tuning
        arms = planned.arms(base=network.ref, tuning=settings, seeds=asked.seeds, reference=nll)
        baseline = planned.baseline
        judging, looks = replace(self.experiment, evaluations=self._evaluations(tests)), self.lengths.looks
        ran, facts = judging.run(arms, baseline=baseline, looks=looks)
        results, evaluations = preference_results(ran.frames["results"], tests)
        table = arm_table(
            results,
            ran.frames["arms"],
            evaluations=evaluations,
            baseline=baseline,
            costs={label: gaps.cost for label in planned.labels if BY.get(label, ("", 0))[0].endswith("gap")},
            confidence=asked.confidence,
        )
        curve = curve_table(
            results,
            ran.frames["arms"],
            budgets=planned.budgets,
            evaluations=evaluations,
            baseline=baseline,
            confidence=asked.confidence,
        )
        frames = {
            "table": table,
            **({} if curve is None else {"curve": curve}),
            **{name: ran.frames[name] for name in looks},
            "results": results,
            "arms": ran.frames["arms"],
            "scores": planned.table,
            "selections": _selections(planned, asked.seeds),
            "margins": _all_margins(ran.frames["results"], tests),
            "overlap": (overlap := self._overlap(tests)),
            "dropped": pl.DataFrame(dropped, schema=["test", "id", "reason"], orient="row").cast(pl.String),
        }
        write_frames(frames, folder, arm="method")
        facts |= {
            "pairs": len(pairs),
            "pool_tokens": (pool_tokens := int(planned.table["tokens"].sum())),
            "methods": [UNTUNED, baseline, *planned.labels],
            "baseline": baseline,
            "losses": {written: str(loss) for written, loss in losses.items()},
            "evaluations": [each.label for each in evaluations],
            "in both": overlap.height,
            "trainings": ran.frames["arms"]["model"].drop_nulls().n_unique(),
            "answer": "" if curve is None else enough_words(curve),
            "findings": [*([] if curve is None else curve_words(curve)), *self.lengths.words(ran.frames)],
            "notes": [*(note for _, notes in found.values() for note in notes), *_notes(pairs, tests)],
        }
        return Finished(facts=facts, tokens=ran.tokens + measured + gaps.tokens, pool_tokens=pool_tokens)

    def _rendered(
        self,
    ) -> tuple[list[RenderedPair], dict[str, list[RenderedPair]], list[tuple[str, str, str]]]:
        """Return the pairs to train and to judge on, as the model sees them; and name, id and reason of those that are none."""
        renderer = self.experiment.network.renderer
        options: dict[str, Any] = {
            "max_length": self.experiment.network.longest,
            "most_refused": self.experiment.data.rows.reading.most_bad,
        }
        pairs, left_out = rendered_pairs(renderer, self.pairs, **options)
        dropped = [("", name, reason) for name, reason in left_out.items()]
        tests = dict[str, list[RenderedPair]]()
        for name, given in self.tests.items():
            tests[name], left_out = rendered_pairs(renderer, given, **options)
            dropped += [(name or "held out", pair, reason) for pair, reason in left_out.items()]
        return pairs, tests, dropped

    def _evaluations(self, tests: Mapping[str, Sequence[RenderedPair]]) -> list[Evaluation]:
        """Return the losses of all answers of each test, each answer once."""
        found = []
        for name, pairs in tests.items():
            kept = {each.id for each in pairs}
            both = [answer for pair in self.tests[name] if pair.id in kept for answer in answers_of(pair)]
            each_once = list({answer.id: answer for answer in both}.values())
            found.append(Evaluation(label=answers_label(name), evaluator=Heldout(), examples=each_once))
        return found

    def _overlap(self, tests: Mapping[str, Sequence[RenderedPair]]) -> pl.DataFrame:
        """Return the prompts that are judged on and stand in the pairs that are trained on."""
        texts = spoken((each.id, (*each.prompt, each.chosen)) for each in self.pairs)
        found = [pl.DataFrame(schema={"evaluation": pl.String, **CONTAMINATION})]
        for name, pairs in tests.items():
            keys = {each.id: each.prompt for each in pairs}
            items = {keys[each.id]: each.prompt for each in self.tests[name] if each.id in keys}
            label = ACCURACY + (f", {name}" if name else "")
            frame = contamination(texts, spoken(items.items()))
            found.append(frame.select(pl.lit(label).alias("evaluation"), pl.all()))
        return pl.concat(found)


def _notes(pairs: Sequence[RenderedPair], tests: Mapping[str, Sequence[RenderedPair]]) -> list[str]:
    """Return what is to be distrusted because of the pairs."""
    notes = list[str]()
    longer = sum(each.length_difference > 0 for each in pairs)
    if longer > MOST_LONGER * len(pairs):
        notes.append(
            f"The chosen answer is the longer one in {longer / len(pairs):.0%} of {len(pairs):,} pairs: a model can do well by "
            "preferring length. See the accuracy where chosen is shorter, and the length bias."
        )
    for name, given in tests.items():
        if len(given) < FEWEST_TESTS:
            of = f" of {name}" if name else ""
            notes.append(
                f"{len(given):,} pairs{of} are few to judge on: one standard error of an accuracy near one half is "
                f"{50 / len(given) ** 0.5:.1f} points."
            )
    return notes


def _all_margins(results: pl.DataFrame, tests: Mapping[str, Sequence[RenderedPair]]) -> pl.DataFrame:
    return pl.concat(
        margins(results.filter(evaluation=answers_label(name)), pairs).with_columns(test=pl.lit(name))
        for name, pairs in tests.items()
    )


def _selections(planned: PairArms, seeds: int) -> pl.DataFrame:
    """Return what was chosen; a loss chooses nothing."""
    return selections(
        (label, budget, seed, ids)
        for (label, budget, seed), (ids, _) in planned.chosen(seeds).items()
        if label == planned.baseline or label not in planned.losses
    )
