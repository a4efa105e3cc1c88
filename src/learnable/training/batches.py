"""Which examples a training step takes: batches of about one length, shuffled, and the pieces that are computed at once."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from learnable.types import Rendered

IGNORED = -100
"""Label of a token that does not count, as everywhere in transformers."""

Batch = dict[str, torch.Tensor]
"""``input_ids`` and ``labels`` int64 (n, T), padded on the right; int64 (n,) each: ``length`` in tokens, ``position`` in
the data, ``row`` in the whole batch."""


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
    """The planned batches as tensors; every process sees the whole batch, and takes its share of it later."""

    def __init__(self, rendered: Sequence[Rendered], planned: LengthGroupedBatches) -> None:
        self.planned = planned
        # A DataLoader wants a Dataset by its annotation, and takes anything that has a length and items.
        super().__init__(list(enumerate(rendered)), batch_sampler=planned, collate_fn=padded)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of another epoch; the trainer calls it."""
        self.planned.set_epoch(epoch)


def padded(members: Sequence[tuple[int, Rendered]]) -> Batch:
    """Return examples, each with its position in the data, as one batch."""
    longest = max(len(example.ids) for _, example in members)
    ids = np.zeros((len(members), longest), dtype=np.int64)
    labels = np.full((len(members), longest), IGNORED, dtype=np.int64)
    for row, (_, example) in enumerate(members):
        ids[row, : len(example.ids)] = example.ids
        labels[row, : len(example.ids)] = np.where(example.mask, example.ids, IGNORED)
    return {
        "input_ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "length": torch.tensor([len(example.ids) for _, example in members]),
        "position": torch.tensor([position for position, _ in members]),
        "row": torch.arange(len(members)),
    }


def share(batch: Batch, *, process: int, processes: int) -> Batch:
    """Return what one of several processes takes of a batch: every so many rows, the longest first.

    A process that has no row left takes a piece of the last one in which no token counts: all processes of a step
    must compute something.
    """
    order = torch.argsort(batch["length"], descending=True, stable=True)
    mine = order[process::processes]
    if len(mine):
        return {name: value[mine] for name, value in batch.items()}
    idle = {name: value[order[-1:]] for name, value in batch.items()}
    return idle | {
        "input_ids": idle["input_ids"][:, :2],
        "labels": torch.full_like(idle["labels"][:, :2], IGNORED),
        "length": torch.full_like(idle["length"], 2),
    }


def pieces(batch: Batch, *, most_tokens: int) -> Iterator[Batch]:
    """Yield the rows of a batch, which begins with the longest, in pieces of at most so many tokens, padding included.

    A row that is longer is a piece of its own. The rows of a piece are cut to the longest of them.
    """
    lengths = batch["length"].tolist()
    start = 0
    while start < len(lengths):
        end = start + max(1, most_tokens // lengths[start])
        piece = {name: value[start:end] for name, value in batch.items()}
        for name in ("input_ids", "labels"):
            piece[name] = piece[name][:, : lengths[start]]
        yield piece
        start = end
