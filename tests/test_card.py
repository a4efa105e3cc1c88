"""The card of a selection: a data-set card that loads, says where rows came from, and names no folder."""

import glob
import json
import shlex

import datasets
import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard

from finished_steps import finished_step
from learnable.cli import app as cli
from learnable.commands import load, select
from learnable.commands.select import Selecting
from learnable.commands.selection_card import CardFile, card
from learnable.data import load_pool
from learnable.testing import toy_examples, write_messages


def output(name="my.jsonl", **given):
    usual = {"name": name, "kind": "jsonl", "rows": 10, "columns": frozenset({"messages"})}
    return CardFile(**(usual | given))


INPUT = {"format": "messages", "rows": 12, "unusable": 1, "repeated": 1, "chosen": 3, "digest": "d1"}


FACTS = {
    "by": "learnability",
    "lowest": False,
    "selector": "top_k",
    "budget": "10",
    "pool": 100,
    "kept": 10,
    "pool_tokens": None,
    "kept_tokens": None,
    "mean_pool": 0.1,
    "mean_kept": 0.2,
    "shortfall": None,
}


def made(*files, name="my.jsonl", **parts):
    usual = {
        "inputs": [INPUT | {"name": name}],
        "license": None,
        "facts": FACTS,
        "options": {},
        "scored": {"model": "tiny"},
        "trained": {},
        "reference": "none",
        "commands": ["learnable select scores"],
    }
    return card(files or [output()], **(usual | parts))


def head(text):
    return yaml.safe_load(text.split("---\n")[1])


def config_names(text):
    return [config["config_name"] for config in head(text)["configs"]]


def test_head_is_a_data_set_card():
    assert head(made()) == {
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["learnable", "data-selection", "sft"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": ["my.jsonl"]}]},
        ],
    }


@pytest.mark.parametrize(
    ("rows", "size"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**9, "n>1B")],
)
def test_size_is_in_the_words_of_the_hub(rows, size):
    assert head(made(output(rows=rows)))["size_categories"] == [size]


@pytest.mark.parametrize(
    ("given", "licenses", "shown"),
    [
        ("mit", {"apache-2.0": 10}, "mit"),
        (None, {"apache-2.0": 10}, "apache-2.0"),
        (None, {"mit": 4, "apache-2.0": 6}, ["apache-2.0", "mit"]),
        (None, {"mit": 4}, None),
        (None, {}, None),
    ],
)
def test_license_is_given_or_that_of_all_rows(given, licenses, shown):
    text = made(output(licenses=licenses), license=given)
    assert head(text).get("license") == shown


def test_license_of_some_rows_is_told():
    assert "`mit` (4 rows); not given for 6 rows" in made(output(licenses={"mit": 4}))


def test_no_license_is_told():
    assert "License: not given." in made()


def test_files_with_other_columns_are_configurations_of_their_own():
    text = made(output("a.jsonl"), output("b:*.jsonl", columns=frozenset({"text"})))
    assert config_names(text) == ["a.jsonl", "b--.jsonl"]
    assert "one of `a.jsonl`, `b--.jsonl`" in text


def test_text_of_data_stays_within_its_cell():
    assert "`a\\|b'<script>'.jsonl`" in made(name="a|b`<script>`.jsonl")


def test_names_in_the_data_end_neither_the_head_nor_a_block():
    evil = "a\n---\nlicense: mit\n```\n````\n<script>`|.jsonl"
    text = made(output(evil, licenses={evil: 10}), name=evil, commands=[shlex.join([evil])])
    read = DatasetCard(text)
    assert read.data.to_dict()["license"] == evil
    assert read.data.to_dict()["configs"][0]["data_files"][0]["path"] == [glob.escape(evil)]
    before, block, after = read.text.split("`````")
    assert before.count("<script>") == before.count(" <script>'")  # in one line, as code
    assert block == f"sh\n{shlex.join([evil])}\n"
    assert after.strip() == ""


def test_figure_that_is_not_known_is_called_so():
    assert "| tokens, prompt and response | not known | not known |" in made()


@pytest.mark.parametrize(
    ("facts", "scored", "trained", "said"),
    [
        (
            {"pool_tokens": 1_000, "kept_tokens": 200},
            {},
            {},
            "have 20 tokens in the mean, those of the pool 10",
        ),
        ({}, {}, {"kind": "trained", "folds": 0}, "what it memorized"),
        ({}, {"truncated": 2}, {}, "2 examples of the pool were cut"),
        ({}, {"undefined": 3}, {}, "3 examples of the pool have no score"),
        ({"pinned": 4}, {}, {}, "4 rows were chosen by hand"),
        ({"shortfall": "only 8"}, {}, {}, "The budget was not reached: only 8"),
    ],
)
def test_what_is_to_be_distrusted_is_said_where_it_holds(facts, scored, trained, said):
    assert said in made(facts=FACTS | facts, scored=scored, trained=trained)
    assert said not in made()


