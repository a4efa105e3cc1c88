"""How near an example is to the rows of a target."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray


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

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return float32 (n,) from ``similarities``, a list of one cosine for each row of the target."""
        return largest(frame["similarities"])
