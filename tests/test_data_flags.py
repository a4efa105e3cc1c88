"""Columns of booleans: selections that somebody else has made."""

import csv
import json

import polars as pl
import pytest

from learnable.data import boolean_columns, load_pool, read, save_pool
from learnable.errors import DataError

ROWS = [
    {"instruction": "a?", "output": "one", "good": True, "best": False},
    {"instruction": "b?", "output": "two", "good": False, "best": None},
    {"instruction": "c?", "output": "three", "good": True, "best": True},
]


def as_jsonl(path, rows):
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path, rows, spelled=("true", "false")):
    path = path.with_suffix(".csv")
    words = {True: spelled[0], False: spelled[1], None: ""}
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(rows[0])
        out.writerows(
            [words[value] if value is None or isinstance(value, bool) else value for value in row.values()]
            for row in rows
        )
    return path


def as_parquet(path, rows):
    path = path.with_suffix(".parquet")
    pl.DataFrame(rows).write_parquet(path)
    return path


def flags(*paths):
    return boolean_columns(read([str(path) for path in paths]))


def columns(frame):
    return {name: frame[name].to_list() for name in frame.columns if name != "id"}


@pytest.mark.parametrize("write", [as_jsonl, as_csv, as_parquet], ids=lambda write: write.__name__)
def test_columns_of_booleans_are_found_in_every_kind_of_file(tmp_path, write):
    pool = read([str(write(tmp_path / "rows", ROWS))])
    found = boolean_columns(pool)
    assert columns(found) == {"good": [True, False, True], "best": [False, False, True]}
    assert found["id"].to_list() == pool.examples["id"].to_list()


def test_a_csv_of_pandas_or_a_spreadsheet_is_understood(tmp_path):
    for spelled in (("True", "False"), ("TRUE", "FALSE")):
        assert columns(flags(as_csv(tmp_path / spelled[0], ROWS, spelled)))["good"] == [True, False, True]


@pytest.mark.parametrize("other", ["maybe", 1, 0.5, ["x"], {"a": 1}], ids=str)
def test_a_column_with_anything_else_is_no_selection(tmp_path, other):
    rows = [*ROWS, {"instruction": "d?", "output": "four", "good": other, "best": False}]
    assert list(columns(flags(as_jsonl(tmp_path / "rows", rows)))) == ["best"]


def test_numbers_are_no_booleans(tmp_path):
    rows = [row | {"count": int(row["good"])} for row in ROWS]
    assert "count" not in columns(flags(as_jsonl(tmp_path / "rows", rows)))


def test_a_column_that_is_false_everywhere_is_an_empty_selection(tmp_path):
    rows = [row | {"none": False, "empty": None} for row in ROWS]
    found = columns(flags(as_jsonl(tmp_path / "rows", rows)))
    assert found["none"] == [False, False, False]
    assert "empty" not in found


def test_a_column_that_is_not_in_every_row_is_false_where_it_is_missing(tmp_path):
    rows = [*ROWS, {"instruction": "d?", "output": "four"}]
    assert columns(flags(as_jsonl(tmp_path / "rows", rows)))["good"] == [True, False, True, False]


def test_a_column_of_one_file_is_false_in_the_others(tmp_path):
    one = as_jsonl(tmp_path / "one", ROWS)
    two = as_jsonl(tmp_path / "two", [{"instruction": "d?", "output": "four", "fine": True}])
    assert columns(flags(one, two)) == {
        "good": [True, False, True, False],
        "best": [False, False, True, False],
        "fine": [False, False, False, True],
    }


def test_an_example_is_selected_when_one_of_its_rows_is(tmp_path):
    twin = ROWS[1] | {"good": True}
    pool = read([str(as_jsonl(tmp_path / "rows", [*ROWS, twin, twin | {"good": False}]))])
    assert len(pool) == 3
    assert boolean_columns(pool)["good"].to_list() == [True, True, True]


def test_rows_that_cannot_be_read_count_for_nothing(tmp_path):
    path = as_jsonl(tmp_path / "rows", ROWS)
    path.write_text('not json\n{"instruction": "", "output": "x", "good": "maybe"}\n' + path.read_text())
    pool = read([str(path)], on_error="skip")
    assert columns(boolean_columns(pool))["good"] == [True, False, True][: len(pool)]


def test_a_pool_without_such_columns_has_none(tmp_path):
    rows = [{"instruction": row["instruction"], "output": row["output"]} for row in ROWS]
    assert flags(as_jsonl(tmp_path / "rows", rows)).columns == ["id"]


def test_a_saved_pool_finds_them_in_its_files(tmp_path):
    pool = read([str(as_jsonl(tmp_path / "rows", ROWS))])
    save_pool(pool, tmp_path / "pool")
    assert boolean_columns(load_pool(tmp_path / "pool")).equals(boolean_columns(pool))


def test_a_changed_file_is_an_error(tmp_path):
    path = as_jsonl(tmp_path / "rows", ROWS)
    pool = read([str(path)])
    path.write_text(path.read_text().replace("true", "false"))
    with pytest.raises(DataError, match="has changed since it was read"):
        boolean_columns(pool)


def test_a_missing_file_is_an_error(tmp_path):
    path = as_jsonl(tmp_path / "rows", ROWS)
    pool = read([str(path)])
    path.unlink()
    with pytest.raises(DataError, match="no longer there"):
        boolean_columns(pool)
