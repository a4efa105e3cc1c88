"""The length of the response."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Length:
    """Number of response tokens; needs no model pass.

    Source: "Long is more for alignment" (2402.04833) keeps the 1,000 longest answers; keep the shortest with
    ``--lowest``.
    """

    needs: ClassVar[tuple[str, ...]] = ("response_tokens",)
    higher_is_better: ClassVar[bool] = True

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,); NaN where there is no response token."""
        tokens = frame["response_tokens"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return np.where(tokens > 0, tokens, np.nan).astype(np.float32)
