"""Files beside the data are data: none of them is run because it has the name of a library that some code looks for."""

import os
import subprocess
import sys

import pytest

from learnable.cli import app as cli


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with a file for modules that a command imports, or looks for."""
    monkeypatch.chdir(tmp_path)
    for name in ("brotli", "cyclopts", "polars", "rich", "yaml"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'a').write(__name__ + '\\n'); raise ImportError")
    return tmp_path


def test_nothing_runs_because_it_lies_beside_the_data(here):
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    # As python -m, which has the working folder first on its path.
    words = [sys.executable, "-m", "learnable", "list"]
    done = subprocess.run(words, env=ours, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (here / "ran").exists()


def test_what_the_command_starts_does_not_look_there_either(here, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setattr(sys, "argv", ["learnable", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    child = subprocess.run([sys.executable, "-c", "import brotli"], capture_output=True, text=True)
    assert "No module named" in child.stderr or child.returncode == 0
    assert not (here / "ran").exists()
