"""A batch of a training: what each process takes of it, and the pieces that are computed at once."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from learnable.models.lengths import LengthSwitches
from learnable.models.packing import Layout
from learnable.types import Rendered


class Member(NamedTuple):
    """One answer of a batch: its ``row`` in the whole batch, and its ``position`` in the data."""

    row: int
    position: int
    example: Rendered


def batch_of(rows: Sequence[tuple[int, Rendered]]) -> list[Member]:
    """Return rows, each with its position in the data, as one batch."""
    return [Member(row, position, example) for row, (position, example) in enumerate(rows)]


def share(members: Sequence[Member], *, process: int, processes: int) -> list[Member]:
    """Return what one of several processes takes of a batch: every so many rows, the longest first.

    One that has no row left takes a piece of the last one in which no token counts: all must compute something.
    """
    order = sorted(members, key=lambda member: -len(member.example.ids))
    if mine := order[process::processes]:
        return mine
    last = order[-1]
    ids = last.example.ids[:2]
    idle = Rendered(id=last.example.id, ids=ids, mask=np.zeros(len(ids), dtype=np.bool_), truncated=True)
    return [last._replace(example=idle)]


def pieces(
    members: Sequence[Member], *, most_tokens: int, padding: bool, switches: LengthSwitches
) -> Iterator[list[Member]]:
    """Yield the rows of a batch, which begins with the longest, in pieces of at most so many tokens.

    A row that is longer is a piece of its own. With ``padding`` every row counts as long as the longest of its piece.
    All rows of a piece are on one side of the lengths at which the network switches.
    """
    piece: list[Member] = []
    tokens = 0
    for member in members:
        longest, length = len((piece or [member])[0].example.ids), len(member.example.ids)
        own = longest if padding else length
        if piece and (tokens + own > most_tokens or switches.kind(length) != switches.kind(longest)):
            yield piece
            piece, tokens = [], 0
            own = length
        piece.append(member)
        tokens += own
    if piece:
        yield piece


def inputs_of(piece: Sequence[Member], layout: Layout) -> dict[str, Any]:
    """Return what a pass over a piece takes, whose tokens lie as ``layout`` says.

    Returns:
        The ``layout``; ``input_ids`` and ``position_ids`` int64 (B, T); and for each of the P response tokens, int64
        (P,): ``predicting``, the place of the token before it among the flattened ids; ``targets``; ``rows``, the row
        of its example in the whole batch.
    """
    examples = [member.example for member in piece]
    before = [np.flatnonzero(example.mask[1:]) for example in examples]
    predicting = [places[each] for places, each in zip(layout.places, before, strict=True)]
    targets = [example.ids[each + 1] for example, each in zip(examples, before, strict=True)]
    rows = np.repeat([member.row for member in piece], [len(each) for each in before])
    return {
        "layout": layout,
        "input_ids": layout.ids,
        "position_ids": layout.positions,
        "predicting": torch.from_numpy(np.concatenate(predicting).astype(np.int64)),
        "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        "rows": torch.from_numpy(rows.astype(np.int64)),
    }
