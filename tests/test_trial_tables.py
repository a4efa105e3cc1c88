"""Cells of a trial's own tables: counts are written as counts, also where they are means."""

import polars as pl
import pytest

from learnable.pages.trial import _figures


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([42.0, None, 2_000.0], ["42", "–", "2,000"]),
        ([0.5, 1.0], ["0.500", "1.000"]),
        ([float("nan"), 3.0], ["–", "3"]),
        ([float("inf"), 0.25], ["–", "0.250"]),
        (["a", None], ["a", "–"]),
    ],
    ids=["whole", "shares", "undefined", "infinite", "words"],
)
def test_a_column_of_whole_numbers_is_written_as_counts(values, cells):
    assert _figures(pl.Series(values)) == cells
