"""When does choosing pay? Selections on pools of more and less noise, by other references, scores, budgets and proxies.

Each condition is a list of tables whose pools, methods and budgets are fixed below, before any run. Methods stand beside a
random draw at equal tokens and at equal response tokens, five trainings each; intervals hold for all methods of a table
together. A table also says how much of a choice is corrupted, how well its score tells clean rows from corrupted ones, and
how many response tokens a training learns from. A run that is stopped goes on where it was; ``--price`` says what it takes.

    python benchmarks/conditions.py first --data DIRECTORY --price
    python benchmarks/conditions.py noise --data DIRECTORY --only "50 %"

DIRECTORY holds ``train/``, with the tables of ``POOLS`` and, for answers in another language, documents in Icelandic.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from condition_tables import (
    NOISE,
    shown,
    shown_against_full,
    shown_alike,
    shown_draws,
    shown_price,
    shown_proxies,
)
from corruption import KINDS, SUBTLE, corrupt
from evidence import HELDOUT, rows_of
from numpy.typing import NDArray

from learnable.commands import load
from learnable.commands.experiment import Experiment
from learnable.commands.inputs import loaded_in
from learnable.commands.method_scores import MethodScores, score_methods
from learnable.commands.network import Network
from learnable.data import load_pool
from learnable.data.decontamination import EvaluationIndex, EvaluationRow
from learnable.evaluators import evaluations_of
from learnable.experiments import Arm, Method, arms_of, parse_methods
from learnable.experiments.run import ArmRun
from learnable.runs.identity import fingerprint
from learnable.runs.records import Outcome
from learnable.scorers.learnability import rank_among_lengths
from learnable.settings import Aim, Loading, Reading, Reference, Tuning, WarmUp
from learnable.types import Example, Rendered

POOLS = (("dolly_15k", "alpaca_46k"), ("gpteacher_10k", "t0_p3_sample"), ("alpaca_46k", "gsm8k_train"))
"""Tables of the three pools; what is decided on the first is confirmed on the others. Held-out rows are of their first."""
TRUSTED, FOREIGN = 60, "tell_wmt21_docs_en-is_dev.jsonl"
COARSE = KINDS[1:]
EASY = ("loss@lowest=true", "conditions:LengthMatchedLoss")
FIRST = (
    "learnability",
    "length_matched@rows=trimmed",
    "length_matched@folds=2",
    *EASY,
)
REFERENCES = (
    "learnability",
    "length_matched",
    "length_matched@folds=2",
    "length_matched@rows=trimmed",
    "length_matched@rows=trimmed,rounds=2",
    "length_matched@rows={trusted}",
)
LENGTHS = (
    "learnability",
    "length_matched",
    "soft_learnability",
    "text_learnability",
    "without_first_token",
    "baseline_corrected",
    "lower_bound",
    "learnability@per_source=proportional",
)
PROXIES = (
    "learnability",
    "learnability@fraction=0.5",
    "learnability@fraction=0.25",
    "learnability@epochs=0.5",
    "loss@lowest=true",
)
BUDGETS = ("learnability", "length_matched")


@dataclass(frozen=True, kw_only=True)
class LengthMatchedLoss:
    """Rank of the lowest base loss among answers of about one length, in (0, 1]: what is easy for its length."""

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "response_tokens")
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,); NaN where the loss is not defined."""
        easy = -frame["loss_before"].cast(pl.Float64).to_numpy()
        return rank_among_lengths(
            np.where(np.isfinite(easy), easy, np.nan), frame["response_tokens"], bins=10
        )


def index_of(rows: Iterable[Example]) -> EvaluationIndex:
    """Return what tells whether another row shares text with one of these."""
    return EvaluationIndex(
        EvaluationRow(each.id, [each.messages[-2].content], [turn.content for turn in each.messages[-2:]])
        for each in rows
    )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A pool of some rows, half of each of two tables, a share of them corrupted; ``draw`` draws another one."""

    tables: tuple[str, ...] = POOLS[0]
    count: int = 600
    corrupted: float = 0.5
    kinds: tuple[str, ...] = COARSE
    draw: int = 0

    def write(self, data: Path, folder: Path) -> dict[str, Path]:
        """Write the pool, held-out rows of its first and last table, which share no text with it, and trusted ones of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [data / "train" / f"{name}.parquet" for name in self.tables]
        share = self.count // len(paths)
        first = rows_of(paths[0], seed=0)
        heldout, trusted = first[share : share + HELDOUT], first[share + HELDOUT :][:TRUSTED]
        aside = {each.id for each in (*heldout, *trusted)}
        asked = index_of(heldout)
        drawn = []
        for path in paths:
            rest = (each for each in rows_of(path, seed=self.draw) if each.id not in aside)
            drawn.append(list(islice((each for each in rest if asked.why(each.messages) is None), share)))
        mixed = [each for group in zip(*drawn, strict=True) for each in group]
        pooled = index_of(mixed)
        others = (each for each in rows_of(paths[-1], seed=self.draw)[share:] if each.id not in aside)
        second = list(islice((each for each in others if pooled.why(each.messages) is None), HELDOUT))
        rows = corrupt(
            [(each.messages[-2].content, each.messages[-1].content) for each in mixed],
            clean=round(self.count * (1 - self.corrupted)),
            seed=self.draw,
            kinds=self.kinds,
            foreign=foreign_texts(data) if SUBTLE[-1] in self.kinds else (),
        )
        source = {
            each.messages[-1].content: name
            for name, some in zip(self.tables, drawn, strict=True)
            for each in some
        }
        for row in rows:
            row["source"] = source[row["output"]] if row["kind"] == KINDS[0] else row["kind"]
        found = {"pool": folder / "pool.jsonl"}
        found["pool"].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for name, some in (("heldout", heldout), ("trusted", trusted), ("second", second)):
            found[name] = folder / f"{name}.jsonl"
            pairs = [
                {"instruction": each.messages[-2].content, "output": each.messages[-1].content}
                for each in some
            ]
            found[name].write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        return found


