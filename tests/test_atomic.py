"""A file is there whole or not at all, whatever happens while it is written."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet
import pytest

from learnable.errors import DiskError
from learnable.runs import files as atomic
from learnable.runs.files import disk_errors, replacing, sweep, write_frame, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_arrives_with_its_folders(tmp_path):
    with replacing(tmp_path / "a" / "b" / "file") as part:
        part.write_text("new")
    assert (tmp_path / "a" / "b" / "file").read_text() == "new"


def test_file_is_not_there_before_the_end(tmp_path):
    with replacing(tmp_path / "file") as part:
        part.write_text("new")
        assert not (tmp_path / "file").exists()


def test_old_file_stays_until_the_end(tmp_path):
    (tmp_path / "file").write_text("old")
    with replacing(tmp_path / "file") as part:
        part.write_text("new")
        assert (tmp_path / "file").read_text() == "old"


def test_old_file_is_replaced(tmp_path):
    (tmp_path / "file").write_text("old")
    with replacing(tmp_path / "file") as part:
        part.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_old_folder_is_replaced_with_all_that_was_in_it(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with replacing(tmp_path / "folder") as part:
        part.mkdir()
        (part / "new").touch()
    assert names(tmp_path / "folder") == ["new"]


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_failure_leaves_only_what_was_there(tmp_path, kind, error):
    (tmp_path / "target").write_text("old")

    def fail():
        with replacing(tmp_path / "target") as part:
            if kind == "file":
                part.write_text("half")
            elif kind == "folder":
                part.mkdir()
                (part / "half").touch()
            raise error

    with pytest.raises((error, DiskError)):
        fail()
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target").read_text() == "old"


def test_errors_of_other_kinds_are_passed_on(tmp_path):
    with pytest.raises(ValueError, match="mine"), replacing(tmp_path / "file"):
        raise ValueError("mine")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "larger than the disk or a limit"),
    ],
)
def test_lack_of_space_is_called_by_its_name(tmp_path, number, said):
    with pytest.raises(DiskError, match=said) as caught, disk_errors(tmp_path / "file"):
        raise OSError(number, "whatever the system says")
    assert "what is finished is kept" in caught.value.hint


def test_other_disk_errors_say_the_path_and_the_reason(tmp_path):
    said = r"cannot write .*file: Permission denied"
    with pytest.raises(DiskError, match=said) as caught, disk_errors(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert "-o" in caught.value.hint


def test_file_where_a_folder_should_be_is_a_disk_error(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(DiskError, match="cannot write"):
        write_json(tmp_path / "taken" / "file.json", {})


def test_folder_in_the_place_of_a_file_is_a_disk_error(tmp_path):
    (tmp_path / "file.json").mkdir()
    with pytest.raises(DiskError, match="cannot write"):
        write_json(tmp_path / "file.json", {})


def test_frame_is_read_back_as_it_was(tmp_path):
    frame = pl.DataFrame(
        {"id": ["a", None], "x": [1.5, float("nan")], "n": [1, 2], "ok": [True, None], "names": [["p"], []]},
        schema_overrides={"x": pl.Float32},
    )
    write_frame(frame, tmp_path / "frame.parquet")
    assert pl.read_parquet(tmp_path / "frame.parquet").equals(frame)


def test_frame_without_rows_keeps_its_columns(tmp_path):
    frame = pl.DataFrame(schema={"id": pl.String, "x": pl.Float32})
    write_frame(frame, tmp_path / "frame.parquet")
    assert pl.read_parquet(tmp_path / "frame.parquet").schema == frame.schema


def test_full_disk_under_a_frame_leaves_nothing(tmp_path, monkeypatch):
    def full(file, _table, **_options):
        Path(file.where).write_bytes(b"PAR1 half a f")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
    with pytest.raises(DiskError, match="the disk is full"):
        write_frame(pl.DataFrame({"id": ["a"]}), tmp_path / "frame.parquet")
    assert names(tmp_path) == []


def test_json_keeps_letters_readable(tmp_path):
    write_json(tmp_path / "x.json", {"word": "dréi"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "word": "dréi"\n}\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "the disk is full"),
        ("PytorchStreamWriter failed writing file x", "the disk is full"),
        ("Error while serializing: I/O error: Disk quota exceeded (os error 122)", "quota"),
        ("Error while serializing: I/O error: File too large (os error 27)", "larger than"),
    ],
)
def test_lack_of_space_is_recognised_in_the_words_of_other_writers(tmp_path, words, said):
    with pytest.raises(DiskError, match=said), disk_errors(tmp_path):
        raise RuntimeError(words)


def test_an_error_that_is_not_about_the_disk_passes(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), disk_errors(tmp_path):
        raise RuntimeError("something else")


@pytest.mark.parametrize("letters", [246, 255])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, letters):
    with replacing(tmp_path / ("x" * letters)) as part:
        part.write_text("new")
    assert names(tmp_path) == ["x" * letters]


def test_a_name_that_is_too_long_is_a_disk_error(tmp_path):
    with pytest.raises(DiskError, match="name too long"):
        write_json(tmp_path / ("x" * 256), {})


def test_a_file_above_the_limit_of_the_shell_is_said_so(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        with pytest.raises(DiskError, match="ulimit"):
            write_json(tmp_path / "x.json", {"text": "x" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_data_is_on_the_disk_before_it_gets_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    flushed = []

    def fsync(number):
        flushed.append((str(Path(f"/proc/self/fd/{number}").readlink()), (tmp_path / "target").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(tmp_path / "target") as part:
        part.mkdir()
        (part / "inside").write_text("new")
    assert flushed == [(str(part / "inside"), False), (str(part), False), (str(tmp_path), True)]


KILLED = """
import os, signal, sys
from pathlib import Path
from learnable.runs.files import replacing
with replacing(Path(sys.argv[1])) as part:
    part.mkdir()
    (part / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_writing_goes_when_the_same_is_written_again(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "target"], check=False).returncode == -9
    assert [Path(name).suffix for name in names(tmp_path)] == [".part"]
    write_json(tmp_path / "target", {})
    assert names(tmp_path) == ["target"]


def test_what_a_living_process_writes_stays(tmp_path):
    with replacing(tmp_path / "a") as part:
        part.touch()
        sweep(tmp_path)
        assert part.exists()


@pytest.mark.parametrize(("age_s", "kept"), [(60, True), (7_200, False)])
def test_what_another_machine_was_writing_goes_when_it_is_old(tmp_path, monkeypatch, age_s, kept):
    monkeypatch.setattr(atomic, "_machine", lambda: "0" * 8)
    part = tmp_path / f"{'1' * 8}-1-{'2' * 8}-{'3' * 8}.part"
    part.touch()
    os.utime(part, times=(part.stat().st_mtime - age_s,) * 2)
    sweep(tmp_path)
    assert part.exists() == kept


def test_what_others_call_a_part_stays(tmp_path):
    (tmp_path / "film.mkv.part").touch()
    sweep(tmp_path)
    assert names(tmp_path) == ["film.mkv.part"]
