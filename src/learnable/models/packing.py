"""One sequence for a whole batch: no padding, and what several examples begin with is computed once.

The examples of a batch lie one after the other, each with its own positions. A beginning that several of them share,
such as a system turn or the question of several answers, lies there once, before their own tokens. Only attention has
to know: a token sees the tokens of its own example before it, and those of its shared beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.types import Rendered

WORTH_SHARING = 8
"""Fewest tokens of a beginning that is computed once: under it, telling the rows apart costs more."""

WORTH_A_BRANCH = 8
"""Fewest tokens that a beginning within a beginning saves: a segment of its own takes time too."""

DEEPEST = 32
"""Most levels at which beginnings within beginnings are looked for."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """``count`` neighbours of ``length`` tokens each, from ``start`` on, that see ``before`` and then themselves.

    ``before`` is where the parts of the beginning that they share lie: the first position of each and how many tokens.
    """

    start: int
    length: int
    count: int
    before: tuple[tuple[int, int], ...] = ()

    @property
    def stop(self) -> int:
        """Where the last of them ends."""
        return self.start + self.length * self.count

    @property
    def shared(self) -> int:
        """Tokens of the beginning."""
        return sum(count for _, count in self.before)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Rows that share a beginning of ``shared`` tokens.

    ``rows`` go on from it each on its own; the rows of a branch of ``branches`` share more.
    """

    shared: int
    rows: list[int]
    branches: "list[Branch]"


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

    def grow(branch: Branch, above: NDArray[np.int64], before: tuple[tuple[int, int], ...]) -> None:
        """Put what a branch shares, its own rows, and the branches on it: what sees a segment lies behind it."""
        if more := branch.shared - len(above):
            ids = rendered[_a_row(branch)].ids
            shared = put(ids[len(above) : branch.shared], len(above))
            segments.append(Segments(start=int(shared[0]), length=more, count=1, before=before))
            above, before = np.concatenate([above, shared]), (*before, (int(shared[0]), more))
        longest_first = sorted(branch.rows, key=lambda row: (-len(rendered[row].ids), row))
        for length, alike in groupby(longest_first, key=lambda row: len(rendered[row].ids)):
            start, rows = at, list(alike)
            for row in rows:
                places[row] = np.concatenate([above, put(rendered[row].ids[len(above) :], len(above))])
            size = length - len(above)
            segments.append(Segments(start=start, length=size, count=len(rows), before=before))
        for each in branch.branches:
            grow(each, above, before)

    everything = list(range(len(rendered)))
    trunk = shared_beginnings([each.ids for each in rendered]) if share else None
    grow(trunk or Branch(shared=0, rows=everything, branches=[]), np.empty(0, dtype=np.int64), ())
    if filling := -at % multiple:
        segments.append(Segments(start=at, length=filling, count=1))
        put(np.zeros(filling, dtype=np.int32), 0)
    return Layout(
        ids=torch.from_numpy(np.concatenate(pieces).astype(np.int64))[None],
        positions=torch.from_numpy(np.concatenate(positions))[None],
        places=places,
        segments=tuple(segments),
    )


def shared_beginnings(ids: Sequence[NDArray[np.int32]]) -> Branch:
    """Return examples as a tree of what they begin with, so that few tokens are left to compute.

    Given are positions. Each example keeps at least one token of its own; the trunk shares nothing.
    """
    order = sorted(range(len(ids)), key=lambda row: ids[row].tobytes())
    common = [_common(ids[one], ids[other]) for one, other in pairwise(order)]
    trunk = Branch(shared=0, rows=[], branches=[])
    _grow(trunk, order, common, level=0, depth=DEEPEST)
    trunk.rows.sort()
    return trunk


def _a_row(branch: Branch) -> int:
    return branch.rows[0] if branch.rows else _a_row(branch.branches[0])


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Return how many tokens two examples begin with in common, leaving each at least one."""
    most = min(len(one), len(other)) - 1
    differ = np.flatnonzero(one[:most] != other[:most])
    count = int(differ[0]) if len(differ) else most
    return count if count >= WORTH_SHARING else 0


def _grow(branch: Branch, rows: list[int], common: list[int], *, level: int, depth: int) -> None:
    """Sort neighbours into rows and branches of a branch, where i and i + 1 share ``common[i]`` tokens.

    All of them share ``level`` tokens, those of the branch or more.
    """
    start = 0
    for end in [*(place + 1 for place, count in enumerate(common) if count <= level), len(rows)]:
        some, inner = rows[start:end], common[start : end - 1]
        start = end
        if len(some) == 1 or not depth:
            branch.rows.extend(some)
            continue
        least = min(inner)
        if (least - branch.shared) * (len(some) - 1) >= WORTH_A_BRANCH:
            further = Branch(shared=least, rows=[], branches=[])
            branch.branches.append(further)
            _grow(further, some, inner, level=least, depth=depth - 1)
        else:
            _grow(branch, some, inner, level=least, depth=depth - 1)


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
