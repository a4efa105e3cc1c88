"""One sequence for a whole batch: no padding, and what several examples begin with is computed once.

The examples of a batch lie one after the other, each with its own positions. A beginning that several of them share,
such as a system turn or the question of several answers, lies there once, before their own tokens. Only attention has
to know: a token sees the tokens of its own example before it, and those of its shared beginning.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, AttentionMaskInterface

from learnable.model.network import base_network
from learnable.types import Rendered

NAME = "learnable_packed"
WORTH_SHARING = 8
"""Fewest tokens of a beginning that is computed once: under it, telling the rows apart costs more."""

DEEPEST = 16
"""Most levels of beginnings within beginnings that are looked at."""

QUERIES_AT_ONCE = 64
"""Queries whose scores are computed at once on a CPU, which keeps them in its cache."""

FLASH_FROM = 1_024
"""Tokens of a float32 example from which torch's own kernel is the faster one on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """``count`` neighbours of ``length`` tokens each, from ``start`` on, that see ``before`` and then themselves.

    ``before`` is where the beginning that they share lies: its first position and how many tokens.
    """

    start: int
    length: int
    count: int
    before: tuple[int, int] = (0, 0)


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


def packed(rendered: Sequence[Rendered]) -> Layout:
    """Return a batch as one sequence, (1, N)."""
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

    for members, shared in shared_beginnings([example.ids for example in rendered]):
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
    return Layout(
        ids=torch.from_numpy(np.concatenate(pieces).astype(np.int64))[None],
        positions=torch.from_numpy(np.concatenate(positions))[None],
        places=places,
        segments=tuple(segments),
    )


def shared_beginnings(ids: Sequence[NDArray[np.int32]]) -> list[tuple[list[int], int]]:
    """Group examples by what they begin with, so that the fewest tokens are left to compute.

    Args:
        ids: Tokens of n examples.

    Returns:
        Groups of positions, and how many tokens at the beginning all of a group share; each example keeps at least
        one token of its own. Examples that share nothing are one group, with 0.
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
    """Return how many tokens are saved, and the groups, of neighbours in lexical order.

    ``common[i]`` is what rows i and i + 1 share; all of them share the least of these. Neighbours that share more
    form a group of their own where that saves more, and the others stay together under the least.
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


_layouts: list[Layout | None] = []
"""What attention follows, the innermost last; plain, not of a context: gradients are taken in threads of their own."""


@contextmanager
def attending(network: Any, layout: Layout) -> Iterator[None]:
    """Let the attention of a network follow a layout within the block, also where gradients are taken in it."""
    if layout.segments is None:
        yield
        return
    with _attention_of(network, layout, NAME):
        yield


@contextmanager
def by_itself(network: Any) -> Iterator[None]:
    """Within a block of ``attending``, let a pass over one token attend as plain attention would."""
    if not _layouts:
        yield
        return
    with _attention_of(network, None, "eager"):
        yield


@contextmanager
def _attention_of(network: Any, layout: Layout | None, name: str) -> Iterator[None]:
    inner = base_network(network)
    before = inner.config._attn_implementation
    _layouts.append(layout)
    inner.set_attn_implementation(name)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
        _layouts.pop()


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within segments; what transformers calls in place of its own attention.

    Args:
        module: The layer that asks.
        query: (1, H, N, d).
        key: (1, K, N, d); H is a multiple of K.
        value: (1, K, N, e).
        attention_mask: None: the layout says what is seen.
        scaling: Of the scores; 1 / sqrt(d) when not given.
        sliding_window: Most tokens a token sees, itself included; None or 0 where it sees all.
        others: What some models ask for, and is refused.

    Returns:
        (1, N, H, e), and None for the weights.

    Raises:
        NotImplementedError: If the model asks for more than plain causal attention.
    """
    layout = _layouts[-1] if _layouts else None
    unknown = [name for name, wanted in others.items() if name in UNSUPPORTED and wanted is not None]
    if layout is None or layout.segments is None or attention_mask is not None or unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask'}")
    _check_window(layout, sliding_window)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    found = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])  # (N, H, e)
    for part in layout.segments:
        end = part.start + part.length * part.count
        q, k, v = (_cut(states[0], part) for states in (query, key, value))
        if part.before[1]:
            first = part.before[0]
            k, v = (
                torch.cat(
                    [states[:, first : first + part.before[1]].expand(part.count, -1, -1, -1), own], dim=2
                )
                for states, own in ((key[0], k), (value[0], v))
            )
        seen = _causal(q, k, v, scale)  # (count, H, length, e)
        found[part.start : end] = seen.transpose(1, 2).reshape(end - part.start, *found.shape[1:])
    return found[None], None


UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")


def visible(*, local_size: int | None = None, use_vmap: bool = False, **_: Any) -> None:
    """Make no mask, as the layout says what is seen; what transformers calls in place of its own masks.

    Args:
        local_size: Most tokens a token sees, itself included: of a sliding window, or of a chunk.
        use_vmap: Whether the model has a mask of its own kind.

    Raises:
        NotImplementedError: If a token does not see all of its example before it.
    """
    layout = _layouts[-1] if _layouts else None
    if layout is None or use_vmap:
        raise NotImplementedError("attention with a mask of its own kind")
    _check_window(layout, local_size)


def _check_window(layout: Layout, window: int | None) -> None:
    if window and layout.longest > window:
        raise NotImplementedError(f"a token sees no more than {window:,} tokens in some layers")


def _cut(states: torch.Tensor, part: Segments) -> torch.Tensor:
    """Return the states of segments, (count, heads, length, d)."""
    heads, _, width = states.shape
    own = states[:, part.start : part.start + part.length * part.count]
    return own.reshape(heads, part.count, part.length, width).transpose(0, 1)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Return attention of the last T of S tokens to those up to themselves: q (n, H, T, d), k (n, K, S, d), v (n, K, S, e)."""
    (count, heads, length, width), seen, out = q.shape, k.shape[2], v.shape[-1]
    before = seen - length
    if q.device.type != "cpu" or (q.dtype == torch.float32 and length >= FLASH_FROM and not before):
        mask = torch.ones(length, seen, dtype=torch.bool, device=q.device).tril(before) if before else None
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=not before, scale=scale, enable_gqa=k.shape[1] != heads
        )
    groups = k.shape[1]
    shares = heads // groups
    grouped = (q * scale).reshape(count, groups, shares, length, width)
    transposed = k.transpose(-1, -2)
    found = torch.empty(count, groups, shares, length, out, dtype=q.dtype)
    later = torch.full((QUERIES_AT_ONCE, QUERIES_AT_ONCE), float("-inf"), dtype=q.dtype).triu(1)
    for start in range(0, length, QUERIES_AT_ONCE):
        end = min(length, start + QUERIES_AT_ONCE)
        rows = end - start
        some = grouped[:, :, :, start:end].reshape(count, groups, shares * rows, width)
        scores = torch.matmul(some, transposed[..., : before + end]).view(count, groups, shares, rows, -1)
        scores[..., before + start :] += later[:rows, :rows]
        weights = scores.softmax(dim=-1).view(count, groups, shares * rows, -1)
        found[:, :, :, start:end] = torch.matmul(weights, v[:, :, : before + end]).view(
            count, groups, shares, rows, out
        )
    return found.view(count, heads, length, out)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, visible)
