"""Instruction-following difficulty: how little the instruction helps the model to say the answer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.scorers.loss import LARGEST, numbers


@dataclass(frozen=True, kw_only=True)
class IFD:
    """How little the instruction helps the model to say the answer: ``L(y | x) / L(y)``.

    Near 1: the instruction tells the model nothing about the answer, so there is much to learn. Above 1 the two do
    not belong together, and a selection leaves the example out (``max_score``).

    Args:
        ratio: ``loss`` divides mean losses; ``perplexity`` divides perplexities, ``exp(L(y | x) - L(y))``.
        floor: Loss alone in nats per token at or under which the ratio of losses is undefined (NaN).

    Source: Cherry LLM (2308.12032): the ratio of losses is in its code, the ratio of perplexities in the paper's
    follower Superfiltering (2402.00530), there with GPT-2. What differs: the answer alone stands behind the
    header of the model's chat template, in Cherry behind its ``### Response:``; the end of the answer counts (METHODS.md); the scorer is the user's own
    model as it is, without the warm-up on 1,000 clustered examples.
    """

    needs: ClassVar[tuple[str, ...]] = ("loss_before", "loss_alone")
    higher_is_better: ClassVar[bool] = True
    by_row: ClassVar[bool] = True
    max_score: ClassVar[float] = 1.0
    ratio: Literal["loss", "perplexity"] = "loss"
    floor: float = 1e-6

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` and ``loss_alone`` in nats per token."""
        given, alone = numbers(frame, "loss_before"), numbers(frame, "loss_alone")
        defined = np.isfinite(given) & np.isfinite(alone)
        score = np.full(given.shape, np.nan)
        if self.ratio == "perplexity":
            score[defined] = np.exp(np.minimum(given[defined] - alone[defined], np.log(LARGEST)))
        else:
            defined &= alone > self.floor
            score[defined] = given[defined] / alone[defined]
        return score.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class TopShareIFD:
    """``exp(mean of (l(t | x, y_<t) - l(t | y_<t)))`` over the informative tokens t of an answer.

    A token is informative when the instruction moves its loss, up or down, by more than it moves the other tokens of
    the pool: the ``share`` of all tokens with the largest changes. An answer without one scores 1. An answer that its
    instruction makes no likelier as a whole (IFD of 1 or more) scores 0, and so is chosen last.

    Args:
        share: Share of the pool's response tokens that count; with 1 it is the IFD of perplexities.

    Source: S-IFD of T-SHIRT (2506.01317), its first half; the averaging over noised embeddings is not done. The
    threshold over the whole pool and the 1 are those of its code, which leaves out what has an IFD of 1 or more.
    """

    needs: ClassVar[tuple[str, ...]] = ("token_losses_before", "token_losses_alone")
    higher_is_better: ClassVar[bool] = True
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"top_share_ifd: share must be above 0 and at most 1, got {self.share}")

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from two columns of lists, nats per response token; NaN where either is missing."""
        pairs = zip(frame["token_losses_before"], frame["token_losses_alone"], strict=True)
        changes = [_change(given, alone) for given, alone in pairs]
        pooled = [np.abs(change) for change in changes if change is not None]
        if not pooled:
            return np.full(frame.height, np.nan, dtype=np.float32)
        # Strictly above it, as in the source; all tokens, also the one that changes least, are above -1.
        limit = np.quantile(np.concatenate(pooled), 1 - self.share) if self.share < 1 else -1.0
        return np.array([_ratio(change, limit) for change in changes], dtype=np.float32)


def _change(given: pl.Series | None, alone: pl.Series | None) -> NDArray[np.float64] | None:
    if given is None or alone is None or not len(given):
        return None
    change = given.to_numpy().astype(np.float64) - alone.to_numpy().astype(np.float64)
    return change if np.isfinite(change).all() else None


def _ratio(change: NDArray[np.float64] | None, limit: float) -> float:
    if change is None:
        return float("nan")
    if change.mean() >= 0:
        return 0.0
    informative = change[np.abs(change) > limit]
    mean = informative.mean() if len(informative) else 0.0
    return float(np.exp(min(mean, np.log(LARGEST))))
