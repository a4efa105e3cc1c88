"""The recipes of the cookbook, run on a tiny model and toy rows."""

import json
import re
import shlex
import shutil
from pathlib import Path

import polars as pl
import pytest

from learnable.cli import app as cli
from learnable.testing import toy_examples, write_messages
from learnable.types import Conversation
from row_formats import WRITTEN

PAGE = (Path(__file__).parents[1] / "docs" / "cookbook.md").read_text(encoding="utf-8")
RECIPES = {part.partition(".")[0]: part for part in re.split(r"^## (?=\d)", PAGE, flags=re.MULTILINE)[1:]}
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITING = {"12", "13"}
"""What needs a model, or a server, that writes sense."""
ELSEWHERE = (
    "run target",
    "run ado",
    "run dpo",
    "leakage",
    "train pairs.jsonl",
    "select runs/clean/suspects-1/",
)
"""Command lines that tests of their own run on a tiny model, from files of other kinds."""
FITTED = {
    "2000000tokens": "200tokens",
    "2000000": "200",
    "10000": "100",
    "30000": "300",
    "100": "10",  # examples
    "6%": "40%",
    "4": "9",  # nats per token that a model without training is below
    "loss_before < 4 AND response_tokens > 10": "loss_before < 9 AND response_tokens > 2",
}


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory, tiny):
    """Write every file that a recipe names, and what the recipes before it leave."""
    folder = tmp_path_factory.mktemp("kitchen")
    examples = toy_examples(60)
    write_messages(examples, folder / "my.jsonl")
    write_messages(examples[:20], folder / "a.jsonl")
    alpaca = [WRITTEN["alpaca"](Conversation(messages=example.messages)) for example in examples]
    (folder / "alpaca.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alpaca))
    pl.DataFrame(alpaca[20:40]).write_parquet(folder / "b.parquet")
    pl.DataFrame(alpaca[40:]).write_csv(folder / "c.csv")
    tests = [{"prompt": row["instruction"], "answer": row["output"]} for row in alpaca[:4]]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tests))
    shutil.copy(folder / "my.jsonl", folder / "eval.jsonl")
    pl.DataFrame(tests).write_parquet(folder / "mmlu.parquet")
    pl.DataFrame({"base_loss": [3.0, 2.0, 1.0] * 9, "tuned_loss": [1.0, 1.9, 0.9] * 9}).write_parquet(
        folder / "losses.parquet"
    )
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    model = ["--model", str(tiny)]
    assert cli.call(["load", "my.jsonl", "-o", "rows"]) == 0
    assert cli.call(["train", "rows", "-o", "reference", *model]) == 0
    assert cli.call(["score", "rows", "--reference", "reference", "-o", "scores", *model]) == 0
    monkeypatch.undo()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(set(RECIPES) - WRITING, key=int))
def test_a_recipe_of_the_cookbook_runs(number, kitchen, tiny, tmp_path, monkeypatch, capsys):
    """Each in a folder of its own; a folder that a recipe makes itself is not there before."""
    made = set(re.findall(r"-o (\S+)", RECIPES[number]))
    for each in kitchen.iterdir():
        if each.name not in made:
            copied = shutil.copytree if each.is_dir() else shutil.copy
            copied(each, tmp_path / each.name)
    monkeypatch.chdir(tmp_path)
    for language, block in BLOCK.findall(RECIPES[number]):
        if language == "python":
            exec(compile(block, f"recipe {number}", "exec"), {})
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if line.removeprefix("learnable ").startswith(ELSEWHERE):
                continue
            words = [FITTED.get(word, word) for word in shlex.split(line, comments=True)]
            words = [word.replace("Qwen/Qwen3-0.6B", str(tiny)) for word in words]
            assert cli.call(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
