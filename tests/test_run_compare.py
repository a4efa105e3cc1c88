"""The recipe ``compare`` and what the command line makes of a comparison, on a tiny model."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import pytest

from learnable import commands as verbs
from learnable import recipes
from learnable.cli import app as cli
from learnable.cli import running
from learnable.data import read
from learnable.errors import UsageError
from learnable.recipes import Run
from learnable.recipes.run import words as typed_words
from learnable.settings import Loading, Tuning
from learnable.testing import toy_examples, write_messages
from learnable.types import Example, Grade

FAST = ["--dtype=float32", "--tuning.batch-size=2", "--tuning.rank=2", "--tuning.learning-rate=0.02"]


@dataclass(frozen=True, kw_only=True)
class PrefersLonger:
    """A judge without a server."""

    kind: ClassVar[str] = "judge"
    unit: ClassVar[str] = "share won"
    higher_is_better: ClassVar[bool] = True
    max_new_tokens: int = 6

    def read(self, path: str | None) -> list[Example]:
        return list(read([str(path)]).iter_examples())

    def prompt(self, example):
        return example.messages[:1]

    def judge_pairs(self, examples, ones, others):
        return [Grade(value=float(len(one) > len(other))) for one, other in zip(ones, others, strict=True)]


@pytest.fixture(scope="module")
def ran(tiny, tmp_path_factory):
    """Run the recipe once; return the folder and the words of the command."""
    folder = tmp_path_factory.mktemp("recipe")
    data = write_messages(toy_examples(30), folder / "mine.jsonl")
    words = [
        "run",
        "compare",
        str(data),
        "--model",
        str(tiny),
        "--by",
        "ifd",
        "longest",
        "--seeds",
        "2",
        *FAST,
    ]
    words += ["--budget.tokens", "200", "400", "-o", str(folder / "runs")]
    assert cli.call(words) == cli.DONE
    return folder, words


def table_of(folder):
    (path,) = folder.glob("runs/compare/comparison-*/table.parquet")
    return pl.read_parquet(path)


def test_the_recipe_compares_on_rows_that_it_held_out(ran):
    folder, _ = ran
    table = table_of(folder)
    assert set(table["method"]) == {"untuned", "random", "ifd", "longest"}
    assert set(table["items"]) == {3}


def test_two_budgets_in_a_recipe_make_a_curve(ran):
    folder, _ = ran
    assert set(table_of(folder)["budget_tokens"].drop_nulls()) == {200, 400}


def test_the_recipe_ends_with_a_report(ran):
    folder, _ = ran
    (page,) = folder.glob("runs/compare/report-*/report.html")
    assert "longest" in page.read_text(encoding="utf-8")


def test_the_table_is_shown_in_words(ran, capsys):
    _, words = ran
    capsys.readouterr()
    assert cli.call(words) == cli.DONE
    shown = capsys.readouterr().out
    assert "difference to random" in shown
    assert "no difference seen" in shown or "better" in shown or "worse" in shown
    assert "was done already" in shown


def test_a_wrong_method_is_found_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="learnabilty"):
        recipes.compare(["nowhere.jsonl"], by=["learnabilty@folds=2"], run=Run(output=str(tmp_path)))


def test_a_wrong_evaluator_is_found_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="helout"):
        recipes.compare(["nowhere.jsonl"], evaluate=["helout"], run=Run(output=str(tmp_path)))


def test_a_long_list_is_repeated_by_the_shown_command():
    words = ["compare", "--by", *(f"random@seed={seed}" for seed in range(20)), "--budget", "5%", "200tokens"]
    function, given = running.understood(words)
    given.apply_defaults()
    _, again = running.understood(["compare", *typed_words(function, given.arguments)])
    again.apply_defaults()
    assert again.arguments == given.arguments


def test_several_budgets_follow_one_flag():
    words = cli._joined(["compare", "a.jsonl", "--budget.tokens", "10000", "30000", "--seeds", "3"])
    assert words == [
        "compare",
        "a.jsonl",
        *["--budget", "10,000 tokens"],
        *["--budget", "30,000 tokens"],
        "--seeds",
        "3",
    ]


def test_rows_that_were_loaded_without_holding_any_out_cannot_be_evaluated_on(tmp_path, tiny):
    data = write_messages(toy_examples(10), tmp_path / "mine.jsonl")
    pool = verbs.load([str(data)], output=str(tmp_path / "pool"))
    with pytest.raises(UsageError, match="without rows to evaluate on"):
        verbs.compare([pool.path], evaluate=["heldout"], model=str(tiny), output=str(tmp_path / "c"))


def test_a_judge_compares_with_the_random_draw_of_the_same_seed(tmp_path, tiny):
    data = write_messages(toy_examples(24), tmp_path / "mine.jsonl")
    asked = write_messages(toy_examples(4, seed=3), tmp_path / "asked.jsonl")
    compared = verbs.compare(
        [str(data)],
        evaluate=[f"{__name__}:PrefersLonger:{asked}"],
        by=["longest"],
        budget=["200tokens"],
        seeds=2,
        model=str(tiny),
        tuning=Tuning(batch_size=2, rank=2, learning_rate=0.05),
        loading=Loading(dtype="float32"),
        store=str(tmp_path / "store"),
        output=str(tmp_path / "comparison"),
    )
    results = pl.read_parquet(compared.folder / "results.parquet")
    assert results.filter(pl.col("method") == "random")["value"].to_list() == [0.5] * 8
    answers = results.filter(pl.col("method") == "longest")
    assert answers["value"].is_in([0.0, 0.5, 1.0]).all()
    table = pl.read_parquet(compared.folder / "table.parquet").filter(pl.col("method") == "longest")
    assert table["difference"][0] == pytest.approx(answers["value"].mean() - 0.5)
