"""What is measured once is found again, by example and by measure."""

import errno
import json
from pathlib import Path

import polars as pl
import pyarrow.parquet
import pytest

from learnable.errors import DiskError, StoreError
from learnable.runs.store import Store
from learnable.types import Measure

NLL = Measure(kind="nll", model="m1", parameters={"max_length": 64})
OTHERS = [
    Measure(kind="embedding", model="m1", parameters={"max_length": 64}),
    Measure(kind="nll", model="m2", parameters={"max_length": 64}),
    Measure(kind="nll", model="m1", parameters={"max_length": 65}),
]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def ids(text):
    return pl.Series("id", list(text), dtype=pl.String)


def table(**nll):
    return pl.DataFrame(
        {"id": list(nll), "nll": list(nll.values())}, schema={"id": pl.String, "nll": pl.Float64}
    )


def parts(store):
    return sorted(store.folder.glob("*/*.parquet"))


def test_everything_is_missing_from_an_empty_store(store):
    assert store.missing(NLL, ids("ba")).to_list() == ["b", "a"]


def test_looking_makes_no_folder(store):
    store.missing(NLL, ids("a"))
    assert not store.folder.exists()


def test_missing_keeps_the_order_asked_in(store):
    store.write(NLL, table(b=1.0))
    assert store.missing(NLL, ids("dbac")).to_list() == ["d", "a", "c"]


def test_nothing_is_missing_when_all_is_stored(store):
    store.write(NLL, table(a=1.0, b=2.0))
    assert store.missing(NLL, ids("ba")).to_list() == []


def test_read_gives_what_was_written_bit_by_bit(store):
    written = table(a=0.1 + 0.2, b=float("nan"), c=1e-300)
    store.write(NLL, written)
    assert store.read(NLL, ids("abc")).equals(written)


def test_read_follows_the_order_asked_in(store):
    store.write(NLL, table(a=1.0, b=2.0, c=3.0))
    assert store.read(NLL, ids("cab"))["nll"].to_list() == [3.0, 1.0, 2.0]


def test_read_finds_rows_in_any_part(store):
    store.write(NLL, table(a=1.0))
    store.write(NLL, table(b=2.0))
    assert store.read(NLL, ids("ba"))["nll"].to_list() == [2.0, 1.0]


def test_read_gives_an_example_once_when_two_runs_measured_it(store):
    store.write(NLL, table(a=1.0, b=2.0))
    store.write(NLL, table(b=2.0, c=3.0))
    assert store.read(NLL, ids("abc"))["nll"].to_list() == [1.0, 2.0, 3.0]


def test_parts_that_disagree_are_an_error_that_names_both_files(store):
    store.write(NLL, table(a=1.0, b=2.0))
    store.write(NLL, table(b=2.0 + 2**-51, c=3.0))
    with pytest.raises(StoreError, match="disagree on 1 of 3") as caught:
        store.read(NLL, ids("abc"))
    assert all(str(part) in caught.value.message for part in parts(store))
    assert store.read(NLL, ids("ac"))["nll"].to_list() == [1.0, 3.0]


def test_parts_that_disagree_only_about_other_examples_are_read(store):
    store.write(NLL, table(a=1.0, b=2.0))
    store.write(NLL, table(a=1.0, b=3.0))
    assert store.read(NLL, ids("a"))["nll"].to_list() == [1.0]


@pytest.mark.parametrize("other", [[1.0, 2.5], [1.0]], ids=["another number", "another length"])
def test_lists_are_compared_as_a_whole(store, other):
    def losses(values):
        column = pl.Series("token_nll", [values], dtype=pl.List(pl.Float32))
        return pl.DataFrame({"id": ["a"]}).with_columns(column)

    by_token = Measure(kind="token_nll", model="m1", parameters={})
    store.write(by_token, losses([1.0, 2.0]))
    store.write(by_token, losses([1.0, 2.0]))
    assert store.read(by_token, ids("a"))["token_nll"].to_list() == [[1.0, 2.0]]
    store.write(by_token, losses(other))
    with pytest.raises(StoreError, match="disagree"):
        store.read(by_token, ids("a"))


def test_undefined_values_agree(store):
    store.write(NLL, table(a=float("nan")))
    store.write(NLL, table(a=float("nan")))
    assert store.read(NLL, ids("a")).height == 1


