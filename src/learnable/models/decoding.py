"""Decodes a batch of prompts: what they share is read once, and rows that are done leave the batch.

transformers decodes; here is what it is given. Prompts begin alike, with a system turn, or are the same altogether: what
is the same is read once, and what the network remembers of it is copied. Answers differ in length: whenever some are
done, decoding is broken off, and goes on with the other rows and what the network remembers of them.
"""

from collections.abc import Sequence
from inspect import signature
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from learnable.errors import ModelError
from learnable.models.draws import Draws
from learnable.models.lengths import LengthSwitches
from learnable.models.network import base_network

WORTH_SHARING = 64
"""Fewest prompt tokens that reading something once must save."""

LEAVING = 8
"""Rows leave a batch when one in so many is done; nothing is read again for that."""

WORTH_REREADING = 8
"""Fewest rows of a batch that is broken off when half of them are done, where the others must be read again."""


def decode(
    network: Any,
    prompts: Sequence[NDArray[np.int64]],
    *,
    max_new_tokens: int,
    stops: tuple[int, ...],
    draws: Draws,
) -> list[list[int]]:
    """Return the new tokens of each prompt, up to the first stop token.

    Prompts on two sides of a length at which the network switches are decoded apart.

    Args:
        network: A causal language model of transformers, with or without adapters.
        prompts: Token ids of n prompts, none empty.
        max_new_tokens: Most tokens of an answer.
        stops: Tokens that end an answer.
        draws: Draws the tokens, or says that the likeliest are taken.

    Raises:
        ModelError: If a prompt does not fit the GPU's memory alone.
    """
    decoded = dict[int, list[int]]()
    for group in LengthSwitches.of(network).groups(list(map(len, prompts)), growing_by=max_new_tokens):
        some = [prompts[position] for position in group]
        found = _decode_together(network, some, max_new_tokens, stops, draws.of(group))
        decoded |= zip(group, found, strict=True)
    return [decoded[position] for position in range(len(prompts))]


