"""The highest scores after noise: a draw without replacement in which higher scores are likelier."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from learnable.errors import UsageError
from learnable.selectors.top_k import TopK
from learnable.types import Picks


@dataclass(frozen=True, kw_only=True)
class GumbelTopK:
    """A draw of k without replacement, each next one with probability proportional to ``exp(score / temperature)``.

    Args:
        temperature: In the unit of the score; 0 keeps the highest scores.

    Source: PDS (2410.07064) and DSIR (2302.03169) choose so; Kool et al. (1903.06059) show that the k highest of
    ``score / temperature`` plus Gumbel noise are such a draw.
    """

    needs_vectors: ClassVar[bool] = False
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(
                f"gumbel_top_k: the temperature must be at least 0, got {self.temperature}",
                hint="0 keeps the highest scores",
            )

    def __call__(
        self,
        scores: NDArray[np.float32],
        *,
        k: int,
        vectors: NDArray[np.float32] | None = None,
        groups: NDArray[np.int64] | None = None,
        rng: np.random.Generator,
    ) -> Picks:
        """Return the picks; their gain is the score with its noise, in the unit of the score."""
        noise = rng.gumbel(size=len(scores))
        return TopK()((scores + self.temperature * noise).astype(np.float32), k=k)
