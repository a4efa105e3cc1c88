"""Kinds of files: compressed, in any Unicode, as documents, tables, folders and patterns; and what each file is said to be."""

import bz2
import gzip
import json
import lzma
import tracemalloc

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnable.data import read, write_dropped, write_rows
from learnable.errors import DataError
from learnable.settings import Reading

ROWS = [{"instruction": f"Say {word}", "input": "", "output": word} for word in ("eins", "zwei", "dréi")]
WORDS = [row["output"] for row in ROWS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TURNS = [{"role": "user", "content": "Say one"}, {"role": "assistant", "content": "one"}]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS = {".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture
def file(tmp_path):
    """Write bytes or text to a file and return its path."""

    def write(name, content):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def answers(*paths, **options):
    return [example.messages[-1].content for example in read(paths, **options).iter_examples()]


def failure(*paths, **options):
    with pytest.raises(DataError) as caught:
        read(paths, **options)
    return caught.value


def kept(path, folder, *positions):
    """Write the examples at these positions and return the outputs."""
    pool = read([path])
    return write_rows(pool, [pool.examples["id"][position] for position in positions], folder)


# ---------------------------------------------------------------- compressed


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my.jsonl", LINES),
        ("my.json", json.dumps(ROWS)),
        ("my.csv", "prompt,completion\nSay 1,eins\nSay 2,zwei\nSay 3,dréi\n"),
        ("my.tsv", "prompt\tcompletion\nSay 1\teins\nSay 2\tzwei\nSay 3\tdréi\n"),
    ],
)
def test_text_may_be_compressed(file, suffix, name, content):
    path = file(name + suffix, COMPRESS[suffix](content.encode()))
    pool = read([path])
    assert (answers(path), pool.files[0].source) == (WORDS, "my")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_in_gives_the_same_bytes_compressed_out(file, tmp_path, suffix):
    path = file(f"my.jsonl{suffix}", COMPRESS[suffix](LINES.encode()))
    contents = []
    for folder in ("one", "two"):
        (out,) = kept(path, tmp_path / folder, 2)
        contents.append(out.read_bytes())
        assert (out.name, answers(str(out))) == (f"my.jsonl{suffix}", ["dréi"])
    assert contents[0] == contents[1] != LINES.encode()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_content_needs_no_suffix_and_is_written_as_its_name_says(file, tmp_path, suffix):
    path = file("my.jsonl", COMPRESS[suffix](LINES.encode()))
    (out,) = kept(path, tmp_path / "out", 0)
    assert (answers(path), out.read_text(encoding="utf-8")) == (WORDS, LINES.splitlines(keepends=True)[0])


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_is_cut_off_is_an_error(file, suffix):
    content = COMPRESS[suffix](LINES.encode() * 500)
    assert "cannot read" in failure(file(f"a.jsonl{suffix}", content[: len(content) // 2])).message


def test_several_streams_in_one_compressed_file_are_read(file):
    assert len(answers(file("a.jsonl.zst", zstd(LINES.encode()) + zstd(json.dumps(TURNS).encode())))) == 4


# ---------------------------------------------------------------- Unicode


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my.jsonl", LINES),
        ("my.json", json.dumps(ROWS, ensure_ascii=False)),
        ("my.csv", "prompt,completion\nSay 1,eins\nSay 2,zwei\nSay 3,dréi\n"),
    ],
)
def test_text_may_be_in_any_unicode(file, tmp_path, encoding, name, content):
    path = file(name, content.encode(encoding))
    (out,) = kept(path, tmp_path / "out", 2)
    assert (answers(path), answers(str(out))) == (WORDS, ["dréi"])


def test_half_a_pair_of_surrogates_spoils_its_line_only(file):
    lines = json.dumps(TURNS, ensure_ascii=False).encode("utf-16-le") + "\n".encode("utf-16-le")
    spoilt = lines.replace("Say".encode("utf-16-le"), b"\x00\xd8" + "ay".encode("utf-16-le"))
    path = file("a.jsonl", b"\xff\xfe" + lines + spoilt)
    pool = read([path], on_error="skip")
    assert (len(pool), "not valid UTF-8" in pool.rows["reason"][1]) == (1, True)


def test_utf16_that_is_cut_off_is_said(file):
    assert "not valid UTF-16" in failure(file("a.jsonl", LINES.encode("utf-16")[:-1])).message


@pytest.mark.parametrize("name", ["my file.csv", "my.jsonl", "my.json"])
def test_windows_text_is_said_with_what_to_type(file, name):
    content = "instruction,output\nName a früit,Fig.\n" if name.endswith("csv") else LINES.replace("\n", " ")
    error = failure(file(name, content.encode("cp1252")))
    assert "Windows-1252" in error.message
    assert "iconv -f WINDOWS-1252 -t UTF-8" in error.hint


# ---------------------------------------------------------------- lines or a document


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("lines.json", LINES, "jsonl"),
        ("lines.json", "\n" + LINES.rstrip(), "jsonl"),
        ("one-row.json", json.dumps(ROWS[0]), "json"),
        ("one-row.jsonl", json.dumps(ROWS[0]), "jsonl"),
        ("array.jsonl", json.dumps(ROWS), "json"),
        ("array.jsonl", json.dumps(ROWS, indent=1), "json"),
        ("array.jsonl", "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", "json"),
        ("array.jsonl", "[" + "\n,".join(map(json.dumps, ROWS)) + "]", "json"),
        ("array.jsonl", "[" + ",\n".join(map(json.dumps, ROWS[:2])) + "\n]", "json"),
        ("pretty.json", "\n".join(json.dumps(row, indent=1) for row in ROWS), "json"),
        ("pretty.jsonl", "\n".join(json.dumps(row, indent=1) for row in ROWS), "json"),
        ("turns.jsonl", json.dumps(TURNS) + "\n" + json.dumps(TURNS[:1] + TURNS), "jsonl"),
        ("turns.jsonl", json.dumps(TURNS), "jsonl"),
        ("turns.json", json.dumps(TURNS), "jsonl"),
        ("turns.json", json.dumps([TURNS, TURNS[:1] + TURNS]), "json"),
    ],
)
def test_the_start_of_a_file_tells_how_its_rows_are_laid_out(file, name, content, kind):
    pool = read([file(name, content)])
    assert pool.files[0].kind == kind
    assert pool.rows["reason"].null_count() == pool.rows.height > 0


