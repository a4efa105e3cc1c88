"""What a command meets: full disks, names that are no text or too long, poor locales; one line each, no traceback."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from learnable.cli import app as cli
from learnable.testing import toy_examples, write_messages

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale in which Python knows ASCII alone; it takes UTF-8 for the plain C locale."""
NO_TEXT = os.fsdecode(b"b\xffd")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_messages(toy_examples(10), tmp_path / "good.jsonl")
    return tmp_path


@pytest.fixture
def fails(capsys):
    """Run a command that must fail, and return its exit code, error line and hint."""

    def run(*words):
        code = cli.call([str(word) for word in words])
        error, hint = capsys.readouterr().err.splitlines()[-2:]
        assert (error[:7], hint[:6]) == ("error: ", "hint: ")
        return code, error, hint

    return run


@pytest.fixture
def main(monkeypatch):
    """Run the command line as its process does, and return its exit code and the bytes of its results."""

    def run(*words, encoding="utf-8"):
        results = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patched:
            patched.setattr(os, "environ", dict(os.environ))
            patched.setattr(sys, "argv", ["learnable", *words])
            patched.setattr(sys, "stdout", results)
            with pytest.raises(SystemExit) as ended:
                cli.main()
            return ended.value.code, results.buffer.getvalue(), os.environ

    return run


def learnable(*words, **options):
    usual = {"capture_output": True, "text": True, "errors": "surrogateescape", "check": False}
    return subprocess.run([sys.executable, "-m", "learnable", *words], **(usual | options))


@pytest.mark.parametrize(
    "words",
    [
        ("load", f"{NO_TEXT}.jsonl"),
        ("load", "good.jsonl", "-o", NO_TEXT),
        ("score", "good.jsonl", "--model", f"{NO_TEXT}/model"),
        ("run", "lobass", f"{NO_TEXT}.jsonl"),
        ("load", "shards"),
    ],
    ids=["data", "output", "model", "recipe", "found in a folder"],
)
def test_a_name_that_is_not_utf_8_is_refused(here, fails, words):
    (here / "shards").mkdir()
    for name in (f"{NO_TEXT}.jsonl", f"shards/{NO_TEXT}.jsonl"):
        (here / name).write_bytes((here / "good.jsonl").read_bytes())
    code, error, hint = fails(*words)
    assert code == 2
    assert "not UTF-8" in error
    assert "rename" in hint


def test_a_working_folder_whose_name_is_not_utf_8_is_refused(here, fails, monkeypatch):
    (here / NO_TEXT).mkdir()
    monkeypatch.chdir(here / NO_TEXT)
    assert "not UTF-8" in fails("load", here / "good.jsonl")[1]


def test_a_working_folder_that_is_gone_is_said_so(here, fails, monkeypatch):
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    assert "not there any more" in fails("list")[1]
    done = learnable("list", cwd=None)
    assert (done.returncode, "not there any more" in done.stderr) == (2, True)
    monkeypatch.chdir(here)


def test_a_locale_without_letters_gets_results_all_the_same(here, tiny, main):
    words = ("show", "good.jsonl", "--n", "1", "--model", str(tiny), "--dtype", "float32")
    poor, rich = (main(*words, encoding=encoding) for encoding in ("ascii", "utf-8"))
    assert (poor[0], rich[0]) == (0, 0)
    assert "\\u27e6" in poor[1].decode("ascii")
    assert "\u27e6" in rich[1].decode("utf-8")


def test_a_name_that_a_locale_cannot_read_names_the_locale(here):
    (here / "good.jsonl").rename(here / "drèi.jsonl")
    done = learnable("load", "drèi.jsonl", env=os.environ | ASCII)
    assert done.returncode == 2
    assert "locale knows ascii only" in done.stderr
    assert "LC_ALL=C.UTF-8" in done.stderr
    assert learnable("load", "drèi.jsonl", env=os.environ | {"LC_ALL": "C"}).returncode == 0


@pytest.mark.parametrize("letters", [246, 249, 255])
def test_names_may_be_as_long_as_the_file_system_allows(here, letters):
    rows = here / ("x" * (letters - 6) + ".jsonl")
    (here / "good.jsonl").rename(rows)
    assert cli.call(["load", rows.name, "-o", "y" * letters]) == 0
    assert (here / ("y" * letters) / "pool.json").is_file()


@pytest.mark.parametrize("letters", [254, 300])
def test_a_name_that_is_too_long_is_said_so(here, fails, tiny, letters):
    words = ("score", "good.jsonl", "--model", tiny, "--dtype", "float32", "-o", "y" * letters)
    code, error, hint = fails(*words)  # its pool would go to a folder with a longer name
    assert code == 1
    assert "too long" in error
    assert "shorter" in hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("words", [("list",), ("--help",)])
def test_results_that_go_to_a_full_disk_are_one_error(words):
    with Path("/dev/full").open("w") as full:
        done = learnable(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.count("the disk is full") == 1
    assert "Traceback" not in done.stderr


def test_a_limit_on_the_size_of_files_is_named_and_what_is_finished_is_kept(here, tiny, fails, capsys):
    words = ("run", "lobass", "good.jsonl", "--model", str(tiny), "--dtype", "float32", "--budget", "50%")
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, before[1]))
    try:
        code, error, hint = fails(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert "ulimit" in error
    assert "what is finished is kept" in hint
    assert cli.call(words) == 0
    assert "pool: was done already" in capsys.readouterr().err


def test_an_output_where_nothing_can_be_written_is_one_error(here, fails):
    (here / "file").touch()
    code, error, hint = fails("load", "good.jsonl", "-o", "file/pool")
    assert code == 1
    assert "cannot write file/pool" in error
    assert "-o" in hint


def test_libraries_say_nothing(here):
    """The configuration of this model makes transformers speak, and full checkpoints make it draw bars."""
    model = Path(__file__).parent / "cases" / "models" / "arch_phi3_longrope"
    words = ("train", "good.jsonl", "--model", str(model), "--dtype", "float32", "--rank", "2", "-o")
    done = learnable(*words, "quiet")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith(("good.jsonl: ", "  example: "))]
    assert [line.partition(":")[0] for line in said if line != "train: starting"] == ["train"]


def test_libraries_may_speak_where_they_are_asked_to(main, monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    told = [main("list", *more)[2].get("TRANSFORMERS_VERBOSITY") for more in ((), ("--debug",))]
    assert told == ["error", None]
