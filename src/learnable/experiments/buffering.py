"""Whether a buffer of diverse examples buffers the gradients of a task: how far they agree alone, and in a mix."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError, did_you_mean
from learnable.types import GradientSum

RATIOS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 260.0)
"""Examples of the buffer for each example of the task; the last is that of DELIA's authors."""
COLUMNS = ("set", "ratio", "quantity", "estimate", "value", "error")


def buffering(
    sums: Mapping[str, GradientSum],
    *,
    task: str = "task",
    buffer: str = "buffer",
    ratios: Sequence[float] = RATIOS,
) -> pl.DataFrame:
    """Return how long and how much alike the gradients of a task, a buffer, and their mixes are.

    An example of a mix of ratio r is one of the task with probability 1 / (1 + r). With mean gradients t and b, that
    of the mix is m = (t + r b) / (1 + r), and its mean length of gradients is mixed likewise. The quantities:

    - ``mean_length``: the mean length of gradients;
    - ``length_of_mean``: |m|, the length of the mean gradient, which is what a step follows;
    - ``coherence``: the second over the first: 1 where all examples pull in one direction, 0 where they cancel;
    - ``cosine_to_task``: the cosine of m and t, which is the share of |m| along t; for the buffer alone, that of b and t;
    - ``along_task``: m.t / |t|^2, what a step of the mix still does along t, relative to the task alone. A buffer that
      has nothing to do with the task (b.t = 0) leaves 1 / (1 + r); below that, it pulls against the task's direction.

    Each is estimated twice. ``plain`` puts in the means of the examples at hand; their noise makes |t|^2 and |b|^2 too
    long (n gradients without any common direction have a coherence of about 1 / sqrt(n), not 0) and cosines too small.
    ``debiased`` estimates |t|^2 by the mean dot product of two different examples: (|sum of g|^2 - sum of |g|^2) /
    (n (n - 1)). Below 0 by chance it is not cut off: length and coherence are then minus the root of its size, to be
    read as 0, and what divides by it is undefined there and unsteady near it. A debiased cosine may exceed 1.

    Args:
        sums: Gradients by name of the set, of models and parameters that are the same; no example is in both sets.
        task: Name of the task's.
        buffer: Name of the buffer's.
        ratios: Examples of the buffer for each of the task.

    Returns:
        One row for each set, ratio, quantity and estimate. ``set`` is "task" (ratio 0), "mix" or "buffer" (ratio
        infinite); ``value`` is NaN where it is undefined; ``error`` is its standard error (jackknife: leaving out one
        part of one set at a time), NaN where a set has one part or what is left does not define the value.
        ``mean_length`` has no debiased row: a mean has no bias.

    Raises:
        UsageError: If a set is not there, or a ratio is not above 0 and finite.

    Source: ours. DELIA (arXiv 2408.10841) says that a buffer moves biased features towards ideal ones, and shows no
        gradients. The mean dot product of different examples is the U-statistic of |E g|^2.
    """
    for name in (task, buffer):
        if name not in sums:
            raise UsageError(f"there are no gradients of {name!r}", hint=did_you_mean(name, sums))
    if bad := [ratio for ratio in ratios if not (math.isfinite(ratio) and ratio > 0)]:
        raise UsageError(
            f"ratios must be above 0 and finite, got {bad[0]}", hint="task and buffer alone are added"
        )
    all_ratios = [0.0, *ratios, math.inf]
    names = ["task", *["mix"] * len(ratios), "buffer"]
    share = np.array([1.0 if math.isinf(ratio) else ratio / (1 + ratio) for ratio in all_ratios])
    parts = len(sums[task].products[task])
    rows = []
    for estimate in ("plain", "debiased"):
        moments = _moments(sums[task], sums[buffer], names=(task, buffer), debiased=estimate == "debiased")
        for quantity, values in _quantities(moments, share).items():
            if (quantity, estimate) != ("mean_length", "debiased"):
                errors = _errors(values, parts)
                found = zip(names, all_ratios, values[0].tolist(), errors.tolist(), strict=True)
                rows += [
                    (name, ratio, quantity, estimate, value, error) for name, ratio, value, error in found
                ]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


@np.errstate(divide="ignore", invalid="ignore")
def _moments(
    one: GradientSum, other: GradientSum, *, names: tuple[str, str], debiased: bool
) -> list[NDArray[np.float64]]:
    """Return |t|^2, |b|^2, t.b and the two mean lengths, each (1 + p + q,): of all, then without each part of either set."""
    p, q = one.products[names[1]].shape
    kept_task = np.vstack([np.ones((1, p)), 1 - np.eye(p), np.ones((q, p))])  # (1 + p + q, p)
    kept_buffer = np.vstack([np.ones((1 + p, q)), 1 - np.eye(q)])  # (1 + p + q, q)
    counts, squares, lengths = [], [], []
    for gradients, name, kept in zip((one, other), names, (kept_task, kept_buffer), strict=True):
        count, total, squared = (
            kept @ np.bincount(gradients.part, weights=gradients.lengths**power, minlength=kept.shape[1])
            for power in (0, 1, 2)
        )
        whole = np.einsum("rp,pq,rq->r", kept, gradients.products[name], kept)
        mean = (whole - squared) / (count * (count - 1)) if debiased else whole / count**2
        counts.append(count)
        squares.append(np.where(count > debiased, mean, np.nan))
        lengths.append(total / count)
    product = np.einsum("rp,pq,rq->r", kept_task, one.products[names[1]], kept_buffer)
    return [*squares, product / (counts[0] * counts[1]), *lengths]


@np.errstate(divide="ignore", invalid="ignore")
def _quantities(
    moments: Sequence[NDArray[np.float64]], share: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return each quantity, (replicates, ratios), where ``share`` of the mix is the buffer's."""
    task, buffer, product, task_length, buffer_length = (values[:, None] for values in moments)
    rest = 1 - share

    def mixed(*terms: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
        # What has no weight does not count, also where it is undefined.
        parts = [np.where(weight == 0, 0.0, weight * value) for weight, value in terms]
        return sum(parts, start=np.zeros((len(task), len(share))))

    squared = mixed((rest**2, task), (2 * rest * share, product), (share**2, buffer))
    along = mixed((rest, task), (share, product))
    length = np.sign(squared) * np.sqrt(np.abs(squared))
    mean_length = mixed((rest, task_length), (share, buffer_length))
    return {
        "mean_length": mean_length,
        "length_of_mean": length,
        "coherence": np.where(mean_length > 0, length / mean_length, np.nan),
        "cosine_to_task": np.where((task > 0) & (squared > 0), along / np.sqrt(task * squared), np.nan),
        "along_task": np.where(task > 0, along / task, np.nan),
    }


def _errors(values: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    """Return the delete-a-group jackknife's standard errors, (ratios,), of two independent sets, the first of so many parts."""
    variance = np.zeros(values.shape[1])
    for left_out in np.split(values[1:], [parts]):
        spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
        variance += spread * (len(left_out) - 1) / len(left_out)
    return np.asarray(np.sqrt(variance))
