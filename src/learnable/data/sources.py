"""Where rows are: what a name on the command line stands for, and one iterator of records for each kind of source."""

import difflib
import glob
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from learnable.data.csv_files import read_csv
from learnable.data.json_files import layout_of, read_json, read_jsonl
from learnable.data.pool import is_pool
from learnable.data.records import Record
from learnable.data.starter import STARTERS
from learnable.data.tables import HUB_ID, open_hub, read_table
from learnable.data.text_files import COMPRESSIONS, refuse_foreign
from learnable.errors import DataError
from learnable.pools import SourceFile
from learnable.runs.identity import file_digest, fingerprint
from learnable.runs.records import BEGUN, DONE
from learnable.urls import without_secrets

_TEXT = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
SUFFIXES = {
    **{text + compression: kind for text, kind in _TEXT.items() for compression in ("", *COMPRESSIONS)},
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
KNOWN_SUFFIXES = f"{', '.join(_TEXT)} (also with {', '.join(COMPRESSIONS)}), .parquet, .pq, .arrow, .feather"
UNLIMITED_BYTES = 1 << 62
MEMORY = "memory"
"""Kind of a source whose rows are given."""


_SHARD = re.compile(r"[-_.]?\d+-of-\d+$", re.IGNORECASE)
_NUMBER = re.compile(r"[-_.]?\d+$")
_SPLIT = re.compile(r"(?<![a-z])(train|valid|validation|val|dev|test|eval)(?:ing|uation)?(?![a-z])")
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that lie beside rows and hold none."""


class Source(NamedTuple):
    """A file, folder, hub data set or starter set to read: its kind, its absolute path (or id), and its rows' source.

    Rows that are in memory are ``given``; their path is a name.
    """

    kind: str
    path: str
    source: str
    given: Sequence[Mapping[str, Any]] | None = None


def suffix_of(name: str) -> str | None:
    """Return the known suffix of a file name, such as ``.jsonl.gz``; None if there is none."""
    fitting = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[-max(map(len, fitting)) :] if fitting else None


def base_name(kind: str, path: str) -> str:
    """Return what a source is called in messages and in output files."""
    if kind != "hub":
        return Path(path).name
    return re.sub(r"[^\w.-]+", "-", path.rpartition("/")[2]).strip("-")


def names_of(sources: Iterable[Source | SourceFile]) -> list[str]:
    """Return what sources are called in messages: a name alone, or with the folders that tell it from its namesakes."""
    sources = list(sources)
    names = [base_name(source.kind, source.path) for source in sources]
    named = list(zip(names, sources, strict=True))
    for name in {name for name, times in Counter(names).items() if times > 1}:
        parts = {source.path: Path(source.path).parts for other, source in named if other == name}
        if len(parts) > 1:
            telling = next(n for n in count(2) if len({path[-n:] for path in parts.values()}) == len(parts))
            for at, (other, source) in enumerate(named):
                names[at] = "/".join(parts[source.path][-telling:]) if other == name else names[at]
    return names


# ---------------------------------------------------------------- what a name stands for


def locate(given: str | Source) -> list[Source]:
    """Return what a name stands for: one source, or the files of a folder or of a pattern such as ``data/*.jsonl``.

    What is a source already stands for itself; what is not there, or holds no rows, is a ``DataError``.
    """
    if isinstance(given, Source):
        return [given]
    if given in STARTERS:
        return [Source("starter", given, given)]
    if "://" in given:
        shown = without_secrets(given)
        name = shown.partition("?")[0].rstrip("/").rpartition("/")[2] or "my.jsonl"
        raise DataError(
            f"{shown} is an address, and addresses are not read",
            hint=f"download it (curl -LO {shown}), then give {name}; a data set of the hub is given as owner/name",
        )
    # A shell leaves a ~ as it is behind `data=`.
    path = Path(given).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        return [_file(path)]
    if suffix_of(path.name) is None and HUB_ID.fullmatch(given):
        return [Source("hub", given, base_name("hub", given))]
    if glob.has_magic(given):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - a pattern may be absolute
        found = [Path(name) for name in names if Path(name).is_file()]
        if found:
            return _several(found)
        raise DataError(f"no file fits the pattern {given}", hint=_near(path))
    raise DataError(f"there is no file {given}", hint=_near(path))


def _file(path: Path, source: str | None = None) -> Source:
    suffix = suffix_of(path.name)
    if suffix is None:
        raise DataError(f"{path}: unknown kind of file", hint=f"known kinds: {KNOWN_SUFFIXES}")
    stem = path.name.removesuffix(suffix)
    with readable(str(path)):
        refuse_foreign(str(path))
        kind = SUFFIXES[suffix.lower()]
        kind = layout_of(str(path)) if kind == "json" else kind
    # A link keeps its own name: in the hub's cache files are links to others without a suffix.
    absolute = path.parent.resolve() / path.name
    return Source(kind, str(absolute), source or _SHARD.sub("", stem) or stem)


def _several(files: list[Path]) -> list[Source]:
    """Return the files of a folder or a pattern; those that differ by a number only are shards of one source."""
    stems = [_SHARD.sub("", file.name.removesuffix(suffix_of(file.name) or "")) for file in files]
    shared = {_NUMBER.sub("", stem) for stem in stems}
    one = None
    if len(files) > 1 and len(shared) == 1:
        one = shared.pop() or files[0].resolve().parent.name
    return [_file(file, one) for file in files]


def _in_folder(folder: Path) -> list[Source]:
    if is_pool(folder):
        raise DataError(
            f"{folder} was loaded before and cannot be combined with other data",
            hint="give it alone, or give the files it was loaded from",
        )
    splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
    is_one = (folder / "state.json").is_file()
    if is_one or ((folder / "dataset_dict.json").is_file() and len(splits) == 1):
        path = folder.resolve() if is_one else (folder / splits[0]).resolve()
        return [Source("datasets", str(path), path.name)]
    if (folder / "dataset_dict.json").is_file() and splits:
        raise DataError(
            f"{folder} has several splits: {', '.join(splits)}",
            hint=f"give one of them: {folder / _train_first(splits)[0]}",
        )
    if (folder / BEGUN).is_file() or (folder / DONE).is_file():
        inside = [path for name in ("selected", "generated.parquet") if (path := folder / name).exists()]
        raise DataError(
            f"{folder} is the output of an earlier step",
            hint=f"give the rows in it: {inside[0]}" if inside else "give the files it was made from",
        )
    return _shards(folder)


def _shards(folder: Path) -> list[Source]:
    """Return the files of a folder that hold its rows: one set of one kind in one place, and not one for tests too."""
    sets: dict[tuple[Path, str, str], list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        suffix = suffix_of(file.name)
        if suffix is not None and not hidden and file.name not in _NO_ROWS and file.is_file():
            split = next(iter(_SPLIT.findall(file.name.lower())), "")
            sets.setdefault((file.parent, split, suffix), []).append(file)
    if not sets:
        raise DataError(f"there are no data files in {folder}", hint=f"data files are {KNOWN_SUFFIXES}")
    if len(sets) > 1:
        patterns = [_pattern(files) for files in sets.values()]
        shown = ", ".join(patterns[:6]) + (", ..." if len(patterns) > 6 else "")
        raise DataError(
            f"{folder} holds several sets of files: {shown}",
            hint=f"give the one you mean: {_train_first(patterns)[0]}",
        )
    return _several(next(iter(sets.values())))


def _pattern(files: list[Path]) -> str:
    """Return what to type for some files of a folder: a name, a pattern in quotes, or several names."""
    folder, names = files[0].parent, [file.name for file in files]
    if len(files) == 1:
        return str(files[0])
    shared = commonprefix([names[0], names[-1]])  # noqa: RUF071 - of names, not of paths
    pattern = folder / f"{shared}*{suffix_of(names[0]) or ''}"
    if sorted(folder.glob(pattern.name)) == files:
        return f'"{pattern}"'
    return " ".join(map(str, files[:5])) + (" ..." if len(files) > 5 else "")


def _train_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: "train" not in name.lower())


def _near(path: Path) -> str:
    """Return a hint with the files whose names are close to that of a missing file."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    names = [entry.name for entry in path.parent.iterdir()]
    words = [*STARTERS, *names] if path.parent == Path() else names
    close = difflib.get_close_matches(path.name, words, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    data = sorted(name for name in names if suffix_of(name))[:5]
    folder = path.parent.resolve()
    found = f"data files in {folder}: {', '.join(data)}" if data else f"there are no data files in {folder}"
    if path.parent == Path() and re.fullmatch(r"\w[\w-]*(:.*)?", path.name):
        found += f"; a data set of the hub is given with its owner: owner/{path.name}"
    return found


# ---------------------------------------------------------------- its records


def read_records(source: Source | SourceFile, *, max_bytes: int = UNLIMITED_BYTES) -> Iterator[Record]:
    """Yield the rows of a source in order; rows that cannot be parsed, or are too large, come with a reason."""
    if isinstance(source, Source) and source.given is not None:
        yield from (Record(None, row) for row in source.given)
        return
    with readable(source.path):
        yield from _READERS[source.kind](source.path, max_bytes)


def digest_of(source: Source | SourceFile) -> str:
    """Return a hash of the content of a source; a ``DataError`` where it cannot be read."""
    if isinstance(source, Source) and source.given is not None:
        return fingerprint([json.dumps(row, default=str, ensure_ascii=False) for row in source.given])
    path = source.path
    with readable(path):
        if source.kind == "starter":
            return fingerprint(list(STARTERS[path]()))
        if source.kind == "hub":
            return str(open_hub(path)._fingerprint)
        if source.kind == "datasets":
            files = sorted(Path(path).glob("*.arrow"))
            return fingerprint([[file.name, file_digest(file)] for file in files])
        return file_digest(Path(path))


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn what goes wrong with a file into an error that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"cannot read {path}: {reason}", hint="check that the file is complete and is what its name says"
        ) from error


_READERS: dict[str, Callable[[str, int], Iterator[Record]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "starter": lambda path, _max_bytes: (Record(None, row) for row in STARTERS[path]()),
    **{kind: partial(read_table, kind) for kind in ("parquet", "arrow", "datasets", "hub")},
}
