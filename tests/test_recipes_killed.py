"""Recipes that train in several ways: killed at several places, they go on to the same tables."""

import json
import os
import signal

import polars as pl
import pytest
from polars import selectors
from polars.testing import assert_frame_equal

from learnable.cli import app as cli
from learnable.testing import toy_examples, write_messages
from processes import OFTEN, at_work

PLACES = (0.3, 0.7)
"""Shares of the files of an unbroken run that are there when the process is killed."""
ASKED = ("sky", "blue", "red", "grass", "green", "sun")
SHORT = (("moon", "one"), ("sea", "two"), ("water", "three"), ("fire", "four"))
"""Second words of a question, and the answer to it."""
SOON = {"learnable.proportions.FEWEST_POINTS": {"training": 3, "heldout": 3}}
TRAINED = ["--dtype=float32", "--tuning.learning-rate=0.01", "--tuning.batch-size=4", "--tuning.rank=4"]
WORDS = {
    "ado": ["a.jsonl", "b.jsonl", "--steps=46", "--arms=ado@curve=training", "--rows=4", "--seeds=1"],
    "merge": ["a.jsonl", "--orders=2", "--mergers=select", "--holdout=0.3", "--tuning.epochs=1"],
    "dpo": ["pairs.jsonl", "--fractions=1", "--pairs-by", "random", "small_gap", "--seeds=1"],
    "irft": [
        "short.jsonl",
        "--stages=2",
        "--holdout=0.25",
        "--new-tokens=8",
        "--temperature=0.5",
        "--seeds=1",
    ],
}


WORDS["irft"] += ["--sft.batch-size=4", "--sft.rank=4", "--sft.learning-rate=0.01", "--sft.epochs=10"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of two sources, and pairs."""
    folder = tmp_path_factory.mktemp("rows")
    write_messages(toy_examples(24), folder / "a.jsonl")
    write_messages(toy_examples(20, seed=3), folder / "b.jsonl")
    answers = [[each.messages[1].content for each in toy_examples(16, seed=seed)] for seed in (1, 2)]
    pairs = [
        {"prompt": f"Question {number}?", "chosen": f"{one} and so on", "rejected": other}
        for number, (one, other) in enumerate(zip(*answers, strict=True))
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    # Answers of one word, which a few steps teach the tiny model to give and to end.
    short = [(f"{one} {two}", said) for two, said in SHORT for one in ASKED]
    lines = [json.dumps({"prompt": asked, "completion": said}) + "\n" for asked, said in short]
    (folder / "short.jsonl").write_text("".join(lines))
    return folder


def written(folder):
    """Return how many files there are in a folder that a process is writing into."""
    return sum(len(files) for _, _, files in os.walk(folder))


def tables(folder, name):
    """Return what a run came to, without what its clock said."""
    found = {}
    for table in ("table", "results"):
        (path,) = folder.glob(f"runs/{name}/*/{table}.parquet")
        found[table] = pl.read_parquet(path).drop(
            selectors.ends_with("_s") | selectors.by_name("payback", require_all=False)
        )
    return found


@pytest.mark.parametrize("name", sorted(WORDS))
def test_killed_at_several_places_a_recipe_comes_to_the_same_tables(name, data, tiny, tmp_path, monkeypatch):
    given = [str(data / word) if word.endswith(".jsonl") else word for word in WORDS[name]]
    words = ["run", name, *given, "--model", str(tiny), *TRAINED]
    for place, value in SOON.items():
        monkeypatch.setattr(place, value)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for folder in (unbroken, broken):
        folder.mkdir()
    monkeypatch.chdir(unbroken)
    assert cli.call(words) == cli.DONE
    whole, kills = written(unbroken), 0
    for share in PLACES:
        process = at_work(words, broken, {**OFTEN, **SOON})
        while process.is_alive() and written(broken) < share * whole:
            process.join(0.01)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == len(PLACES)
    monkeypatch.chdir(broken)
    assert cli.call(words) == cli.DONE
    for table, found in tables(broken, name).items():
        assert_frame_equal(found, tables(unbroken, name)[table], check_exact=True)
