"""How far a model that has not seen a pair prefers its chosen answer: what pairs are chosen by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import polars as pl

from learnable.commands.experiment import Experiment
from learnable.deferred import training
from learnable.experiments import SelectionCost
from learnable.experiments.preferences import RenderedPair
from learnable.measures import lengths
from learnable.objects.passes import Passes
from learnable.objects.training import ReferenceTraining
from learnable.runs.step import run
from learnable.runs.store import Store
from learnable.settings import Reference

FOLDS = 2


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """How far each pair's chosen answer is preferred, in ``nats`` above the reference, by pair; None where nobody asks.

    ``cost`` is that of choosing by them, ``tokens`` what was computed in this run.
    """

    nats: Mapping[str, float] | None = None
    cost: SelectionCost = field(default_factory=SelectionCost)
    tokens: int = 0


def gaps_of(pairs: Sequence[RenderedPair], nll: pl.DataFrame, *, loss: str, experiment: Experiment) -> Gaps:
    """Train on each half of a pool of pairs, and measure the other half; ``nll`` has ``reference_nll`` by ``id``."""
    network, store, loaded = experiment.network, experiment.store, experiment.data
    taught = ReferenceTraining(
        name=network.ref.name,
        ref=network.ref,
        rows=loaded.rows,
        reference=Reference(**asdict(experiment.tuning), folds=FOLDS),
        longest=network.longest,
        loss=loss,
        store=store,
    )
    step = taught.step({"pool": loaded.step.identity, "base": network.identity})
    trained = run(step, store / "reference-{fingerprint}")
    passes = Passes(
        network.ref,
        training.read_reference(trained.folder),
        max_length=network.longest,
        store=Store(store),
        load=network.open,
    )
    answers = list({answer.id: answer for pair in pairs for answer in pair.answers}.values())
    frame = lengths(answers)
    after = passes.columns("reference", ["loss_after"], answers, frame)["loss_after"]
    gain = frame.select("id", nll=after * frame["response_tokens"]).join(nll, on="id")
    gains = dict(gain.select("id", pl.col("reference_nll") - pl.col("nll")).iter_rows())
    cost = SelectionCost(
        reference_tokens=trained.cost.tokens,
        reference_s=trained.cost.seconds,
        score_tokens=int(frame["tokens"].sum()),
        score_s=float("nan"),
    )
    return Gaps(
        nats={pair.id: gains[pair.chosen.id] - gains[pair.rejected.id] for pair in pairs},
        cost=cost,
        tokens=trained.cost.tokens * trained.ran + passes.tokens,
    )