@pytest.mark.parametrize("broken", ['{"instruction": "Say it",', "{"])
def test_a_broken_first_line_makes_no_document(file, broken):
    assert answers(file("a.jsonl", f"{broken}\n{LINES}"), on_error="skip") == WORDS
    path = file("b.jsonl", '[{"role": "user",\n' + json.dumps(TURNS) + "\n")
    assert answers(path, on_error="skip") == ["one"]


def test_an_array_in_jsonl_loses_no_row_when_skipping(file):
    path = file("a.jsonl", "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n")
    assert answers(path, on_error="skip") == WORDS


def test_an_array_in_jsonl_is_written_as_lines(file, tmp_path):
    (out,) = kept(file("a.jsonl", json.dumps(ROWS, indent=1)), tmp_path / "out", 0, 2)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [ROWS[0], ROWS[2]]


def test_lines_in_json_are_the_same_bytes(file, tmp_path):
    (out,) = kept(file("a.json", LINES), tmp_path / "out", 1)
    assert out.read_text() == LINES.splitlines(keepends=True)[1]


def test_a_long_first_line_tells_by_its_first_character(file):
    row = {"instruction": "Say it", "output": "x" * (1 << 24)}
    assert len(answers(file("a.jsonl", json.dumps([row, *ROWS])), max_row_mb=20)) == 4
    assert len(answers(file("b.jsonl", json.dumps(row) + "\n" + LINES), max_row_mb=20)) == 4


DOCUMENTS = {
    "array": ROWS,
    "one list beside other things": {"data": ROWS, "authors": ["ann"], "version": 1},
    "by name": {f"a{number}": row for number, row in enumerate(ROWS)},
    "by number": {str(number): row for number, row in enumerate(ROWS)},
    "columns as lists": {key: [row[key] for row in ROWS] for key in ROWS[0]},
    "columns by index": {key: {str(at): row[key] for at, row in enumerate(ROWS)} for key in ROWS[0]},
    "split": {
        "columns": list(ROWS[0]),
        "index": [0, 1, 2],
        "data": [list(row.values()) for row in ROWS],
    },
    "columns with objects": {"instruction": ["1", "2", "3"], "output": WORDS, "meta": [{}, {}, {}]},
}


