"""Does the place of an example in the order of a training show in its loss afterwards? Slopes within examples."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError

BINS = 10
FEWEST = 5
"""Examples below which there is no interval."""


@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """How the loss after training changes with the place in an epoch.

    Args:
        slope: Nats per token for going from the epoch's beginning to its end; with its interval ``low`` to ``high``, NaN
            with fewer than ``FEWEST`` examples.
        p: Of a slope at least as large where the orders' names are exchanged within each example, two-sided.
        examples: With a loss in every order.
        orders: Trainings.
        pairing: How many times as many examples a slope across examples would take: the variance of losses over that
            within examples.
    """

    slope: float
    low: float
    high: float
    p: float
    examples: int
    orders: int
    pairing: float


def imbalance(
    places: NDArray[np.float64],
    losses: NDArray[np.float64],
    *,
    confidence: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> Imbalance:
    """Return the slope of the loss after training on the place in an epoch, within examples.

    ``b = sum (x_is - x_i.)(y_is - y_i.) / sum (x_is - x_i.)^2`` over examples i and orders s: an example's difficulty
    cancels, and so does what makes the model of one order better, as all orders hold all places.

    The interval allows for what the losses of one example have in common, and what examples of one batch have: the
    variance is clustered by example and by batch.

    Args:
        places: x, the batch of each example over the number of batches, in (0, 1], (S, n); examples of one place are of
            one batch.
        losses: y, per token in nats, (S, n); examples without a loss in some order are left out.
        confidence: Of the interval.
        draws: Exchanges for ``p``, whose smallest value is 1 / (draws + 1).
        seed: Of the exchanges.

    Raises:
        UsageError: If the shapes differ, there are fewer than two orders, or no example changes its place.

    Source: the figure is that of 2410.03743 (place in the first epoch against the loss after training); its statistic is
        ours. Clusters: Cameron, Gelbach and Miller (2011).
    """
    if places.shape != losses.shape or len(places) < 2:
        raise UsageError(
            f"places {places.shape} and losses {losses.shape} (orders, examples) of at least two orders are needed"
        )
    defined = np.isfinite(losses).all(axis=0)
    x, y = places[:, defined], losses[:, defined]
    within_x, within_y = x - x.mean(axis=0), y - y.mean(axis=0)
    spread = float((within_x**2).sum())
    if not spread:
        raise UsageError(
            "no example has another place in another order", hint="train with another --order-seed"
        )
    slope = float((within_x * within_y).sum()) / spread
    scores = within_x * (within_y - slope * within_x)  # (S, n)
    count = scores.shape[1]
    # Batches of different orders are different clusters: no place is above 1.
    _, cluster = np.unique(x + 2 * np.arange(len(x))[:, None], return_inverse=True)
    by_batch = np.bincount(cluster.ravel(), scores.ravel())
    by_example = float((scores.sum(axis=0) ** 2).sum())
    # Taking an example's mean away took a share of what its batch has in common.
    whole = (len(x) / (len(x) - 1)) ** 2
    shared = whole * (float((by_batch**2).sum()) - float((scores**2).sum()))
    error = ((by_example + max(shared, 0.0)) * count / max(count - 1, 1)) ** 0.5 / spread
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error if count >= FEWEST else float("nan")
    rng, drawn = np.random.default_rng(seed), np.empty(draws)
    for number in range(draws):
        drawn[number] = (within_x * rng.permuted(within_y, axis=0)).sum() / spread
    p = (1 + int((np.abs(drawn) >= abs(slope) * (1 - 1e-9)).sum())) / (draws + 1)
    residual = float((within_y**2).mean()) * len(x) / (len(x) - 1)
    return Imbalance(
        slope=slope,
        low=slope - half,
        high=slope + half,
        p=p,
        examples=count,
        orders=len(x),
        pairing=float(y.var()) / residual if residual else float("nan"),
    )


def binned(
    places: NDArray[np.float64], losses: NDArray[np.float64], *, confidence: float = 0.95
) -> pl.DataFrame:
    """Return the loss less the example's mean over the other orders, in ten bins of the place.

    Columns ``place`` (mean), ``loss`` with ``low`` and ``high``, and ``count``; the arguments are those of ``imbalance``.
    """
    defined = np.isfinite(losses).all(axis=0)
    beside = (losses - losses.mean(axis=0)) * len(losses) / (len(losses) - 1)
    x, y = places[:, defined].ravel(), beside[:, defined].ravel()
    # An end of a bin belongs to it: the place of the first of ten batches is 0.1.
    bins = np.clip(np.ceil(x * BINS - 1e-9).astype(np.int64) - 1, 0, BINS - 1)
    frame = (
        pl.DataFrame({"bin": bins, "place": x, "loss": y})
        .group_by("bin")
        .agg(pl.col("place").mean(), pl.col("loss").mean(), spread=pl.col("loss").std(), count=pl.len())
    )
    half = NormalDist().inv_cdf((1 + confidence) / 2) * pl.col("spread") / pl.col("count").sqrt()
    found = frame.sort("bin").with_columns(low=pl.col("loss") - half, high=pl.col("loss") + half)
    return found.select("place", "loss", "low", "high", "count")


def slopes_of(frame: pl.DataFrame, *, confidence: float = 0.95) -> dict[str, Imbalance]:
    """Return the slope for the place in the ``first`` epoch, and in the ``last`` where that is another one.

    ``frame`` has ``order``, ``id``, ``first``, ``last`` (places) and ``loss``, a line for each order and example.
    """
    several = not frame["first"].equals(frame["last"], null_equal=True)
    return {
        which: imbalance(*arrays_of(frame, which), confidence=confidence)
        for which in ("first", "last")[: 1 + several]
    }


def arrays_of(frame: pl.DataFrame, which: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places and losses, (S, n) each, of a frame as ``slopes_of`` takes it."""
    parts = frame.sort("order", "id").partition_by("order", maintain_order=True)
    places, losses = (np.stack([part[name].to_numpy() for part in parts]) for name in (which, "loss"))
    return places.astype(np.float64), losses.astype(np.float64)
