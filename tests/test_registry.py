"""Methods are found by name, with parameters, or in outside code; mistakes are named."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from learnable.diversifiers import DIVERSIFIERS
from learnable.errors import UsageError
from learnable.evaluators import EVALUATORS
from learnable.scorers import SCORERS, Learnability
from learnable.selectors import SELECTORS
from learnable.spec import CONTRACTS, _imported, build, is_module


@dataclass(frozen=True, kw_only=True)
class Soup:
    salt: float = 1.0


TABLE = {"soup": Soup}


def test_name_gives_the_method_with_its_defaults():
    assert build("dish", "soup", TABLE) == Soup()


def test_mapping_gives_the_method_with_parameters():
    assert build("dish", {"name": "soup", "salt": 2.0}, TABLE) == Soup(salt=2.0)


def test_mapping_is_left_as_it_is():
    spec = {"name": "soup", "salt": 2.0}
    build("dish", spec, TABLE)
    assert spec == {"name": "soup", "salt": 2.0}


def test_outside_code_is_named_by_module_and_attribute():
    found = build("scorer", {"name": "learnable.scorers:Learnability", "power": 0.5}, {})
    assert found == Learnability(power=0.5)


def test_unknown_name_gets_a_suggestion():
    with pytest.raises(UsageError, match="no dish called 'soop'") as caught:
        build("dish", "soop", TABLE)
    assert caught.value.hint == "did you mean 'soup'?"


@pytest.mark.parametrize("spec", [{}, {"salt": 1.0}, {"name": None}, {"name": 3}])
def test_missing_name_is_named(spec):
    with pytest.raises(UsageError, match="a dish needs a name"):
        build("dish", spec, TABLE)


@pytest.mark.parametrize(
    "name", ["no_such_module:x", "fractions:no_such_name", "fractions:", ":Fraction", "..fractions:Fraction"]
)
def test_outside_code_that_cannot_be_imported_is_named(name):
    with pytest.raises(UsageError, match=f"cannot import the dish '{name}'") as caught:
        build("dish", name, TABLE)
    assert "module:attribute" in caught.value.hint


def test_unknown_parameter_is_named_in_the_hint():
    with pytest.raises(UsageError, match="dish 'soup' does not take these parameters") as caught:
        build("dish", {"name": "soup", "pepper": 1}, TABLE)
    assert "pepper" in caught.value.hint


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Write a module into the working folder, and return what it has left behind once it runs."""
    monkeypatch.chdir(tmp_path)
    names = iter(["outside_one", "outside_two"])

    def write(text):
        name = next(names)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in ("outside_one", "outside_two"):
        sys.modules.pop(name, None)


SCORER = """
import dataclasses, pathlib
@dataclasses.dataclass
class Longest:
    needs = ("tokens",)
    higher_is_better = True
    power: int = 1
    def __call__(self, table): return table["tokens"].to_numpy()
def of_two() -> Longest: return Longest(power=2)
def unsaid(cmd="touch called"): pathlib.Path("called").touch()
class Other:
    def __init__(self, **_): pathlib.Path("called").touch()
"""


def test_a_class_or_a_function_that_says_which_class_it_makes(outside):
    name = outside(SCORER)
    assert build("scorer", f"{name}:Longest", {}).power == 1
    assert build("scorer", f"{name}:of_two", {}).power == 2


@pytest.mark.parametrize("kind", CONTRACTS)
@pytest.mark.parametrize("what", ["unsaid", "Other"])
def test_code_of_another_kind_is_not_called(outside, tmp_path, kind, what):
    name = outside(SCORER)
    with pytest.raises(UsageError, match=f"'{name}:{what}' is no {kind}"):
        build(kind, {"name": f"{name}:{what}", "cmd": "x"}, {})
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("kind", CONTRACTS)
@pytest.mark.parametrize(
    "name", ["os:sep", "os:system", "subprocess:getoutput", "subprocess:Popen", "functools:partial"]
)
def test_what_python_brings_is_no_method(kind, name):
    with pytest.raises(UsageError, match=f"'{name}' is no {kind}"):
        build(kind, name, {})


@pytest.mark.parametrize(
    ("kind", "table"),
    [("scorer", SCORERS), ("selector", SELECTORS), ("method", DIVERSIFIERS), ("evaluator", EVALUATORS)],
)
def test_all_methods_of_ours_keep_the_contract_of_outside_code(kind, table):
    for factory in table.values():
        assert _imported(kind, f"{factory.__module__}:{factory.__name__}") is factory


def test_the_working_folder_is_searched_only_for_what_is_named(outside):
    name = outside("import sys\nimport helper_of_it\npath = list(sys.path)\n" + SCORER)
    Path("helper_of_it.py").touch()
    before = list(sys.path)
    assert is_module(name)
    assert name not in sys.modules
    build("scorer", f"{name}:Longest", {})
    assert sys.path == before
    assert sys.modules[name].path == [*before, str(Path.cwd())]
    assert importlib.util.find_spec("outside_two") is None


def test_a_module_that_fails_is_one_line(outside):
    name = outside("1 / 0")
    with pytest.raises(UsageError, match="division by zero"):
        build("scorer", f"{name}:Longest", {})
