"""Training in several processes, one for each device: torch's launcher starts, watches and ends them.

The main process does what a command does, and alone reads, writes and speaks; the others wait until it trains, train
with it, and wait again: those that we start (``together``) and those of the user's own ``torchrun`` (``join``) alike.
"""

import atexit
import logging
import os
import pickle
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous

from learnable.errors import LearnableError, TrainError
from learnable.runs.stopping import Stopped, handlers_kept

WORK, END = "work", "end"
WORKER = (
    "-P",  # the working folder is no place to import from
    "-c",
    "import sys; from learnable.runs.stopping import end_with; end_with(int(sys.argv[2])); "  # before what takes long
    f"from {__name__} import work; work(sys.argv[1])",
)
PATIENCE = timedelta(days=30)
"""How long a process waits for the main one to train: much of what that does takes no other."""

_store: PrefixStore | None = None
_number = count()


def processes_here() -> int:
    """Return how many processes a launcher has started to train together; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_main() -> bool:
    """Return whether this is the process that writes."""
    return processes_here() == 1 or os.environ["RANK"] == "0"


def join(meeting: Path | None = None) -> None:
    """Under a launcher such as torchrun, become the main process, or train with it until it ends.

    In the main process, and without a launcher, this returns at once. The others end in it, without an error, when
    the main process ends. Call it before anything is read or written. Processes find each other through the file
    ``meeting``, else over the network, as the launcher says: whoever reaches its port can give them orders.
    """
    global _store
    if processes_here() == 1 or _store is not None:
        return
    threads = max(1, torch.get_num_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(threads))))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if meeting is None:
        store, rank, size = next(rendezvous("env://"))
    else:
        rank, size = int(os.environ["RANK"]), processes_here()
        store = dist.FileStore(str(meeting), size)  # type: ignore[attr-defined]
        loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "")
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, loopback)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=PrefixStore("training", store), rank=rank, world_size=size)
    _store = PrefixStore("work", store)
    atexit.register(_leave)
    while not is_main():
        key = str(next(_number))
        _store.wait([key], PATIENCE)
        if _store.get(key).decode() == END:
            sys.exit(0)
        function, arguments = shared(None)
        function(*arguments)


def together(function: Callable[..., Any], *arguments: Any, processes: int, scratch: Path) -> Any:
    """Call a function of a module in all processes at once, and return what it returns in the main one.

    So many ``processes`` are started on this machine, and meet in the folder ``scratch``. Under a launcher its processes
    are taken; with 1, this one.

    Raises:
        TrainError: If a process ends before its time.
        LearnableError: What the function raises in the main process.
    """
    if processes_here() > 1:
        join()
        assert _store is not None
        _store.set(str(next(_number)), WORK)
        shared((function, arguments))
        return function(*arguments)
    if processes > 1:
        return _launched(function, arguments, processes, scratch)
    return function(*arguments)


def shared(value: Any) -> Any:
    """Return the value that the main process gives, in all of them."""
    if processes_here() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def work(path: str | Path) -> None:
    """Do what ``together`` left in a file, and leave the outcome beside it; in the main process of several."""
    # PEFT 0.21 asks transformers 5.23 for a property under its old name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    call = Path(path)
    join(call.with_suffix(".meeting"))
    function, arguments = pickle.loads(call.read_bytes())
    try:
        outcome = together(function, *arguments, processes=1, scratch=call.parent)
    except LearnableError as error:
        outcome = error
    call.with_suffix(".outcome").write_bytes(pickle.dumps(outcome))
    if isinstance(outcome, LearnableError):
        sys.exit(1)


def _leave() -> None:
    if is_main() and _store is not None:
        _store.set(str(next(_number)), END)
    dist.destroy_process_group()


def _launched(function: Callable[..., Any], arguments: tuple[Any, ...], processes: int, scratch: Path) -> Any:
    """Have processes of this machine call a function, and return what it returns in the main one."""
    scratch.mkdir(parents=True, exist_ok=True)
    # A folder that no other user can write to: what lies in it is unpickled.
    with tempfile.TemporaryDirectory(prefix="processes-", dir=scratch) as private:
        call = Path(private).resolve() / "call.pickle"
        call.write_bytes(pickle.dumps((function, arguments)))
        _launch(call, processes)
        found = pickle.loads(call.with_suffix(".outcome").read_bytes())
    if isinstance(found, LearnableError):
        raise found
    return found


def _launch(call: Path, processes: int) -> None:
    # Neither the launcher nor its processes open a port that other machines reach.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(call.with_suffix(".launch")),
        rdzv_configs={"store_type": "file"},
        local_addr="localhost",
        max_restarts=0,
    )
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # it tells how it ends processes, and what of
    try:
        with handlers_kept():
            elastic_launch(config, sys.executable)(*WORKER, str(call), str(os.getpid()))
    except ChildFailedError as error:
        if not call.with_suffix(".outcome").is_file():
            rank, failure = error.get_first_failure()
            raise TrainError(
                f"process {rank + 1} of {processes} ended with exit code {failure.exitcode}",
                hint="what it said stands above; the same command goes on from the last checkpoint",
            ) from error
    except SignalException as error:
        raise Stopped(error.sigval) from error
    finally:
        logging.disable(before)