def foreign_texts(data: Path) -> list[str]:
    """Return the Icelandic documents behind the line that announces them."""
    lines = (data / "train" / FOREIGN).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["response"].partition("\n")[2].strip() for line in lines]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What stands in one table: arms by some methods on a share of the tokens of a pool.

    ``beside`` rows of a table are trained on by every arm beside what is chosen, and held-out rows of it are asked too.
    ``as_long`` trains every arm for as many steps as the whole pool takes.
    """

    title: str
    rows: Rows
    methods: tuple[str, ...]
    share: float = 0.15
    counted: tuple[str, ...] = ("tokens", "response_tokens")
    beside: tuple[str, int] | None = None
    as_long: bool = False


def _subtle(data: Path) -> tuple[str, ...]:
    """Return the subtle kinds; without another language where no text of one is at hand."""
    return SUBTLE if (data / "train" / FOREIGN).is_file() else SUBTLE[:-1]


def noise_tables(count: int, data: Path) -> Iterator[Table]:
    """Yield a table for each share of corrupted rows, once with plain mistakes and once with subtle ones."""
    yield Table(title="0 % noise", rows=Rows(count=count, corrupted=0.0), methods=FIRST)
    for name, kinds in (("coarse", COARSE), ("subtle", _subtle(data))):
        for percent in (15, 30, 50, 70):
            rows = Rows(count=count, corrupted=percent / 100, kinds=kinds)
            yield Table(title=f"{percent} % {name} noise", rows=rows, methods=FIRST)


def pool_tables(count: int, methods: tuple[str, ...], *, draws: int) -> Iterator[Table]:
    """Yield a table for each draw of the first pool, and one for each of the others."""
    for number, tables in enumerate(POOLS, start=1):
        for draw in range(draws if number == 1 else 1):
            title = f"pool {number} ({' and '.join(tables)}), draw {draw}"
            yield Table(title=title, rows=Rows(tables=tables, count=count, draw=draw), methods=methods)


def alpaca_tables(count: int, *, mixed: bool) -> Iterator[Table]:
    """Yield a table for each budget of a clean pool; or one, whose arms all train on rows of GSM8K too."""
    usual: dict[str, Any] = {
        "rows": Rows(tables=("alpaca_46k",), count=count, corrupted=0.0),
        "methods": (*BUDGETS, "full"),
    }
    if mixed:
        title, beside = "16.7 % of Alpaca, and GSM8K whole", ("gsm8k_train", count // 4)
        yield Table(title=title, share=0.167, counted=("tokens",), beside=beside, **usual)
        return
    for as_long in (False, True):
        for share in (0.015, 0.06, 0.167, 0.5):
            title = (
                f"{100 * share:g} % of Alpaca, {'as many steps as the full pool' if as_long else 'one epoch'}"
            )
            yield Table(title=title, share=share, counted=("tokens",), as_long=as_long, **usual)


def tables_of(condition: str, *, data: Path, count: int | None) -> list[Table]:
    """Return the tables of a condition; ``count`` is the size of the pools, where it is not the usual one."""
    small, large = count or 600, count or 2_000
    made: dict[str, Callable[[], Iterable[Table]]] = {
        "first": lambda: [Table(title="50 % coarse noise", rows=Rows(count=small), methods=FIRST)],
        "noise": lambda: noise_tables(small, data),
        "budget": lambda: alpaca_tables(large, mixed=False),
        "mixture": lambda: alpaca_tables(large, mixed=True),
        "reference": lambda: pool_tables(small, REFERENCES, draws=3),
        "length": lambda: pool_tables(small, LENGTHS, draws=1),
        "proxy": lambda: [
            Table(title="proxies", rows=Rows(count=small), methods=PROXIES, counted=("tokens",))
        ],
    }
    return list(made[condition]())


def alike(ids: Sequence[str], strata: pl.DataFrame, *, seed: int) -> list[str]:
    """Return as many ids drawn at random from each stratum as were chosen of it; ``strata`` has ``id`` and what makes one."""
    rng, chosen, drawn = np.random.default_rng(seed), set(ids), list[str]()
    for part in strata.partition_by(strata.columns[1:]):
        names = part["id"].sort().to_list()
        drawn += rng.choice(names, size=len(chosen & set(names)), replace=False).tolist()
    return drawn


CONDITIONS = ("first", "noise", "budget", "mixture", "reference", "length", "proxy")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A table whose rows are written and read: what its arms see, and what they are asked."""

    table: Table
    network: Network
    seeds: int
    folder: Path
    paths: dict[str, Path]
    beside: tuple[Rendered, ...]
    explained: tuple[str, ...] = ()
    asked: tuple[str, ...] = ("heldout", "beside")

    @classmethod
    def of(cls, table: Table, network: Network, options: argparse.Namespace) -> "Trial":
        """Write the rows of a table."""
        from learnable.models.rendering import Renderer

        folder = options.output / "data" / fingerprint(table.rows)[:16]
        paths, beside = table.rows.write(options.data, folder), tuple[Rendered, ...]()
        if table.beside is not None:
            source, count = table.beside
            examples = rows_of(options.data / "train" / f"{source}.parquet", seed=0)[: count + HELDOUT]
            beside = tuple(Renderer.of(network.ref).render(examples[:count], max_length=network.longest))
            asked = [
                {"instruction": e.messages[-2].content, "output": e.messages[-1].content}
                for e in examples[count:]
            ]
            paths["beside"] = folder / f"heldout-{source}.jsonl"
            paths["beside"].write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
        return cls(
            table=table,
            network=network,
            seeds=options.seeds,
            folder=options.output,
            paths=paths,
            beside=beside,
            explained=tuple(options.explain),
            asked=("heldout", "beside", *["second"] * options.second),
        )

    @property
    def methods(self) -> list[Method]:
        """The methods of the table, with the untuned model and a random draw."""
        written = [name.replace("{trusted}", str(self.paths["trusted"])) for name in self.table.methods]
        return parse_methods(written, reference=Reference())

    def rendered(self) -> list[Rendered]:
        """Return the rows of the pool as the model sees them."""
        from learnable.models.rendering import Renderer

        loaded = self.loaded()
        rows = loaded_in(loaded).rows
        return rows.rendered(Renderer.of(self.network.ref), max_length=self.network.longest)

    def akin(self, data: Path) -> set[str]:
        """Return the ids of the rows whose question is of the first table, as those of the held-out rows are."""
        of = rows_of(data / "train" / f"{self.table.rows.tables[0]}.parquet", seed=self.table.rows.draw)
        questions = {each.messages[-2].content for each in of}
        pool = load_pool(self.loaded().folder).iter_examples()
        return {each.id for each in pool if each.messages[-2].content in questions}

    def loaded(self) -> Outcome:
        """Load the pool, once."""
        return load(
            [str(self.paths["pool"])],
            reading=Reading(source_column="source"),
            output=str(self.folder / "pool-{fingerprint}"),
        )

    def run(self, counted: str) -> tuple[ArmRun, MethodScores, list[Arm]]:
        """Score, choose a share of what is counted, train and ask; all is kept in the store."""
        asked = [f"heldout:{path}" for name, path in self.paths.items() if name in self.asked]
        loaded, rendered = self.loaded(), self.rendered()
        experiment = Experiment(
            network=self.network,
            tuning=Tuning(),
            seeds=self.seeds,
            confidence=0.95,
            store=self.folder / "store",
            loaded=loaded_in(loaded),
            evaluations=evaluations_of(asked),
        )
        scored = score_methods(
            self.methods,
            load_pool(loaded.folder).examples.select("id"),
            experiment=experiment,
            target=None,
            aim=Aim(),
            warmup=WarmUp(),
            alone_tokens=0,
            vectors="none",
        )
        arms = self.arms(scored, rendered, counted)
        ran, _ = experiment.run(arms, baseline="random", costs=scored.costs)
        return ran, scored, arms

    def arms(self, scored: MethodScores, rendered: Sequence[Rendered], counted: str) -> list[Arm]:
        """Return the arms of all methods, each with as many steps as a draw of this share of the rows has batches."""
        frames = {
            label: frame.with_columns(tokens=pl.col(counted).cast(pl.Int64))
            for label, frame in scored.frames.items()
        }
        seen, share, tuning = replace(scored, frames=frames), self.table.share, Tuning()
        budget = round(share * int(scored.lengths[counted].sum()))
        arms = arms_of(
            self.methods,
            seen.select,
            {each.id: each for each in rendered},
            base=self.network.ref,
            tuning=tuning,
            budgets=[budget],
            seeds=self.seeds,
        )
        arms += self._explaining(arms, scored.lengths, {each.id: each for each in rendered})
        chosen = [len(arm.ids) for arm in arms if arm.budget_tokens]
        steps = min(max(1, round(share * len(rendered) / tuning.batch_size)), *chosen)
        whole = len(rendered) / tuning.batch_size
        return [self._arm(arm, steps, whole) for arm in arms]

    def _explaining(
        self, arms: Sequence[Arm], lengths: pl.DataFrame, rendered: dict[str, Rendered]
    ) -> list[Arm]:
        """Return arms of rows that are drawn alike in length, or in length and noise, to what some methods chose."""
        place = (pl.col("response_tokens").rank("ordinal") - 1) * 10 // pl.len()
        noisy = pl.col("source").is_in(list(NOISE))
        found = []
        for words, strata in (
            ("length", [place.alias("length")]),
            ("length and noise", [place.alias("length"), noisy]),
        ):
            for arm in arms:
                if arm.label in self.explained:
                    ids = alike(arm.ids, lengths.select("id", *strata), seed=arm.seed)
                    stages = (tuple(rendered[each] for each in ids),)
                    found.append(replace(arm, label=f"{arm.label}, drawn alike in {words}", stages=stages))
        return found

    def _arm(self, arm: Arm, steps: int, whole: float) -> Arm:
        """Return an arm with its steps, and with the rows that all train on beside the chosen ones."""
        if not arm.stages:
            return arm
        beside = round(len(self.beside) / arm.tuning.batch_size)
        of = steps if arm.budget_tokens else None if not beside else round(whole)
        tuning = replace(arm.tuning, steps=None if of is None else of + beside)
        if self.table.as_long and arm.budget_tokens:
            tuning = replace(tuning, epochs=max(1, round(whole / steps)))
        return replace(arm, stages=((*arm.stages[0], *self.beside),), tuning=tuning)


