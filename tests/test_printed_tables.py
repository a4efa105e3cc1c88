"""Tables in a terminal of 80 columns."""

import io
import math

import pytest
from rich.console import Console

from learnable.cli import printing

COLUMNS = ("method", "tokens", "value", "difference to random", "verdict")


def printed(name: str) -> str:
    console = Console(file=io.StringIO(), width=80)
    row = (name, "915", "2.1756", "+0.0519 (-0.0148 to +0.1277)", "no difference seen")
    printing._print_table(console, "heldout", COLUMNS, [row])
    return console.file.getvalue()


def test_a_short_name_is_not_broken():
    assert "relevance/round_robin" in printed("relevance/round_robin")


def test_a_long_name_is_broken_and_the_table_fits():
    assert max(map(len, printed("a" * 90).splitlines())) <= 80


@pytest.mark.parametrize("value", [None, math.nan], ids=["none", "nan"])
def test_what_was_not_graded_has_no_figure(value):
    assert printing._number(value) == ""
    assert printing._difference({"difference": value, "low": math.nan, "high": math.nan}) == ""
