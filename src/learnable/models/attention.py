"""The attention of a packed batch: what transformers calls in place of its own, and how it is computed on each device.

On a CPU, segment by segment, as products of matrices. On a GPU in one call a layer: flash attention of variable
lengths, or FlexAttention where that does not do. What the calls of all layers need is worked out once for a batch, on
the CPU, and sent to the GPU without waiting for it.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface

from learnable.models.network import base_network
from learnable.models.packing import Layout, Segments, sent

NAME = "learnable_packed"

QUERIES_AT_ONCE = 64
"""Queries whose scores are computed at once on a CPU, which keeps them in its cache."""

FLASH_FROM = 1_024
"""Tokens of a float32 example from which torch's own kernel is the faster one on a CPU."""

FUSED_ON = frozenset({"cuda"})
"""Kinds of devices on which a layer attends in one call."""

BLOCK = 128
"""Tokens of a block of FlexAttention's mask: what its kernels take at once by default."""


class PackedRows(NamedTuple):
    """The rows of a packed batch, as kernels of variable lengths want them.

    ``queries`` and ``keys`` int32 (n + 1,): where each row begins among the queries and among the keys, and the end.
    ``order`` int64 (S,): the token that each key belongs to; None where the keys are the tokens as they lie.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    most_queries: int
    most_keys: int
    order: torch.Tensor | None


@dataclass(frozen=True)
class Followed:
    """The packed layout of N tokens that attention follows, and what its kernels want to know, worked out once."""

    layout: Layout
    device: torch.device
    _blocks: dict[int | None, BlockMask] = field(default_factory=dict)

    @cached_property
    def segments(self) -> tuple[Segments, ...]:
        """Where the rows lie."""
        assert self.layout.segments is not None
        return self.layout.segments

    @cached_property
    def rows(self) -> PackedRows:
        """What flash attention wants to know."""
        counts = [part.count for part in self.segments]
        lengths = np.repeat([part.length for part in self.segments], counts)
        seen = lengths + np.repeat([part.shared for part in self.segments], counts)
        queries, keys = (np.append(0, np.cumsum(each)).astype(np.int32) for each in (lengths, seen))
        shares = bool((seen > lengths).any())
        order = np.concatenate([_key_order(part) for part in self.segments]) if shares else None
        return PackedRows(
            sent(queries, self.device),
            sent(keys, self.device),
            int(lengths.max()),
            int(seen.max()),
            None if order is None else sent(order, self.device),
        )

    @cached_property
    def _numbers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The number of each token's row, that of the last row which sees it, and its position, (N,).

        Rows that see a beginning are numbered on from it without a gap.
        """
        own, last = np.zeros((2, self.layout.ids.shape[1]), dtype=np.int32)
        row = 0
        for part in self.segments:
            own[part.start : part.stop] = row + np.arange(part.count).repeat(part.length)
            last[part.start : part.stop] = own[part.start : part.stop]
            row += part.count
            for first, shared in part.before:
                last[first : first + shared] = row - 1
        positions = self.layout.positions[0].int()
        return sent(own, self.device), sent(last, self.device), sent(positions, self.device)

    def mask(self, window: int | None) -> BlockMask:
        """Return what FlexAttention wants to know in layers with this window."""
        if window in self._blocks:
            return self._blocks[window]
        own, last, position = self._numbers
        touched = _touched(self.segments, len(own))
        most = max(int(touched.sum(axis=1).max()), 1)

        def sees(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            same = (own[key] <= own[query]) & (own[query] <= last[key])
            distance = position[query] - position[key]
            seen = same & (distance >= 0)
            return seen if window is None else seen & (distance < window)

        # The blocks that a block of queries looks into come first, in order; what stands behind them is not read.
        order = np.zeros(touched.shape, dtype=np.int32)
        order[:, :most] = np.argsort(~touched, axis=1, kind="stable")[:, :most]
        mask = self._blocks[window] = BlockMask.from_kv_blocks(
            sent(touched.sum(axis=1, dtype=np.int32)[None, None], self.device),
            sent(order[None, None], self.device),
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
            seq_lengths=(len(own), len(own)),
        )
        return mask


def _key_order(part: Segments) -> NDArray[np.int64]:
    own = np.arange(part.start, part.stop).reshape(part.count, part.length)
    places = [np.arange(first, first + shared) for first, shared in part.before]
    beginning = np.broadcast_to(np.concatenate([own[0, :0], *places]), (part.count, part.shared))
    return np.concatenate([beginning, own], axis=1).reshape(-1).astype(np.int64)


def _touched(segments: tuple[Segments, ...], count: int) -> NDArray[np.bool_]:
    """Return which blocks of keys a block of queries may look into, bool (Q, K), read off the segments alone."""
    blocks = -(-count // BLOCK)
    touched = np.zeros((blocks, blocks), dtype=np.bool_)
    for part in segments:
        starts = part.start + part.length * np.arange(part.count)
        first, last = starts // BLOCK, (starts + part.length - 1) // BLOCK
        for low, high in zip(first.tolist(), last.tolist(), strict=True):
            touched[low : high + 1, low : high + 1] = True
        for begin, shared in part.before:
            end = begin + shared - 1
            touched[first.min() : last.max() + 1, begin // BLOCK : end // BLOCK + 1] = True
    return np.tril(touched)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What becomes of the products of queries and keys.

    Args:
        scale: They are multiplied by it.
        window: Most tokens a token sees, itself included.
        softcap: They are squeezed into (-softcap, softcap) by a tanh.
        sinks: (H,): a score of each head that takes part in the softmax and has no value.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


_followed: list[Followed | None] = []
"""What attention follows, the innermost last; plain, not of a context: gradients are taken in threads of their own."""


@contextmanager
def attending(network: Any, layout: Layout) -> Iterator[None]:
    """Let the attention of a network follow a layout within the block, also where gradients are taken in it."""
    if layout.segments is None:
        yield
        return
    with _attention_of(network, Followed(layout, next(network.parameters()).device), NAME):
        yield


@contextmanager
def by_itself(network: Any) -> Iterator[None]:
    """Within a block of ``attending``, let a pass over one token attend as plain attention would."""
    if not _followed:
        yield
        return
    with _attention_of(network, None, "eager"):
        yield


@contextmanager
def _attention_of(network: Any, followed: Followed | None, name: str) -> Iterator[None]:
    inner = base_network(network)
    before = inner.config._attn_implementation
    _followed.append(followed)
    inner.set_attn_implementation(name)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
        _followed.pop()


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within segments; what transformers calls in place of its own attention.

    Query is (1, H, N, d), key (1, K, N, d), value (1, K, N, e), with H a multiple of K; the scale is 1 / sqrt(d) when not
    given, and the window, the soft cap and the sinks (``s_aux``) are those of ``Scores``.

    Returns:
        (1, N, H, e), and None for the weights.

    Raises:
        NotImplementedError: If the model asks for something else, such as a mask: the layout says what is seen.
    """
    followed = _followed[-1] if _followed else None
    unknown = [name for name in ("position_bias", "head_mask") if others.get(name) is not None]
    if followed is None or attention_mask is not None or unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask'}")
    if query.shape[2] != (tokens := followed.layout.ids.shape[1]):
        raise ValueError(f"{query.shape[2]} tokens attend where a layout of {tokens} is followed")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = Scores(scale=scale, window=sliding_window or None, softcap=softcap, sinks=s_aux)
    narrow = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] == value.shape[-1] <= 256
    if query.device.type not in FUSED_ON:
        way = by_segments
    elif narrow and query.shape[-1] % 8 == 0 and softcap is None and s_aux is None:
        way = by_flash
    else:
        way = by_flex
    return way(query, key, value, followed, scores), None


def no_mask(*, use_vmap: bool = False, **_: Any) -> None:
    """Make no mask, as the layout says what is seen; what transformers calls in place of its own masks.

    A window is a matter of each layer, which asks for it when it attends; a chunk is not, and the trial of a network
    that attends in chunks finds other states (``batching``). A mask of another kind (``use_vmap``) is refused.
    """
    if not _followed or use_vmap:
        raise NotImplementedError("attention with a mask of its own kind")


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, no_mask)


@cache
def _flash() -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return torch's flash attention of variable lengths, and what it must be told to let heads share keys."""
    from torch.nn.attention.varlen import varlen_attn

    named = inspect.signature(varlen_attn).parameters
    return varlen_attn, {"enable_gqa": True} if "enable_gqa" in named else {}


def by_flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, followed: Followed, scores: Scores
) -> torch.Tensor:
    """Attend by flash attention of variable lengths, in bfloat16 or float16, (1, N, H, d); see ``attention``."""
    (attend, sharing), (*rows, order) = _flash(), followed.rows
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    if order is not None:
        key, value = key[order], value[order]
    # Of a row with more keys than queries the last ones face each other, as they should behind a beginning.
    window = (-1 if scores.window is None else scores.window - 1, 0)
    found: torch.Tensor = attend(query, key, value, *rows, scale=scores.scale, window_size=window, **sharing)
    return found[None]


@cache
def _flex(kind: str) -> Callable[..., Any]:
    """Return FlexAttention for a kind of device: compiled where that gives the fused kernel."""
    attend: Callable[..., Any] = flex_attention
    return torch.compile(attend, dynamic=True) if kind == "cuda" else attend


def by_flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, followed: Followed, scores: Scores
) -> torch.Tensor:
    """Attend by FlexAttention, which takes any dtype, soft caps and sinks, (1, N, H, d); see ``attention``."""
    sinks = scores.sinks
    found: torch.Tensor
    found, beside = _flex(query.device.type)(
        query,
        key,
        value,
        score_mod=_capped(scores.softcap, query.device) if scores.softcap is not None else None,
        block_mask=followed.mask(scores.window),
        scale=scores.scale,
        enable_gqa=key.shape[1] != query.shape[1],
        return_aux=AuxRequest(lse=sinks is not None),
    )
    if sinks is not None:  # a sink takes its share of the sum and gives nothing for it
        share = torch.sigmoid(beside.lse - sinks[None, :, None].to(beside.lse.dtype))
        found = (found * share[..., None]).to(found.dtype)
    return found.transpose(1, 2)


@cache
def _capped(softcap: float, device: torch.device) -> Callable[..., torch.Tensor]:
    # A number would be compiled as one that may change, and then no gradient can be taken.
    cap = torch.tensor(softcap, device=device)
    return lambda score, *_: cap * torch.tanh(score / cap)


def by_segments(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, followed: Followed, scores: Scores
) -> torch.Tensor:
    """Attend segment by segment, (1, N, H, d); see ``attention``."""
    found = torch.empty(
        query.shape[2], query.shape[1], value.shape[3], dtype=value.dtype, device=query.device
    )
    for part in followed.segments:
        q, k, v = (  # (count, heads, length, d)
            states[0, :, part.start : part.stop]
            .reshape(states.shape[1], part.count, part.length, -1)
            .transpose(0, 1)
            for states in (query, key, value)
        )
        if part.before:
            k, v = (
                torch.cat([*(_beginning(states, part)), own], dim=2) for states, own in ((key, k), (value, v))
            )
        seen = _causal(q, k, v, scores)
        found[part.start : part.stop] = seen.transpose(1, 2).reshape(-1, *found.shape[1:])
    return found[None]


def _beginning(states: torch.Tensor, part: Segments) -> Iterator[torch.Tensor]:
    """Yield keys or values of each piece of what some rows begin with, (count, K, pieces' tokens, d)."""
    for first, shared in part.before:
        yield states[:, :, first : first + shared].expand(part.count, -1, -1, -1)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores) -> torch.Tensor:
    """Return attention of the last T of S tokens to those up to themselves: q (n, H, T, d), k and v (n, K, S, d)."""
    (count, heads, length, width), seen, groups = q.shape, k.shape[2], k.shape[1]
    before, shares = seen - length, heads // groups
    window = scores.window if scores.window is not None and scores.window < seen else None
    plain = window is None and scores.softcap is None and scores.sinks is None
    quick = q.device.type != "cpu" or (q.dtype == torch.float32 and length >= FLASH_FROM and not before)
    if plain and quick:
        mask = torch.ones(length, seen, dtype=torch.bool, device=q.device).tril(before) if before else None
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=not before, scale=scores.scale, enable_gqa=groups != heads
        )
    grouped = (q * scores.scale).reshape(count, groups, shares, length, width)
    transposed = k.transpose(-1, -2)
    found = torch.empty(count, groups, shares, length, v.shape[3], dtype=v.dtype, device=q.device)
    for start in range(0, length, QUERIES_AT_ONCE):
        end = min(length, start + QUERIES_AT_ONCE)
        first = 0 if window is None else max(0, before + start + 1 - window)
        some = grouped[:, :, :, start:end].reshape(count, groups, shares * (end - start), width)
        products = torch.matmul(some, transposed[..., first : before + end])
        products = products.view(count, groups, shares, end - start, -1)
        weights = _weights(products, scores, at=before + start - first, window=window)
        weights = weights.view(count, groups, shares * (end - start), -1)
        values = torch.matmul(weights, v[:, :, first : before + end])
        found[:, :, :, start:end] = values.view(count, groups, shares, end - start, -1)
    return found.view(count, heads, length, -1)


def _weights(products: torch.Tensor, scores: Scores, *, at: int, window: int | None) -> torch.Tensor:
    """Return what each of R queries gives each of its S keys, as (n, K, H / K, R, S) of their products.

    The products are scaled already, and changed in place; ``at`` is the place of the first query among the keys.
    """
    rows = products.shape[3]
    if scores.softcap is not None:
        products = scores.softcap * torch.tanh(products / scores.softcap)
    later = torch.full((rows, rows), float("-inf"), dtype=products.dtype, device=products.device).triu(1)
    products[..., at:] += later
    if window is not None and products.shape[4] > window:
        queries = torch.arange(at, at + rows, device=products.device)[:, None]
        keys = torch.arange(products.shape[4], device=products.device)
        products.masked_fill_(queries - keys >= window, float("-inf"))
    if scores.sinks is None:
        return products.softmax(dim=-1)
    heads = scores.sinks.view(1, products.shape[1], products.shape[2], 1, 1).to(products.dtype)
    with_sink = torch.cat([products, heads.expand(*products.shape[:4], 1)], dim=-1)
    return with_sink.softmax(dim=-1)[..., :-1]