def test_what_another_run_stored_meanwhile_stays_and_is_what_both_read(store):
    """Another pool has other batches, and so another rounding: both runs must end with one number."""
    other = Store(store.folder)
    for run in (store, other):
        assert run.missing(NLL, ids("ab")).to_list() == ["a", "b"]
    other.write(NLL, table(a=1.0))
    store.write(NLL, table(a=1.0 + 2**-52, b=2.0))
    for run in (store, other):
        assert run.read(NLL, ids("ab"))["nll"].to_list() == [1.0, 2.0]


def test_an_example_that_was_measured_twice_does_not_stand_for_one_that_was_not(store):
    store.write(NLL, table(a=1.0))
    store.write(NLL, table(a=1.0))
    with pytest.raises(StoreError, match="1 of 2 examples are not measured yet"):
        store.read(NLL, ids("ab"))


def test_read_gives_an_example_as_often_as_it_is_asked_for(store):
    store.write(NLL, table(a=1.0, b=2.0))
    store.write(NLL, table(a=1.0))
    assert store.read(NLL, ids("aba"))["nll"].to_list() == [1.0, 2.0, 1.0]


def test_many_parts_are_read_as_one(store):
    names = [f"{i:03d}" for i in range(150)]
    for name in names:
        store.write(NLL, table(**{name: float(name)}))
    asked = pl.Series("id", names[::-1])
    assert store.read(NLL, asked)["nll"].to_list() == [float(name) for name in names[::-1]]


def test_another_store_object_sees_the_same(store):
    store.write(NLL, table(a=1.0))
    assert Store(store.folder).read(NLL, ids("a"))["nll"].to_list() == [1.0]


@pytest.mark.parametrize("other", OTHERS, ids=["kind", "model", "parameters"])
def test_measures_never_mix(store, other):
    store.write(NLL, table(a=1.0))
    store.write(other, table(a=2.0))
    assert store.read(NLL, ids("a"))["nll"].to_list() == [1.0]


@pytest.mark.parametrize("other", OTHERS, ids=["kind", "model", "parameters"])
def test_what_another_measure_knows_is_missing_here(store, other):
    store.write(other, table(a=2.0))
    assert store.missing(NLL, ids("a")).to_list() == ["a"]


def test_folder_says_what_was_measured(store):
    store.write(NLL, table(a=1.0))
    (path,) = store.folder.glob("*/measure.json")
    assert json.loads(path.read_text()) == {"kind": "nll", "model": "m1", "parameters": {"max_length": 64}}


def test_unfinished_parts_are_ignored(store):
    store.write(NLL, table(a=1.0))
    (parts(store)[0].parent / "x.parquet.1a2b3c4d.part").write_bytes(b"PAR1 half")
    assert store.missing(NLL, ids("ab")).to_list() == ["b"]


def test_read_says_how_many_are_missing(store):
    store.write(NLL, table(a=1.0))
    with pytest.raises(StoreError, match="2 of 3 examples are not measured yet"):
        store.read(NLL, ids("abc"))


def test_read_of_an_empty_store_names_the_measure(store):
    with pytest.raises(StoreError, match="nothing is stored for the measure nll"):
        store.read(NLL, ids("a"))


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"PAR1 junk junk junk PAR1"], ids=["empty", "junk", "framed junk"]
)
@pytest.mark.parametrize("ask", ["missing", "read"])
def test_damaged_part_is_a_store_error_that_names_the_folder(store, content, ask):
    store.write(NLL, table(a=1.0))
    parts(store)[0].write_bytes(content)
    with pytest.raises(StoreError, match=str(parts(store)[0].parent)) as caught:
        getattr(store, ask)(NLL, ids("a"))
    assert "delete" in caught.value.hint


def test_full_disk_is_named_and_keeps_what_was_stored(store, monkeypatch):
    store.write(NLL, table(a=1.0))

    def full(file, _table, **_options):
        Path(file.where).write_bytes(b"PAR1 half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
    with pytest.raises(DiskError, match="the disk is full"):
        store.write(NLL, table(b=2.0))
    assert store.missing(NLL, ids("ab")).to_list() == ["b"]


def test_store_in_the_place_of_a_file_is_a_disk_error(store):
    store.folder.touch()
    with pytest.raises(DiskError, match=r"cannot write .*store"):
        store.write(NLL, table(a=1.0))
