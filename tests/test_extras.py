"""What the core does without its extras: it works, or names the extra that is missing."""

import subprocess
import sys

import numpy as np
import pytest

from learnable.commands.leak_search import Detecting
from learnable.data.tables import open_datasets_folder
from learnable.diversifiers.gates import Neighbours
from learnable.errors import UsageError
from learnable.merging import parse_merger
from learnable.pages import page as pages
from learnable.pages.html import text
from learnable.recipes import rft, slora
from learnable.selectors import FacilityLocation
from learnable.selectors.vectors import clusters_of

EXTRAS = (
    "datasets",
    "embedding_atlas",
    "faiss",
    "flwr",
    "lm_eval",
    "mergekit",
    "openai",
    "pandas",
    "ray",
    "rensa",
    "sklearn",
    "trl",
    "vl_convert",
)


@pytest.fixture
def core_alone(monkeypatch):
    for name in {*EXTRAS, *(each for each in sys.modules if each.partition(".")[0] in EXTRAS)}:
        monkeypatch.setitem(sys.modules, name, None)


def test_the_command_line_starts_without_any_extra():
    program = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))
from learnable.__main__ import main
sys.argv = ["learnable", "--help"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, "Usage: learnable" in done.stdout) == (0, True), done.stderr


@pytest.mark.usefixtures("core_alone")
@pytest.mark.parametrize(
    ("extra", "use"),
    [
        ("neighbours", lambda: Neighbours(["one"])),
        ("rft", lambda: rft(["rows.jsonl"])),
        ("federated", lambda: slora(["rows.jsonl"])),
        (
            "neighbours",
            lambda: FacilityLocation()(
                np.ones(3, np.float32),
                k=1,
                vectors=np.eye(3, dtype=np.float32),
                groups=None,
                rng=np.random.default_rng(0),
            ),
        ),
        ("neighbours", lambda: clusters_of(np.eye(4, dtype=np.float32), clusters=2, seed=0)),
        ("datasets", lambda: open_datasets_folder("saved")),
        ("forest", lambda: Detecting(by="isolation_forest")),
        ("merging", lambda: parse_merger("ties@density=0.5").check(2)),
    ],
)
def test_what_needs_an_extra_says_how_to_install_it(extra, use):
    with pytest.raises(UsageError, match="needs the package") as caught:
        use()
    assert caught.value.hint == f'pip install "learnable[{extra}]"'


def test_a_page_without_its_painter_has_all_but_the_pictures(monkeypatch, capsys):
    picture = pages.Picture(name="plane", spec={"mark": "point"}, label="Losses before and after.")
    section = pages.Section(id="one", title="One", parts=[picture, text("Four rows were kept.")])
    monkeypatch.setattr(pages, "is_installed", lambda _: False)
    page = pages.write_page(
        [section], kicker="k", headline="h", lead="l", tiles=[], command=("c", "learnable")
    )
    assert "Losses before and after." in page
    assert "Four rows were kept." in page
    assert "<script" not in page
    assert "learnable[pages]" in capsys.readouterr().err
