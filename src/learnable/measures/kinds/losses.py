"""The nll of the response tokens in nats: of each, of all together, and of those that end a turn."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.measures.kind import MeasureKind
from learnable.types import Awaited, Rendered


def token_nll(network: Any, rendered: Sequence[Rendered], layout: Any) -> Awaited:
    """Begin to compute the nll of each response token, float32 (R,) for an example of R response tokens."""
    from learnable.models.losses import batch_token_nll

    return batch_token_nll(network, rendered, layout)


def end_of_turn(example: Rendered, end_ids: Collection[int]) -> NDArray[np.bool_]:
    """Return which of the R response tokens of an example end a turn, bool (R,): the last of an answer, where it is one.

    An answer that was cut off ends with none of ``end_ids``, see ``Renderer.end_ids``.
    """
    counted = np.flatnonzero(example.mask)
    ends: NDArray[np.bool_] = np.append(np.diff(counted) > 1, True)[: len(counted)]
    for place in np.flatnonzero(ends):
        ends[place] = int(example.ids[counted[place]]) in end_ids
    return ends


def _sum(losses: NDArray[np.float32]) -> float:
    """Return a sum as the loss engine adds up."""
    return float(np.cumsum(losses, dtype=np.float64)[-1])


def _end_nll(example: Rendered, losses: NDArray[np.float32], end_ids: Collection[int]) -> float | None:
    return _sum(np.where(end_of_turn(example, end_ids), losses, 0)) if end_ids else None


def _float32(values: pl.Series, _: pl.DataFrame | None = None) -> pl.Series:
    return values.fill_null(float("nan")).cast(pl.Float32)


NLL = MeasureKind(
    name="nll",
    stored={"nll": pl.Float64},
    launch=token_nll,
    value=lambda _, losses, __: _sum(losses),
    columns={
        "loss_before": "base",
        "loss_after": "reference",
        "loss_alone": "alone",
        "loss_null": "null",
        "loss_target": "target",
    },
    column=lambda nll, frame: _float32(nll / frame["response_tokens"]),
)
END_NLL = MeasureKind(
    name="end_nll",
    stored={"end_nll": pl.Float64},
    launch=token_nll,
    value=_end_nll,
    columns={"end_nll_before": "base", "end_nll_after": "reference"},
    column=_float32,
)
TOKEN_NLL = MeasureKind(
    name="token_nll",
    stored={"token_nll": pl.List(pl.Float32)},
    launch=token_nll,
    columns={"token_losses_before": "base", "token_losses_alone": "alone", "token_losses_after": "reference"},
)
