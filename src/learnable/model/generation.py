"""Answers of a causal language model: batches of prompts of about equal length, padded on the left.

Decoding is greedy unless a temperature is given. A sampled answer depends on its prompt and its own seed, not on what
else is in the batch: noise of the prompt's own generator is added to the logits, and the largest is taken (the
Gumbel-max trick), which draws from exactly the softmax distribution.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from learnable.errors import ModelError, UsageError
from learnable.types import Answer

BATCH_TOKENS = {"cpu": 16_384, "cuda": 65_536, "mps": 8_192}
"""Most tokens of a batch, prompts with padding and room for the answers, by kind of device."""

WORTH_REPACKING = 8
"""Fewest rows of a batch that is broken off when half of its answers are done."""

Prompt = Sequence[int] | NDArray[np.int32]


def generate(
    network: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] | None = None,
    stop_ids: Collection[int] | None = None,
    batch_tokens: int | None = None,
) -> list[str]:
    """Return one completion per prompt.

    Args:
        network: A causal language model of transformers, with or without adapters.
        tokenizer: Its tokenizer.
        prompts: Token ids of n prompts.
        max_new_tokens: Most tokens of an answer.
        temperature: 0 is greedy; else logits are divided by it and a token is drawn.
        top_p: Draw from the likeliest tokens that together have this probability.
        seeds: One per prompt, needed with a temperature.
        stop_ids: Tokens that end an answer; the tokenizer's end of sequence when not given.
        batch_tokens: Most tokens of a batch; by the kind of device when not given.

    Returns:
        n texts without special tokens, in the order of the prompts.

    Raises:
        ModelError: If a prompt is empty, or does not fit the memory.
        UsageError: If the settings make no sense.
    """
    completions = [""] * len(prompts)
    batches = generate_batches(
        network,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seeds=seeds,
        stop_ids=stop_ids,
        batch_tokens=batch_tokens,
    )
    for positions, answers in batches:
        for position, answer in zip(positions, answers, strict=True):
            completions[position] = answer.text
    return completions


def generate_batches(
    network: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] | None = None,
    stop_ids: Collection[int] | None = None,
    batch_tokens: int | None = None,
    only: Collection[int] | None = None,
) -> Iterator[tuple[list[int], list[Answer]]]:
    """Yield ``(positions, answers)`` as each batch is done, longest prompts first.

    Args:
        network: See ``generate``.
        tokenizer: See there.
        prompts: See there.
        max_new_tokens: See there.
        temperature: See there.
        top_p: See there.
        seeds: See there.
        stop_ids: See there.
        batch_tokens: See there.
        only: Positions to answer. Batches are made of all prompts before the others are left out, so that a run that
            goes on after a crash computes the same batches as an unbroken one.
    """
    _check(prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seeds=seeds)
    device = next(network.parameters()).device
    most = batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    stops = tuple(stop_ids) if stop_ids is not None else (int(tokenizer.eos_token_id),)
    for batch in _batches([len(prompt) for prompt in prompts], max_new_tokens, most):
        positions = [position for position in batch if only is None or position in only]
        if not positions:
            continue
        noise = _Noise(temperature, top_p, [seeds[p] for p in positions]) if temperature and seeds else None
        ids = [np.asarray(prompts[position], dtype=np.int64) for position in positions]
        answers = _answered(network, ids, max_new_tokens=max_new_tokens, stops=stops, noise=noise)
        yield (
            positions,
            [
                Answer(tokenizer.decode(answer, skip_special_tokens=True), len(answer) < max_new_tokens)
                for answer in answers
            ],
        )


def _check(
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seeds: Sequence[int] | None,
) -> None:
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if temperature < 0 or not 0 < top_p <= 1:
        raise UsageError(f"temperature must be at least 0 and top_p in (0, 1], got {temperature} and {top_p}")
    if temperature and (seeds is None or len(seeds) != len(prompts)):
        raise UsageError("sampling needs one seed per prompt", hint="give seeds, or temperature 0")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ModelError("a prompt without tokens cannot be answered")


def _batches(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int) -> Iterator[list[int]]:
    """Yield positions, longest first, such that padded prompts and their answers keep to ``batch_tokens``."""
    current: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        if current and (len(current) + 1) * (lengths[current[0]] + max_new_tokens) > batch_tokens:
            yield current
            current = []
        current.append(position)
    if current:
        yield current


def _answered(
    network: Any,
    prompts: list[NDArray[np.int64]],
    *,
    max_new_tokens: int,
    stops: tuple[int, ...],
    noise: "_Noise | None",
) -> list[list[int]]:
    """Return the new tokens of each prompt, up to the first stop token.

    Answers differ in length, and a batch decodes until its longest is done. So decoding is broken off when half of
    the answers are, and goes on with the other half alone.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    going, left = list(range(len(prompts))), max_new_tokens
    while going and left:
        begun = [np.append(prompts[row], np.asarray(answers[row], dtype=np.int64)) for row in going]
        some = noise.of(going) if noise is not None else None
        before = some.states if some is not None else []
        try:
            new = _decoded(network, begun, max_new_tokens=left, stops=stops, noise=some)
        except torch.cuda.OutOfMemoryError as error:
            if len(going) == 1:
                raise ModelError(
                    f"a prompt of {len(prompts[going[0]]):,} tokens does not fit the GPU's memory",
                    hint="lower max_new_tokens, or take a smaller model or dtype",
                ) from error
        else:
            ended = [any(token in stops for token in tokens) for tokens in new]
            for row, tokens in zip(going, new, strict=True):
                answers[row] += _until_stop(tokens, stops)
            going = [row for row, end in zip(going, ended, strict=True) if not end]
            left -= len(new[0])
            continue
        torch.cuda.empty_cache()
        if some is not None:
            some.states = before
        half = len(going) // 2
        for part in (slice(0, half), slice(half, None)):
            of_part = noise.of(going[part]) if noise is not None else None
            more = _answered(network, begun[part], max_new_tokens=left, stops=stops, noise=of_part)
            for row, tokens in zip(going[part], more, strict=True):
                answers[row] += tokens
        break
    return answers


