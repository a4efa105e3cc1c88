"""Learnability: the share of its loss that fine-tuning takes from an example."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

_WITHOUT_END = (
    "loss_before",
    "loss_after",
    "response_tokens",
    "end_tokens",
    "end_nll_before",
    "end_nll_after",
)


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

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_after")
    higher_is_better: ClassVar[bool] = True
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
        loss = _numbers(frame, f"loss_{when}")
        if self.end_of_turn:
            return loss
        counted, ends = _numbers(frame, "response_tokens"), _numbers(frame, "end_tokens")
        nll = loss * counted - _numbers(frame, f"end_nll_{when}")
        rest = np.where(counted > ends, counted - ends, np.nan)
        return np.where(np.isfinite(nll), nll, np.nan) / rest


def _numbers(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    return frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


END_OF_TURN_SHARE = 0.25
"""Share of the fall of the loss that is learning to stop, above which it is said."""


def end_of_turn_share(frame: pl.DataFrame) -> float | None:
    """Return which share of the whole fall of the loss is that of the tokens that end a turn.

    Args:
        frame: ``loss_before`` and ``loss_after`` in nats per token, ``response_tokens``, ``end_nll_before`` and
            ``end_nll_after`` in nats; rows that lack one of them do not count.

    Returns:
        The sum of the falls of the ends over the sum of the falls of the answers; None where nothing is known, or the
        loss does not fall as a whole.
    """
    fall = (_numbers(frame, "loss_before") - _numbers(frame, "loss_after")) * _numbers(
        frame, "response_tokens"
    )
    ends = _numbers(frame, "end_nll_before") - _numbers(frame, "end_nll_after")
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
