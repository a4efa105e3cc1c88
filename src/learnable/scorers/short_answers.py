"""Learnability where answers are short: without its sampling error, without what length predicts, without the first token.

A ratio over three tokens is noisy, so that short answers stand at both ends of a ranking.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.scorers.learnability import Learnability
from learnable.scorers.loss import numbers

_TOKENS = ("token_losses_before", "token_losses_after")
ROWS_PER_COEFFICIENT = 10
"""Fewest rows for each coefficient of the splines; a smaller pool gets straight lines."""


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """Learnability minus its standard error over tokens, ``S - errors * se``: a lower confidence bound.

    With ``b`` the base loss and ``a`` the reference loss of a token, ``S = sum(b - a) / sum(b)`` is a ratio of sums. What
    the ratio does not explain of a token is ``e = (b - a) - S b``, and ``se = sqrt(sum(e^2) + v) / sum(b)``. ``v`` is the
    variance of ``e`` in the pool, ``sum(e^2) / sum(tokens - 1)`` over all its answers: two tokens that happen to agree
    are not taken for certain. It depends on the pool.

    Args:
        errors: Standard errors that are taken off; 1 is a bound at 84 %, 1.64 one at 95 %.
        floor: Base loss in nats per token at or under which the score is undefined (NaN).

    Source: ours; the error of a ratio is that of survey sampling (Cochran, Sampling Techniques, chapter 6). Tokens are
    taken for independent, which they are not: the true error is larger.
    """

    needs: ClassVar[tuple[str, ...]] = _TOKENS
    higher_is_better: ClassVar[bool] = True
    errors: float = 1.0
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if self.errors < 0:
            raise UsageError(f"lower_bound: errors must be at least 0, got {self.errors}")

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from two columns of lists, nats per response token; NaN where either is missing."""
        learned, squares = np.full(frame.height, np.nan), np.full(frame.height, np.nan)
        sums, tokens = np.full(frame.height, np.nan), np.zeros(frame.height)
        for row, before, after in _losses(frame, floor=self.floor):
            sums[row], tokens[row] = before.sum(), len(before)
            learned[row] = (before - after).sum() / sums[row]
            squares[row] = np.square(before - after - learned[row] * before).sum()
        free = np.maximum(tokens - 1, 0).sum()
        if not free:  # nothing tells how tokens vary
            return np.full(frame.height, np.nan, dtype=np.float32)
        # Sorted: the order of the rows must not show in the last digits.
        variance = np.sort(squares[np.isfinite(squares)]).sum() / free
        bound: NDArray[np.float64] = learned - self.errors * np.sqrt(squares + variance) / sums
        return bound.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class WithoutFirstToken:
    """Learnability of an answer without its first token: ``1 - sum(a_2 ... a_T) / sum(b_2 ... b_T)``.

    A reference learns soon how answers begin, in all examples alike. Undefined (NaN) for an answer of one token.

    Args:
        floor: Loss of the other tokens, in nats per token, at or under which the score is undefined (NaN).

    Source: ours, a variant to compare with. Of several turns, only the first answer is without its first token.
    """

    needs: ClassVar[tuple[str, ...]] = _TOKENS
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True
    floor: float = 1e-6

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from two columns of lists, nats per response token; NaN where either is missing."""
        score = np.full(frame.height, np.nan, dtype=np.float32)
        for row, before, after in _losses(frame, floor=self.floor, first=1):
            score[row] = 1 - after.sum() / before.sum()
        return score


def _losses(
    frame: pl.DataFrame, *, floor: float, first: int = 0
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the place of each row with the losses of its tokens before and after, (T,), where a ratio of them is defined."""
    for row, lists in enumerate(zip(*(frame[name] for name in _TOKENS), strict=True)):
        if any(each is None for each in lists):
            continue
        before, after = (each.to_numpy().astype(np.float64) for each in lists)
        known = np.isfinite(before).all() and np.isfinite(after).all()
        before, after = before[first:], after[first:]
        if known and len(before) and before.mean() > floor:
            yield row, before, after


@dataclass(frozen=True, kw_only=True)
class BaselineCorrected:
    """Learnability minus what the length of the answer and its base loss predict: ``S - (c + f(length) + g(L_base))``.

    ``f`` and ``g`` are cubic splines over ranks in the pool, fitted by least squares; over straight lines where the pool
    has fewer than ten rows for each coefficient. A score of 0 is what answers of this length and loss have on average.
    It depends on the pool.

    Args:
        knots: Inner knots of each spline, evenly spaced.
        floor: Passed on to ``Learnability``.

    Source: ours; an additive model as of Hastie and Tibshirani (1986) with B-splines.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_after", "response_tokens")
    higher_is_better: ClassVar[bool] = True
    knots: int = 3
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if self.knots < 0:
            raise UsageError(f"baseline_corrected: knots must be at least 0, got {self.knots}")

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,); NaN where the learnability or the length is undefined."""
        learned = Learnability(floor=self.floor)(frame).astype(np.float64)
        given = [numbers(frame, name) for name in ("response_tokens", "loss_before")]
        defined = np.isfinite(learned) & np.isfinite(given[0])
        corrected = np.full(frame.height, np.nan)
        if defined.any():
            corrected[defined] = self._corrected(learned[defined], [each[defined] for each in given])
        return corrected.astype(np.float32)

    def _corrected(
        self, learned: NDArray[np.float64], given: list[NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        coefficients = 1 + len(given) * (self.knots + 3)
        smooth = len(learned) >= ROWS_PER_COEFFICIENT * coefficients
        parts = [_splines(ranks, self.knots) if smooth else ranks[:, None] for ranks in map(_ranks, given)]
        design = np.column_stack([np.ones(len(learned)), *parts])
        # Sorted: the order of the rows must not show in the last digits.
        order = np.lexsort((learned, *given))
        fit, *_ = np.linalg.lstsq(design[order], learned[order], rcond=None)
        predicted: NDArray[np.float64] = design @ fit
        return learned - predicted


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average rank of each value, (n,), in (0, 1)."""
    ranks: NDArray[np.float64] = pl.Series(values).rank("average").to_numpy()
    return (ranks - 0.5) / len(values)


def _splines(ranks: NDArray[np.float64], knots: int) -> NDArray[np.float64]:
    """Return cubic B-splines at some ranks, (n, knots + 3): without the first, which the constant stands for."""
    from scipy.interpolate import BSpline

    ends = np.linspace(0, 1, knots + 2)
    places = np.concatenate([np.zeros(3), ends, np.ones(3)])
    basis: NDArray[np.float64] = BSpline.design_matrix(ranks, places, 3).toarray()
    return basis[:, 1:]
