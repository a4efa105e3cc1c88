"""Answers of a causal language model: batches of prompts of about equal length.

Decoding is greedy unless a temperature is given. A sampled answer depends on its prompt and its own seed, not on what
else is in the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnable.errors import ModelError, UsageError
from learnable.models.decoding import Draws, decode
from learnable.models.lengths import batches_within
from learnable.models.rendering import Renderer
from learnable.settings import Sampling
from learnable.types import Answer, Message

BATCH_TOKENS = {"cpu": 16_384, "cuda": 65_536, "mps": 8_192}
"""Most tokens of a batch, prompts with padding and room for the answers, by kind of device."""

Answered = Iterator[tuple[list[int], list[Answer]]]
"""Positions and answers, as they are done."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Token ids of n prompts, and how they are answered; with a temperature each has a seed.

    Batches are made of all prompts before those outside ``only`` are left out, so that a run that goes on after a crash
    computes the same batches as an unbroken one.
    """

    prompts: Sequence[Sequence[int] | NDArray[np.int32]]
    sampling: Sampling
    seeds: Sequence[int] = ()
    stop_ids: Collection[int]
    only: Collection[int] | None = None

    def wanted(self, positions: Iterable[int]) -> list[int]:
        """Return those of some positions that are to be answered."""
        return [position for position in positions if self.only is None or position in self.only]

    def batches(self, device: str, batch_tokens: int | None = None) -> list[list[int]]:
        """Return the positions of each batch, longest prompts first, of a size by the kind of device, or as given."""
        if self.sampling.temperature and len(self.seeds) != len(self.prompts):
            raise UsageError("sampling needs one seed per prompt", hint="give seeds, or temperature 0")
        if any(len(prompt) == 0 for prompt in self.prompts):
            raise ModelError("a prompt without tokens cannot be answered")
        rooms = [len(prompt) + self.sampling.max_new_tokens for prompt in self.prompts]
        most = batch_tokens or BATCH_TOKENS.get(device, BATCH_TOKENS["cpu"])
        return [batch for batch in map(self.wanted, batches_within(rooms, most)) if batch]

    def of(self, batch: Sequence[int]) -> "Asked":
        """Return some of them."""
        seeds = [self.seeds[position] for position in batch] if self.sampling.temperature else ()
        prompts = [self.prompts[position] for position in batch]
        return replace(self, prompts=prompts, seeds=seeds, only=None)


class TextGenerator(ABC):
    """What writes texts from tokens: renders conversations and bare user turns, and lets a model continue them."""

    renderer: Renderer

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        only: Collection[int] | None = None,
    ) -> Answered:
        """Yield positions and answers as they are done; implements ``types.Generator``."""
        prompts, stops = list(map(self.renderer.prompt_ids, conversations)), self.renderer.stop_ids
        yield from self.continued(
            Asked(prompts=prompts, sampling=sampling, seeds=seeds, only=only, stop_ids=stops)
        )

    def questions(
        self, count: int, *, sampling: Sampling, seeds: Sequence[int], only: Collection[int] | None = None
    ) -> Answered:
        """Yield positions and user turns that the model itself writes, from its bare user turn.

        Where a template ends a user's turn with plain text, the turn is what stands before it, and one without it is
        not finished: it may hold the answer too.
        """
        turn = self.renderer.user_turn
        prompts, stops = [turn.opening] * count, {*self.renderer.stop_ids, *turn.stop_ids}
        asked = Asked(prompts=prompts, sampling=sampling, seeds=seeds, only=only, stop_ids=stops)
        for positions, drawn in self.continued(asked):
            if turn.closing:
                parts = [each.text.partition(turn.closing) for each in drawn]
                drawn = [Answer(begun.rstrip() if end else begun, bool(end)) for begun, end, _ in parts]
            yield positions, drawn

    @abstractmethod
    def continued(self, asked: Asked) -> Answered:
        """Yield positions and what the model writes after each prompt, up to a token that ends it."""


def generate_batches(
    network: Any, tokenizer: Any, asked: Asked, *, batch_tokens: int | None = None
) -> Answered:
    """Yield positions and answers of a network as each batch of at most so many tokens is done, longest prompts first.

    Raises:
        ModelError: If a prompt is empty, or does not fit the memory.
        UsageError: If seeds are missing.
    """
    device = next(network.parameters()).device.type
    sampling, longest = asked.sampling, asked.sampling.max_new_tokens
    for positions in asked.batches(device, batch_tokens):
        some = asked.of(positions)
        ids = [np.asarray(prompt, dtype=np.int64) for prompt in some.prompts]
        draws = Draws(sampling.temperature, sampling.top_p, some.seeds)
        tokens = decode(network, ids, max_new_tokens=longest, stops=tuple(asked.stop_ids), draws=draws)
        texts = [tokenizer.decode(each, skip_special_tokens=True) for each in tokens]
        answers = zip(texts, tokens, strict=True)
        yield positions, [Answer(text, finished=len(each) < longest) for text, each in answers]
