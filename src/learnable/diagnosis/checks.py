"""What a check says, and with what machine its numbers are computed."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from learnable.errors import ModelError
from learnable.models.dtype import GIB, free_and_total_bytes, resolved
from learnable.models.loading import resolved_device
from learnable.types import ModelRef


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check says.

    Args:
        name: What is checked.
        verdict: ``ok``; ``warning``, for what costs something but leaves the numbers right, or could not be checked;
            ``wrong``.
        found: The figure and its bound, in words.
        remedy: What to do; empty where all is well.
        difference_nats: Largest difference of a row's loss per token; None where losses are not compared.
        bound_nats: How much of it is allowed.
    """

    name: str
    verdict: Literal["ok", "warning", "wrong"]
    found: str
    remedy: str = ""
    difference_nats: float | None = None
    bound_nats: float | None = None


def ok(name: str, found: str) -> CheckResult:
    """Return that all is well."""
    return CheckResult(name=name, verdict="ok", found=found)


def warning(name: str, found: str, remedy: str) -> CheckResult:
    """Return that something costs, or was not checked."""
    return CheckResult(name=name, verdict="warning", found=found, remedy=remedy)


def wrong(name: str, found: str, remedy: str) -> CheckResult:
    """Return that numbers are wrong."""
    return CheckResult(name=name, verdict="wrong", found=found, remedy=remedy)


def guarded(name: str, checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Return what checks say, one after the other; a model that fails in one of them is wrong, and ends them."""
    done: list[CheckResult] = []
    try:
        for check in checks:
            done.append(check)  # noqa: PERF402  those before a failure are kept
    except ModelError as error:
        done.append(wrong(name, error.message, error.hint or ""))
    return done


def machine_facts(ref: ModelRef) -> dict[str, str]:
    """Return what the numbers are computed with: torch, threads, device, dtype and why, memory."""
    device, dtype = resolved_device(ref), resolved(ref).dtype
    why = f"{device} computes in it" if dtype == "bfloat16" else f"{device} does not compute in bfloat16"
    free, total = free_and_total_bytes(device)
    name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
    return {
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads on {_cores()} cores",
        "device": device + name,
        "dtype": f"{dtype}, because {why}" if ref.dtype == "auto" else f"{dtype}, asked for",
        "memory": f"{free / GIB:.1f} of {total / GIB:.1f} GiB free",
    }


def _cores() -> int:
    """Return how many cores this process may use; two threads of one core are one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def threads_check() -> CheckResult:
    """Check that torch computes with as many threads as there are cores."""
    threads, cores = torch.get_num_threads(), _cores()
    found = f"{threads} on {cores} cores"
    if threads == cores:
        return ok("threads", found)
    return warning("threads", found, f"set OMP_NUM_THREADS={cores}, unless other work needs the cores")
