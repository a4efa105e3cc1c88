"""What a step will cost, before it runs, and what it did cost."""

import sys
from dataclasses import dataclass, fields

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a step computed, killed attempts included; what was stored before it began costs nothing.

    Args:
        tokens: Tokens that went through a model, without padding.
        passes: The same in passes over the pool.
        seconds: Wall-clock time of all attempts, of a killed one up to its last note.
        peak_memory_bytes: Highest resident memory of a process up to the end of the step.
    """

    tokens: int = 0
    passes: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a step will cost on this machine. Prices add up: all fields are sums, but for the peak of the memory.

    Args:
        rows: Examples that go through a model, once for each pass.
        tokens: Tokens that go through a model, without padding; estimated where the pool is large.
        passes: The same in passes over the pool.
        seconds: Time of these passes, by a trial of this model on this machine.
        peak_gib: Highest memory, in GiB: of a GPU where the model is on one, else of the process.
        disk_gib: What is written, in GiB.
        unknown: What could not be told, and why; the figures above are without it.
    """

    rows: int = 0
    tokens: int = 0
    passes: float = 0.0
    seconds: float = 0.0
    peak_gib: float = 0.0
    disk_gib: float = 0.0
    unknown: tuple[str, ...] = ()

    def __add__(self, other: "Price") -> "Price":
        names = {field.name for field in fields(self)} - {"peak_gib", "unknown"}
        return Price(
            **{name: getattr(self, name) + getattr(other, name) for name in names},
            peak_gib=max(self.peak_gib, other.peak_gib),
            unknown=tuple(dict.fromkeys((*self.unknown, *other.unknown))),
        )

    @property
    def words(self) -> list[str]:
        """The figures for people; what is not known comes last."""
        least = "at least " if self.unknown else ""
        figures = {
            f"{least}{self.rows:,} rows, {self.tokens:,} tokens": self.tokens,
            f"{least}{duration(self.seconds)}": self.seconds,
            f"{size(self.peak_gib)} of memory": self.peak_gib,
            f"{size(self.disk_gib)} of disk": self.disk_gib,
        }
        return [*(said for said, amount in figures.items() if amount), *self.unknown]


def size(gib: float) -> str:
    """Return a size of memory to two digits or so, in MiB where it is small."""
    return f"{gib:.2g} GiB" if gib >= 0.1 else f"{max(1, gib * 1024):.0f} MiB"


def duration(seconds: float) -> str:
    """Return a time to two digits or so: 40 s, 12 min, 3.5 h."""
    if seconds < 1:
        return "1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def peak_memory_bytes() -> int:
    """Return the highest resident memory of this process so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
