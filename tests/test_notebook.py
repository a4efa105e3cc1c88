"""The notebook runs from its first cell to its last on a tiny model, and what it keeps is from a real run."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(tiny, tmp_path_factory):
    """Run the notebook with a tiny model in place of its own, and return it and the folder where it ran."""
    notebook, folder = nbformat.read(PAGE, as_version=4), tmp_path_factory.mktemp("notebook")
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = f"MODEL = {str(tiny)!r}"
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return notebook, folder


def test_it_runs_to_its_table(executed):
    notebook, folder = executed
    (table,) = (o for o in code_cells(notebook)[-1].outputs if o.output_type == "execute_result")
    assert "nothing" in table.data["text/plain"]
    assert "the 16 chosen rows" in table.data["text/plain"]
    assert (folder / "report.html").is_file()
    assert (folder / "tuned" / "part-0" / "adapter_config.json").is_file()


def test_what_is_kept_is_of_one_whole_run_and_names_no_place_of_a_machine():
    cells = code_cells(nbformat.read(PAGE, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output.output_type == "execute_result" for output in cells[-1].outputs)
    said = nbformat.writes(
        nbformat.from_dict({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    assert not re.search(r"(?<![\w<.])/(?:home|root|tmp|usr|work|Users)/", said)
    assert PAGE.stat().st_size < 100_000
