"""Scores towards a target: what helps its rows, what is near them, and what speaks as they do."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.scorers.learnability import Difference, Learnability
from learnable.scorers.loss import numbers


@dataclass(frozen=True, kw_only=True)
class TargetLearnability:
    """The share of its loss that an example loses when the model is fine-tuned on the target: ``1 - L_target / L_base``.

    Above 0: what teaches the target also teaches this example. The reference is trained on the target's rows, a few
    epochs of them; no gradient of the pool is taken.

    Args:
        floor: As for ``Learnability``.

    Source: ours. LoBaSS's form (2310.13008) with the reference trained on the target instead of the pool; with the raw
    fall it is CoLoR-Filter's (2406.10670), which trains its second model on the target too, at pre-training scale.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_target")
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True
    floor: float = 1e-6

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` and ``loss_target`` in nats per token."""
        return Learnability(floor=self.floor)(_as_reference(frame))


@dataclass(frozen=True, kw_only=True)
class TargetDrop:
    """How far the loss of an example falls when the model is fine-tuned on the target: ``L_base - L_target``.

    In nats per token, not relative to where it stood.

    Source: CoLoR-Filter (2406.10670), at fine-tuning scale: its prior is the base model, its conditional one the model
    fine-tuned on the target. What differs: mean over response tokens.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_target")
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` and ``loss_target`` in nats per token."""
        return Difference()(_as_reference(frame))


def _as_reference(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("loss_before", loss_after="loss_target")


def largest(lists: pl.Series) -> NDArray[np.float32]:
    """Return the largest value of each list, float32 (n,); NaN where there is no list, or a value that is not finite."""
    rows = [np.empty(0) if row is None else row.to_numpy() for row in lists]
    return np.array(
        [row.max() if len(row) and np.isfinite(row).all() else np.nan for row in rows], dtype=np.float32
    )


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Largest cosine similarity of an example's vector to that of a row of the target, in [-1, 1].

    The vectors are means of the model's last hidden states over prompt and response, later tokens weighing more. The
    maximum alone may fill a budget with neighbours of one row of the target: ``--selector round_robin`` gives each
    row its turn, as the paper does.

    Source: RDS+ (2503.01807), which finds it above LESS and others at equal budgets.
    """

    needs: ClassVar[tuple[str, ...]] = ("similarities",)
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``similarities``, a list of one cosine for each row of the target."""
        return largest(frame["similarities"])


@dataclass(frozen=True, kw_only=True)
class DSIR:
    """Mean log-ratio of an example's n-grams, target over pool, in nats; no model is asked.

    Source: DSIR (2302.03169); what differs stands at ``measures.log_importance``. Its resampling is
    ``--selector gumbel_top_k``; with ``top_k`` the likeliest rows are kept.
    """

    needs: ClassVar[tuple[str, ...]] = ("log_importance",)
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,), the column ``log_importance``; NaN where it is not finite."""
        score = numbers(frame, "log_importance")
        return np.where(np.isfinite(score), score, np.nan).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class PDS:
    """What more of an example in a short training would take from the target's loss, in standard deviations of the pool.

    Values beyond three are cut to three.

    Source: PDS (2410.07064), its scores themselves, standardized and cut as its code does before it fits a model to
    them; settings and what differs stand at ``training.costate`` and ``Aim``.
    """

    needs: ClassVar[tuple[str, ...]] = ("worth",)
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) in [-3, 3] from the column ``worth``; NaN where it is not finite."""
        worth = numbers(frame, "worth")
        known = worth[np.isfinite(worth)]
        spread = float(known.std()) if len(known) else 0.0
        score = (worth - (known.mean() if len(known) else 0.0)) / (spread or 1.0)
        return np.where(np.isfinite(worth), np.clip(score, -3, 3), np.nan).astype(np.float32)