@pytest.mark.parametrize("shape", DOCUMENTS)
def test_documents_of_every_shape_are_read_and_written(file, tmp_path, shape):
    path = file("a.json", json.dumps(DOCUMENTS[shape]))
    (out,) = kept(path, tmp_path / "out", 0, 2)
    assert (answers(path), answers(str(out))) == (WORDS, [WORDS[0], WORDS[2]])


def test_rows_by_name_keep_their_names(file, tmp_path):
    (out,) = kept(file("a.json", json.dumps(DOCUMENTS["by name"])), tmp_path / "out", 0, 2)
    assert json.loads(out.read_text(encoding="utf-8")) == {"a0": ROWS[0], "a2": ROWS[2]}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS, "tags": ["a", "b"]},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"conversations": {"from": ["human", "gpt"], "value": ["Say one", "one"]}},
    ],
)
def test_a_row_with_lists_is_one_row(file, row):
    assert answers(file("a.json", json.dumps(row))) == ["one"]


def test_several_lists_of_rows_are_named_with_what_to_type(file):
    error = failure(file("all.json", json.dumps({"test": ROWS[:1], "train": ROWS[1:]})))
    assert "test, train" in error.message
    assert "jq .train all.json > train.json" in error.hint


@pytest.mark.parametrize(
    ("name", "content", "said", "hint"),
    [
        ("a.json", '[{"a": 1},]', "a comma stands before the closing ]", "remove that comma"),
        ("a.json", '[{"a": 1,}]', "a comma stands before the closing }", "remove that comma"),
        ("a.jsonl", '{"a": 1,}\n', "a comma stands before the closing }", "remove that comma"),
        ("a.jsonl", '{"a": 1},\n{"a": 2},\n', "a comma stands behind the object", "between the lines"),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', "a second value stands behind the first", "a line of its own"),
        ("a.jsonl", "{'a': 1}\n", "single quotes, as Python prints it", "json.dumps"),
        ("a.jsonl", '{"a": True}\n', "True is Python, not JSON", "json.dumps"),
        ("a.json", '[{"a": None}]', "None is Python, not JSON", "json.dumps"),
        ("a.json", '[{"a": "b"}, {"a', "it ends too early at line 1", "complete"),
        ("a.jsonl", '{"a": "b\n', "it ends too early at character 9", "repair"),
    ],
)
def test_what_is_wrong_with_json_is_said_with_what_to_do(file, name, content, said, hint):
    error = failure(file(name, content))
    assert (said in error.message, hint in error.hint) == (True, True)


# ---------------------------------------------------------------- keys and columns that occur twice

TWICE = '{"instruction": "Name a fruit", "output": "Fig.", "output": "Rock."}'
NESTED = (
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a", "content": "b"}]}'
)


@pytest.mark.parametrize("spoilt", [TWICE, NESTED])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_key_that_occurs_twice_makes_a_bad_row(file, name, spoilt):
    lines = [*LINES.splitlines(), spoilt]
    path = file(name, "\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]")
    pool = read([path], on_error="skip")
    assert (len(pool), "occurs twice" in pool.rows["reason"][3]) == (3, True)


def test_keys_of_a_document_occur_once(file):
    assert "occurs twice" in failure(file("a.json", '{"data": [{"a": 1}], "data": []}')).message


def doubled() -> pa.Table:
    names = ["instruction", "output", "output"]
    return pa.Table.from_arrays([pa.array(["Hi"]), pa.array(["Fig"]), pa.array(["Rock"])], names=names)


def test_columns_of_parquet_and_arrow_differ(tmp_path):
    pq.write_table(doubled(), tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), doubled().schema) as out:
        out.write_table(doubled())
    for name in ("a.parquet", "a.arrow"):
        assert "columns occur twice: output" in failure(str(tmp_path / name)).message


def test_fields_of_a_column_of_parquet_differ(tmp_path):
    part = pa.StructArray.from_arrays([pa.array(["user"]), pa.array(["Hi"])], names=["role", "role"])
    turns = pa.ListArray.from_arrays(pa.array([0, 1]), part)
    pq.write_table(pa.table({"messages": turns}), tmp_path / "a.parquet")
    assert "occur twice: role" in failure(str(tmp_path / "a.parquet")).message


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_csv_with_another_delimiter_is_read_and_written_as_it_is(file, tmp_path, delimiter):
    lines = [
        delimiter.join(cells) + "\n"
        for cells in (["prompt", "completion"], ["Hi, you", '"a, b; c"'], ["Ho", "x"])
    ]
    path = file("a.csv", "".join(lines))
    (out,) = kept(path, tmp_path / "out", 1)
    assert (answers(path), out.read_text()) == (["a, b; c", "x"], lines[0] + lines[2])