def _decode_together(
    network: Any,
    prompts: Sequence[NDArray[np.int64]],
    max_new_tokens: int,
    stops: tuple[int, ...],
    draws: Draws,
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    going, staying, left = list(range(len(prompts))), list[int](), max_new_tokens
    rows: _Rows | None = None
    while going and left:
        own = draws.of(going)
        before = own.states
        try:
            if rows is None:
                rows = _Rows(network, [prompts[row] for row in going], stops, most=max_new_tokens)
            rows.keep(staying)
            new = rows.decode(most=left, draws=own)
        except torch.cuda.OutOfMemoryError as error:
            if len(going) == 1:
                raise ModelError(
                    f"a prompt of {len(prompts[going[0]]):,} tokens does not fit the GPU's memory",
                    hint="lower max_new_tokens, or take a smaller model or dtype",
                ) from error
        else:
            for row, tokens in zip(going, new, strict=True):
                answers[row] += takewhile(lambda token: token not in stops, tokens)
            staying = [place for place, tokens in enumerate(new) if not set(tokens).intersection(stops)]
            going = [going[place] for place in staying]
            left -= len(new[0])
            continue
        rows = None  # gives its memory back, outside the handler, which would hold it
        torch.cuda.empty_cache()
        own.states = before
        half = len(going) // 2
        for part in (going[:half], going[half:]):
            begun = [np.append(prompts[row], np.asarray(answers[row], dtype=np.int64)) for row in part]
            more = _decode_together(network, begun, left, stops, draws.of(part))
            for row, tokens in zip(part, more, strict=True):
                answers[row] += tokens
        break
    return answers


class _Rows:
    """The rows of a batch that are still going, and what the network remembers of them."""

    def __init__(
        self, network: Any, prompts: Sequence[NDArray[np.int64]], stops: tuple[int, ...], *, most: int
    ) -> None:
        self._stops, self._device = stops, next(network.parameters()).device
        inner = self._inner = base_network(network)  # without its adapter's wrapping
        # What is remembered of a short row means nothing once it is computed otherwise: transformers reads it again.
        switched = LengthSwitches.of(inner).switched(max(map(len, prompts)) + most)
        self._cache = None if switched else _cache(inner)
        # A row may have padding after its beginning where all tokens are seen, and places are told apart.
        shares = (
            self._cache is not None
            and all(type(layer) is DynamicLayer for layer in self._cache.layers)
            and "position_ids" in signature(inner.forward).parameters
        )
        shared = _beginning(prompts) if shares else 0
        if (len(prompts) - 1) * shared < WORTH_SHARING:
            shared = 0
        self._ids, self._mask = self._aligned(prompts, shared)  # (B, T)
        if shares:
            self._read(prompts, shared)

    def decode(self, *, most: int, draws: Draws) -> list[list[int]]:
        """Return the next tokens of each row, equally many, at most ``most``; what comes after a stop means nothing."""
        count = len(self._ids)
        if self._cache is not None:
            fewest = count - -(-count // LEAVING)
        else:
            fewest = count // 2 if count >= WORTH_REREADING else 0
        enough = _Enough(count, self._stops, self._device, fewest=fewest, draws=draws)
        tokens = self._generated(
            self._ids,
            self._mask,
            most,
            logits_processor=LogitsProcessorList([draws] if draws.temperature else []),
            stopping_criteria=StoppingCriteriaList([enough]),
        )
        new: torch.Tensor = tokens[:, self._ids.shape[1] :]
        self._ids, self._mask = tokens, torch.cat([self._mask, torch.ones_like(new)], dim=1)
        return list(new.tolist())

    def keep(self, rows: Sequence[int]) -> None:
        """Leave all rows out but these; all stay where none is named."""
        if not rows or len(rows) == len(self._ids):
            return
        index = torch.tensor(rows, device=self._device)
        self._ids, self._mask = self._ids[index], self._mask[index]
        if self._cache is not None:
            self._cache.batch_select_indices(index)

    def _read(self, prompts: Sequence[NDArray[np.int64]], shared: int) -> None:
        """Let the network read what is the same in several rows: how they begin, and all but the last token of twins."""
        assert self._cache is not None
        first: dict[bytes, int] = {}
        twins = [first.setdefault(prompt.tobytes(), row) for row, prompt in enumerate(prompts)]
        distinct = sorted(first.values())
        own_tokens = self._ids.shape[1] - 1 - shared
        apart = (len(prompts) - len(distinct)) * own_tokens >= WORTH_SHARING
        if shared:
            self._generated(self._ids[:1, :shared], self._mask[:1, :shared], 1)
            self._cache.batch_repeat_interleave(len(distinct) if apart else len(prompts))
        if apart:
            index = torch.tensor(distinct, device=self._device)
            self._generated(self._ids[index, :-1], self._mask[index, :-1], 1)
            copies = torch.tensor([distinct.index(row) for row in twins], device=self._device)
            self._cache.batch_select_indices(copies)

    def _aligned(
        self, prompts: Sequence[NDArray[np.int64]], shared: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and mask (B, T): how all begin, then padding, then the rest of each."""
        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self._stops[0], dtype=np.int64)
        mask = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            start = longest - len(prompt) + shared
            ids[row, :shared], ids[row, start:] = prompt[:shared], prompt[shared:]
            mask[row, :shared] = mask[row, start:] = 1
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)

    @torch.inference_mode()
    def _generated(self, ids: torch.Tensor, mask: torch.Tensor, most: int, **rules: Any) -> torch.Tensor:
        """Return the tokens (B, T) with those that transformers adds; it reads what the cache has not."""
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=list(self._stops),
            pad_token_id=self._stops[0],
        )
        known = {} if self._cache is None else {"past_key_values": self._cache}
        # Models bring temperatures, penalties and length limits of their own, which transformers merges into what it
        # is given; two models would be compared under different rules.
        shipped, self._inner.generation_config = self._inner.generation_config, settings
        try:
            tokens: torch.Tensor = self._inner.generate(input_ids=ids, attention_mask=mask, **known, **rules)
        finally:
            self._inner.generation_config = shipped
        return tokens


class _Enough(StoppingCriteria):
    """Breaks off when at most ``fewest`` rows of a batch are still going."""

    def __init__(
        self, rows: int, stops: tuple[int, ...], device: torch.device, *, fewest: int, draws: Draws
    ) -> None:
        self._done = torch.zeros(rows, dtype=torch.bool, device=device)
        self._stops = torch.tensor(stops, device=device)
        self._fewest, self._draws = fewest, draws

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._done |= torch.isin(input_ids[:, -1], self._stops)
        self._draws.over = bool((~self._done).sum() <= self._fewest)
        return torch.full_like(self._done, fill_value=self._draws.over)


def _cache(inner: Any) -> DynamicCache | None:
    """Return an empty cache that rows can be taken out of; None where the network remembers in another way."""
    if inner._is_stateful or "past_key_values" not in signature(inner.forward).parameters:
        return None
    cache = DynamicCache(config=inner.config)
    return cache if all(isinstance(layer, DynamicLayer) for layer in cache.layers) else None


def _beginning(prompts: Sequence[NDArray[np.int64]]) -> int:
    """Return how many tokens all prompts begin with, leaving each at least one of its own."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0][:shortest]
    same = np.all([prompt[:shortest] == first for prompt in prompts], axis=0)
    return shortest if same.all() else int(same.argmin())
