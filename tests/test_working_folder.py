"""Files beside the data are data: none of them is run because it has the name of a library that some code looks for."""

import os
import subprocess
import sys

import pytest

from learnable.cli import app as cli
from learnable.testing import toy_examples, write_messages

LOOKED_FOR = [
    "numexpr",
    "bottleneck",
    "brotli",
    "brotlicffi",
    "zstandard",
    "lz4",
    "deepspeed",
    "lomo_optim",
    "bitsandbytes",
    "wandb",
    "triton",
    "torchao",
    "mlflow",
    "tensorboard",
    "torchvision",
    "sqlalchemy",
    "soundfile",
    "xarray",
    "flash_attn",
    "onnxruntime",
    "sentencepiece",
    "tensorflow",
    "pynvml",
]
"""Modules that libraries of ours use where they are installed."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with rows, and with a file for each module that may be looked for."""
    monkeypatch.chdir(tmp_path)
    write_messages(toy_examples(8), tmp_path / "rows.jsonl")
    for name in LOOKED_FOR:
        (tmp_path / f"{name}.py").write_text("open('ran', 'a').write(__name__ + '\\n'); raise ImportError")
    return tmp_path


def test_nothing_runs_because_it_lies_beside_the_data(here, tiny):
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    # As python -m, which has the working folder first on its path; the training is in processes of its own.
    words = (
        "-m",
        "learnable",
        "train",
        "rows.jsonl",
        "--model",
        str(tiny),
        "--dtype",
        "float32",
        "--rank",
        "2",
    )
    done = subprocess.run(
        [sys.executable, *words, "--processes", "2"], env=ours, capture_output=True, text=True
    )
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
