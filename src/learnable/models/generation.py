"""Answers of a causal language model: batches of prompts of about equal length.

Decoding is greedy unless a temperature is given. A sampled answer depends on its prompt and its own seed, not on what
else is in the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnable.errors import ModelError, UsageError
from learnable.models.decoding import decode
from learnable.models.draws import Draws
from learnable.models.lengths import batches_within
from learnable.models.rendering import Renderer
from learnable.settings import Sampling
from learnable.types import Answer, Message

BATCH_TOKENS = {"cpu": 16_384, "cuda": 65_536, "mps": 8_192}
"""Most tokens of a batch, prompts with padding and room for the answers, by kind of device."""

Prompt = Sequence[int] | NDArray[np.int32]


class TextGenerator(ABC):
    """What writes texts from tokens: renders conversations and bare user turns, and lets a model continue them."""

    renderer: Renderer

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Return the next answer to each conversation; greedy unless a temperature is given.

        Raises:
            ModelError: If the chat template refuses a conversation.
            UsageError: If the settings make no sense.
        """
        sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
        texts = [""] * len(conversations)
        for positions, answers in self.answers(conversations, sampling=sampling, seeds=seeds or ()):
            for position, answer in zip(positions, answers, strict=True):
                texts[position] = answer.text
        return texts

    def completions(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        only: Collection[int] | None = None,
    ) -> Iterator[tuple[list[int], list[str]]]:
        """Yield positions and greedy answers as each batch is done; those outside ``only`` are left out.

        Raises:
            ModelError: If the chat template refuses a conversation.
        """
        greedy = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens)
        for positions, answers in self.answers(conversations, sampling=greedy, seeds=(), only=only):
            yield positions, [answer.text for answer in answers]

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        only: Collection[int] | None = None,
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """Yield positions and answers as they are done; implements ``types.Generator``.

        Raises:
            ModelError: If the chat template refuses a conversation, or the model fails.
        """
        prompts = [self.renderer.prompt_ids(messages) for messages in conversations]
        yield from self._continued(
            prompts, sampling=sampling, seeds=seeds, only=only, stop_ids=self.renderer.stop_ids
        )

    def questions(
        self, count: int, *, sampling: Sampling, seeds: Sequence[int], only: Collection[int] | None = None
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """Yield positions and user turns that the model itself writes, from its bare user turn.

        Where a template ends a user's turn with plain text, the turn is what stands before it, and one without it is
        not finished: it may hold the answer too.

        Raises:
            ModelError: If the chat template refuses a user turn, or does not end it, or the model fails.
        """
        turn = self.renderer.user_turn
        batches = self._continued(
            [turn.opening] * count,
            sampling=sampling,
            seeds=seeds,
            only=only,
            stop_ids={*self.renderer.stop_ids, *turn.stop_ids},
        )
        for positions, drawn in batches:
            yield positions, [_up_to(turn.closing, each) for each in drawn] if turn.closing else drawn

    @abstractmethod
    def _continued(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        only: Collection[int] | None,
        stop_ids: Collection[int],
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """Yield positions and what the model writes after each prompt, up to a token that ends it."""


def _up_to(closing: str, drawn: Answer) -> Answer:
    """Return what was drawn before the text that closes it; without that text it is not finished."""
    text, found, _ = drawn.text.partition(closing)
    return Answer(text.rstrip() if found else drawn.text, finished=bool(found))


def generate_batches(
    network: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    sampling: Sampling,
    seeds: Sequence[int] = (),
    stop_ids: Collection[int] | None = None,
    batch_tokens: int | None = None,
    only: Collection[int] | None = None,
) -> Iterator[tuple[list[int], list[Answer]]]:
    """Yield ``(positions, answers)`` as each batch is done, longest prompts first.

    Args:
        network: A causal language model of transformers, with or without adapters.
        tokenizer: Its tokenizer.
        prompts: Token ids of n prompts.
        sampling: How to draw.
        seeds: One per prompt, needed with a temperature.
        stop_ids: Tokens that end an answer; the tokenizer's end of sequence when not given.
        batch_tokens: Most tokens of a batch; by the kind of device when not given.
        only: Positions to answer. Batches are made of all prompts before the others are left out, so that a run that
            goes on after a crash computes the same batches as an unbroken one.

    Raises:
        ModelError: If a prompt is empty, or does not fit the memory.
        UsageError: If seeds are missing.
    """
    device = next(network.parameters()).device
    most = batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    stops = tuple(stop_ids) if stop_ids is not None else (int(tokenizer.eos_token_id),)
    longest, temperature = sampling.max_new_tokens, sampling.temperature
    for positions in planned(prompts, sampling=sampling, seeds=seeds, batch_tokens=most, only=only):
        draws = Draws(temperature, sampling.top_p, [seeds[p] for p in positions]) if temperature else None
        ids = [np.asarray(prompts[position], dtype=np.int64) for position in positions]
        answers = decode(network, ids, max_new_tokens=longest, stops=stops, draws=draws)
        texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        yield (
            positions,
            [Answer(text, len(answer) < longest) for text, answer in zip(texts, answers, strict=True)],
        )


def planned(
    prompts: Sequence[Prompt],
    *,
    sampling: Sampling,
    seeds: Sequence[int],
    batch_tokens: int,
    only: Collection[int] | None,
) -> list[list[int]]:
    """Return the positions of each batch, longest prompts first; see ``generate_batches``.

    Raises:
        ModelError: If a prompt is empty.
        UsageError: If seeds are missing.
    """
    if sampling.temperature and len(seeds) != len(prompts):
        raise UsageError("sampling needs one seed per prompt", hint="give seeds, or temperature 0")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ModelError("a prompt without tokens cannot be answered")
    rooms = [len(prompt) + sampling.max_new_tokens for prompt in prompts]
    whole = batches_within(rooms, batch_tokens)
    batches = ([position for position in batch if only is None or position in only] for batch in whole)
    return [batch for batch in batches if batch]