# The card that select writes


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Return a way to make up scores of rows in files, with the facts that a card tells."""
    monkeypatch.chdir(tmp_path)

    def scores_of(*files):
        pool = load_pool(load([str(file) for file in files], output="pool").folder)
        frame = pool.examples.select("id", "source", tokens=pl.lit(5)).with_row_index("learnability")
        scores = frame.with_columns(pl.col("learnability").cast(pl.Float32))
        facts = {"lowest first": [], "max score": {}, "model": str(tmp_path / "tiny"), "dtype": "float32"}
        facts |= {"max_length": 64, "scorers": ["learnability"]}
        links = {"pool": tmp_path / "pool"}
        finished_step(
            "score",
            tmp_path / "scores",
            facts=facts,
            write=lambda folder: scores.write_parquet(folder / "scores.parquet"),
            links=links,
        )
        return frame["id"].to_list()

    return scores_of


@pytest.fixture
def rows(tmp_path):
    return write_messages(toy_examples(12), tmp_path / "my.jsonl")


def written(tmp_path):
    return (tmp_path / "out" / "selected" / "README.md").read_text()


def loaded(tmp_path, *name):
    return datasets.load_dataset(
        str(tmp_path / "out" / "selected"), *name, split="train", cache_dir=str(tmp_path / "c")
    )


def test_folder_loads_as_a_data_set(scored, rows, tmp_path):
    scored(rows)
    select("scores", budget="3", output="out")
    lines = (tmp_path / "out" / "selected" / "my.jsonl").read_text().splitlines()
    assert loaded(tmp_path)["messages"] == [json.loads(line)["messages"] for line in lines]


def test_files_with_other_columns_load_by_name(scored, rows, tmp_path):
    other = tmp_path / "odd[1].jsonl"
    other.write_text('{"prompt": "What is it?", "completion": "A cat"}\n')
    scored(rows, other)
    select("scores", budget="100%", output="out")
    assert loaded(tmp_path, "odd[1].jsonl")["completion"] == ["A cat"]


def test_files_of_another_kind_do_not_hinder_the_others(scored, rows, tmp_path):
    (tmp_path / "other.csv").write_text("instruction,output\nWhat is it?,A cat\n")
    scored(rows, tmp_path / "other.csv")
    select("scores", budget="100%", output="out")
    assert len(loaded(tmp_path)) == 12
    assert '`other.csv` is not among them, as it is of another kind: `datasets.load_dataset("csv"' in written(
        tmp_path
    )


def test_card_names_no_folder_of_this_machine(scored, rows, tmp_path):
    scored(rows)
    select("scores", budget="3", output="out")
    assert str(tmp_path) not in written(tmp_path)
    assert "`tiny`" in written(tmp_path)


def test_card_tells_rows_pins_and_bans(scored, rows, tmp_path):
    ids = scored(rows)
    (tmp_path / "mine.txt").write_text(ids[0])
    (tmp_path / "never.txt").write_text(ids[-1])
    select("scores", budget="3", choosing=Selecting(pin=["mine.txt"], ban=["never.txt"]), output="out")
    text = written(tmp_path)
    assert "Chosen whatever their score, by: `mine.txt`" in text
    assert "Never chosen, by: `never.txt`" in text
    assert "| `my.jsonl` | messages | 12 | 0 | 0 | 3 |" in text


def test_license_in_the_rows_is_carried_over(scored, tmp_path):
    path = tmp_path / "my.jsonl"
    rows = [{"prompt": f"p{i}", "completion": "c", "license": "cc-by-4.0"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored(path)
    select("scores", budget="2", output="out")
    assert head(written(tmp_path))["license"] == "cc-by-4.0"


def test_commands_of_the_card_are_understood_and_carry_the_options(scored, rows, tmp_path):
    scored(rows)
    choosing = Selecting(where="tokens < 800", per_source="equal", lowest=True, seed=7)
    select("scores", budget="3", choosing=choosing, output="out")
    lines = written(tmp_path).split("```sh\n")[1].split("\n```")[0].splitlines()
    bound = [
        cli.app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)[1] for line in lines
    ]
    chosen = bound[-1].arguments | vars(bound[-1].arguments["choosing"])
    assert [line.split()[1] for line in lines] == ["load", "score", "select"]
    assert {name: chosen[name] for name in ("budget", "where", "per_source", "lowest", "seed")} == {
        "budget": "3",
        "where": "tokens < 800",
        "per_source": "equal",
        "lowest": True,
        "seed": 7,
    }
