"""Files in, pools out."""

import datetime
import gzip
import json
import re
import subprocess
import sys

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnable.data import read, save_pool
from learnable.errors import DataError, UsageError
from learnable.runs.identity import example_id, file_digest
from learnable.types import Message
from row_formats import read_row

ROWS = [{"instruction": f"Say {word}", "input": "", "output": word} for word in ("eins", "zwei", "dréi")]
MESSAGES_ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_kind(folder, kind):
    """Write ROWS as one kind of file and return its path."""
    path = folder / f"my{kind}"
    if kind in (".jsonl", ".ndjson"):
        path.write_bytes(jsonl(ROWS))
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(jsonl(ROWS)))
    elif kind == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == ".parquet":
        pl.DataFrame(ROWS).write_parquet(path)
    elif kind in (".csv", ".tsv"):
        pl.DataFrame(ROWS).write_csv(path, separator="," if kind == ".csv" else "\t")
    return str(path)


@pytest.fixture
def file(tmp_path):
    """Write bytes to a file and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def skipped(path, **options):
    """Return (line, reason) of the rows that were not used."""
    rows = read([path], on_error="skip", **options).rows.filter(pl.col("reason").is_not_null())
    return list(rows.select("line", "reason").iter_rows())


def failure(*paths, **options):
    with pytest.raises(DataError) as caught:
        read(paths, **options)
    return caught.value


@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".jsonl.gz", ".json", ".parquet", ".csv", ".tsv"])
def test_every_kind_of_file_gives_the_same_examples(tmp_path, kind):
    pool = read([write_kind(tmp_path, kind)])
    assert [example.messages for example in pool.iter_examples()] == [
        read_row(row, "alpaca").messages for row in ROWS
    ]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (".jsonl", [1, 2, 3]),
        (".jsonl.gz", [1, 2, 3]),
        (".csv", [2, 3, 4]),
        (".json", [None] * 3),
        (".parquet", [None] * 3),
    ],
)
def test_text_files_have_line_numbers(tmp_path, kind, lines):
    assert read([write_kind(tmp_path, kind)]).rows["line"].to_list() == lines


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv", ".tsv"])
def test_the_source_is_the_stem_of_the_file(tmp_path, kind):
    assert set(read([write_kind(tmp_path, kind)]).examples["source"]) == {"my"}


def test_the_id_is_the_hash_of_the_messages(tmp_path):
    turns = [Message(role="user", content="Say eins"), Message(role="assistant", content="eins")]
    assert read([write_kind(tmp_path, ".jsonl")]).examples["id"][0] == example_id(turns)


def test_the_file_is_recorded_with_its_digest(tmp_path):
    path = write_kind(tmp_path, ".jsonl")
    (recorded,) = read([path]).files
    assert (recorded.kind, recorded.format, recorded.digest) == (
        "jsonl",
        "alpaca",
        file_digest(tmp_path / "my.jsonl"),
    )


def test_paths_are_recorded_absolute(tmp_path, monkeypatch):
    write_kind(tmp_path, ".jsonl")
    monkeypatch.chdir(tmp_path)
    assert read(["my.jsonl"]).files[0].path == str(tmp_path / "my.jsonl")


def test_columns_have_the_promised_types(tmp_path):
    pool = read([write_kind(tmp_path, ".jsonl")])
    turns = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
    assert (pool.examples.schema, pool.rows.schema) == (
        {"id": pl.String, "source": pl.String, "messages": turns},
        {"file": pl.Int64, "row": pl.Int64, "line": pl.Int64, "id": pl.String, "reason": pl.String},
    )


def test_one_file_may_mix_formats(file):
    assert len(read([file("a.jsonl", jsonl([ROWS[0], MESSAGES_ROW, ROWS[1]]))])) == 3


def test_the_format_of_a_file_is_that_of_most_rows(file):
    assert read([file("a.jsonl", jsonl([MESSAGES_ROW, *ROWS]))]).files[0].format == "alpaca"


def test_a_given_format_is_used_for_all_rows(file):
    rows = [{**ROWS[0], "prompt": "Hi", "completion": "Ho"}]
    pool = read([file("a.jsonl", jsonl(rows))], format="prompt_completion")
    assert next(pool.iter_examples()).messages[0].content == "Hi"


def test_an_unknown_format_gets_a_suggestion(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'alpaca'"):
        read([write_kind(tmp_path, ".jsonl")], format="alpacca")


def test_no_path_is_a_usage_error():
    with pytest.raises(UsageError, match="no data given"):
        read([])


def test_blank_lines_are_ignored_but_counted(file):
    content = b"\n" + jsonl(ROWS[:1]) + b"  \r\n\n" + jsonl(ROWS[1:2])
    assert read([file("a.jsonl", content)]).rows["line"].to_list() == [2, 5]


def test_blank_lines_do_not_count_as_rows(file):
    assert read([file("a.jsonl", b"\n\n" + jsonl(ROWS))]).rows["row"].to_list() == [0, 1, 2]


def test_a_last_line_without_newline_is_read(file):
    assert len(read([file("a.jsonl", jsonl(ROWS).rstrip())])) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl(ROWS)),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.csv", b"instruction,output\nHi,Ho\nHi,Hu\nHi,He\n"),
        ("quoted.csv", b'"instruction","output"\nHi,Ho\nHi,Hu\nHi,He\n'),
    ],
)
def test_a_byte_order_mark_is_accepted(file, name, content):
    assert len(read([file(name, b"\xef\xbb\xbf" + content)])) == 3


def test_an_object_with_one_list_is_a_json_file(file):
    assert len(read([file("a.json", json.dumps({"version": 1, "data": ROWS}))])) == 3


def test_a_single_row_is_a_json_file(file):
    assert len(read([file("a.json", json.dumps(MESSAGES_ROW))])) == 1


def test_a_quoted_newline_in_csv_belongs_to_the_field(file):
    pool = read([file("a.csv", 'prompt,completion\n"a\nb",c\nd,e\n')])
    assert (next(pool.iter_examples()).messages[0].content, pool.rows["line"].to_list()) == ("a\nb", [2, 4])


def test_csv_fields_may_be_long(file):
    assert len(read([file("a.csv", f"prompt,completion\nHi,{'x' * 200_000}\n")])) == 1


def test_everything_in_csv_is_text(file):
    pool = read([file("a.csv", "question,answer\nWhen?,1963\n")])
    assert next(pool.iter_examples()).messages[1].content == "1963"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{broken\n", "not valid JSON"),
        (b'{"instruction": "\xff", "output": "x"}\n', "not valid UTF-8: byte 0xff at position 18"),
        (b"[1, 2]\n", "a row must be an object with named fields, got a list"),
        (b"42\n", "got a number"),
        (b"null\n", "got missing"),
        (b'{"instruction": "a", "output": "\\ud800"}\n', "lone surrogate"),
        (b'{"\\ud800": 1}\n', "no known format fits the keys: '\\ud800'"),
        (b'{"instruction": "a", "output": 42}\n', "'output' is a number, not text: 42"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "not valid JSON"),
        (b"[" * 100_000 + b"\n", "not valid JSON"),
        (b'{"instruction": "a", "output": ' + b"[" * 900 + b"]" * 900 + b"}\n", "'output' is a list"),
        (b"{}\n", "no known format fits the keys: none"),
    ],
)
def test_a_bad_line_keeps_its_place_and_gets_a_reason(file, bad, reason):
    ((line, found),) = skipped(file("a.jsonl", jsonl(ROWS) + bad))
    assert (line, reason in found) == (4, True)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"only one\n", "1 fields, but the header has 2"),
        (b"one,two,three\n", "3 fields, but the header has 2"),
        (b"caf\xe9,x\n", "not valid UTF-8: byte 0xe9"),
        (b'"a"b,x\n', "not valid CSV"),
        (b'"never closed,x\nmore\n', "not valid CSV: unexpected end of data"),
        (b"Hi,\n", "the answer is empty"),
    ],
)
def test_a_bad_csv_record_keeps_its_place_and_gets_a_reason(file, bad, reason):
    ((line, found),) = skipped(file("a.csv", b"prompt,completion\nHi,Ho\n\n" + bad))
    assert (line, reason in found) == (4, True)


def test_csv_goes_on_after_a_bad_record(file):
    assert len(read([file("a.csv", 'prompt,completion\n"a"b,c\nd\ne,f\n')], on_error="skip")) == 1


def test_invalid_text_in_parquet_is_a_bad_row(tmp_path):
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    pq.write_table(pa.table({"prompt": pa.array(["Hi", "Ho"]), "completion": broken}), tmp_path / "a.parquet")
    ((_, reason),) = skipped(str(tmp_path / "a.parquet"))
    assert "not valid UTF-8" in reason


def test_a_bad_row_can_stop_the_reading_with_file_line_and_keys(file):
    path = file("my.jsonl", jsonl([*ROWS, {"instruction": "Hi", "output": "", "topic": "x"}]))
    error = failure(path, on_error="raise")
    assert error.message == "my.jsonl:4: the answer is empty; keys seen: instruction, output, topic"


def test_a_bad_row_of_a_file_without_lines_is_named_by_its_number(tmp_path):
    pl.DataFrame([*ROWS, {"instruction": "Hi", "input": "", "output": None}]).write_parquet(
        tmp_path / "a.parquet"
    )
    error = failure(str(tmp_path / "a.parquet"), on_error="raise")
    assert error.message.startswith("a.parquet row 4: 'output' is missing")


def test_the_share_that_a_hint_names_is_enough(file):
    path = file("a.jsonl", jsonl(ROWS) + b"{broken\n")
    share = re.search(r"--on-error (\d+%)", failure(path).hint)[1]
    assert len(read([path], on_error=share)) == len(ROWS)


def test_a_bad_row_says_how_to_leave_it_out(file):
    assert "--on-error skip" in failure(file("a.jsonl", jsonl(ROWS) + b"{broken\n")).hint


def test_unknown_keys_say_which_formats_there_are(file):
    error = failure(file("a.jsonl", b'{"text": "x"}\n'))
    assert "a.jsonl:1: no known format fits the keys: text" in error.message
    assert "alpaca (" in error.hint


def test_duplicates_name_the_first_row(file):
    path = file("a.jsonl", jsonl([ROWS[0], ROWS[1], {**ROWS[0], "input": None}]))
    assert skipped(path) == [(3, "duplicate of a.jsonl:1")]


def test_duplicates_in_another_file_name_the_first_file(tmp_path):
    pool = read([write_kind(tmp_path, ".parquet"), write_kind(tmp_path, ".jsonl")])
    assert pool.rows["reason"][3] == "duplicate of my.parquet row 1"


def test_a_duplicate_has_the_id_of_the_first(file):
    ids = read([file("a.jsonl", jsonl([ROWS[0], ROWS[0]]))]).rows["id"]
    assert ids[0] == ids[1]


def test_every_row_is_accounted_for(file):
    pool = read([file("a.jsonl", jsonl([*ROWS, *ROWS]) + b"{broken\n[]\n")], on_error="skip")
    assert (pool.rows.height, pool.rows["reason"].null_count()) == (8, len(pool))


def test_the_source_column_names_the_source(file):
    rows = [{**row, "topic": topic} for row, topic in zip(ROWS, ["a", None, 3], strict=True)]
    assert read([file("a.jsonl", jsonl(rows))], source_column="topic").examples["source"].to_list() == [
        "a",
        "none",
        "3",
    ]


def test_a_date_may_be_a_source(tmp_path):
    rows = [{**ROWS[0], "day": datetime.date(2024, 5, 1)}]
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    assert read([str(tmp_path / "a.parquet")], source_column="day").examples["source"].to_list() == [
        "2024-05-01"
    ]


@pytest.mark.parametrize("kind", [".jsonl", ".parquet", ".csv"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_missing_source_column_lists_the_columns(tmp_path, kind, on_error):
    error = failure(write_kind(tmp_path, kind), source_column="topic", on_error=on_error)
    assert "no column 'topic' to take the source from" in error.message
    assert "keys seen: instruction, input, output" in error.message


def test_a_source_that_is_no_text_is_refused(file):
    error = failure(file("a.jsonl", jsonl([{**ROWS[0], "topic": ["a"]}])), source_column="topic")
    assert "the source column 'topic' is a list, not text" in error.message


def test_a_missing_file_suggests_close_names(file):
    path = file("train.jsonl", jsonl(ROWS))
    assert failure(path.replace("train", "trian")).hint == "did you mean train.jsonl?"


def test_a_misspelt_starter_gets_a_suggestion():
    assert failure("startr").hint == "did you mean starter or starter-task?"


def test_a_missing_folder_is_named(tmp_path):
    assert failure(str(tmp_path / "nowhere" / "a.jsonl")).hint == f"there is no folder {tmp_path / 'nowhere'}"


def test_a_missing_data_file_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert failure("data/my.jsonl").message == "there is no file data/my.jsonl"


def test_an_unknown_extension_lists_the_known_ones(file):
    assert ".parquet" in failure(file("a.xlsx", b"x")).hint


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_an_empty_file_is_refused(file, name):
    assert failure(file(name, b"")).message == f"{name} is empty"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b"\n\n"), ("a.json", b"[]"), ("a.csv", b"prompt,completion\n"), ("b.csv", b"\n")],
)
def test_a_file_without_rows_is_refused(file, name, content):
    assert failure(file(name, content)).message == f"{name} has no rows"


def test_a_file_without_a_usable_row_is_refused_even_when_skipping(file):
    error = failure(file("a.jsonl", b"{broken\n" * 3), on_error="skip")
    assert error.message.startswith("a.jsonl: none of its 3 rows can be used: a.jsonl:1: not valid JSON")


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.parquet", "cannot read"), ("a.arrow", "cannot read"), ("a.jsonl.gz", "not compressed, as .gz says")],
)
def test_a_broken_file_is_refused(file, name, words):
    assert words in failure(file(name, b"this is something else")).message


def test_a_cut_off_gzip_file_is_refused(file):
    assert "cannot read" in failure(file("a.jsonl.gz", gzip.compress(jsonl(ROWS * 99))[:-20])).message


def test_broken_json_says_where(file):
    assert (
        "line 1 column 3"
        in failure(file("a.json", b"[1")).message + failure(file("b.json", b"[1 2]")).message
    )


def test_json_without_rows_says_what_it_holds(file):
    assert "an object with the keys a, b, not rows" in failure(file("a.json", b'{"a": [], "b": []}')).message


def test_csv_columns_must_differ(file):
    assert "columns occur twice: a" in failure(file("a.csv", "a,a\n1,2\n")).message


def test_a_saved_pool_is_loaded(tmp_path):
    pool = read([write_kind(tmp_path, ".jsonl")])
    save_pool(pool, tmp_path / "pool")
    assert read([str(tmp_path / "pool")]).examples.equals(pool.examples)


def test_a_saved_pool_is_not_combined(tmp_path):
    path = write_kind(tmp_path, ".jsonl")
    save_pool(read([path]), tmp_path / "pool")
    assert "cannot be combined" in failure(str(tmp_path / "pool"), path).message


def test_a_saved_pool_takes_no_options(tmp_path):
    save_pool(read([write_kind(tmp_path, ".jsonl")]), tmp_path / "pool")
    with pytest.raises(UsageError, match="have no effect"):
        read([str(tmp_path / "pool")], format="alpaca")


@pytest.fixture
def dataset():
    import datasets

    datasets.disable_progress_bars()
    yield datasets.Dataset.from_list([*ROWS, ROWS[0]])
    datasets.enable_progress_bars()


def test_a_datasets_folder_is_read(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "saved")
    pool = read([str(tmp_path / "saved")])
    assert (len(pool), pool.files[0].kind, pool.files[0].source) == (3, "datasets", "saved")


def test_a_dataset_with_one_split_needs_no_name(tmp_path, dataset):
    import datasets

    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
    assert len(read([str(tmp_path / "saved")])) == 3


def test_a_dataset_with_several_splits_asks_for_one(tmp_path, dataset):
    import datasets

    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "saved")
    assert failure(str(tmp_path / "saved")).message.endswith("has several splits: test, train")


def test_a_broken_datasets_folder_is_refused(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"junk")
    assert "cannot read the dataset" in failure(str(tmp_path / "saved")).message


@pytest.mark.parametrize(
    ("given", "config", "split"),
    [
        ("owner/name", None, "train"),
        ("owner/name:test[:10%]", None, "test[:10%]"),
        ("owner/name:main:train", "main", "train"),
        ("owner/name:en.1:train[5%:10%]+test[:3]", "en.1", "train[5%:10%]+test[:3]"),
    ],
)
def test_a_hub_id_is_loaded_with_its_config_and_split(monkeypatch, dataset, given, config, split):
    import datasets

    asked = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, *, split: asked.append((name, config, split)) or dataset,
    )
    pool = read([given])
    assert (len(pool), pool.files[0].kind, asked[0]) == (3, "hub", ("owner/name", config, split))


def test_a_hub_dataset_that_cannot_be_loaded_is_named(monkeypatch):
    import datasets

    def fail(name, config, *, split):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert (
        "there is no file owner/name, and the hub dataset cannot be loaded: offline"
        in failure("owner/name").message
    )


def test_importing_the_room_imports_nothing_heavy():
    code = "import sys, learnable.data; print([m for m in ('torch', 'transformers', 'datasets', 'yaml') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
