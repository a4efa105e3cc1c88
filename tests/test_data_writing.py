"""Pools and chosen rows out: byte for byte, and every row accounted for."""

import errno
import gzip
import json
import shutil
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnable.data import load_pool, pool_identity, read, save_pool, write_dropped, write_rows
from learnable.errors import DataError, DiskError
from learnable.pools import Pool
from learnable.runs.files import replacing

LINES = [
    b'{"instruction": "Say one",   "output": "eins",  "extra": [1.10, null]}\n',
    b'{"output": "zw\xc3\xa9i", "instruction": "Say two"}\r\n',
    b'{"instruction": "Say \\u0064r\\u00e9i", "output": "dr\\u00e9i"}\n',
    b'{"instruction": "Say one", "output": "eins"}\n',
    b"{broken\n",
    b'{"instruction": "Say four", "output": "vier"}',
]
CSV = [
    b'prompt,"completion",note\r\n',
    b'Hi,"Ho ""there""",1\r\n',
    b'"two\r\nlines",caf\xc3\xa9,  2\r\n',
    b"bad record\r\n",
    b"Hi,Hu,\r\n",
    b'"Hi",He,3',
]
ROWS = [
    {"instruction": f"Say {word}", "input": "", "output": word} for word in ("eins", "zwei", "dréi", "vier")
]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def pool(source) -> Pool:
    (source / "my.jsonl").write_bytes(b"\xef\xbb\xbf\n" + b"".join(LINES))
    return read([str(source / "my.jsonl")], on_error="skip")


def ids(pool, *positions):
    return [pool.examples["id"][position] for position in positions]


def written(pool, positions, folder):
    (path,) = write_rows(pool, ids(pool, *positions), folder)
    return path


def test_jsonl_lines_are_the_same_bytes_in_file_order(pool, tmp_path):
    path = written(pool, [2, 1, 0], tmp_path / "out")
    assert path.read_bytes() == LINES[0] + LINES[1] + LINES[2]


def test_a_last_jsonl_line_gets_its_newline(pool, tmp_path):
    assert written(pool, [3], tmp_path / "out").read_bytes() == LINES[5] + b"\n"


def test_a_byte_order_mark_is_not_kept_in_jsonl(source, tmp_path):
    (source / "my.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES[0])
    assert written(read([str(source / "my.jsonl")]), [0], tmp_path / "out").read_bytes() == LINES[0]


def test_gzip_in_gives_gzip_out(source, tmp_path):
    (source / "my.jsonl.gz").write_bytes(gzip.compress(b"".join(LINES)))
    path = written(read([str(source / "my.jsonl.gz")], on_error="skip"), [1], tmp_path / "out")
    assert (path.name, gzip.decompress(path.read_bytes())) == ("my.jsonl.gz", LINES[1])


def test_gzip_output_is_the_same_every_time(source, tmp_path):
    (source / "my.jsonl.gz").write_bytes(gzip.compress(LINES[0]))
    pool = read([str(source / "my.jsonl.gz")])
    assert written(pool, [0], tmp_path / "a").read_bytes() == written(pool, [0], tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("mark", "positions", "records"),
    [(b"", [0, 1], [1, 2]), (b"\xef\xbb\xbf", [1], [2]), (b"", [2], [4])],
)
def test_csv_records_are_the_same_bytes_below_the_header(source, tmp_path, mark, positions, records):
    (source / "my.csv").write_bytes(mark + b"".join(CSV))
    path = written(read([str(source / "my.csv")], on_error="skip"), positions, tmp_path / "out")
    assert path.read_bytes() == mark + CSV[0] + b"".join(CSV[record] for record in records)


def test_a_last_csv_record_gets_the_newline_of_the_file(source, tmp_path):
    (source / "my.csv").write_bytes(b"".join(CSV))
    path = written(read([str(source / "my.csv")], on_error="skip"), [3], tmp_path / "out")
    assert path.read_bytes() == CSV[0] + CSV[5] + b"\r\n"


@pytest.mark.parametrize("wrapped", [True, False])
def test_json_rows_are_the_same_objects_in_an_array(source, tmp_path, wrapped):
    content = {"data": ROWS, "version": 3} if wrapped else ROWS
    (source / "my.json").write_text(json.dumps(content), encoding="utf-8")
    path = written(read([str(source / "my.json")]), [2, 0], tmp_path / "out")
    assert (
        path.read_text(encoding="utf-8")
        == json.dumps([ROWS[0], ROWS[2]], ensure_ascii=False, indent=2) + "\n"
    )


def test_half_a_surrogate_pair_beside_the_text_survives_json(source, tmp_path):
    (source / "my.json").write_text(json.dumps([{**ROWS[0], "note": "\ud800"}]), encoding="utf-8")
    path = written(read([str(source / "my.json")]), [0], tmp_path / "out")
    assert json.loads(path.read_text(encoding="utf-8"))[0]["note"] == "\ud800"


def test_parquet_keeps_schema_and_metadata(source, tmp_path):
    table = pa.Table.from_pylist([{**row, "n": 1, "tags": ["x"]} for row in ROWS])
    schema = table.schema.set(3, pa.field("n", pa.int8())).with_metadata({"made by": "hand"})
    pq.write_table(table.cast(schema), source / "my.parquet", row_group_size=2)
    path = written(read([str(source / "my.parquet")]), [3, 0], tmp_path / "out")
    assert pq.read_schema(path).equals(pq.read_schema(source / "my.parquet"), check_metadata=True)


def test_parquet_rows_are_the_chosen_ones_across_row_groups(source, tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), source / "my.parquet", row_group_size=1)
    path = written(read([str(source / "my.parquet")]), [3, 0], tmp_path / "out")
    assert pq.read_table(path).to_pylist() == [ROWS[0], ROWS[3]]


