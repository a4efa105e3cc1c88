"""The size of the house: what is one thing has one name, and no part of it is larger than a reader can hold."""

import ast
import tomllib
from collections import defaultdict
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import learnable

SOURCE = Path(learnable.__file__).parent
FILES = {
    file.relative_to(SOURCE).as_posix(): file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")
}
LONGEST_FUNCTION, LONGEST_FILE = 70, 450


def test_no_two_classes_have_the_same_name():
    places = defaultdict(list)
    for name, text in FILES.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_function_is_longer_than_a_page():
    """From ``def`` to the last line: signature, docstring and code."""
    longer = {}
    for name, text in FILES.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                longer[f"{name}: {node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: lines for name, lines in longer.items() if lines > LONGEST_FUNCTION} == {}


def test_no_file_is_longer_than_one_can_read_at_a_time():
    lines = {name: len(text.splitlines()) for name, text in FILES.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE} == {}


def closure(lines):
    """Return the names of these requirements and all that they need, as installed here, without extras of theirs."""
    names, todo = set(), [Requirement(line) for line in lines]
    while todo:
        name = canonicalize_name(todo.pop().name)
        if name in names:
            continue
        names.add(name)
        needs = map(Requirement, requires(name) or [])
        todo += [each for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    return names


def test_the_core_installs_at_most_sixty_packages_beside_torch():
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = closure(project["dependencies"])
    assert len(core - closure(["torch"])) <= 60
    assert not core & {
        "datasets",
        "faiss-cpu",
        "openai",
        "pandas",
        "ray",
        "rensa",
        "trl",
        "vl-convert-python",
    }
