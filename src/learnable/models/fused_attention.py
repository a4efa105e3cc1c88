"""Attention over a packed batch in one call a layer, for GPUs: flash attention of variable lengths, or FlexAttention.

Both let a token see the tokens of its own row before it and the beginning that its row shares with others. Where a
window is given, it sees the last tokens of these only. What the calls of all layers need is worked out once for a
batch, on the CPU, and sent to the GPU without waiting for it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from learnable.models.packing import Layout, Segments
from learnable.models.transfer import sent

BLOCK = 128
"""Tokens of a block of FlexAttention's mask: what its kernels take at once by default."""

NOBODY = -1
"""Number of the beginning of a row that shares none."""


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """The rows of a packed batch of N tokens, as kernels of variable lengths want them.

    ``queries`` and ``keys`` int32 (n + 1,): where each row begins among the queries and among the keys, and the end.
    ``order`` int64 (S,): the token that each key belongs to; None where the keys are the tokens as they lie.
    ``most_queries`` and ``most_keys``: of one row.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    order: torch.Tensor | None
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, segments: tuple[Segments, ...], device: torch.device) -> "PackedRows":
        """Return the rows of segments, on a device."""
        lengths = np.repeat([part.length for part in segments], [part.count for part in segments])
        before = np.repeat([part.before[1] for part in segments], [part.count for part in segments])
        order = None
        if before.any():
            order = sent(np.concatenate([_key_order(part) for part in segments]), device)
        return cls(
            queries=sent(_borders(lengths), device),
            keys=sent(_borders(lengths + before), device),
            order=order,
            most_queries=int(lengths.max()),
            most_keys=int((lengths + before).max()),
        )


def _borders(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _key_order(part: Segments) -> NDArray[np.int64]:
    first, shared = part.before
    own = np.arange(part.start, part.start + part.count * part.length).reshape(part.count, part.length)
    beginning = np.broadcast_to(np.arange(first, first + shared), (part.count, shared))
    return np.concatenate([beginning, own], axis=1).reshape(-1).astype(np.int64)


@cache
def _flash() -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return torch's flash attention of variable lengths, and what it must be told to let heads share keys."""
    from torch.nn.attention.varlen import varlen_attn

    named = inspect.signature(varlen_attn).parameters
    return varlen_attn, {"enable_gqa": True} if "enable_gqa" in named else {}


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    rows: PackedRows,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Return attention by flash attention's kernel of variable lengths.

    Args:
        query: (N, H, d), bfloat16 or float16.
        key: (N, K, d); H is a multiple of K.
        value: (N, K, d).
        rows: Where the rows lie.
        scale: Of the scores.
        window: Most tokens a token sees, itself included.

    Returns:
        (N, H, d).
    """
    attend, sharing = _flash()
    if rows.order is not None:
        key, value = key[rows.order], value[rows.order]
    found: torch.Tensor = attend(
        query,
        key,
        value,
        rows.queries,
        rows.keys,
        rows.most_queries,
        rows.most_keys,
        scale=scale,
        # Of a row with more keys than queries the last ones face each other, as they should behind a beginning.
        window_size=(-1 if window is None else window - 1, 0),
        **sharing,
    )
    return found


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Who sees whom in a packed batch, for FlexAttention.

    ``own``, ``before`` and ``position`` int32 (N,), one for each token: the number of its segment's row, that of the
    beginning that it sees (-1 without one), and its position in its example. ``blocks`` holds the blocks of each window
    that a layer asked for.
    """

    segments: tuple[Segments, ...]
    own: torch.Tensor
    before: torch.Tensor
    position: torch.Tensor
    blocks: dict[int | None, BlockMask] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Mask":
        """Return the mask of a packed layout, on a device."""
        assert layout.segments is not None
        count = layout.ids.shape[1]
        own, before = np.full(count, NOBODY, dtype=np.int32), np.full(count, NOBODY, dtype=np.int32)
        row = 0
        for part in layout.segments:
            stop = part.start + part.count * part.length
            own[part.start : stop] = row + np.arange(part.count).repeat(part.length)
            row += part.count
            if part.before[1]:
                before[part.start : stop] = own[part.before[0]]
        return cls(
            segments=layout.segments,
            own=sent(own, device),
            before=sent(before, device),
            position=sent(layout.positions[0].int(), device),
        )

    def seen_within(self, window: int | None) -> BlockMask:
        """Return the mask of the layers with this window."""
        if window not in self.blocks:
            self.blocks[window] = self._blocks(window)
        return self.blocks[window]

    def _blocks(self, window: int | None) -> BlockMask:
        count = len(self.own)
        touched = _touched(self.segments, count)
        most = int(touched.sum(axis=1).max())
        # The blocks that a block of queries looks into come first, in order; what stands behind them is not read.
        order = np.argsort(~touched, axis=1, kind="stable")[:, : max(most, 1)]
        own, before, position = self.own, self.before, self.position

        def sees(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            same = (own[query] == own[key]) | (before[query] == own[key])
            distance = position[query] - position[key]
            seen = same & (distance >= 0)
            return seen if window is None else seen & (distance < window)

        filled = np.zeros(touched.shape, dtype=np.int32)
        filled[:, : order.shape[1]] = order
        return BlockMask.from_kv_blocks(
            sent(touched.sum(axis=1, dtype=np.int32)[None, None], own.device),
            sent(filled[None, None], own.device),
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
            seq_lengths=(count, count),
        )


def _touched(segments: tuple[Segments, ...], count: int) -> NDArray[np.bool_]:
    """Return which blocks of keys a block of queries may look into, bool (Q, K), read off the segments alone."""
    blocks = -(-count // BLOCK)
    touched = np.zeros((blocks, blocks), dtype=np.bool_)
    for part in segments:
        starts = part.start + part.length * np.arange(part.count)
        first, last = starts // BLOCK, (starts + part.length - 1) // BLOCK
        for low, high in zip(first.tolist(), last.tolist(), strict=True):
            touched[low : high + 1, low : high + 1] = True
        if part.before[1]:
            begin, end = part.before[0], part.before[0] + part.before[1] - 1
            touched[first.min() : last.max() + 1, begin // BLOCK : end // BLOCK + 1] = True
    return np.tril(touched)


@cache
def _flex(kind: str) -> Callable[..., Any]:
    """Return FlexAttention for a kind of device: compiled where that gives the fused kernel."""
    attend: Callable[..., Any] = flex_attention
    return torch.compile(attend, dynamic=True) if kind == "cuda" else attend


def flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: Mask,
    scale: float,
    window: int | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return attention by FlexAttention, which takes any dtype, soft caps and sinks.

    Args:
        query: (1, H, N, d).
        key: (1, K, N, d); H is a multiple of K.
        value: (1, K, N, d).
        mask: Who sees whom.
        scale: Of the scores.
        window: Most tokens a token sees, itself included.
        softcap: Scores are squeezed into (-softcap, softcap) by a tanh.
        sinks: (H,): a score of each head that takes part in the softmax and has no value.

    Returns:
        (1, H, N, d).
    """
    found: torch.Tensor
    found, beside = _flex(query.device.type)(
        query,
        key,
        value,
        score_mod=_capped(softcap, query.device) if softcap is not None else None,
        block_mask=mask.seen_within(window),
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
        return_aux=AuxRequest(lse=sinks is not None),
    )
    if sinks is None:
        return found
    # A sink takes its share of the sum and gives nothing for it.
    share = torch.sigmoid(beside.lse - sinks[None, :, None].to(beside.lse.dtype))
    return (found * share[..., None]).to(found.dtype)


@cache
def _capped(softcap: float, device: torch.device) -> Callable[..., torch.Tensor]:
    # A number would be compiled as one that may change, and then no gradient can be taken.
    cap = torch.tensor(softcap, device=device)

    def capped(score: torch.Tensor, *_: Any) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return capped
