"""How fast are answers generated? Tokens per second of four ways, on the same prompts, weights, dtype and machine.

(a) a loop of transformers' generate over one prompt at a time (over every eighth prompt: it is slow), (b) generate in
padded batches of 8 in file order, (c) generate in batches like ours with a static cache, (d) learnable. All stop at the
same tokens, and draw with the same numbers. The ways run in turn, as often as asked; the fastest run of each counts.

On a CPU the time is that of the processor, so that it says the same where others compute too. Set OMP_NUM_THREADS=1:
threads that wait for others would count as if they worked.

    OMP_NUM_THREADS=1 python benchmarks/generation.py --data dolly_15k.parquet
"""

import argparse
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessorList

from learnable.commands import load
from learnable.data import load_pool
from learnable.models.decoding import Draws
from learnable.models.generation import Asked, generate_batches
from learnable.models.language_model import LanguageModel
from learnable.runs.progress import say
from learnable.settings import Sampling
from learnable.types import ModelRef

ALONE, BATCH = 8, 8
Texts = dict[int, str]


class Way:
    """One set of prompts, answered in several ways; each returns the texts by position.

    Args:
        model: The model.
        prompts: n prompts in the order of the file.
        most: Most tokens of an answer.
        temperature: 0 is greedy.
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[NDArray[np.int32]], *, most: int, temperature: float
    ) -> None:
        self.model, self.prompts, self.most, self.temperature = model, prompts, most, temperature
        self.stops = model.renderer.stop_ids

    def alone(self) -> Texts:
        """(a)."""
        return self._by_transformers([[place] for place in range(0, len(self.prompts), ALONE)])

    def in_file_order(self) -> Texts:
        """(b)."""
        places = range(len(self.prompts))
        return self._by_transformers([list(places[start : start + BATCH]) for start in places[::BATCH]])

    @property
    def asked(self) -> Asked:
        """The prompts, and how answers are drawn."""
        sampling = Sampling(temperature=self.temperature, top_p=0.95, max_new_tokens=self.most)
        seeds = range(len(self.prompts))
        return Asked(prompts=self.prompts, sampling=sampling, seeds=seeds, stop_ids=self.stops)

    def static(self) -> Texts:
        """(c)."""
        batches = self.asked.batches("cpu", 16_384)
        return self._by_transformers(batches, cache_implementation="static")

    def ours(self) -> Texts:
        """(d)."""
        batches = generate_batches(self.model.network, self.model.renderer.tokenizer, self.asked)
        return {
            position: answer.text
            for positions, answers in batches
            for position, answer in zip(positions, answers, strict=True)
        }

    @torch.inference_mode()
    def _by_transformers(self, batches: Sequence[Sequence[int]], **options: Any) -> Texts:
        network, tokenizer = self.model.network, self.model.renderer.tokenizer
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.most,
            do_sample=False,
            eos_token_id=list(self.stops),
            pad_token_id=self.stops[0],
            **options,
        )
        texts: Texts = {}
        for batch in batches:
            longest = max(len(self.prompts[place]) for place in batch)
            ids = torch.full((len(batch), longest), self.stops[0])
            mask = torch.zeros_like(ids)
            for row, place in enumerate(batch):
                prompt = torch.from_numpy(self.prompts[place].astype(np.int64))
                ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
            tokens = network.generate(
                input_ids=ids.to(network.device),
                attention_mask=mask.to(network.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList(
                    [Draws(self.temperature, 0.95, batch)] if self.temperature else []
                ),
            )
            answers = tokenizer.batch_decode(tokens[:, longest:], skip_special_tokens=True)
            texts |= dict(zip(batch, answers, strict=True))
        return texts


NAMES: dict[str, Callable[[Way], Texts]] = {
    "(a) transformers, one prompt at a time": Way.alone,
    "(b) transformers, batches of 8 in file order": Way.in_file_order,
    "(c) transformers, batches like ours, static cache": Way.static,
    "(d) learnable": Way.ours,
}


def main() -> None:
    """Time the ways, greedy and sampled, and print one table."""
    parser = argparse.ArgumentParser(description=re.sub(r"\s+", " ", (__doc__ or "").split("\n\n", 1)[0]))
    parser.add_argument("--data", default="starter", help="rows in any form that learnable reads")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompts", type=int, default=64, help="different prompts")
    parser.add_argument(
        "--draws", type=int, default=1, help="how often each is asked; greedy is left out above 1"
    )
    parser.add_argument("--longest", type=int, default=128, help="most tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="seeds which prompts are drawn")
    chosen = parser.parse_args()
    model = LanguageModel(ModelRef(name=chosen.model, dtype=chosen.dtype, device=chosen.device))
    prompts = prompts_of(model, chosen) * chosen.draws
    lengths = [len(prompt) for prompt in prompts]
    where = f"{model.network.device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{date.today().isoformat()}, {where}, model {chosen.model}, {model.dtype}, seed {chosen.seed}")
    print(
        f"{chosen.prompts} prompts of {min(lengths)} to {max(lengths)} tokens (mean {np.mean(lengths):.0f}), each asked "
        f"{chosen.draws} times, at most {chosen.new_tokens} new tokens\n"
    )
    print("| decoding | way | tokens/s | learnable is faster by | same texts as learnable |")
    print("| --- | --- | ---: | ---: | ---: |")
    temperatures = {"greedy": 0.0, "sampled": 0.7} if chosen.draws == 1 else {"sampled": 0.7}
    for decoding, temperature in temperatures.items():
        way = Way(model, prompts, most=chosen.new_tokens, temperature=temperature)
        show(decoding, way, chosen.repeats)


def prompts_of(model: LanguageModel, chosen: argparse.Namespace) -> list[NDArray[np.int32]]:
    """Return questions of rows, drawn at random, as prompts."""
    with tempfile.TemporaryDirectory() as folder:
        pool = load_pool(load([chosen.data], output=f"{folder}/pool").folder)
        examples = list(pool.iter_examples())
    found: dict[bytes, NDArray[np.int32]] = {}
    for place in np.random.default_rng(chosen.seed).permutation(len(examples)):
        prompt = model.renderer.prompt_ids(examples[place].messages[:1])
        if len(prompt) <= chosen.longest:
            found.setdefault(prompt.tobytes(), prompt)
        if len(found) == chosen.prompts:
            return list(found.values())
    raise SystemExit(
        f"only {len(found)} different prompts of at most {chosen.longest} tokens in {chosen.data}"
    )


def show(decoding: str, way: Way, repeats: int) -> None:
    """Time each way and print its lines of the table."""
    Way(way.model, way.prompts[:BATCH], most=4, temperature=way.temperature).ours()  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    texts: dict[str, Texts] = {}
    for _ in range(repeats):
        for name, answers in NAMES.items():
            started = clock(way)
            texts[name] = answers(way)
            seconds[name].append(clock(way) - started)
            say(f"{decoding} {name}: {seconds[name][-1]:.1f} s")
    own = texts[next(reversed(NAMES))]
    rates = {name: tokens_of(way, found) / min(seconds[name]) for name, found in texts.items()}
    best = rates[next(reversed(NAMES))]
    for name, found in texts.items():
        same = sum(text == own[place] for place, text in found.items())
        print(
            f"| {decoding} | {name} | {rates[name]:,.1f} | {best / rates[name]:.2f} | {same} of {len(found)} |"
        )


def clock(way: Way) -> float:
    """Return seconds: of the processor on a CPU, by each thread; else of the clock, when the device is done."""
    if way.model.network.device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    if way.model.network.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def tokens_of(way: Way, texts: Texts) -> int:
    """Return how many tokens the answers have, with the one that ends each."""
    encoded = way.model.renderer.tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
    return sum(min(len(ids) + 1, way.most) for ids in encoded)


if __name__ == "__main__":
    main()
