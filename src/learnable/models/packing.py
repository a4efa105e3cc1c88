"""One sequence for a whole batch: no padding, and what several examples begin with is computed once.

The examples of a batch lie one after the other, each with its own positions. A beginning that several of them share,
such as a system turn or the question of several answers, lies there once, before their own tokens. Only attention has
to know: a token sees the tokens of its own example before it, and those of its shared beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.types import Rendered

WORTH_SHARING = 8
"""Fewest tokens of a beginning that is computed once: under it, telling the rows apart costs more."""

DEEPEST = 16
"""Most levels of beginnings within beginnings that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """``count`` neighbours of ``length`` tokens each, from ``start`` on, that see ``before`` and then themselves.

    ``before`` is where the beginning that they share lies: its first position and how many tokens.
    """

    start: int
    length: int
    count: int
    before: tuple[int, int] = (0, 0)

    @property
    def stop(self) -> int:
        """Where the last of them ends."""
        return self.start + self.length * self.count


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the tokens of a batch lie.

    ``ids`` and ``positions`` are int64 (B, T); ``places[i]`` holds, for each token of example i, where it lies in the
    flattened ids. ``segments`` are None for a padded batch.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    places: list[NDArray[np.int64]]
    segments: tuple[Segments, ...] | None

    @property
    def computed(self) -> int:
        """How many tokens a pass computes, padding included."""
        return self.ids.numel()

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(self.positions.max()) + 1


def padded(rendered: Sequence[Rendered]) -> Layout:
    """Return a batch with one example per row, padded on the right: attention is causal, so no mask is needed."""
    longest = max(len(example.ids) for example in rendered)
    ids = np.zeros((len(rendered), longest), dtype=np.int64)
    for row, example in enumerate(rendered):
        ids[row, : len(example.ids)] = example.ids
    places = [row * longest + np.arange(len(example.ids)) for row, example in enumerate(rendered)]
    positions = torch.arange(longest).expand(len(rendered), longest)
    return Layout(ids=torch.from_numpy(ids), positions=positions, places=places, segments=None)


def packed(rendered: Sequence[Rendered], *, share: bool = True, multiple: int = 1) -> Layout:
    """Return a batch as one sequence, (1, N).

    Args:
        rendered: n examples.
        share: Whether a beginning that several of them share is computed once.
        multiple: N is filled up to a multiple of this, with tokens that no example sees.
    """
    pieces: list[NDArray[np.int32]] = []
    positions: list[NDArray[np.int64]] = []
    places: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(rendered)
    segments: list[Segments] = []
    at = 0

    def put(ids: NDArray[np.int32], first: int) -> NDArray[np.int64]:
        nonlocal at
        pieces.append(ids)
        positions.append(np.arange(first, first + len(ids)))
        at += len(ids)
        return np.arange(at - len(ids), at)

    alone = [(list(range(len(rendered))), 0)]
    for members, shared in shared_beginnings([example.ids for example in rendered]) if share else alone:
        before = put(rendered[members[0]].ids[:shared], 0)
        if shared:
            segments.append(Segments(start=int(before[0]), length=shared, count=1))
        longest_first = sorted(members, key=lambda row: (-len(rendered[row].ids), row))
        for length, alike in groupby(longest_first, key=lambda row: len(rendered[row].ids)):
            start, rows = at, list(alike)
            for row in rows:
                places[row] = np.concatenate([before, put(rendered[row].ids[shared:], shared)])
            seen = (int(before[0]), shared) if shared else (0, 0)
            segments.append(Segments(start=start, length=length - shared, count=len(rows), before=seen))
    if filling := -at % multiple:
        segments.append(Segments(start=at, length=filling, count=1))
        put(np.zeros(filling, dtype=np.int32), 0)
    return Layout(
        ids=torch.from_numpy(np.concatenate(pieces).astype(np.int64))[None],
        positions=torch.from_numpy(np.concatenate(positions))[None],
        places=places,
        segments=tuple(segments),
    )


def shared_beginnings(ids: Sequence[NDArray[np.int32]]) -> list[tuple[list[int], int]]:
    """Group examples by what they begin with, so that the fewest tokens are left to compute.

    Given are positions, and how many tokens at the beginning all of a group share; each example keeps at least one token
    of its own. Examples that share nothing are one group, with 0.
    """
    order = sorted(range(len(ids)), key=lambda row: ids[row].tobytes())
    common = [_common(ids[one], ids[other]) for one, other in pairwise(order)]
    _, groups = _grouped(order, common, DEEPEST)
    alone = [row for rows, shared in groups if not shared for row in rows]
    together = [(rows, shared) for rows, shared in groups if shared]
    return [*together, (sorted(alone), 0)] if alone else together


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Return how many tokens two examples begin with in common, leaving each at least one."""
    most = min(len(one), len(other)) - 1
    differ = np.flatnonzero(one[:most] != other[:most])
    count = int(differ[0]) if len(differ) else most
    return count if count >= WORTH_SHARING else 0


def _grouped(rows: list[int], common: list[int], depth: int) -> tuple[int, list[tuple[list[int], int]]]:
    """Return how many tokens are saved, and the groups, of neighbours of which i and i + 1 share ``common[i]``.

    All share the least of these. Neighbours that share more form a group of their own where that saves more.
    """
    if len(rows) == 1:
        return 0, [(rows, 0)]
    least = min(common)
    if not depth:
        return (len(rows) - 1) * least, [(rows, least)]
    total, start = 0, 0
    groups: list[tuple[list[int], int]] = []
    rest: list[int] = []
    for end in [*(place + 1 for place, count in enumerate(common) if count == least), len(rows)]:
        saved, found = _grouped(rows[start:end], common[start : end - 1], depth - 1)
        if saved > (end - start) * least:
            total, groups = total + saved, groups + found
        else:
            rest += rows[start:end]
        start = end
    if rest:
        total += (len(rest) - 1) * least
        groups.append((rest, least if len(rest) > 1 else 0))
    return total, groups


def sent(values: NDArray[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return what is here on a device; to a GPU it travels while the CPU goes on."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Arriving:
    """A float32 tensor on its way from a device: the copy is asked for now, and waited for when it is wanted."""

    def __init__(self, values: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._here = values
        if values.device.type == "cuda":
            # Queued behind what computes it, and before the next batch: fetched late, it would wait for that too.
            self._here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._here.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def numpy(self) -> NDArray[np.float32]:
        """Return it, when it is here."""
        if self._event is not None:
            self._event.synchronize()
        array: NDArray[np.float32] = self._here.cpu().numpy()
        return array