def test_a_comma_in_the_header_decides_for_commas(file):
    assert answers(
        file("a.csv", "prompt,completion;note\nHi;you,Ho\n"), columns="response=completion;note"
    ) == ["Ho"]


def test_spaces_behind_delimiters_belong_to_nothing(file, tmp_path):
    path = file("a.csv", 'prompt, completion, note\nHi, "a, b", x\n')
    (out,) = kept(path, tmp_path / "out", 0)
    assert (answers(path), out.read_text()) == (["a, b"], 'prompt, completion, note\nHi, "a, b", x\n')


def test_spaces_at_the_start_of_a_field_stay_where_the_header_has_none(file):
    assert answers(file("a.csv", "prompt,completion\nHi,  indented\n")) == ["  indented"]


def test_blank_lines_before_the_header_do_not_count(file):
    assert answers(file("a.csv", "\n \nprompt;completion\nHi;Ho\n")) == ["Ho"]


def test_a_missing_header_is_said(file):
    assert (
        "first line names the columns" in failure(file("a.csv", "Name a fruit,Fig.\nName a bird,Tit.\n")).hint
    )


# ---------------------------------------------------------------- tables


def arrow(path, table, *, stream):
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema) as out:
        out.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["my.arrow", "my.feather"])
def test_arrow_files_of_both_forms_are_read_and_written(tmp_path, stream, name):
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata({"made": "by a test"})
    arrow(tmp_path / name, table, stream=stream)
    (out,) = kept(str(tmp_path / name), tmp_path / "out", 0, 2)
    with pa.memory_map(str(out)) as mapped:
        opened = pa.ipc.open_stream(mapped) if stream else pa.ipc.open_file(mapped)
        again = opened.read_all()
        assert (again.to_pylist(), again.schema.metadata) == ([ROWS[0], ROWS[2]], {b"made": b"by a test"})


def test_pq_is_parquet(tmp_path):
    pl.DataFrame(ROWS).write_parquet(tmp_path / "my.pq")
    (out,) = kept(str(tmp_path / "my.pq"), tmp_path / "out", 1)
    assert (out.name, answers(str(out))) == ("my.pq", ["zwei"])


# ---------------------------------------------------------------- folders, patterns, names


@pytest.fixture
def shards(tmp_path):
    """Three files of a row each, as the hub names them, in a clone of a repository."""
    data = tmp_path / "clone" / "data"
    data.mkdir(parents=True)
    (tmp_path / "clone" / ".git").mkdir()
    for name in ("README.md", "dataset_infos.json", ".git/rows.jsonl"):
        (tmp_path / "clone" / name).write_text("{}")
    for number, row in enumerate(ROWS):
        pl.DataFrame([row]).write_parquet(data / f"train-{number:05d}-of-00003.parquet")
    return tmp_path / "clone"


def test_a_cloned_repository_is_read(shards):
    pool = read([str(shards)])
    assert (answers(str(shards)), set(pool.examples["source"])) == (WORDS, {"train"})


def test_a_folder_of_shards_is_read(shards):
    assert answers(str(shards / "data")) == WORDS


def test_a_pattern_is_read(shards, monkeypatch):
    monkeypatch.chdir(shards)
    assert answers("data/*.parquet") == answers("**/*-of-*.parquet") == WORDS
    assert answers("data/train-0000[02]*") == [WORDS[0], WORDS[2]]


def test_a_pattern_gives_what_the_shell_makes_of_it(shards):
    files = sorted(map(str, (shards / "data").iterdir()))
    pattern, expanded = read([str(shards / "data" / "*.parquet")]), read(files)
    assert pattern.examples.equals(expanded.examples)
    assert pattern.rows.equals(expanded.rows)


def test_each_shard_has_an_output(shards, tmp_path):
    outputs = kept(str(shards), tmp_path / "out", 0, 2)
    assert [out.name for out in outputs] == ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"]


def test_shards_that_differ_by_a_number_are_one_source(file):
    path = file("part-1.jsonl", LINES)
    file("part-2.jsonl", json.dumps(TURNS) + "\n")
    folder = path.removesuffix("/part-1.jsonl")
    assert set(read([folder]).examples["source"]) == {"part"}


