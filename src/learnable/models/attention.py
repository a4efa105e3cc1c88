"""The attention of a packed batch: what transformers calls in place of its own, and how it is computed on each device.

On a CPU, segment by segment, as products of matrices; on a GPU in one call for a layer (``fused_attention``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from learnable.models.fused_attention import Mask, PackedRows, flash, flex
from learnable.models.network import base_network
from learnable.models.packing import Layout, Segments

NAME = "learnable_packed"

QUERIES_AT_ONCE = 64
"""Queries whose scores are computed at once on a CPU, which keeps them in its cache."""

FLASH_FROM = 1_024
"""Tokens of a float32 example from which torch's own kernel is the faster one on a CPU."""

FUSED_ON = frozenset({"cuda"})
"""Kinds of devices on which a layer attends in one call."""

UNSUPPORTED = ("position_bias", "head_mask")


@dataclass(frozen=True)
class Followed:
    """The layout that attention follows, and what its kernels want to know of it, worked out once for a batch.

    Args:
        layout: A packed one.
        device: Where attention is computed.
    """

    layout: Layout
    device: torch.device

    @property
    def segments(self) -> tuple[Segments, ...]:
        """Where the rows lie."""
        assert self.layout.segments is not None
        return self.layout.segments

    @cached_property
    def rows(self) -> PackedRows:
        """What flash attention wants to know."""
        return PackedRows.of(self.segments, self.device)

    @cached_property
    def mask(self) -> Mask:
        """What FlexAttention wants to know."""
        return Mask.of(self.layout, self.device)


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
    device = next(network.parameters()).device
    with _attention_of(network, Followed(layout, device), NAME):
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

    Args:
        module: The layer that asks.
        query: (1, H, N, d).
        key: (1, K, N, d); H is a multiple of K.
        value: (1, K, N, e).
        attention_mask: None: the layout says what is seen.
        scaling: Of the scores; 1 / sqrt(d) when not given.
        sliding_window: See ``Scores.window``.
        softcap: See there.
        s_aux: See ``Scores.sinks``.
        others: What some models ask for, and is refused.

    Returns:
        (1, N, H, e), and None for the weights.

    Raises:
        NotImplementedError: If the model asks for something else.
    """
    followed = _followed[-1] if _followed else None
    unknown = [name for name, wanted in others.items() if name in UNSUPPORTED and wanted is not None]
    if followed is None or attention_mask is not None or unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask'}")
    if query.shape[2] != followed.layout.ids.shape[1]:
        raise ValueError(
            f"{query.shape[2]} tokens attend where a layout of {followed.layout.ids.shape[1]} is followed"
        )
    scores = Scores(
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=sliding_window or None,
        softcap=softcap,
        sinks=s_aux,
    )
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
    that attends in chunks finds other states (``batching``).

    Args:
        use_vmap: Whether the model has a mask of its own kind.

    Raises:
        NotImplementedError: If it has.
    """
    if not _followed or use_vmap:
        raise NotImplementedError("attention with a mask of its own kind")


def by_flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, followed: Followed, scores: Scores
) -> torch.Tensor:
    """Attend by flash attention of variable lengths, (1, N, H, d); see ``attention``."""
    states = [part[0].transpose(0, 1) for part in (query, key, value)]
    return flash(*states, rows=followed.rows, scale=scores.scale, window=scores.window)[None]


def by_flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, followed: Followed, scores: Scores
) -> torch.Tensor:
    """Attend by FlexAttention, (1, N, H, d); see ``attention``."""
    found = flex(
        query,
        key,
        value,
        mask=followed.mask,
        scale=scores.scale,
        window=scores.window,
        softcap=scores.softcap,
        sinks=scores.sinks,
    )
    return found.transpose(1, 2)


def by_segments(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, followed: Followed, scores: Scores
) -> torch.Tensor:
    """Attend segment by segment, (1, N, H, d); see ``attention``."""
    found = torch.empty(
        query.shape[2], query.shape[1], value.shape[3], dtype=value.dtype, device=query.device
    )
    for part in followed.segments:
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
        seen = _causal(q, k, v, scores)  # (count, H, length, d)
        found[part.start : end] = seen.transpose(1, 2).reshape(end - part.start, *found.shape[1:])
    return found[None]


def _cut(states: torch.Tensor, part: Segments) -> torch.Tensor:
    """Return the states of segments, (count, heads, length, d)."""
    heads, _, width = states.shape
    own = states[:, part.start : part.start + part.length * part.count]
    return own.reshape(heads, part.count, part.length, width).transpose(0, 1)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores) -> torch.Tensor:
    """Return attention of the last T of S tokens to those up to themselves: q (n, H, T, d), k and v (n, K, S, d)."""
    (count, heads, length, width), seen = q.shape, k.shape[2]
    before = seen - length
    window = scores.window if scores.window is not None and scores.window < seen else None
    plain = window is None and scores.softcap is None and scores.sinks is None
    quick = q.device.type != "cpu" or (q.dtype == torch.float32 and length >= FLASH_FROM and not before)
    if plain and quick:
        mask = torch.ones(length, seen, dtype=torch.bool, device=q.device).tril(before) if before else None
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=not before, scale=scores.scale, enable_gqa=k.shape[1] != heads
        )
    groups = k.shape[1]
    shares = heads // groups
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
        found[:, :, :, start:end] = torch.matmul(weights, v[:, :, first : before + end]).view(
            count, groups, shares, end - start, -1
        )
    return found.view(count, heads, length, -1)


def _weights(products: torch.Tensor, scores: Scores, *, at: int, window: int | None) -> torch.Tensor:
    """Return what each of R queries gives each of its S keys, as (n, K, H / K, R, S) of their products.

    Args:
        products: Scaled; changed in place.
        scores: What becomes of them.
        at: The place of the first query among the keys.
        window: Most keys that a query sees.
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


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, no_mask)
