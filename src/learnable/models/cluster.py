"""A model whose weights are in the workers of a Ray cluster: one for each GPU, or for some CPUs.

Ray Data does what a cluster takes: it starts the workers, hands each the next batch, starts another in place of one that
died and gives it the batch again, and streams what comes back. Batches are planned here, from all examples, and shipped
whole; a worker computes them with the threads that this process would use. So the numbers have the same bits.
"""

import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

import torch
from numpy.typing import NDArray

from learnable.errors import ModelError, UsageError, first_line
from learnable.models.adapters import check_is_adapter
from learnable.models.cluster_worker import Worker, dtype_here, opened
from learnable.models.generation import Answered, Asked
from learnable.models.language_model import LanguageModel, usual_batch_tokens
from learnable.models.rendering import Renderer
from learnable.models.source import adapter_key, identify
from learnable.packages import needed
from learnable.runs.progress import say
from learnable.runs.stopping import handlers_kept
from learnable.types import Awaited, Launch, ModelRef, Rendered, Work

Found = TypeVar("Found")
Task = Callable[[LanguageModel], Found]

MOST_BLOCKS = 10_000
"""Most blocks of a pass: Ray Data takes milliseconds for each, so a block of a longer pass holds several batches."""

KNOCK_S = 10.0
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Lets a cluster of one machine listen on 127.0.0.1 alone, on Linux too, whatever the name says."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers that a cluster has room for, where they compute, and how many threads and CPUs each takes."""

    device: str
    workers: int
    threads: int

    @property
    def resources(self) -> dict[str, float]:
        """What a worker takes of the cluster."""
        return {"num_gpus": 1.0} if self.device == "cuda" else {"num_cpus": float(self.threads)}


def connected(on: str) -> Any:
    """Return the module ``ray`` of this process, connected: to a cluster that is there, or to one that begins here.

    Written is ``ray:ADDRESS``, or ``ray`` for the cluster that RAY_ADDRESS names, else one of this machine alone that
    ends with this process.
    """
    kind, _, address = on.partition(":")
    if kind != "ray":
        raise UsageError(f"cannot run on {on!r}", hint="write --on ray, or --on ray:ADDRESS")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in (QUIET | (LOOPBACK if address == "local" else {})).items():
        os.environ.setdefault(name, value)  # read when Ray is imported
    ray, data = _needed("ray"), _needed("ray.data")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    if ray.is_initialized():
        return ray
    try:
        _knock(address)
        # Ray has its workers import from the working folder.
        with chdir(Path.cwd().anchor), handlers_kept(), _nothing_said():
            ray.init(
                address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"cannot reach the Ray cluster {address}: {first_line(error)}",
            hint="is it running (`ray status`), with the Python and Ray of here? one with a token asks for "
            "RAY_AUTH_MODE=token",
        ) from error
    return ray


def _needed(module: str) -> Any:
    return needed(module, by="--on ray", extra="ray")


@contextmanager
def _nothing_said() -> Iterator[None]:
    """Hold back what the part of Ray in C++ writes to standard error, such as which level of log it was given."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _knock(address: str) -> None:
    """Raise an ``OSError`` at once where nobody listens: Ray would try again for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=KNOCK_S).close()


