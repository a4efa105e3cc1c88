"""What all experiments share: one model, arms that begin from it, the step, and what is said and kept of the arms."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from learnable.commands.inputs import Loaded, pool_of
from learnable.commands.network import Network
from learnable.commands.options import MaxLength, ModelName
from learnable.deferred import training
from learnable.evaluators import Evaluation
from learnable.experiments import Arm, SelectionCost, arm_table, measured_by, run_arms
from learnable.experiments.run import ArmRun, Look
from learnable.runs.files import replacing, write_frame
from learnable.runs.identity import fingerprint, source_of
from learnable.runs.price import Price
from learnable.runs.records import Outcome
from learnable.runs.step import Finished, Step, run
from learnable.settings import Loading, Reading, Tuning


class _Repeated(Protocol):
    """Settings that say how often each arm is trained, and how wide intervals are."""

    @property
    def seeds(self) -> int: ...

    @property
    def confidence(self) -> float: ...


class _Trial(Protocol):
    """Arms whose inputs are found: what will be done in words, what it costs, at most, and the work: train, ask, write."""

    @property
    def says(self) -> list[str]: ...

    def price(self) -> Price: ...

    def work(self, folder: Path) -> Finished: ...


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Where and how arms are trained and asked: the options that all experiments have, which explain them.

    ``loaded`` is the pool that its arms see, and ``evaluations`` what all are asked, as far as they are known beforehand.
    """

    network: Network
    tuning: Tuning
    seeds: int
    confidence: float
    store: Path
    loaded: Loaded | None = None
    evaluations: Sequence[Evaluation] = ()

    @property
    def data(self) -> Loaded:
        """The pool, and what loaded it."""
        assert self.loaded is not None
        return self.loaded

    def step(
        self,
        verb: str,
        trial: _Trial,
        *,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
        links: Mapping[str, Path] | None = None,
    ) -> Step:
        """Return the step that does a trial.

        Its result depends on model, training, seeds and confidence, on the pool, on the items and evaluators of the
        evaluations, and on what is given beside them, see ``Step``.
        """
        pool, evaluations = {} if self.loaded is None else {"pool": self.loaded.step}, self.evaluations
        own = {
            "tuning": fingerprint(self.tuning),
            "seeds": self.seeds,
            "max_length": self.network.longest,
            "confidence": self.confidence,
        }
        return Step(
            verb=verb,
            parameters=own | dict(parameters),
            inputs={each.label: each.identity for each in evaluations}
            | {name: each.identity for name, each in pool.items()}
            | {"base": self.network.identity}
            | dict(inputs or {}),
            sources={each.label: source_of(each.evaluator) for each in evaluations} | dict(sources or {}),
            links={name: each.folder for name, each in pool.items()} | dict(links or {}),
            says=trial.says,
            awaits=self.network.awaits,
            plan=trial.price,
            work=trial.work,
        )

    def run(
        self,
        arms: Sequence[Arm],
        *,
        baseline: str,
        costs: Mapping[str, SelectionCost] | None = None,
        looks: Mapping[str, Look] | None = None,
    ) -> tuple[ArmRun, dict[str, Any]]:
        """Return arms, trained and graded (see ``run_arms``), and the facts of it that both commands tell."""
        ran = run_arms(
            arms,
            self.evaluations,
            max_length=self.network.longest,
            store=self.store,
            open_model=self.network.open,
            baseline=baseline,
            confidence=self.confidence,
            costs=costs,
            looks=looks,
        )
        facts = {
            "model": self.network.ref.name,
            "evaluations": [each.label for each in self.evaluations],
            "seeds": self.seeds,
            "confidence": self.confidence,
            "tuning": asdict(self.tuning) | {"learning_rate": self.tuning.peak_learning_rate},
        }
        return ran, facts

    def tables(
        self,
        results: pl.DataFrame,
        arms: pl.DataFrame,
        *,
        baseline: str,
        among: Mapping[str, tuple[str, Sequence[str]]] | None = None,
    ) -> dict[str, pl.DataFrame]:
        """Return the table of all arms beside the baseline.

        ``among`` are further tables by name, each of an arm and those that stand beside it; there is none of an arm that
        is not there, or alone.
        """
        table = partial(arm_table, evaluations=measured_by(self.evaluations), confidence=self.confidence)
        tables = {"table": table(results, arms, baseline=baseline)}
        for name, (beside, labels) in (among or {}).items():
            if beside in labels and len(labels) > 1:
                own = pl.col("arm").is_in(list(labels))
                found = table(results.filter(own), arms.filter(own), baseline=beside)
                tables[name] = found.select(
                    "evaluation", "arm", "value", "difference", "low", "high", "p", "verdict"
                )
        return tables


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a trial of a recipe begins with: a model, rows that were loaded, and the folder of what is never done twice."""

    network: Network
    loaded: Loaded
    store: Path

    def experiment(
        self, tuning: Tuning, how: _Repeated, evaluations: Sequence[Evaluation] = ()
    ) -> Experiment:
        """Return what is trained and asked of it."""
        return Experiment(
            **vars(self), tuning=tuning, seeds=how.seeds, confidence=how.confidence, evaluations=evaluations
        )


def tried(
    trial: Callable[..., Step],
    data: list[str],
    *,
    model: ModelName = "starter",
    loading: Loading = Loading(),
    max_length: MaxLength = None,
    store: str = "runs/store",
    dry_run: bool = False,
    output: str,
    **settings: Any,
) -> Outcome:
    """Do the ``trial`` of a recipe, with its own ``settings``, on a folder that `learnable load` wrote, or files."""
    network = Network.of(model, loading, max_length=max_length, dry_run=dry_run)
    begun = Begun(
        network=network, loaded=pool_of(data, Reading(), output, dry_run=dry_run), store=Path(store)
    )
    return run(trial(begun, **settings), output, dry_run=dry_run)


def items_said(evaluations: Sequence[Evaluation]) -> str:
    """Say how much each model is asked."""
    return f"{sum(len(each.examples) for each in evaluations):,} evaluation items for each model"


def selections(chosen: Iterable[tuple[str, int | None, int, Sequence[str]]]) -> pl.DataFrame:
    """Return a line for each id that an arm chose, by its label, budget in tokens and seed."""
    lines = [(*how, rank, example) for *how, ids in chosen for rank, example in enumerate(ids)]
    counts = dict.fromkeys(("budget_tokens", "seed", "rank"), pl.Int64)
    return pl.DataFrame(lines, schema={"arm": pl.String, **counts, "id": pl.String}, orient="row")


def write_frames(frames: Mapping[str, pl.DataFrame], folder: Path, *, arm: str = "arm") -> None:
    """Write each frame into a file of its name; ``arm`` is what an arm goes by in these files."""
    for name, frame in frames.items():
        write_frame(frame.rename({"arm": arm}, strict=False), folder / f"{name}.parquet")


def keep_model(arm: Arm, trained: Path, folder: Path) -> None:
    """Write the model of an arm whole, loadable by plain transformers."""
    if arm.tuning.method == "lora":
        training.save_whole(arm.base, trained, folder)
        return
    with replacing(folder) as part:
        shutil.copytree(trained, part, ignore=shutil.ignore_patterns("training.json"))