@torch.inference_mode()
def _decoded(
    network: Any,
    prompts: list[NDArray[np.int64]],
    *,
    max_new_tokens: int,
    stops: tuple[int, ...],
    noise: "_Noise | None",
) -> list[list[int]]:
    device, longest = next(network.parameters()).device, max(map(len, prompts))
    ids = np.full((len(prompts), longest), stops[0], dtype=np.int64)
    mask = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(stops), pad_token_id=stops[0]
    )
    with _own_settings(network, settings) as inner:
        tokens = inner.generate(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            logits_processor=LogitsProcessorList([noise] if noise is not None else []),
            stopping_criteria=StoppingCriteriaList([_HalfDone(len(prompts), stops, device)]),
        )
    new: list[list[int]] = tokens[:, longest:].tolist()
    return new


@contextmanager
def _own_settings(network: Any, settings: GenerationConfig) -> Iterator[Any]:
    """Yield the network without its adapter's wrapping, and with these settings in place of those it was shipped with.

    Models bring temperatures, penalties and length limits of their own, which transformers merges into what it is
    given; two models would be compared under different rules.
    """
    inner = network.get_base_model() if hasattr(network, "get_base_model") else network
    shipped, inner.generation_config = inner.generation_config, settings
    try:
        yield inner
    finally:
        inner.generation_config = shipped


def _until_stop(tokens: list[int], stops: tuple[int, ...]) -> list[int]:
    end = next((position for position, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[:end]


class _HalfDone(StoppingCriteria):
    """Breaks off when at most half of a batch is still going, and that saves more than reading the rest again costs."""

    def __init__(self, rows: int, stops: tuple[int, ...], device: torch.device) -> None:
        self._done = torch.zeros(rows, dtype=torch.bool, device=device)
        self._stops = torch.tensor(stops, device=device)
        self._fewest = rows // 2 if rows >= WORTH_REPACKING else 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._done |= torch.isin(input_ids[:, -1], self._stops)
        return torch.full_like(self._done, fill_value=bool((~self._done).sum() <= self._fewest))


class _Noise(LogitsProcessor):
    """Turns greedy decoding into sampling: keeps the nucleus, adds Gumbel noise from one generator per row."""

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int]) -> None:
        self._temperature, self._top_p = temperature, top_p
        # On the CPU, so that a seed means the same on every device.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def of(self, rows: Sequence[int]) -> "_Noise":
        """Return the noise of some rows, where it is now."""
        some = _Noise(self._temperature, self._top_p, ())
        some._generators = [self._generators[row] for row in rows]
        return some

    @property
    def states(self) -> list[torch.Tensor]:
        """Where the noise of each row is."""
        return [generator.get_state() for generator in self._generators]

    @states.setter
    def states(self, states: Sequence[torch.Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = scores.float() / self._temperature  # (B, V)
        if self._top_p < 1:
            logits = _nucleus(logits, self._top_p)
        uniform = torch.stack([torch.rand(logits.shape[-1], generator=g) for g in self._generators])
        tiny = torch.finfo(torch.float32).tiny
        gumbel = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
        return logits + gumbel.to(logits.device)


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return logits (B, V) with -inf outside the likeliest tokens that together have the probability ``top_p``.

    Sorting the vocabulary would take longer than the network; a few hundred tokens nearly always hold the nucleus.
    """
    total, size, count = logits.logsumexp(dim=-1, keepdim=True), logits.shape[-1], 256
    while True:
        likeliest = logits.topk(min(count, size), dim=-1).values  # (B, count), falling
        probabilities = (likeliest - total).exp()
        mass = probabilities.cumsum(dim=-1)
        if count >= size or bool((mass[:, -1] >= top_p).all()):
            break
        count *= 16
    inside = (mass - probabilities < top_p).sum(dim=-1, keepdim=True)
    return logits.masked_fill(logits < likeliest.gather(-1, inside - 1), float("-inf"))
