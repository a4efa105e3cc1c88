"""Text files as lines of UTF-8: compressed or not, in whatever Unicode they are, and no line longer than allowed."""

import bz2
import gzip
import io
import json
import lzma
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from learnable.errors import DataError

COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
BINARY = (".parquet", ".pq", ".arrow", ".feather")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEAD_BYTES = 512

_MAGIC = (
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", ".bz2"),
    (rb"\x1f\x8b", ".gz"),
    (rb"\x28\xb5\x2f\xfd", ".zst"),
    (rb"\xfd7zXZ\x00", ".xz"),
)
_FOREIGN = (
    (rb"PAR1.*\x00", "a Parquet file", "name it .parquet"),
    (rb"ARROW1\x00", "an Arrow file", "name it .arrow"),
    (rb"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV UTF-8"),
    (rb"SQLite format 3\x00", "an SQLite database", "export its table as .csv"),
    (rb"%PDF-", "a PDF document", "give the rows as .jsonl, .csv or .parquet"),
    (rb"\s*<(?i:!doctype html|html)", "a web page, not the data", "download the file itself"),
)
_POINTER = b"version https://git-lfs"


def refuse_foreign(path: str) -> None:
    """Refuse a pointer of git-lfs, and a file that should hold text and is of another kind (``DataError``)."""
    with Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(_POINTER):
        raise DataError(
            f"{path} is a pointer of git-lfs: the rows are not here", hint="fetch them: git lfs pull"
        )
    for magic, what, hint in () if path.lower().endswith(BINARY) else _FOREIGN:
        if re.match(magic, head, re.DOTALL):
            raise DataError(f"{path} is {what}", hint=hint)


def inner_suffix(path: str) -> str:
    """Return the suffix that says what a file is, in small letters: ``.jsonl`` of ``My.JSONL.gz``."""
    name = Path(path.lower())
    return (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix


def _coded(file: IO[bytes], compression: str, mode: Literal["rb", "wb"]) -> Any:
    if compression == ".zst":
        return (pa.CompressedInputStream if mode == "rb" else pa.CompressedOutputStream)(file, "zstd")
    if compression == ".gz":
        # Without name and time, so that the same rows give the same bytes.
        return gzip.GzipFile(filename="", mode=mode, fileobj=file, mtime=0)
    return (bz2.BZ2File if compression == ".bz2" else lzma.LZMAFile)(file, mode)


@contextmanager
def open_bytes(path: str) -> Iterator[io.BufferedReader]:
    """Open a file for reading, decompressed by what its first bytes say; its name may lack the suffix."""
    with ExitStack() as stack:
        file = stack.enter_context(Path(path).open("rb"))
        head = file.peek(HEAD_BYTES)
        compression = next((suffix for magic, suffix in _MAGIC if re.match(magic, head)), "")
        if head and not compression and path.lower().endswith(COMPRESSIONS):
            suffix = Path(path).suffix
            raise DataError(f"{path} is not compressed, as {suffix} says", hint=f"name it {Path(path).stem}")
        if compression:
            file = io.BufferedReader(stack.enter_context(_coded(file, compression, "rb")), 1 << 20)
        yield file


@contextmanager
def writing_bytes(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a file for writing, compressed as a name says; the same content always gives the same bytes."""
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("wb"))
        suffix = Path(name).suffix.lower()
        yield stack.enter_context(_coded(file, suffix, "wb")) if suffix in COMPRESSIONS else file


@contextmanager
def open_lines(path: str) -> Iterator[Callable[[int], bytes]]:
    """Open a text file, and give what reads the next line of it as UTF-8, or so many bytes of it; nothing at the end.

    UTF-16 and UTF-32 are read as what they are, by their byte order mark or their zeros. A byte order mark of UTF-8
    stays on the first line.
    """
    with open_bytes(path) as file:
        encoding = _encoding(file)
        if encoding.startswith("utf-8"):
            yield file.readline
            return
        # Half a pair of surrogates spoils its line, not the file.
        text = io.TextIOWrapper(file, encoding=encoding, errors="surrogatepass", newline="\n")
        try:
            yield lambda size: text.readline(size).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise _broken(path, encoding, error) from error


def lines(path: str, max_bytes: int | None = None) -> Iterator[bytes | None]:
    """Yield every line of a text file in UTF-8, with its end; None for one that is longer than allowed."""
    # One byte more than allowed tells a line that is as long as allowed from a longer one.
    size = -1 if max_bytes is None else max_bytes + 1
    with open_lines(path) as read:
        for line in iter(partial(read, size), b""):
            if max_bytes is None or len(line) <= max_bytes or line.endswith(b"\n"):
                yield line
                continue
            piece, is_blank = line, not line.strip()
            while piece and not piece.endswith(b"\n"):
                piece = read(size)
                is_blank = is_blank and not piece.strip()
            yield b"\n" if is_blank else None


def whole_text(path: str) -> str:
    """Return the text of a file, without a byte order mark; what is not valid Unicode is a ``DataError``."""
    with open_bytes(path) as file:
        encoding = _encoding(file)
        try:
            return file.read().decode("utf-8-sig" if encoding.startswith("utf-8") else encoding)
        except UnicodeError as error:
            raise _broken(path, encoding, error) from error


def not_utf8(raw: bytes, error: UnicodeDecodeError, name: str) -> tuple[str, str]:
    """Return the reason why bytes are no UTF-8, and a hint for the file that they are from."""
    byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
    suffix = Path(name).suffix
    target = f"{name.removesuffix(suffix)}-utf8{suffix}"
    return (
        f"not valid UTF-8: {byte} (in Windows-1252 it is {raw[error.start : error.start + 1].decode('cp1252', 'replace')!r})",
        "save the file as UTF-8 (in Excel: CSV UTF-8); of Windows-1252: "
        f"iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(name)} > {shlex.quote(target)}",
    )


def _encoding(file: io.BufferedReader) -> str:
    return json.detect_encoding(file.peek(4)[:4])


def _broken(path: str, encoding: str, error: UnicodeError) -> DataError:
    if isinstance(error, UnicodeDecodeError) and encoding.startswith("utf-8"):
        reason, hint = not_utf8(error.object, error, Path(path).name)
        return DataError(f"{path} is {reason}", hint=hint)
    return DataError(f"{path} is not valid {encoding.upper()}: {error}", hint="save it as UTF-8")
