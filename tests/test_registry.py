"""Methods are found by name, with parameters, or in outside code; mistakes are named."""

from dataclasses import dataclass

import pytest

from learnable.errors import UsageError
from learnable.registry import build


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
    assert build("dish", {"name": "fractions:Fraction", "numerator": 3}, TABLE) == 3


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


def test_outside_value_that_cannot_be_called_is_refused():
    with pytest.raises(UsageError, match="os:sep"):
        build("dish", "os:sep", TABLE)