def test_files_of_a_pattern_are_sources_of_their_own(file):
    folder = file("a.jsonl", LINES).removesuffix("/a.jsonl")
    file("b.jsonl", json.dumps(TURNS) + "\n")
    assert read([f"{folder}/*.jsonl"]).examples["source"].to_list() == ["a", "a", "a", "b"]


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["data/train-0.jsonl", "data/test-0.jsonl"], "data/train-0.jsonl"),
        (["data/train-0.jsonl", "data/train-1.jsonl", "data/test-0.jsonl"], '"{}/data/train-*.jsonl"'),
        (["main/train.jsonl", "socratic/train.jsonl"], "main/train.jsonl"),
        (["a.jsonl", "a.csv"], "a.csv"),
    ],
)
def test_a_folder_of_several_sets_asks_for_one(file, names, hint):
    for name in names:
        path = file(name, LINES)
    folder = path.removesuffix(f"/{names[-1]}")
    error = failure(folder)
    assert "several sets of files" in error.message
    assert hint.format(folder) in error.hint


def test_a_folder_without_rows_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert "no data files" in failure(str(tmp_path)).message


def test_a_pattern_that_fits_nothing_is_said(file):
    path = file("a.jsonl", LINES)
    assert "no file fits the pattern" in failure(path.replace("a.jsonl", "*.parquet")).message


def test_the_output_of_a_step_is_named_with_the_rows_in_it(file):
    folder = file("step.json", "{}").removesuffix("/step.json")
    file("selected/a.jsonl", LINES)
    assert failure(folder).hint.endswith("selected")


def test_a_local_folder_has_configs_and_splits_as_the_hub_has_them(file, monkeypatch):
    from learnable.data import tables

    readme = (
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main.jsonl\n---\n"
    )
    folder = file("README.md", readme).removesuffix("/README.md")
    file("main.jsonl", LINES)
    monkeypatch.setattr(tables, "hub_set", lambda given: (folder, "main", "train[:2]"))
    assert tables.open_hub("owner/name:main:train[:2]")["output"] == WORDS[:2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("~/nowhere/x.jsonl", "there is no folder /"),
        ("https://example.org/x.jsonl", "addresses are not read"),
        ("s3://bucket/x.jsonl", "addresses are not read"),
        ("squad", "owner/squad"),
    ],
)
def test_what_is_no_file_is_said(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    error = failure(given)
    assert said in f"{error.message} {error.hint}"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("a.jsonl", b"\n<!DOCTYPE html><html>", "a web page"),
        ("a.csv", b"PK\x03\x04\x14\x00\x06\x00", "an Excel workbook"),
        ("a.json", b"PAR1\x15\x04\x15\x00\x12", "name it .parquet"),
        ("a.xlsx", b"PK\x03\x04", "known kinds"),
    ],
)
def test_a_file_that_is_something_else_is_named(file, name, content, said):
    error = failure(file(name, content))
    assert said in f"{error.message} {error.hint}"


def test_a_link_keeps_its_own_name(file, tmp_path):
    blob = file("blobs/0f3a", LINES)
    (tmp_path / "my.jsonl").symlink_to(blob)
    (out,) = kept(str(tmp_path / "my.jsonl"), tmp_path / "out", 0)
    assert (out.name, read([str(tmp_path / "my.jsonl")]).files[0].source) == ("my.jsonl", "my")


def test_the_input_is_not_replaced_through_a_link(file, tmp_path):
    blob = file("blobs/0f3a", LINES)
    (tmp_path / "my.jsonl").symlink_to(blob)
    with pytest.raises(DataError, match="would replace its input"):
        kept(str(tmp_path / "my.jsonl"), tmp_path, 0)


def test_files_of_the_same_name_are_told_apart(file, tmp_path):
    first, second = (
        file("en/rows.jsonl", LINES),
        file("de/rows.jsonl", LINES + json.dumps(TURNS) + "\n{broken\n"),
    )
    pool = read([first, second, file("other.jsonl", LINES)], on_error="skip")
    assert pool.rows["reason"][3] == "duplicate of en/rows.jsonl:1"
    write_dropped(pool, None, tmp_path / "dropped.jsonl")
    ledger = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [row["file"] for row in ledger] == ["de/rows.jsonl"] * 4 + ["other.jsonl"] * 3
    assert (ledger[3]["line"], "not valid JSON" in ledger[3]["reason"]) == (5, True)


# ---------------------------------------------------------------- bad rows


