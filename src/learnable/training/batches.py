"""Which examples a training step takes: batches of about one length, shuffled, and the pieces that are computed at once."""

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from learnable.models.lengths import LengthSwitches
from learnable.models.packing import Layout
from learnable.types import Rendered


class Member(NamedTuple):
    """One example of a batch: its ``row`` in the whole batch, and its ``position`` in the data."""

    row: int
    position: int
    example: Rendered


Batch = dict[str, list[Member]]
"""A step's examples under ``members``: the trainer of transformers wants a mapping."""


class LengthGroupedBatches(torch.utils.data.Sampler[list[int]]):
    """Batches of indices of about one length, shuffled.

    Little padding, and no drift of length over the epoch: examples are shuffled, sorted by length within windows of
    ``window`` batches, cut into batches, and all batches are shuffled. Those of a last batch that is not full are drawn
    from all lengths: it comes last, where the learning rate is lowest.

    Args:
        lengths: Tokens of each example, (n,).
        batch_size: Examples per batch; the last one may have fewer.
        steps: Make this many batches instead, their sizes as even as can be.
        seed: Seeds the order, together with the epoch.
        window: Batches per window.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        window: int = 16,
    ) -> None:
        count = len(lengths)
        self._lengths, self._seed, self._epoch = np.asarray(lengths), seed, 0
        if steps is None:
            self._borders = np.append(np.arange(0, count, batch_size), count)
        else:
            self._borders = np.round(np.linspace(0, count, min(steps, count) + 1)).astype(np.int64)
        self._full = len(self) - (steps is None and count % batch_size > 0)
        self._windows = np.unique([*self._borders[:-1:window], self._borders[self._full], count])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of another epoch."""
        self._epoch = epoch

    def tokens(self, steps: int) -> int:
        """Return how many tokens the first steps of a training take."""
        epochs, rest = divmod(steps, len(self))
        begun = copy(self)
        begun.set_epoch(epochs)
        taken = [position for batch in islice(begun, rest) for position in batch]
        return int(epochs * self._lengths.sum() + self._lengths[taken].sum())

    def __len__(self) -> int:
        return len(self._borders) - 1

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._lengths))
        windows = [order[start:end] for start, end in pairwise(self._windows)]
        grouped = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in windows])
        batches = [grouped[start:end].tolist() for start, end in pairwise(self._borders)]
        # A last batch that is not full stays last, so that the learning rate is lowest where the gradient is noisiest.
        batches[: self._full] = [batches[position] for position in rng.permutation(self._full)]
        return iter(batches)


class Batches(torch.utils.data.DataLoader[Batch]):
    """The planned batches; every process sees the whole batch, and takes its share of it later."""

    def __init__(self, rendered: Sequence[Rendered], planned: LengthGroupedBatches) -> None:
        self.planned = planned
        self.longest = max(len(example.ids) for example in rendered)
        # A DataLoader wants a Dataset by its annotation, and takes anything that has a length and items.
        super().__init__(list(enumerate(rendered)), batch_sampler=planned, collate_fn=batch_of)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of another epoch; the trainer calls it."""
        self.planned.set_epoch(epoch)


def batch_of(examples: Sequence[tuple[int, Rendered]]) -> Batch:
    """Return examples, each with its position in the data, as one batch."""
    return {"members": [Member(row, *each) for row, each in enumerate(examples)]}


def response_tokens(members: Sequence[Member]) -> int:
    """Return how many tokens the loss counts; the first of an example never does."""
    return sum(int(member.example.mask[1:].sum()) for member in members)


def share(members: Sequence[Member], *, process: int, processes: int) -> list[Member]:
    """Return what one of several processes takes of a batch: every so many rows, the longest first.

    A process that has no row left takes a piece of the last one in which no token counts: all processes of a step
    must compute something.
    """
    order = sorted(members, key=lambda member: -len(member.example.ids))
    if mine := order[process::processes]:
        return mine
    row, position, example = order[-1]
    idle = Rendered(
        id=example.id,
        ids=example.ids[:2],
        mask=np.zeros(len(example.ids[:2]), dtype=np.bool_),
        truncated=True,
    )
    return [Member(row, position, idle)]


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
    """Return what a pass over a piece takes.

    Args:
        piece: The rows.
        layout: Where their tokens lie.

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