def test_a_datasets_folder_gives_a_datasets_folder(source, tmp_path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(source / "saved")
    path = written(read([str(source / "saved")]), [3, 1], tmp_path / "out")
    assert datasets.load_from_disk(path).to_list() == [ROWS[1], ROWS[3]]


def test_a_datasets_folder_replaces_an_earlier_one(source, tmp_path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(source / "saved")
    pool = read([str(source / "saved")])
    written(pool, [0], tmp_path / "out")
    assert datasets.load_from_disk(written(pool, [1], tmp_path / "out")).to_list() == [ROWS[1]]


def test_a_folder_that_is_no_dataset_is_not_replaced(source, tmp_path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(source / "saved")
    (tmp_path / "out" / "saved").mkdir(parents=True)
    with pytest.raises(DataError, match="would replace a folder"):
        written(read([str(source / "saved")]), [0], tmp_path / "out")


def test_a_hub_dataset_gives_jsonl(tmp_path, monkeypatch):
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, *, split: dataset)
    path = written(read(["owner/name:test"]), [2], tmp_path / "out")
    assert (path.name, json.loads(path.read_text(encoding="utf-8"))) == ("name-test.jsonl", ROWS[2])


def test_the_starter_set_gives_jsonl_that_reads_the_same(tmp_path):
    pytest.importorskip("chatterbot_corpus")
    pool = read(["starter"])
    path = written(pool, range(len(pool)), tmp_path / "out")
    assert read([str(path)], source_column="source").examples.equals(pool.examples)


def test_of_duplicates_the_first_row_is_written(pool, tmp_path):
    assert written(pool, [0], tmp_path / "out").read_bytes() == LINES[0]


def test_names_that_clash_get_a_number(source, tmp_path):
    for name, line in (("a", LINES[0]), ("b", LINES[1])):
        (source / name).mkdir()
        (source / name / "my.jsonl").write_bytes(line)
    pool = read([str(source / "a" / "my.jsonl"), str(source / "b" / "my.jsonl")])
    paths = write_rows(pool, ids(pool, 0, 1), tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in paths] == [
        ("my.jsonl", LINES[0]),
        ("my-2.jsonl", LINES[1]),
    ]


def test_a_file_without_chosen_rows_is_not_written(source, tmp_path):
    (source / "a.jsonl").write_bytes(LINES[0])
    (source / "b.jsonl").write_bytes(LINES[1])
    pool = read([str(source / "a.jsonl"), str(source / "b.jsonl")])
    write_rows(pool, ids(pool, 1), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.jsonl"]


def test_a_changed_file_is_noticed(pool, source, tmp_path):
    (source / "my.jsonl").write_bytes(b"".join(LINES[:3]))
    with pytest.raises(DataError, match=r"my\.jsonl has changed since it was read"):
        written(pool, [0], tmp_path / "out")


def test_a_missing_file_is_noticed(pool, source, tmp_path):
    (source / "my.jsonl").unlink()
    with pytest.raises(DataError, match="has changed since it was read: it is no longer there"):
        written(pool, [0], tmp_path / "out")


def test_the_input_is_never_replaced(pool, source):
    with pytest.raises(DataError, match="would replace its input"):
        written(pool, [0], source)


def test_ids_that_are_not_in_the_pool_are_refused(pool, tmp_path):
    with pytest.raises(DataError, match="1 ids are not in the pool, such as 'nobody'"):
        write_rows(pool, ["nobody"], tmp_path / "out")


def dropped(pool, selection, folder):
    count = write_dropped(pool, selection, folder / "dropped.jsonl")
    lines = (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == count
    return [json.loads(line) for line in lines]


def test_the_ledger_lists_bad_rows_and_duplicates_in_order(pool, tmp_path):
    duplicate, broken = dropped(pool, None, tmp_path)
    assert (duplicate, broken["file"], broken["line"], broken["row"], broken["id"]) == (
        {"file": "my.jsonl", "line": 5, "row": 4, "id": ids(pool, 0)[0], "reason": "duplicate of my.jsonl:2"},
        "my.jsonl",
        6,
        5,
        None,
    )


def test_the_ledger_takes_the_reasons_of_the_selection(pool, tmp_path):
    selection = pl.DataFrame({"id": ids(pool, 1), "reason": ["below the budget"]})
    entries = dropped(pool, selection, tmp_path)
    assert [(entry["row"], entry["reason"]) for entry in entries][:1] == [(2, "below the budget")]


def test_the_ledger_names_the_place_of_the_row_that_a_near_duplicate_is_like(pool, tmp_path):
    one, other = ids(pool, 0, 1)
    reason = f"near-duplicate of {one[:8]} (cosine 0.97)"
    entry = dropped(pool, pl.DataFrame({"id": [other], "reason": [reason]}), tmp_path)[0]
    assert entry["reason"] == f"near-duplicate of my.jsonl:2, {one[:8]} (cosine 0.97)"


def test_every_row_is_written_or_in_the_ledger(pool, tmp_path):
    selection = pl.DataFrame({"id": ids(pool, 1, 3), "reason": ["not chosen", "not chosen"]})
    kept = written(pool, [0, 2], tmp_path / "out").read_bytes().splitlines()
    assert len(kept) + len(dropped(pool, selection, tmp_path)) == pool.rows.height


def test_the_ledger_refuses_strangers(pool, tmp_path):
    with pytest.raises(DataError, match="not in the pool"):
        write_dropped(pool, pl.DataFrame({"id": ["nobody"], "reason": ["x"]}), tmp_path / "dropped.jsonl")


def test_a_saved_pool_comes_back_the_same(pool, tmp_path):
    save_pool(pool, tmp_path / "pool")
    loaded = load_pool(tmp_path / "pool")
    assert loaded.examples.equals(pool.examples)
    assert loaded.rows.equals(pool.rows)
    assert loaded.files == pool.files


def test_a_saved_pool_keeps_its_types(pool, tmp_path):
    save_pool(pool, tmp_path / "pool")
    loaded = load_pool(tmp_path / "pool")
    assert (loaded.examples.schema, loaded.rows.schema) == (pool.examples.schema, pool.rows.schema)


@pytest.mark.parametrize("name", ["examples.parquet", "rows.parquet", "pool.json"])
@pytest.mark.parametrize("content", [None, b"{}"])
def test_a_broken_pool_is_refused(pool, tmp_path, name, content):
    save_pool(pool, tmp_path / "pool")
    (tmp_path / "pool" / name).unlink() if content is None else (tmp_path / "pool" / name).write_bytes(
        content
    )
    with pytest.raises(DataError, match="cannot read the pool"):
        load_pool(tmp_path / "pool")


def test_the_identity_survives_saving(pool, tmp_path):
    save_pool(pool, tmp_path / "pool")
    assert pool_identity(load_pool(tmp_path / "pool")) == pool_identity(pool)


def test_the_identity_does_not_depend_on_the_folder(pool, source, tmp_path):
    shutil.copytree(source, tmp_path / "elsewhere")
    assert pool_identity(read([str(tmp_path / "elsewhere" / "my.jsonl")], on_error="skip")) == pool_identity(
        pool
    )


def test_the_identity_does_not_depend_on_the_name_when_the_source_is_given(source):
    rows = [{**ROWS[0], "topic": "a"}, {**ROWS[0], "topic": "a"}]
    for name in ("a.jsonl", "b.jsonl"):
        (source / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pools = [read([str(source / name)], source_column="topic") for name in ("a.jsonl", "b.jsonl")]
    assert pool_identity(pools[0]) == pool_identity(pools[1])


def test_the_ids_do_not_depend_on_the_order_of_keys(source):
    content = json.dumps(ROWS[0]) + "\n" + json.dumps(dict(reversed(ROWS[0].items())))
    (source / "a.jsonl").write_text(content, encoding="utf-8")
    assert len(read([str(source / "a.jsonl")])) == 1


@pytest.mark.parametrize(
    "lines",
    [LINES[:3], [LINES[1], LINES[0], *LINES[2:]], [*LINES[:5], b'{"instruction": "x", "output": "y"}']],
)
def test_the_identity_changes_with_the_content(pool, source, lines):
    (source / "my.jsonl").write_bytes(b"".join(lines))
    assert pool_identity(read([str(source / "my.jsonl")], on_error="skip")) != pool_identity(pool)


def test_the_identity_changes_with_the_sources(pool):
    renamed = pool.examples.with_columns(source=pl.lit("other"))
    assert pool_identity(replace(pool, conversations=renamed.lazy())) != pool_identity(pool)


def write_and_fail(path, error):
    with replacing(path) as part:
        part.write_text("half of it")
        raise error


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(DiskError, match="the disk is full"):
        write_and_fail(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        write_and_fail(tmp_path / "a", RuntimeError("half way"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_folder_that_cannot_be_made_is_named(pool, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="cannot write"):
        save_pool(pool, tmp_path / "file")
