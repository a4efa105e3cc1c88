"""``learnable order``: trainings in different orders in, and whether the place of a row shows in its loss."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from learnable.commands.inputs import loaded_in
from learnable.commands.network import Network
from learnable.commands.options import DryRun, Flat, Output, StoreFolder
from learnable.deferred import training
from learnable.errors import UsageError
from learnable.experiments import Imbalance, slopes_of
from learnable.experiments.run import Place
from learnable.measures import nll_of
from learnable.objects.given import compared_with, finished
from learnable.runs.files import write_frame, write_text
from learnable.runs.records import Outcome, parameters_of
from learnable.runs.step import Finished, Step, run
from learnable.runs.store import Store
from learnable.settings import Loading, Reference, Tuning
from learnable.types import Rendered

ORDER = ("seed", "order_seed")
"""Settings in which trainings of different orders may differ."""


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """A training in one of several orders: the model that it came to, how it was trained, and its sampler if not the usual."""

    place: Place
    tuning: Tuning
    sampler: "Callable[[Sequence[tuple[Rendered, ...]], Tuning], training.Sampler] | None" = None


def order(
    models: list[str],
    *,
    loading: Annotated[Loading, Flat] = Loading(),
    confidence: float = 0.95,
    store: StoreFolder = "runs/store",
    dry_run: DryRun = False,
    output: Output = "order",
) -> Outcome:
    """Tell whether the place of a row in the first epoch shows in its loss after training, and write a page about it.

    The trainings differ in the order of their rows only. Each row is compared with itself in the other orders, so that its
    difficulty does not matter. With several epochs the same is told of the last one.

    Args:
        models: Two or more outputs of `learnable train` on one pool, each with another --order-seed.
        confidence: Of the intervals.
    """
    if len(models) < 2:
        raise UsageError(f"an order is compared with another: 2 or more trainings, got {len(models)}")
    trained = [finished(name, "train") for name in models]
    settings = [_settings(each) for each in trained]
    _check_alike(trained, settings)
    base = str(trained[0].facts["base"])
    longest = int(parameters_of(trained[0].folder)["max_length"])
    network = Network.of(base, loading, max_length=longest, dry_run=dry_run)
    known = loaded_in(finished(trained[0].links["pool"], "load")).rows
    examples = known.examples

    def work(folder: Path) -> Finished:
        from learnable.pages.imbalance import render_imbalance

        rendered = network.rendered(known)
        ordered = [
            Ordered(place=_place(name, network), tuning=tuning)
            for name, tuning in zip(models, settings, strict=True)
        ]
        frame, tokens = losses_by_order(network, rendered, ordered, store=Store(Path(store)))
        write_frame(frame, folder / "order.parquet")
        slopes = slopes_of(frame, confidence=confidence)
        shared = {
            name: value
            for name, value in asdict(settings[0]).items()
            if name not in ORDER and value is not None
        }
        page = render_imbalance(frame, model=base, settings=shared, confidence=confidence)
        write_text(folder / "report.html", page)
        return Finished(facts=slope_facts(slopes) | {"report": str(folder / "report.html")}, tokens=tokens)

    step = Step(
        verb="order",
        parameters={"confidence": confidence},
        inputs={f"model {number}": each.identity for number, each in enumerate(trained, start=1)},
        links={f"model {number}": each.folder for number, each in enumerate(trained, start=1)},
        says=[f"1 pass of {len(models)} models over {len(examples):,} examples"],
        awaits=network.awaits,
        plan=lambda: network.measuring(examples, passes=len(models)),
        work=work,
    )
    return run(step, output, dry_run=dry_run)


def losses_by_order(
    network: Network, rendered: Sequence[Rendered], trainings: Sequence[Ordered], *, store: Store
) -> tuple[pl.DataFrame, int]:
    """Return where each training met each row and the row's loss afterwards, and how many tokens were computed.

    Columns ``order``, ``id``, ``first`` and ``last`` (places in these epochs, in (0, 1]) and ``loss`` in nats per token. All
    began from ``network``.
    """
    # As a training takes them.
    taken = sorted((row for row in rendered if row.mask.any()), key=lambda row: row.id)
    examples, counts = [(row,) for row in taken], pl.Series([int(row.mask.sum()) for row in taken])
    frames, tokens = [], 0
    loaded: dict[Any, Any] = {}
    for number, each in enumerate(trainings):
        ref, adapter = each.place
        if ref not in loaded:
            loaded = {ref: network.open(ref)}
        model = loaded[ref]
        sampler = (each.sampler or training.samplers.length_grouped)(examples, each.tuning)
        first, last = training.samplers.places_of(sampler, len(taken), epochs=round(each.tuning.epochs))
        with model.adapter(adapter):
            label = f"losses after order {number + 1} of {len(trainings)}"
            nll, computed = nll_of(model, taken, max_length=network.longest, store=store, label=label)
            tokens += computed
        columns = {"id": nll["id"], "first": first, "last": last, "loss": nll["nll"] / counts}
        frames.append(pl.DataFrame(columns).select(pl.lit(number).alias("order"), pl.all()))
    return pl.concat(frames), tokens


def slope_facts(slopes: dict[str, Imbalance]) -> dict[str, str]:
    """Return slopes in words."""
    return {
        f"slope, {which} epoch": (
            f"{each.slope:+.4f} ({each.low:+.4f} to {each.high:+.4f}) nats per token and epoch, p {each.p:.2g}, "
            f"{each.examples:,} rows in {each.orders} orders"
        )
        for which, each in slopes.items()
    }


def _settings(trained: Outcome) -> Reference:
    """Return how a model was trained.

    Raises:
        UsageError: If that is not one training on all rows of its pool, in whole epochs.
    """
    names, parameters = {each.name for each in fields(Reference)}, parameters_of(trained.folder)
    if "max_length" not in parameters or {"tokens", "mixture"} & set(parameters):
        raise UsageError(
            f"{trained.folder} was not trained here on each row of its pool once an epoch: rows have no place in an order"
        )
    reference = Reference(**{name: value for name, value in parameters.items() if name in names})
    plain = (reference.folds, reference.fraction, reference.prompt) == (0, 1.0, "given")
    plain &= reference.rows == "all"
    if not plain or reference.epochs != int(reference.epochs):
        raise UsageError(
            f"{trained.folder} is not one model that saw all rows in whole epochs: folds {reference.folds}, fraction "
            f"{reference.fraction:g}, epochs {reference.epochs:g}, prompt {reference.prompt}, rows {reference.rows}",
            hint="train it with --folds 0, --fraction 1, all rows and whole --epochs",
        )
    return reference


def _check_alike(trained: Sequence[Outcome], settings: Sequence[Reference]) -> None:
    """Refuse trainings that differ in more than their order, or not in that."""
    first = parameters_of(trained[0].folder)
    for each in trained[1:]:
        other = parameters_of(each.folder)
        for name in sorted({*first, *other} - set(ORDER)):
            if first.get(name) != other.get(name):
                raise UsageError(
                    f"{trained[0].folder} and {each.folder} differ in more than their order: {name} was "
                    f"{first.get(name)!r} and {other.get(name)!r}"
                )
        for name in ("pool", "base"):
            if each.inputs[name] != trained[0].inputs[name]:
                raise UsageError(f"{trained[0].folder} and {each.folder} have not the same {name}")
    if len({each.seed_of_order for each in settings}) < len(settings):
        raise UsageError(
            "two trainings have the same order", hint="train each with another --order-seed, and one --seed"
        )


def _place(name: str, network: Network) -> Place:
    """Return the model that a training came to."""
    (part,) = compared_with(name, network.ref).models.parts
    if part.kind == "adapter":
        return network.ref, Path(part.name)
    return replace(network.ref, name=part.name), None