def many(good, bad) -> str:
    rows = [{"prompt": f"Say {number}", "completion": "x"} for number in range(good)]
    return "".join(json.dumps(row) + "\n" for row in rows) + "{broken\n" * bad


def test_a_few_bad_rows_are_left_out_and_said(file, capsys):
    pool = read([file("a.jsonl", many(297, 2) + '{"prompt": "Say it", "completion": ""}\n')])
    said = capsys.readouterr().err
    assert (len(pool), pool.rows["reason"].drop_nulls().len()) == (297, 3)
    assert "3 of 300 rows" in said
    assert "a.jsonl:298: not valid JSON" in said
    assert "2 rows of this kind" in said
    assert "a.jsonl:300: the answer is empty" in said


def test_more_bad_rows_are_an_error_with_their_kinds(file):
    error = failure(file("a.jsonl", many(296, 2) + '{"prompt": "x", "completion": ""}\n' * 2))
    for words in ("4 of 300 rows", "1%", "a.jsonl:297: not valid JSON", "a.jsonl:299: the answer is empty"):
        assert words in error.message
    assert "--on-error skip" in error.hint


@pytest.mark.parametrize(
    ("on_error", "good"), [("2%", True), ("1.3%", False), ("raise", False), ("skip", True)]
)
def test_how_many_may_be_bad_is_a_setting(file, on_error, good):
    path = file("a.jsonl", many(296, 4))
    if good:
        assert len(read([path], on_error=on_error)) == 296
    else:
        failure(path, on_error=on_error)


def test_bad_rows_are_counted_over_all_files_of_a_folder(file):
    folder = file("part-1.jsonl", many(50, 1)).removesuffix("/part-1.jsonl")
    file("part-2.jsonl", many(200, 0))
    assert len(read([folder])) == 200
    failure(f"{folder}/part-1.jsonl")


def test_a_file_that_is_all_bad_is_not_read_to_its_end(file):
    assert "first 10,000 rows" in failure(file("a.jsonl", "{broken\n" * 10_000 + many(10, 0))).message


@pytest.mark.parametrize("on_error", ["often", "1", "101%", "-1%"])
def test_a_share_that_is_none_is_refused(on_error):
    with pytest.raises(Exception, match="raise, skip or a share"):
        Reading(on_error=on_error)


# ---------------------------------------------------------------- large rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow"])
def test_a_row_that_is_too_large_is_refused_with_its_place(tmp_path, name):
    rows = [
        {"prompt": f"Say {number}", "completion": "long\n" * 50_000 if number == 1 else "x"}
        for number in range(3)
    ]
    path, frame = tmp_path / name, pl.DataFrame(rows)
    if name == "a.jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name == "a.json":
        path.write_text(json.dumps(rows))
    else:
        {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".arrow": frame.write_ipc}[path.suffix](
            path
        )
    pool = read([str(path)], max_row_mb=0.2, on_error="skip")
    assert (len(pool), pool.rows.height) == (2, 3)
    assert "larger than 0.2 MB" in pool.rows["reason"][1]
    assert len(read([str(path)])) == 3


def test_a_row_in_one_long_line_of_csv_is_refused_too(file):
    path = file("a.csv", f"prompt,completion\nHi,{'x' * 300_000}\nHo,y\n")
    pool = read([path], max_row_mb=0.2, on_error="skip")
    assert pool.rows.select("line", "reason").rows() == [(2, "the row is larger than 0.2 MB"), (3, None)]


def test_a_line_that_is_as_long_as_allowed_is_read(file):
    row = json.dumps(ROWS[0])
    assert len(read([file("a.jsonl", row + "\n")], max_row_mb=len(row) / 1e6)) == 1


def test_rows_after_a_large_one_are_written_from_their_place(file, tmp_path):
    large = json.dumps({"prompt": "Hi", "completion": "x" * 300_000})
    path = file("a.jsonl", large + "\n" + LINES)
    pool = read([path], max_row_mb=0.2, on_error="skip")
    (out,) = write_rows(pool, pool.examples["id"][:1].to_list(), tmp_path / "out")
    assert json.loads(out.read_text()) == ROWS[0]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_large_row_is_not_held_in_memory(file, name):
    head = "prompt,completion\n" if name.endswith("csv") else ""
    path = file(name, head + "x" * 50_000_000 + "\n" + ("Hi,Ho\n" if head else LINES))
    tracemalloc.start()
    try:
        read([path], max_row_mb=1, on_error="skip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000
