"""Checks of what models measured: losses before and after cross-fitted training, with and without the question."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.checks.check import Check, Checked, Checks, Suspicion, between
from learnable.scorers.loss import numbers
from learnable.scorers.v_information import PVI

FEWEST = 20
"""Rows of a kind below which nothing is far from it."""
BIN = 50
"""Rows of about a length that are compared, at least, where a source has as many; at most ``BINS`` lengths."""
BINS = 10
FAR, FURTHEST = 3.0, 8.0
"""Robust standard deviations from the median of its kind: where a loss is suspect, and where no more is needed."""
SMALLEST_SPREAD_NATS = 0.05
ROSE_NATS, ROSE_SHARE = 0.05, 0.02
"""Rise of the loss per token from which on it rose: both in nats and as a share of what it was."""
ENDS_RARELY_NATS = 4.6
"""Loss of the end of an answer from which on the model gives it less than one in a hundred."""
ENDS_NEVER_NATS = 13.8
"""The same for less than one in a million, which no habit of a source explains."""
HALVING_BITS = 5.0
"""Bits below 0 by which the doubt whether an answer fits its question halves."""


def far_above(values: NDArray[np.float64], kinds: pl.Series, lengths: pl.Series) -> NDArray[np.float64]:
    """Return how far each value stands above those of its kind, in robust standard deviations, (n,).

    The kind is the source, or another given one, in bins of equal size by length. The deviation is 1.4826 times the median absolute one. NaN where the
    value is not finite or fewer than ``FEWEST`` rows are of the kind.
    """
    frame = pl.DataFrame({"value": values, "kind": kinds, "length": lengths.cast(pl.Float64)}).fill_nan(None)
    there = pl.col("value").is_not_null()
    count = there.sum().over("kind")
    bins = (count // BIN).clip(1, BINS)
    place = pl.col("length").rank("max").over("kind").cast(pl.Int64) - 1
    frame = frame.with_columns(bin=(place * bins // pl.len().over("kind")))
    by = ("kind", "bin")
    middle = pl.col("value").median().over(by)
    off = (pl.col("value") - middle).abs().median().over(by)
    spread = (1.4826 * off).clip(lower_bound=SMALLEST_SPREAD_NATS)
    enough = there.sum().over(by) >= FEWEST
    far = pl.when(enough).then((pl.col("value") - middle) / spread)
    return frame.select(far=far.fill_null(float("nan")))["far"].to_numpy()


def _loss(checked: Checked) -> Iterator[Suspicion]:
    frame = checked.measured
    loss = numbers(frame, "loss_after")
    far = far_above(loss, frame["source"], frame["response_tokens"])
    for row in _where(far > FAR):
        strength = between(0.4, 0.95, (far[row] - FAR) / (FURTHEST - FAR))
        why = f"loss of {loss[row]:.2f} nats per token, {far[row]:.1f} deviations above its kind, after training on the others"
        yield Suspicion(row, strength, why)


def _rose(checked: Checked) -> Iterator[Suspicion]:
    before, after = (numbers(checked.measured, f"loss_{when}") for when in ("before", "after"))
    risen = after - before
    for row in _where((risen > ROSE_NATS) & (risen > ROSE_SHARE * before)):
        share = risen[row] / before[row]
        why = f"training on the others raised its loss from {before[row]:.2f} to {after[row]:.2f} nats per token"
        yield Suspicion(row, between(0.3, 0.7, share / 0.1), why)


def _unfit(checked: Checked) -> Iterator[Suspicion]:
    bits = PVI()(checked.measured).astype(np.float64)
    for row in _where(bits < 0):
        why = f"the answer does not fit its question: that makes it less likely, by {-bits[row]:.1f} bits"
        yield Suspicion(row, 1 - 0.5 * 2.0 ** (bits[row] / HALVING_BITS), why)


def _unended(checked: Checked) -> Iterator[Suspicion]:
    frame = checked.measured
    turns = np.array([max(row.turns, 1) for row in checked.rows], dtype=np.float64)
    ends = np.where(numbers(frame, "end_tokens") > 0, numbers(frame, "end_nll_after"), np.nan) / turns
    # Without a full stop the model expects one first, in every row alike: such rows are compared with each other.
    letter = pl.Series([row.last.rstrip()[-1:].isalnum() for row in checked.rows], dtype=pl.Boolean)
    kinds = pl.select(pl.format("{} {}", frame["source"], letter)).to_series()
    alone = pl.Series([0] * frame.height, dtype=pl.Int64)
    far = far_above(ends, kinds, alone)
    far = np.where(np.isnan(far), far_above(ends, frame["source"], alone), far)
    never = (ends > ENDS_NEVER_NATS) & (far_above(ends, frame["source"], alone) > FAR)
    for row in _where(((ends > ENDS_RARELY_NATS) & (far > FAR)) | never):
        end = " ".join(checked.rows[row].last.split())[-60:]
        why = f"no end is expected there (probability {np.exp(-ends[row]):.1g}): …{end}"
        by_kind = between(0.35, 0.95, (far[row] - FAR) / (FURTHEST - FAR))
        by_nats = between(0.35, 0.95, (ends[row] - ENDS_RARELY_NATS) / (ENDS_NEVER_NATS - ENDS_RARELY_NATS))
        yield Suspicion(row, max(min(by_kind, by_nats), 0.7 * never[row]), why)


def _where(found: NDArray[Any]) -> list[int]:
    return [int(row) for row in np.flatnonzero(found)]


MEASURED: Checks = {
    "unfit": Check(
        about="the answer does not fit its question: PVI below 0 bits",
        look=_unfit,
        needs=("loss_null", "loss_after"),
    ),
    "loss": Check(
        about=f"loss after cross-fitted training more than {FAR:g} robust deviations above rows of its source and length",
        look=_loss,
        needs=("loss_after",),
    ),
    "rose": Check(
        about=f"cross-fitted training raised the loss by more than {ROSE_NATS:g} nats per token and {ROSE_SHARE:.0%}",
        look=_rose,
        needs=("loss_before", "loss_after"),
    ),
    "unended": Check(
        about=f"the trained model gives the end of the answer less than 1 %, {FAR:g} robust deviations above rows of its source that end "
        "with a letter, or with a sign, as it does; or less than one in a million",
        look=_unended,
        needs=("end_nll_after",),
    ),
}
