"""A file is there whole or not at all, whatever happens while it is written."""

import errno

import polars as pl
import pyarrow.parquet
import pytest

from learnable.atomic import disk_errors, replacing, write_frame, write_json
from learnable.errors import DiskError


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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_called_by_its_name(tmp_path, number):
    with pytest.raises(DiskError, match="the disk is full") as caught, disk_errors(tmp_path / "file"):
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
    def full(_table, where, **_options):
        where.write_bytes(b"PAR1 half a f")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(DiskError, match="the disk is full"):
        write_frame(pl.DataFrame({"id": ["a"]}), tmp_path / "frame.parquet")
    assert names(tmp_path) == []


def test_json_keeps_letters_readable(tmp_path):
    write_json(tmp_path / "x.json", {"word": "dréi"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "word": "dréi"\n}\n'


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "PytorchStreamWriter failed writing file x",
    ],
)
def test_a_full_disk_is_recognised_in_the_words_of_other_writers(tmp_path, said):
    with pytest.raises(DiskError, match="the disk is full"), disk_errors(tmp_path):
        raise RuntimeError(said)


def test_an_error_that_is_not_about_the_disk_passes(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), disk_errors(tmp_path):
        raise RuntimeError("something else")
