"""Learnability: the share of its loss that fine-tuning takes from an example."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.scorers.loss import numbers

_BOTH = ("loss_before", "loss_after")
_WITHOUT_END = (*_BOTH, "response_tokens", "end_tokens", "end_nll_before", "end_nll_after")


@dataclass(frozen=True, kw_only=True)
class Learnability:
    """The share of its loss that fine-tuning takes from an example: ``1 - L_ref / L_base``.

    1: the reference knows the answer by heart; 0: fine-tuning changed nothing; below 0: it made the example worse.
    The token count cancels, so sums and means per token give the same score.

    Args:
        power: Power of ``L_base`` that the fall is divided by: 1 is the paper's form, 0 the raw difference, and what
            lies between is a softer normalization (ours).
        floor: Base loss in nats per token at or under which the score is undefined (NaN): there is nothing to learn,
            and the ratio is noise.
        end_of_turn: Whether the tokens that end a turn count. A model that learns to stop makes them nearly free, in
            every example alike; of short answers that can be half of the fall (``end_of_turn_share``).

    Source: LoBaSS (2310.13008 v1), DavIR (v2), final normalized form. The papers state no guard for a base loss
    of 0; ours is ``floor``.
    """

    needs: ClassVar[tuple[str, ...]] = _BOTH
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True
    power: float = 1.0
    floor: float = 1e-6
    end_of_turn: bool = True

    def __post_init__(self) -> None:
        if not self.end_of_turn:
            object.__setattr__(self, "needs", _WITHOUT_END)

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from the columns ``loss_before`` and ``loss_after`` in nats per token.

        Without the end of turn also from ``response_tokens``, ``end_tokens``, and their ``end_nll_before`` and
        ``end_nll_after`` in nats.
        """
        before, after = (self._loss(frame, when) for when in ("before", "after"))
        usable = (before > self.floor) & np.isfinite(before) & np.isfinite(after)
        score = np.full(before.shape, np.nan)
        score[usable] = (before[usable] - after[usable]) / before[usable] ** self.power
        return score.astype(np.float32)

    def _loss(self, frame: pl.DataFrame, when: str) -> NDArray[np.float64]:
        """Return the loss of the tokens that count in nats per token, (n,)."""
        loss = numbers(frame, f"loss_{when}")
        if self.end_of_turn:
            return loss
        counted, ends = numbers(frame, "response_tokens"), numbers(frame, "end_tokens")
        nll = loss * counted - numbers(frame, f"end_nll_{when}")
        rest = np.where(counted > ends, counted - ends, np.nan)
        return np.where(np.isfinite(nll), nll, np.nan) / rest


END_OF_TURN_SHARE = 0.25
"""Share of the fall of the loss that is learning to stop, above which it is said."""


def end_of_turn_share(frame: pl.DataFrame) -> float | None:
    """Return which share of the whole fall of the loss is that of the tokens that end a turn, of rows that have both.

    It is the sum of the falls of the ends over that of the answers, in nats; None where nothing is known, or the loss
    does not fall as a whole.
    """
    fall = (numbers(frame, "loss_before") - numbers(frame, "loss_after")) * numbers(frame, "response_tokens")
    ends = numbers(frame, "end_nll_before") - numbers(frame, "end_nll_after")
    known = np.isfinite(fall) & np.isfinite(ends)
    whole = float(fall[known].sum())
    return float(ends[known].sum()) / whole if whole > 0 else None


@dataclass(frozen=True, kw_only=True)
class TextLearnability(Learnability):
    """Learnability of the text of an answer: the tokens that end a turn are left out.

    Undefined (NaN) for an answer of nothing else.

    Source: ours, a variant to compare with; see ``end_of_turn`` of ``Learnability``.
    """

    needs: ClassVar[tuple[str, ...]] = _WITHOUT_END
    end_of_turn: bool = False


@dataclass(frozen=True, kw_only=True)
class SoftLearnability(Learnability):
    """``(L_base - L_ref) / sqrt(L_base)``: half way between learnability and the raw difference.

    Source: ours, a variant to compare with; see ``power`` of ``Learnability``.
    """

    power: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far fine-tuning lowers the loss: ``L_base - L_ref`` in nats per token.

    Ranks nearly like the highest base loss, which is what the normalization of learnability repairs; shown beside it
    for comparison.

    Source: LoBaSS (2310.13008) before normalization, "RHO-LM" in DavIR. Whether the papers sum or average over
    tokens is not known; this is the mean.
    """

    needs: ClassVar[tuple[str, ...]] = _BOTH
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from the columns ``loss_before`` and ``loss_after`` in nats per token."""
        difference = (frame["loss_before"].cast(pl.Float64) - frame["loss_after"].cast(pl.Float64)).to_numpy()
        return np.where(np.isfinite(difference), difference, np.nan).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class LengthMatched:
    """Rank of the learnability among examples of about the same response length, in (0, 1].

    The examples are cut into bins of equal size by response length (equal lengths never part); the score is the
    average rank within the bin over the bin's size. A selection by it has the pool's distribution of lengths.

    Args:
        bins: How many bins.
        floor: Passed on to ``Learnability``.

    Source: ours. Learnability favours short factual answers (METHODS.md); this is the variant to compare with.
    """

    needs: ClassVar[tuple[str, ...]] = (*_BOTH, "response_tokens")
    higher_is_better: ClassVar[bool] = True
    bins: int = 10
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UsageError(f"length_matched needs at least 1 bin, got {self.bins}")

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,); NaN where the learnability or the length is undefined."""
        score = Learnability(floor=self.floor)(frame)
        return rank_among_lengths(score, frame["response_tokens"], bins=self.bins)


def rank_among_lengths(
    scores: NDArray[np.floating[Any]], lengths: pl.Series, *, bins: int
) -> NDArray[np.float32]:
    """Return the rank of each score (n,) among answers of about its length, in (0, 1], float32; NaN of no score.

    The ``bins`` are of equal size; equal lengths are in one.
    """
    measured = pl.DataFrame({"score": scores, "length": lengths.cast(pl.Float64)}).fill_nan(None)
    defined = pl.all_horizontal(pl.all().is_not_null())
    scored = measured.with_columns(pl.when(defined).then(pl.all()))
    # Whole numbers: in floating point, 29 / 100 * 100 falls into bin 28.
    position = pl.col("length").rank("max").cast(pl.Int64) - 1
    binned = scored.with_columns(bin=position * bins // pl.col("length").count())
    rank = pl.col("score").rank("average").over("bin") / pl.col("score").count().over("bin")
    return binned.select(rank=rank.fill_null(float("nan")))["rank"].to_numpy().astype(np.float32)
