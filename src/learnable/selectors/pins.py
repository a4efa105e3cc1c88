"""Rows that somebody pinned or banned: found in the pool by their ids."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.errors import SelectionError

Listed = Mapping[str, Sequence[str]]
"""Ids by the name of the file that lists them."""


def pinned_rows(ids: pl.Series, pins: Listed) -> NDArray[np.bool_]:
    """Return which rows are pinned, bool (n,).

    Args:
        ids: Of the pool, String (n,).
        pins: Ids to find in it.

    Raises:
        SelectionError: If an id is not in the pool.
    """
    pinned = np.zeros(len(ids), dtype=np.bool_)
    for name, listed in pins.items():
        pinned |= _found(ids, name, listed).to_numpy()
    return pinned


def reasons_banned(ids: pl.Series, bans: Listed, *, pinned: NDArray[np.bool_]) -> pl.Series:
    """Return for each row by which file it is banned, the first of several, String (n,), null where it is not.

    Raises:
        SelectionError: If an id is not in the pool, or pinned too.
    """
    reasons = pl.Series("why", [None], dtype=pl.String).new_from_index(0, len(ids))
    for name, listed in bans.items():
        banned = _found(ids, name, listed)
        if (both := ids.filter(banned & pl.Series(pinned))).len():
            raise SelectionError(
                f"{both.len():,} of the rows to ban in {name} are pinned too, such as {both[0]!r}",
                hint="take them out of one of the files",
            )
        reasons = reasons.zip_with(reasons.is_not_null() | ~banned, pl.Series([f"banned by {name}"]))
    return reasons


def _found(ids: pl.Series, name: str, listed: Sequence[str]) -> pl.Series:
    wanted = pl.Series("id", listed, dtype=pl.String).unique(maintain_order=True)
    found = ids.is_in(wanted.implode())
    missing = wanted.filter(~wanted.is_in(ids.filter(found).implode()))
    if missing.is_empty():
        return found
    first = missing[0]
    whole = ids.filter(ids.str.starts_with(first))
    hint = "take them out, or take ids of the table that is chosen from"
    if whole.len():
        hint = f"ids are given whole: {first!r} is the beginning of {whole[0]!r}"
    raise SelectionError(
        f"{missing.len():,} of {wanted.len():,} ids in {name} are not in the pool, such as {first!r}",
        hint=hint,
    )