def main() -> None:
    """Run a condition and print its tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("condition", choices=CONDITIONS)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="starter")
    parser.add_argument(
        "--rows", type=int, help="size of the pools, to try the script or on a faster machine"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="tables with this in their title")
    parser.add_argument("--methods", nargs="+", help="of the methods of the tables, these alone")
    parser.add_argument(
        "--counted",
        nargs="+",
        choices=("tokens", "response_tokens"),
        default=("tokens", "response_tokens"),
        help="what arms have as much of",
    )
    parser.add_argument(
        "--explain",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="also train on rows drawn at random, as long, and as long and as noisy, as these methods choose",
    )
    parser.add_argument("--second", action="store_true", help="also ask held-out rows of the second table")
    parser.add_argument("--price", action="store_true", help="say what each table takes, and run nothing")
    parser.add_argument("--output", type=Path, default=Path("runs/conditions"))
    options = parser.parse_args()
    network = Network.of(options.model, Loading(), max_length=None, dry_run=False)
    tables = [
        replace(
            table,
            counted=tuple(each for each in table.counted if each in options.counted),
            methods=tuple(each for each in table.methods if each in (options.methods or table.methods)),
        )
        for table in tables_of(options.condition, data=options.data, count=options.rows)
    ]
    trials = [Trial.of(table, network, options) for table in tables if options.only in table.title]
    if options.price:
        print("\n".join(shown_price(trials)))
        return
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, model {options.model}, {options.seeds} seeds\n"
    )
    results = dict[str, list[pl.DataFrame]]()
    for trial in trials:
        for counted in trial.table.counted:
            ran, scored, arms = trial.run(counted)
            what = f"{trial.table.title}, equal {counted.replace('_', ' ')}"
            akin = trial.akin(options.data)
            print("\n".join(shown(what, trial.methods, ran, scored, arms, akin)), flush=True)
            if "full" in trial.table.methods:
                print("\n".join(shown_against_full(ran)), flush=True)
            if options.explain:
                print("\n".join(shown_alike(options.explain, ran)), flush=True)
            results.setdefault(counted, []).append(ran.frames["results"])
            if options.condition == "proxy":
                print("\n".join(shown_proxies(trial.methods, ran, scored, arms)), flush=True)
    draws = [trial.table.rows.draw for trial in trials]
    if len(set(draws)) > 1:
        for counted, frames in results.items():
            same = [
                frame
                for frame, trial in zip(frames, trials, strict=True)
                if trial.table.rows.tables == POOLS[0]
            ]
            print(
                "\n".join(shown_draws(f"over draws of pool 1, equal {counted.replace('_', ' ')}", same)),
                flush=True,
            )


if __name__ == "__main__":
    main()
