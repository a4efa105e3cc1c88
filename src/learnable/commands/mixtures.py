"""What ``learnable run ado`` does: the same model on mixtures of the same sources, at equal tokens, and what came of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable import data as rows
from learnable.commands.experiment import Begun, Experiment, keep_model, write_frames
from learnable.commands.options import Confidence, Listed
from learnable.deferred import training
from learnable.errors import UsageError
from learnable.evaluators import Evaluation
from learnable.evaluators.heldout import Heldout
from learnable.experiments import UNTUNED, Arm, check_settings
from learnable.experiments.run import ArmRun
from learnable.pages.words import enumeration, listing, snippet
from learnable.proportions import Proportions, shares_drawn, tokens_by_source
from learnable.runs.price import Price
from learnable.runs.step import Finished, Step
from learnable.settings import Tuning
from learnable.types import Example

BASELINE = "natural"
MEAN = "mean of the sources"
"""What the evaluation on equally many rows of each source is called."""
FEWEST_STEPS = 200
"""Of a training that does not say how many."""
HELDOUT_SHARE = 0.2
"""Of the prompts of a source, that are held out at most."""
NAMED = 3
"""Sources in the heading of the page."""
MANY_TIMES, HARDLY_MOVED = 4.0, 0.05
_FOLLOWED = (
    "ADO follows the loss of a few rows of each source that it is never trained on, as sources are seen more than twice; the other "
    "mixtures train on these rows too."
)


@dataclass(frozen=True, kw_only=True)
class SourceArms:
    """Which mixtures are trained, and how long.

    Args:
        steps: Optimizer steps of each training; those of one epoch, and 200 at least, when not given. ADO needs 61 at least,
            and 142 where a source would be seen more than twice: its first fit is made after 60 or 141.
        arms: Mixtures, each ado, natural, uniform, or the share of each source (a=0.7,b=0.3); ado may have settings
            (ado@prior=uniform,curve=heldout). Differences are to natural, which is always there, as the untuned model.
        rows: Held-out rows of each source to judge on, at most; never more than a fifth of its prompts.
        seeds: Trainings of each mixture.
    """

    steps: int | None = None
    arms: Annotated[Sequence[str], Listed] = ("ado", "natural", "uniform")
    rows: int = 40
    seeds: int = 3
    confidence: Confidence = 0.95

    @property
    def mixtures(self) -> dict[str, Proportions]:
        """The mixtures by their label, the baseline first.

        Raises:
            UsageError: If one cannot be read, or there are no steps or rows.
        """
        for name in ("steps", "rows"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise UsageError(f"{name} must be at least 1, got {count}")
        found = [Proportions.parse(text) for text in (BASELINE, *self.arms)]
        if len(set(found)) == 1:
            raise UsageError(
                f"there is nothing to compare {BASELINE} with", hint="give --arms ado natural uniform"
            )
        return {str(each): each for each in found}


def mix(begun: Begun, *, mixing: SourceArms, tuning: Tuning) -> Step:
    """Train on mixtures of the same sources at equal tokens, and say with intervals what each did to the loss of each source."""
    mixtures = mixing.mixtures
    check_settings(tuning, seeds=mixing.seeds, confidence=mixing.confidence)
    pool, heldout = rows.hold_out(begun.loaded.pool, share=HELDOUT_SHARE, most=mixing.rows)
    counts = dict(pool.examples["source"].value_counts().sort("source").iter_rows())
    epoch = ceil(tuning.epochs * len(pool) / tuning.batch_size)
    tuning = replace(tuning, epochs=1.0, steps=mixing.steps or max(epoch, FEWEST_STEPS))
    for each in mixtures.values():
        each.check(counts, tuning)
    asked = _evaluations([each for each in heldout if isinstance(each, Example)], list(counts))
    begun = replace(begun, loaded=replace(begun.loaded, pool=pool))
    experiment = begun.experiment(tuning, mixing, asked)
    trial = _MixtureTrial(experiment=experiment, sources=list(counts), mixtures=mixtures)
    return experiment.step("run ado", trial, parameters={"mixtures": list(mixtures)})


def _evaluations(heldout: Sequence[Example], sources: Sequence[str]) -> list[Evaluation]:
    """Return the loss of held-out rows of each source, after that of equally many of all."""
    by_source = {source: [each for each in heldout if each.source == source] for source in sources}
    if empty := [source for source, own in by_source.items() if not own]:
        raise UsageError(
            f"of {', '.join(empty)} no row can be held out to judge on",
            hint="give more rows of it, or put small sources together",
        )
    fewest = min(map(len, by_source.values()))
    alike = [each for own in by_source.values() for each in own[:fewest]]
    asked = {MEAN: alike, **{f"loss on {source}": own for source, own in by_source.items()}}
    return [
        Evaluation(label=label, evaluator=Heldout(), examples=examples) for label, examples in asked.items()
    ]


@dataclass(frozen=True, kw_only=True)
class _MixtureTrial:
    experiment: Experiment
    sources: Sequence[str]
    mixtures: Mapping[str, Proportions]

    @property
    def steps(self) -> int:
        """Of each training."""
        return self.experiment.tuning.steps or 0

    @property
    def says(self) -> list[str]:
        asked = self.experiment.evaluations[1:]
        seeds, items = self.experiment.seeds, sum(len(each.examples) for each in asked)
        mixtures = f"{len(self.sources)} sources, {len(self.experiment.data.pool):,} examples"
        return [
            *(f"{seeds} trainings of {self.steps:,} steps on {name} of {mixtures}" for name in self.mixtures),
            f"{items:,} held-out rows for each model",
        ]

    def price(self) -> Price:
        network, tuning = self.experiment.network, self.experiment.tuning
        examples, models = self.experiment.data.rows.examples, self.experiment.seeds * len(self.mixtures)
        passes = models * self.steps * tuning.batch_size / max(len(examples), 1)
        price = network.training(examples, tuning, passes=passes, models=models)
        return sum([network.evaluations(self.experiment.evaluations[1:])] * (1 + models), price)

    def arms(self) -> list[Arm]:
        """Return the untuned model, and the trainings, all of a seed together."""
        network, tuning = self.experiment.network, self.experiment.tuning
        known = self.experiment.data.rows
        rendered = network.rendered(known)
        sources = {each.id: each.source for each in known.examples}
        untuned = Arm(label=UNTUNED, seed=0, base=network.ref, stages=(), tuning=replace(tuning, steps=None))
        return [untuned] + [
            Arm(
                label=label,
                seed=seed,
                base=network.ref,
                stages=(tuple(rendered),),
                tuning=replace(tuning, seed=seed),
                sampler=training.mixtures.Mixed(proportions=proportions, sources=sources),
            )
            for seed in range(self.experiment.seeds)
            for label, proportions in self.mixtures.items()
        ]

    def work(self, folder: Path) -> Finished:
        arms = self.arms()
        ran, facts = self.experiment.run(arms, baseline=BASELINE)
        sources = [each.source for each in self.experiment.data.rows.examples]
        drawn, proportions = _drawn(arms, ran, tokens_by_source(arms[-1].rows, sources))
        costs = (
            ran.frames["arms"]
            .group_by("arm", maintain_order=True)
            .agg(pl.col("steps", "tokens").mean().round().cast(pl.Int64), pl.col("seconds").mean())
        )
        shown = drawn.group_by("arm", "source", maintain_order=True).agg(
            pl.col("share", "mean", "first", "last", "times").mean()
        )
        online = [label for label, each in self.mixtures.items() if each.online]
        mixed = shown.pivot("arm", index="source", values="mean")
        mixed = mixed.sort([*online, BASELINE][0], descending=True, maintain_order=True)
        frames = {
            "drawn": drawn,
            "shares": shown,
            "mixtures": mixed,
            "proportions": proportions,
            "cost": costs,
        }
        write_frames(ran.frames | frames, folder)
        kept = arms[2]  # after the untuned model and the baseline: the first mixture that was asked for
        (trained,) = (
            done.folder for arm, done in zip(arms, ran.trained, strict=True) if arm is kept and done
        )
        keep_model(kept, trained, folder / "model")
        facts |= {
            "kept model": kept.label,
            "notes": [],
            "arms": [UNTUNED, *self.mixtures],
            "baseline": BASELINE,
            "sources": len(self.sources),
            "trial": self.trial(facts["model"], shown, proportions)
            | {"answer": shares_found(mixed, online[0]) if online else ""},
        }
        return Finished(facts=facts, tokens=ran.tokens)

    def trial(self, model: str, shown: pl.DataFrame, proportions: pl.DataFrame) -> dict[str, Any]:
        """Return what the page of it says, by the names of ``TrialFacts``."""
        return {
            "question": "Does the mixture matter?",
            "lead": f"{model} was trained on {len(self.sources)} sources in other proportions, "
            f"{self.steps:,} steps and equally many tokens each.",
            "about": {UNTUNED: "the model as it is"}
            | {label: _about(each) for label, each in self.mixtures.items()},
            "baseline": BASELINE,
            "beside": [UNTUNED],
            "asked_of": "these sources",
            "tables": {
                "What was drawn: share of the tokens, proportions on average, of the first and of the last step, and how often "
                "the tokens of a source were seen (means over seeds)": "shares",
                "Steps, tokens that were trained on, and seconds (means over seeds)": "cost",
            },
            "courses": {
                f"proportions of {label}": label for label, each in self.mixtures.items() if each.online
            },
            "said": [*self._warnings(shown, proportions)],
            "notes": [
                f"“{MEAN}” asks equally many held-out rows of each, so that a large source counts as much as a small one.",
                "A step takes as many tokens as --batch-size rows have on average, drawn by the proportions; sources are begun "
                "anew where they are used up.",
                "Tokens beside values are those that a training drew; examples are those that it drew them from.",
                *[_FOLLOWED] * bool(proportions.filter(pl.col("heldout").is_not_nan()).height),
            ],
        }

    def _warnings(self, shown: pl.DataFrame, proportions: pl.DataFrame) -> list[str]:
        """Say what the table cannot show."""
        said = [
            "Gains of mixtures are small in the literature: by its reviewers' count, ADO was above the natural mixture on 6 of 7 tasks "
            "at 124 million parameters and on 4 of 7 at 1.3 billion, and a comparison of methods (Aioli, arXiv 2411.05735) found "
            "none that consistently beats equal shares. One pool and one model show little of it."
        ]
        often = shown.filter(pl.col("times") > MANY_TIMES).select("arm", "source", "times").rows()
        said += [
            f"{arm} saw {source} {seen:.1f} times: what its loss falls by there may be memory, of which held-out rows say more "
            "than the training does."
            for arm, source, seen in often
        ]
        online = [label for label, each in self.mixtures.items() if each.online]
        for label in online:
            own = proportions.filter(pl.col("arm") == label)
            moved = own.group_by("seed", "source").agg(pl.col("pi").max() - pl.col("pi").min())["pi"]
            if (most := float(moved.cast(pl.Float64).to_numpy().max())) < HARDLY_MOVED:
                said.append(
                    f"The proportions of {label} moved by at most {100 * most:.1f} points: it is nearly the mixture that it began "
                    "with, and differences to that are chance. More steps move it further."
                )
        if online and self.experiment.tuning.schedule == "cosine":
            said.append(
                "The learning rate falls to 0 by a cosine, and losses with it: what is read as a curve of the data is partly the "
                "schedule. --tuning.schedule constant takes that out."
            )
        return said


def shares_found(mixed: pl.DataFrame, label: str) -> str:
    """Say in which proportions a mixture trained, beside the baseline: the largest sources, which ``mixed`` begins with."""
    said = mixed.head(NAMED)
    found = [f"{snippet(source)} {share:.0%}" for source, share in said.select("source", label).rows()]
    beside = enumeration([f"{100 * share:.0f}" for share in said[BASELINE]])
    return f"{listing([*found, *mixed['source'][NAMED:]], NAMED)} by {label} ({BASELINE} {beside})"


def _about(proportions: Proportions) -> str:
    """Say what a mixture is."""
    named = {
        "natural": "as many tokens of each source as it has",
        "uniform": "equally many tokens of each source",
    }
    begins = named[proportions.prior] if isinstance(proportions.prior, str) else "the shares that were given"
    if not proportions.online:
        return begins
    return f"begins with {begins}, then follows how fast each source's loss falls"


def _drawn(arms: Sequence[Arm], ran: ArmRun, tokens: Mapping[str, int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what each training drew of each source, and its proportions step by step."""
    drawn, proportions = list[pl.DataFrame](), list[pl.DataFrame]()
    for arm, done in zip(arms, ran.trained, strict=True):
        if done is None:
            continue
        names = [pl.lit(arm.label).alias("arm"), pl.lit(arm.seed).alias("seed"), pl.all()]
        mixture = pl.read_parquet(done.folder / training.MIXTURE)
        drawn.append(shares_drawn(mixture, tokens).select(names))
        proportions.append(mixture.select(names))
    return pl.concat(drawn), pl.concat(proportions)
