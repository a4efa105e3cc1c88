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
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.cache_utils import DynamicLayer

from learnable.errors import ModelError
from learnable.models.lengths import LengthSwitches
from learnable.models.network import base_network

WORTH_SHARING = 64
"""Fewest prompt tokens that reading something once must save."""

LEAVING = 8
"""Rows leave a batch when one in so many is done; nothing is read again for that."""

WORTH_REREADING = 8
"""Fewest rows of a batch that is broken off when half of them are done, where the others must be read again."""


LIKELY = 256
"""How many tokens are looked at for the nucleus at first: nearly always it has fewer."""


class Draws(LogitsProcessor):
    """Turns greedy decoding into sampling: leaves each row one token, drawn from the nucleus of its softmax.

    For each new token one number is drawn from a generator of the row's own: what a row draws depends on its own seed
    and place, not on what else is in the batch. With the temperature 0 nothing is drawn, and no seed is needed.
    """

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int]) -> None:
        self.temperature, self._top_p = temperature, top_p
        # On the CPU, so that a seed means the same on every device.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.over = False
        """Nothing is drawn any more: some devices run one step more before transformers sees that it should stop."""

    def of(self, rows: Sequence[int]) -> "Draws":
        """Return the draws of some rows, where they are now."""
        some = Draws(self.temperature, self._top_p, ())
        some._generators = [self._generators[row] for row in rows] if self.temperature else []
        return some

    @property
    def states(self) -> list[torch.Tensor]:
        """Where the generator of each row is."""
        return [generator.get_state() for generator in self._generators]

    @states.setter
    def states(self, states: Sequence[torch.Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (B, V) that are 0 for the token drawn in each row, and -inf for the others."""
        if self.over:
            return scores
        probabilities = (scores.float() / self.temperature).softmax(dim=-1)
        tokens, inside = nucleus(probabilities, self._top_p)
        # In the order of the vocabulary, which rounding does not change as it does that of the likeliest.
        tokens, order = tokens.sort(dim=-1)
        mass = inside.gather(-1, order).cumsum(dim=-1)  # (B, count)
        uniform = torch.stack([torch.rand(1, generator=generator) for generator in self._generators])
        # A little less than drawn, so that rounding never leads to the end of the mass, where no token is.
        height = mass[:, -1:] * (uniform * (1 - 2**-23)).to(mass.device)
        drawn = tokens.gather(-1, torch.searchsorted(mass, height, right=True))
        return torch.full_like(scores, float("-inf")).scatter_(-1, drawn, 0.0)


def nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that may be drawn (B, count), and their probabilities, 0 outside the nucleus.

    The nucleus is the likeliest tokens that together have the probability ``top_p``. To sort the vocabulary would take
    longer than the network; a few hundred tokens nearly always hold it.
    """
    size = probabilities.shape[-1]
    if top_p >= 1:
        return torch.arange(size, device=probabilities.device).expand_as(probabilities), probabilities
    count = LIKELY
    while True:
        likeliest, tokens = probabilities.topk(min(count, size), dim=-1)  # falling
        mass = likeliest.cumsum(dim=-1)
        if count >= size or bool((mass[:, -1] >= top_p).all()):
            return tokens, likeliest.where(mass - likeliest < top_p, 0.0)
        count *= 16


def decode(
    network: Any,
    prompts: Sequence[NDArray[np.int64]],
    *,
    max_new_tokens: int,
    stops: tuple[int, ...],
    draws: Draws,
) -> list[list[int]]:
    """Return the new tokens of each of n prompts, none empty, up to the first stop token.

    Prompts on two sides of a length at which the network switches are decoded apart.

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
        kind = LengthSwitches.of(inner).kind
        switched = kind(max(map(len, prompts)) + most) != kind(1)
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
        drawing = [draws] if draws.temperature else []
        tokens = self._generated(
            self._ids, self._mask, most, logits_processor=drawing, stopping_criteria=[enough]
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
        # The states of each row's last token are a slice. torch multiplies a slice by weights that are frozen, as under an
        # adapter, with a copy of the weights for each row.
        head = self._inner.get_output_embeddings()
        folded = head.register_forward_pre_hook(lambda _, states: (states[0].contiguous(),)) if head else None
        try:
            tokens: torch.Tensor = self._inner.generate(input_ids=ids, attention_mask=mask, **known, **rules)
        finally:
            self._inner.generation_config = shipped
            if folded:
                folded.remove()
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
