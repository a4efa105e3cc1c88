"""What does `--on ray` cost, and what does it gain, on this machine? Losses here, and on workers of a Ray cluster.

The same rows, batches, weights and dtype: in this process with all threads of the machine, in this process with as many
threads as a worker has, and on one and more workers. Prints the seconds until the first result (a worker has started,
imported torch and loaded the model; here, the model is loaded), the tokens per second after it, and whether the losses
have the bits of the process with as many threads as a worker.

Workers of one machine share its cores. They gain where one process leaves cores idle, as on small batches, and nothing
where it does not: what a cluster is for is more machines, or more GPUs.

    python benchmarks/cluster.py --data dolly_15k.parquet
"""

import argparse
import os
import platform
import tempfile
import time
from datetime import date
from itertools import chain
from typing import Any

import numpy as np
import torch

from learnable.commands import load
from learnable.data import load_pool
from learnable.measures import planned
from learnable.models.cluster import LOOPBACK, QUIET, ClusterModel
from learnable.models.language_model import LanguageModel
from learnable.models.losses import batch_token_nll
from learnable.models.rendering import Renderer
from learnable.packages import needed
from learnable.types import ModelRef, Rendered

MAX_LENGTH = 1_024


def rows_of(data: str, ref: ModelRef, *, rows: int) -> list[Rendered]:
    """Return rendered examples, drawn at random."""
    with tempfile.TemporaryDirectory() as folder:
        pool = load_pool(load([data], output=f"{folder}/pool").folder)
    examples = list(pool.iter_examples())
    drawn = np.random.default_rng(0).permutation(len(examples))[:rows]
    return Renderer.of(ref).render([examples[each] for each in drawn], max_length=MAX_LENGTH)


def timed(model: LanguageModel, batches: list[list[Rendered]], *, started: float) -> dict[str, Any]:
    """Return the losses of all batches in their order, the seconds to the first, and tokens/s of the others."""
    found: dict[int, Any] = {}
    for number, values in model.measure(batch_token_nll, batches):
        found[number] = values
        if len(found) == 1:
            first, tokens = time.perf_counter(), -sum(len(example.ids) for example in batches[number])
    tokens += sum(len(example.ids) for example in chain.from_iterable(batches))
    return {
        "losses": np.concatenate([np.concatenate(found[number]) for number in range(len(batches))]),
        "first_s": first - started,
        "tokens_per_s": tokens / (time.perf_counter() - first),
    }


def here(ref: ModelRef, batches: list[list[Rendered]], *, threads: int) -> dict[str, Any]:
    """Measure in this process."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    return timed(LanguageModel(ref), batches, started=started)


def there(ref: ModelRef, batches: list[list[Rendered]], *, workers: int, threads: int) -> dict[str, Any]:
    """Measure on a cluster of this machine, which has room for so many workers."""
    torch.set_num_threads(threads)
    ray = needed("ray", by="this benchmark", extra="ray")
    ray.init(
        "local",
        num_cpus=workers * threads,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        model = ClusterModel(ref, on="ray")
        return timed(model, batches, started=time.perf_counter())
    finally:
        ray.shutdown()


def main() -> None:
    """Time the ways one after the other, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="starter")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    chosen = parser.parse_args()
    os.environ.update(QUIET | LOOPBACK)
    ref, cores = ModelRef(name=chosen.model, dtype=chosen.dtype, device="cpu"), torch.get_num_threads()
    rendered = rows_of(chosen.data, ref, rows=chosen.rows)
    model = LanguageModel(ref)
    places = planned(rendered, batch_tokens=model.batch_tokens)
    batches = [[rendered[position] for position in batch] for batch in places]
    ways = {
        f"here, {cores} threads": here(ref, batches, threads=cores),
        f"here, {chosen.threads} threads": here(ref, batches, threads=chosen.threads),
    }
    expected = ways[f"here, {chosen.threads} threads"]["losses"]
    for workers in chosen.workers:
        name = f"Ray, {workers} workers of {chosen.threads} threads"
        ways[name] = there(ref, batches, workers=workers, threads=chosen.threads)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{date.today().isoformat()}, {machine}, model {chosen.model}, {chosen.dtype}")
    print(
        f"{len(rendered):,} rows, {sum(len(each.ids) for each in rendered):,} tokens, {len(batches)} batches\n"
    )
    print("| way | to the first result, s | tokens/s after it | same bits |\n| --- | ---: | ---: | --- |")
    for name, found in ways.items():
        same = "yes" if np.array_equal(found["losses"], expected) else "no"
        print(f"| {name} | {found['first_s']:.1f} | {found['tokens_per_s']:,.0f} | {same} |")


if __name__ == "__main__":
    main()