def pool_of_workers(ray: Any, device: str) -> Workers:
    """Return the workers that a cluster has room for: one for each GPU, else as many as its CPUs can take.

    A CPU worker is what a local run would be: it has the threads of this process (OMP_NUM_THREADS), since other
    numbers of threads add up in another order, and so give other bits. The device ``auto`` is CUDA where there is a GPU.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device.startswith("cuda"):
        if not gpus:
            raise ModelError(f"the Ray cluster has no GPU for --device {device}", hint="give --device cpu")
        return Workers(device="cuda", workers=gpus, threads=1)
    threads, cpus = torch.get_num_threads(), [int(node.get("CPU", 0)) for node in nodes]
    workers = sum(count // threads for count in cpus)
    if not workers:
        raise ModelError(
            f"a worker takes {threads} CPUs, like this process, and no machine of the Ray cluster has more than "
            f"{max(cpus, default=0)}",
            hint="set OMP_NUM_THREADS to fewer",
        )
    return Workers(device=device, workers=workers, threads=threads)


def dtype_of_workers(ref: ModelRef, on: str) -> Literal["float32", "bfloat16"]:
    """Return the dtype that a model gets on the workers of a cluster; ``auto`` is asked of one of them."""
    if ref.dtype != "auto":
        return ref.dtype
    ray = connected(on)
    pool = pool_of_workers(ray, ref.device)
    ask = ray.remote(**pool.resources)(dtype_here)
    with _errors_in_one_line(ray):
        done = opened(ray.get(ask.remote(_shipped(ref, pool), pool.threads)))
    for line in done.said.splitlines():
        say(line)
    return cast("Literal['float32', 'bfloat16']", done.found)


class ClusterModel(LanguageModel):
    """A ``LanguageModel`` without weights of its own: what takes them is done by workers, one model in each.

    Every pass starts its workers, and they end with it. They must find the model under the same name.
    """

    def __init__(self, ref: ModelRef, *, on: str) -> None:
        self._ray = connected(on)
        self._pool = pool_of_workers(self._ray, ref.device)
        self.ref = replace(ref, dtype=dtype_of_workers(ref, on))
        self.renderer = Renderer.of(ref)
        self.key = self._base_key = identify(self.ref)
        self._worn: Path | None = None
        self._heard: set[str] = set()
        self.work = Work()

    @property
    def dtype(self) -> str:
        """Name of the dtype the workers compute in."""
        return self.ref.dtype

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one forward pass of a worker takes."""
        return usual_batch_tokens(self.ref, self._pool.device)

    @property
    def peak_operations_per_s(self) -> None:
        """None: the workers may differ."""

    def measure(
        self, launch: Launch, batches: Sequence[Sequence[Rendered]]
    ) -> Iterator[tuple[int, Sequence[Any] | NDArray[Any]]]:
        """Yield the number of each batch and one value per example; implements ``types.MeasuredModel``."""
        yield from self.each([partial(_only, method="measure", given=(launch, [batch])) for batch in batches])

    def begin(self, launch: Launch, rendered: Sequence[Rendered]) -> Awaited:
        """Return what has one worker compute a batch."""
        return partial(self.call, partial(_only, method="measure", given=(launch, [rendered])))

    def continued(self, asked: Asked) -> Answered:
        """Yield positions and answers, in batches that are planned here."""
        batches = asked.batches(self._pool.device)
        tasks = [partial(_only, method="continued", given=(asked.of(batch),)) for batch in batches]
        for number, answers in self.each(tasks):
            yield batches[number], answers

    @contextmanager
    def adapter(self, folder: Path | None) -> Iterator[None]:
        """Let the workers of each pass within the block wear the LoRA adapter of ``folder``, if any; a pass may refuse it."""
        if folder is None:
            yield
            return
        check_is_adapter(folder)
        self._worn, self.key = folder.resolve(), adapter_key(self._base_key, folder)
        try:
            yield
        finally:
            self._worn, self.key = None, self._base_key

    def call(self, task: "Task[Found]") -> Found:
        """Return what one worker gives for a function of the model."""
        ((_, found),) = self.each([task])
        return found

    def each(self, tasks: "Sequence[Task[Found]]") -> "Iterator[tuple[int, Found]]":
        """Yield the number of each task and what a worker found, as they are done, in any order.

        Tasks are functions of the model that a worker has loaded; they and what they return are pickled.
        """
        if not tasks:
            return
        before: float | None = None
        results = self._results([pickle.dumps(task) for task in tasks])
        # Closed at once, also after an error: what is left of a pass would keep its workers.
        with _errors_in_one_line(self._ray), closing(iter(results.iter_rows())) as rows:
            for row in rows:
                done = opened(row["done"])
                for line in done.said.splitlines():  # said once for all workers
                    if line not in self._heard:
                        self._heard.add(line)
                        say(line)
                now = time.monotonic()
                # Seconds of the clock, not of the workers: the speed of a pass is that of all of them together.
                seconds = done.work.seconds if before is None else now - before
                self.work += replace(done.work, seconds=seconds)
                before = now
                yield row["number"], done.found

    def _results(self, tasks: Sequence[bytes]) -> Any:
        """Return the dataset of what the workers give; nothing is computed before it is iterated over."""
        data = _needed("ray.data")
        size = min(self._pool.workers, len(tasks))
        return data.from_items(
            [{"number": number, "task": task} for number, task in enumerate(tasks)],
            override_num_blocks=min(len(tasks), MOST_BLOCKS),
        ).map(
            Worker,
            fn_constructor_args=(_shipped(self.ref, self._pool), self._worn, self.key, self._pool.threads),
            # One is enough to begin with: a busy cluster may have no room for more yet.
            compute=data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=size),
            **self._pool.resources,
        )


def _shipped(ref: ModelRef, pool: Workers) -> ModelRef:
    """Return a model as a worker is to load it: by a path that does not depend on the folder one works in."""
    path = Path(ref.name).expanduser()
    is_path = ref.name != "starter" and path.exists()
    return replace(ref, name=str(path.resolve()) if is_path else ref.name, device=pool.device)


def _only(model: LanguageModel, *, method: str, given: tuple[Any, ...]) -> Any:
    """Return what a method of a model gives for the one batch that it is given."""
    ((_, found),) = getattr(model, method)(*given)
    return found


@contextmanager
def _errors_in_one_line(ray: Any) -> Iterator[None]:
    """Turn what Ray itself raises, when a worker or a machine is gone for good, into a ``ModelError``."""
    timeout = _needed("ray.data.exceptions").ExecutionTimeoutError
    try:
        yield
    except timeout as error:
        raise ModelError(
            f"the Ray cluster gave nothing for a long time: {first_line(error)}",
            hint="is it busy with other jobs (`ray status`)? RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S sets how long",
        ) from error
    except ray.exceptions.RayError as error:
        raise ModelError(
            f"the Ray cluster failed: {type(error).__name__}: {first_line(error)}",
            hint="the same command goes on from what is stored; --debug shows more",
        ) from error
