"""How fast are gradients of single examples, and what memory do they take? Ours against LESS's loop, on the same rows.

LESS takes one example at a time, adjusts its gradient by Adam's moments, and projects 16 at once by a dense matrix of
random signs, drawn anew each time. Here a batch is one backward pass. Both have the same model, dtype, adapter and
moments, in turns of a few rows, so that a busy machine slows both. What is timed: products with two vectors (exact mode)
and sketches here; one example at a time there, without its projection and with it at d = 1,024. Memory is the peak of
the process above that of a pass of losses over the same rows, which comes first.

    python benchmarks/gradients.py --rows 64
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from learnable.data import read
from learnable.measures import planned
from learnable.models.dtype import resolved
from learnable.models.language_model import LanguageModel
from learnable.models.losses import batch_token_nll
from learnable.runs.price import peak_memory_bytes
from learnable.settings import Tuning
from learnable.training.adapters import trainable
from learnable.training.epochs import BETAS, EPSILON, Moments
from learnable.training.gradients import parameter_names
from learnable.training.target_gradients import batch_cosines, batch_sketches, gradient_tokens
from learnable.types import ModelRef, Rendered

PROJECTED, BLOCK, AT_ONCE = 1_024, 128, 16
"""Dimensions of the dense projection, columns that are drawn at once, and gradients that are projected at once."""


def fresh_adapter(ref: ModelRef, folder: Path, rank: int) -> None:
    """Write an adapter on attention of which no factor is 0."""
    network = trainable(ref, Tuning(rank=rank), layers="attention")
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    network.save_pretrained(folder)


def sizes_of(model: LanguageModel) -> dict[str, int]:
    """Return how many numbers each factor of the active adapter has."""
    (adapter,) = model.network.active_adapters
    layer = (name.removesuffix(".weight") + f".{adapter}.weight" for name in parameter_names(model.network))
    names = parameter_names(model.network)
    return {own: model.network.get_parameter(full).numel() for own, full in zip(names, layer, strict=True)}


def one_at_a_time(
    model: LanguageModel, moments: Moments, rendered: Sequence[Rendered], *, project: bool
) -> torch.Tensor:
    """Take gradients as LESS's loop does, (n, d) or (n, P), each at length 1 where they are projected."""
    network, names = model.network, parameter_names(model.network)
    (adapter,) = network.active_adapters
    weights = [network.get_parameter(name.removesuffix(".weight") + f".{adapter}.weight") for name in names]
    first, second = (torch.cat([part[name] for name in names]) for part in (moments.first, moments.second))
    for weight in weights:
        weight.requires_grad = True
    waiting, found = [], []
    for example in rendered:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None].to(network.device)
        labels = ids.masked_fill(~torch.from_numpy(example.mask)[None].to(network.device), -100)
        network(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        gradient = torch.cat([weight.grad.flatten() for weight in weights]).float().cpu()
        network.zero_grad()
        moved = BETAS[0] * first + (1 - BETAS[0]) * gradient
        waiting.append(moved / torch.sqrt(BETAS[1] * second + (1 - BETAS[1]) * gradient**2 + EPSILON))
        if not project:
            found.append(waiting.pop().norm()[None])
        elif len(waiting) == AT_ONCE or example is rendered[-1]:
            found.append(projected(torch.stack(waiting)))
            waiting.clear()
    for weight in weights:
        weight.requires_grad = False
    return torch.cat(found)


def projected(gradients: torch.Tensor) -> torch.Tensor:
    """Return gradients times random signs, (n, d), which are drawn block by block."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(PROJECTED // BLOCK):
        signs = torch.empty(gradients.shape[1], BLOCK).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        parts.append(gradients @ signs)
    return torch.cat(parts, dim=1)


def batched(model: LanguageModel, launch: Any, rendered: Sequence[Rendered]) -> None:
    """Take a pass over rows, in batches as `score` does."""
    plan = planned(
        rendered, batch_tokens=gradient_tokens(model) if launch is not batch_token_nll else model.batch_tokens
    )
    for _ in model.measure(launch, [[rendered[place] for place in batch] for batch in plan]):
        pass


def timed(work: Callable[[], Any]) -> float:
    """Return seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print a table of tokens per second, and of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", default="starter")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--most-tokens", type=int, default=120, help="rows under so many tokens")
    parser.add_argument("--turn", type=int, default=32, help="rows of a turn")
    parser.add_argument(
        "--projected-rows", type=int, default=AT_ONCE, help="rows with the dense projection; 0 for none"
    )
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    ref = resolved(ModelRef(name=given.model, dtype=given.dtype, device=given.device))
    model = LanguageModel(ref)
    examples = list(read([given.data]).iter_examples())
    drawn = np.random.default_rng(0).permutation(len(examples))
    rendered = [
        row
        for row in model.renderer.render(
            [examples[place] for place in drawn[: 8 * given.rows]], max_length=2_048
        )
        if row.mask.any() and len(row.ids) < given.most_tokens
    ][: given.rows]
    with TemporaryDirectory() as folder:
        fresh_adapter(ref, Path(folder), given.rank)
        with model.adapter(Path(folder)):
            compare(model, rendered, turn=given.turn, projected_rows=given.projected_rows)


def compare(model: LanguageModel, rendered: list[Rendered], *, turn: int, projected_rows: int) -> None:
    """Time both ways in turns, and print what came of it."""
    sizes = sizes_of(model)
    torch.manual_seed(1)
    first, second = ({name: 1e-3 * torch.randn(size) for name, size in sizes.items()} for _ in range(2))
    moments = Moments(first=first, second={name: value.square() for name, value in second.items()}, step=100)
    vectors = {name: torch.randn(2, size) for name, size in sizes.items()}
    exact = partial(batch_cosines, moments=moments, adam="code", vectors=vectors)
    sketch = partial(batch_sketches, moments=moments, adam="code", dimensions=PROJECTED, seed=0)
    batched(model, batch_token_nll, rendered)
    loss_peak = peak_memory_bytes()
    batched(model, exact, rendered)
    exact_peak = peak_memory_bytes()
    batched(model, sketch, rendered[:turn])
    ways: dict[str, Callable[[Sequence[Rendered]], Any]] = {
        "losses": partial(batched, model, batch_token_nll),
        "products with 2 vectors": partial(batched, model, exact),
        f"sketches, d = {PROJECTED:,}": partial(batched, model, sketch),
        "one at a time": partial(one_at_a_time, model, moments, project=False),
    }
    seconds = dict.fromkeys(ways, 0.0)
    for start in range(0, len(rendered), turn):
        for name, way in ways.items():
            seconds[name] += timed(partial(way, rendered[start : start + turn]))
    tokens = sum(len(row.ids) for row in rendered)
    speeds = {name: tokens / spent for name, spent in seconds.items()}
    if some := rendered[:projected_rows]:
        spent = timed(lambda: one_at_a_time(model, moments, some, project=True))
        speeds[f"one at a time, dense projection, d = {PROJECTED:,}"] = (
            sum(len(row.ids) for row in some) / spent
        )
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, {model.network.device}, {model.dtype}"
    )
    print(f"{len(rendered)} rows, {tokens:,} tokens, {sum(sizes.values()):,} parameters of adapters\n")
    print("| pass | tokens/s | products against it |")
    print("|---|---:|---:|")
    ours = speeds["products with 2 vectors"]
    for name, speed in speeds.items():
        print(f"| {name} | {speed:,.0f} | {ours / speed:.2f}x |")
    print(f"\npeak above a pass of losses: {(exact_peak - loss_peak) / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
