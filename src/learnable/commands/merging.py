"""The experiment of merging: one model trained in several orders, merged in several ways, and what each is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from learnable.commands.experiment import Begun, Experiment, items_said, write_frames
from learnable.commands.merge import figures
from learnable.commands.order import Ordered, losses_by_order, slope_facts
from learnable.deferred import training
from learnable.errors import UsageError
from learnable.experiments import UNTUNED, Arm, check_settings, measured_by, slopes_of
from learnable.experiments.run import ArmRun, place_of, train_arms
from learnable.experiments.singles import BEST, SINGLE, arms_of_singles, best_of, single_of
from learnable.merging import Merger, parse_merger
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.locks import locked
from learnable.runs.price import Price
from learnable.runs.progress import say
from learnable.runs.step import Finished, Step
from learnable.runs.store import Store
from learnable.settings import Tuning

MERGED = ("select", "average", "noise")
AVERAGE = "average"
_COPY = "order {}"


@dataclass(frozen=True, kw_only=True)
class Merging:
    """Trainings in so many ``orders``, alike in all else, and how they are merged; the model of the first merger is kept.

    ``evaluate`` is as of `learnable compare`, ``seeds`` are sets of trainings, and ``confidence`` is that of all intervals
    of an evaluation together.
    """

    orders: int = 4
    mergers: Sequence[str] = MERGED
    evaluate: Sequence[str] = ("heldout",)
    seeds: int = 1
    confidence: float = 0.95

    def check(self, tuning: Tuning) -> dict[str, Merger]:
        """Return mergers by how they are written.

        Raises:
            UsageError: If one is not known or cannot merge so many, there is one order, an epoch is not whole, or what
                every experiment refuses is asked for.
        """
        orders, mergers = self.orders, list(self.mergers)
        check_settings(tuning, seeds=self.seeds, confidence=self.confidence)
        if orders < 2:
            raise UsageError(
                f"a merge takes 2 or more orders, got {orders}", hint="--orders 4 trains four times"
            )
        if tuning.epochs != int(tuning.epochs):
            raise UsageError(f"orders are compared by whole epochs, got {tuning.epochs:g}")
        if repeated := [name for name in mergers if mergers.count(name) > 1]:
            raise UsageError(f"{repeated[0]!r} is there twice", hint="name every merger once")
        found = {written: parse_merger(written) for written in mergers}
        for merger in found.values():
            merger.check(orders)
        return found


def merging(begun: Begun, *, how: Merging, tuning: Tuning) -> Step:
    """Train on the same rows in several orders, merge the models, and say what each way to merge is worth.

    Differences are to a single training, the mean over the orders. All models are graded in float32, so that rounding
    takes no part.
    """
    named = how.check(tuning)
    experiment = begun.experiment(tuning, how, begun.loaded.evaluations(how.evaluate))
    return experiment.step(
        "run merge",
        _Merging(experiment=experiment, orders=how.orders, mergers=named),
        parameters={
            "orders": how.orders,
            "mergers": [[name, fingerprint(each)] for name, each in named.items()],
        },
        sources={name: source_of(each) for name, each in named.items() if ":" in name.partition("@")[0]},
    )


def tuning_of_order(tuning: Tuning, *, seed: int, order: int, orders: int) -> Tuning:
    """Return how the training of an order goes: its adapters begin as those of all orders of a seed do.

    The first order is that of the seed itself, as trainings of `compare` have it; without adapters so are all.
    """
    if tuning.method == "full":
        return replace(tuning, seed=seed * orders + order)
    return replace(tuning, seed=seed, order_seed=1_000 * (seed + 1) + order if order else None)


@dataclass(frozen=True, kw_only=True)
class _Merging:
    experiment: Experiment
    orders: int
    mergers: Mapping[str, Merger]

    @property
    def trainings(self) -> int:
        return self.orders * self.experiment.seeds

    @property
    def says(self) -> list[str]:
        examples = f"{len(self.experiment.data.pool):,} examples"
        return [
            f"{self.trainings} trainings on {examples} in {self.orders} orders",
            f"1 pass of each over {examples}",
            f"merge by {', '.join(self.mergers)}",
            items_said(self.experiment.evaluations),
        ]

    def price(self) -> Price:
        network, tuning = self.experiment.network, self.experiment.tuning
        examples = self.experiment.data.rows.examples
        passes = self.trainings * tuning.epochs
        price = network.training(examples, tuning, passes=passes, models=self.trainings)
        price += network.measuring(examples, passes=self.trainings)
        models = 1 + self.trainings + len(self.mergers) * self.experiment.seeds
        return sum([network.evaluations(self.experiment.evaluations)] * models, price)

    def work(self, folder: Path) -> Finished:
        experiment, network = self.experiment, self.experiment.network
        rendered = network.rendered(experiment.data.rows)
        rows = [row for row in rendered if row.mask.any()]
        copies = [
            Arm(
                label=_COPY.format(order + 1),
                seed=seed,
                base=network.ref,
                stages=(tuple(rows),),
                tuning=tuning_of_order(experiment.tuning, seed=seed, order=order, orders=self.orders),
            )
            for seed in range(experiment.seeds)
            for order in range(self.orders)
        ]
        trained, tokens = train_arms(copies, max_length=network.longest, store=experiment.store)
        done = [each for each in trained if each is not None]
        ordered = [
            Ordered(place=place_of(arm.base, each, method=arm.tuning.method), tuning=arm.tuning)
            for arm, each in zip(copies, done, strict=True)
        ]
        frame, measured = losses_by_order(network, rows, ordered, store=Store(experiment.store))
        slopes = slopes_of(frame, confidence=experiment.confidence)
        arms, merges, warnings = self._merged(copies, done, folder)
        say(f"merged by {', '.join(self.mergers)}")
        ran, facts = experiment.run(arms, baseline=_COPY.format(1))
        frames = self._tables(ran) | {"order": frame, "merges": merges}
        write_frames(frames, folder)
        facts |= slope_facts(slopes) | {
            "orders": self.orders,
            "baseline": SINGLE,
            "kept model": next(iter(self.mergers)),
            "trainings": len(done),
            "notes": warnings,
            "trial": self._trial(warnings, beside_average="against_average" in frames),
        }
        pool_tokens = sum(len(row.ids) for row in rendered)
        return Finished(facts=facts, tokens=tokens + measured + ran.tokens, pool_tokens=pool_tokens)

    def _trial(self, warnings: Sequence[str], *, beside_average: bool) -> dict[str, Any]:
        seeds = self.experiment.seeds
        tables = {"What was merged": "merges"}
        if beside_average:
            tables = {"The mergers beside the average": "against_average"} | tables
        return {
            "question": "Does merging help?",
            "lead": f"{self.experiment.network.ref.name} was trained on {len(self.experiment.data.pool):,} rows in "
            f"{self.orders} orders, "
            f"{seeds} {'time' if seeds == 1 else 'times'}, and the models were merged by {', '.join(self.mergers)}.",
            "about": {SINGLE: f"one training, whichever it is: the mean over the {self.orders} orders"}
            | {BEST: "the best order, chosen by one half of the items and judged on the other"}
            | dict.fromkeys(self.mergers, f"{self.orders} trainings as one model")
            | {UNTUNED: "the model as it is"},
            "baseline": SINGLE,
            "beside": [UNTUNED],
            "asked_of": "what the model will be asked",
            "tables": tables,
            "alike": "All trainings of a set begin alike and see the same rows; they differ in their order. A merged model costs "
            "all trainings of its set. All models are graded in float32, so that rounding takes no part.",
            "said": [f"{each[0].upper()}{each[1:]}." for each in warnings],
            "notes": [
                "noise has the mean and the variance of selection without choosing: what selection gains over the average and "
                "not over noise comes from choosing.",
                "Resampling can matter for parameters that are the base's in some models only: few, unless weights are trained or "
                "saved in bfloat16.",
                "All of it belongs to this model, these rows and these settings.",
            ],
        }

    def _merged(
        self, copies: Sequence[Arm], done: "Sequence[training.Trained]", folder: Path
    ) -> tuple[list[Arm], pl.DataFrame, list[str]]:
        """Merge each seed's models by each merger; return all arms in float32, figures, and what is to be known."""
        exact, store = replace(self.experiment.network.ref, dtype="float32"), self.experiment.store
        base, lines, warnings = training.Base.of(exact), list[dict[str, Any]](), list[str]()
        arms = [Arm(label=UNTUNED, seed=0, base=exact, stages=(), tuning=self.experiment.tuning)]
        arms += [replace(arm, base=exact, given=each) for arm, each in zip(copies, done, strict=True)]
        for seed in range(self.experiment.seeds):
            own = slice(seed * self.orders, (seed + 1) * self.orders)
            models = training.copies_of(base, [str(each.folder) for each in done[own]])
            names = [_COPY.format(number + 1) for number in range(self.orders)]
            for label, merger in self.mergers.items():
                made = fingerprint([*(each.folder.name for each in done[own]), fingerprint(merger), label])[
                    :16
                ]
                place = store / "merged" / made
                with locked(store / "merged" / f"{made}.lock"):
                    seen = training.merge_copies(base, models, place, merger=merger, dtype="float32")
                arms.append(
                    replace(
                        copies[seed * self.orders],
                        label=label,
                        base=exact,
                        tuning=replace(self.experiment.tuning, method="full"),
                        given=replace(training.Trained.together(done[own]), folder=place, ran=False),
                    )
                )
                known = figures(seen, names, merger)
                cosines = np.asarray(seen.cosines)[np.triu_indices(self.orders, 1)]
                line = {"merger": label, "seed": seed, "parameters": seen.scalars, "zero": seen.zero}
                lines.append(line | {"replaceable": seen.replaceable, "cosine": float(cosines.min())})
                warnings += [f"seed {seed}: {each}" for each in known["warnings"]]
                warnings += [f"{label}: {known[name]}" for name in ("note", "selection") if name in known]
            if not seed:
                first = next(iter(self.mergers.values()))
                training.merge_copies(base, models, folder / "model", merger=first, dtype="float32")
        return arms, pl.DataFrame(lines), list(dict.fromkeys(warnings))

    def _tables(self, ran: ArmRun) -> dict[str, pl.DataFrame]:
        """Return the tables of the arms: beside a single training, and beside the average where that is among them."""
        frames = ran.frames
        is_copy = pl.col("arm").is_in([_COPY.format(number + 1) for number in range(self.orders)])
        copies, others = frames["results"].filter(is_copy), frames["results"].filter(~is_copy)
        better = {each.label: each.higher_is_better for each in measured_by(self.experiment.evaluations)}
        results = pl.concat([single_of(copies), best_of(copies, higher_is_better=better), others])
        singles = arms_of_singles(frames["arms"].filter(is_copy))
        # What was trained has a model of its own; what was merged is none that was trained.
        others_of = frames["arms"].filter(~is_copy).with_columns(model=pl.lit(None, pl.String))
        arms = pl.concat([singles, others_of])
        tables = self.experiment.tables(
            results,
            arms,
            baseline=SINGLE,
            among={"against_average": (AVERAGE, list(self.mergers))},
        )
        return tables | {
            "results": pl.concat([results, copies]),
            "arms": pl.concat([arms, frames["arms"].filter(is_copy)]),
        }
