"""Instruction-following difficulty: how little the instruction helps the model to say the answer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.scorers.perplexity import LARGEST


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
    max_score: ClassVar[float] = 1.0
    ratio: Literal["loss", "perplexity"] = "loss"
    floor: float = 1e-6

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``loss_before`` and ``loss_alone`` in nats per token."""
        given = frame["loss_before"].to_numpy().astype(np.float64)
        alone = frame["loss_alone"].to_numpy().astype(np.float64)
        defined = np.isfinite(given) & np.isfinite(alone)
        score = np.full(given.shape, np.nan)
        if self.ratio == "perplexity":
            score[defined] = np.exp(np.minimum(given[defined] - alone[defined], np.log(LARGEST)))
        else:
            defined &= alone > self.floor
            score[defined] = given[defined] / alone[defined]
        return score.astype(np.float32)
