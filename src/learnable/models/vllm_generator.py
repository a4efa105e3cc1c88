"""A model that vLLM runs in this process: writes like a loaded model, many times faster where there is a GPU.

Prompts are rendered here and given to vLLM as tokens, so the model is asked in the same words, with the same tokens to
stop at, as everywhere else. Each answer has a seed of its own; whether the same seed gives the same answer again is up to
vLLM, which rounds otherwise when other answers are computed beside it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from learnable.errors import ModelError, first_line
from learnable.models.dtype import resolved
from learnable.models.generation import Answered, Asked, TextGenerator
from learnable.models.rendering import Renderer
from learnable.models.source import concrete_dtype, identify, locate
from learnable.packages import needed
from learnable.runs.identity import fingerprint
from learnable.types import Answer, ModelRef

AT_ONCE = 2_048
"""Prompts that vLLM is given at a time, twice what it decodes at once on a large GPU; then their answers are stored."""

QUIET = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
FIT = -1
"""As ``max_model_len``: as many tokens of a sequence as the model takes and the memory holds."""


def vllm_key(ref: ModelRef) -> str:
    """Return the identity of a model that vLLM runs; its answers are not the same bits as those of a loaded model."""
    return fingerprint(["vllm", identify(resolved(ref))])


class VllmGenerator(TextGenerator):
    """A model that vLLM runs in this process, on a device that it chooses; implements ``types.Generator``."""

    def __init__(self, ref: ModelRef) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)  # read when vLLM is imported
        self._vllm = needed("vllm", by="--generator vllm", extra="vllm")
        ref = self._ref = resolved(ref)
        self.renderer = Renderer.of(ref)
        self.key = vllm_key(ref)
        with self._errors_in_one_line():
            self._engine = self._vllm.LLM(
                model=str(locate(ref)),
                dtype=concrete_dtype(ref),
                seed=0,
                trust_remote_code=ref.trust_remote_code,
                max_model_len=FIT,
                # Else the tokens that end an answer would be those of a file beside the model, too.
                generation_config="vllm",
            )

    @property
    def position_limit(self) -> int:
        """Most tokens of a sequence: what the model takes, or less where the memory does not hold that."""
        return int(self._engine.llm_engine.model_config.max_model_len)

    def continued(self, asked: Asked) -> Answered:
        """Yield positions and answers, as many at a time as vLLM is given at once."""
        vllm, sampling, stops = self._vllm, asked.sampling, sorted(asked.stop_ids)
        wanted = asked.wanted(range(len(asked.prompts)))
        for start in range(0, len(wanted), AT_ONCE):
            positions = wanted[start : start + AT_ONCE]
            prompts = [np.asarray(asked.prompts[position]).tolist() for position in positions]
            with self._errors_in_one_line():
                outputs = self._engine.generate(
                    [vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
                    [
                        vllm.SamplingParams(
                            temperature=sampling.temperature,
                            top_p=sampling.top_p,
                            max_tokens=sampling.max_new_tokens,
                            seed=asked.seeds[position] if asked.seeds else None,
                            stop_token_ids=stops,
                            detokenize=False,
                        )
                        for position in positions
                    ],
                    use_tqdm=False,
                )
            # What vLLM gave up is left out, as is what a server does not answer.
            done = [
                (position, self._answer(output.outputs[0].token_ids, stops))
                for position, output in zip(positions, outputs, strict=True)
                if output.outputs[0].finish_reason in ("stop", "length")
            ]
            if done:
                yield [position for position, _ in done], [answer for _, answer in done]

    def _answer(self, tokens: Sequence[int], stops: Sequence[int]) -> Answer:
        end = next((place for place, token in enumerate(tokens) if token in stops), None)
        text = self.renderer.tokenizer.decode(list(tokens[:end]), skip_special_tokens=True)
        return Answer(str(text), finished=end is not None)

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Turn what vLLM raises, which is of many kinds, into a ``ModelError``."""
        try:
            yield
        except Exception as error:
            raise ModelError(
                f"vLLM cannot run {self._ref.name}: {type(error).__name__}: {first_line(error)}",
                hint="what vLLM wrote above says more; it takes one GPU here: for several, start `vllm serve` and give "
                "--generator openai:URL#NAME",
            ) from error
