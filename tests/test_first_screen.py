"""The first screen of a page: what there is, what can be typed next, one picture, then what to distrust, each matter once."""

import shlex
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from learnable.commands.onward import after_contest, after_selection
from learnable.commands.report import ALL_PAIRS, _takes_all, _with_all_pairs
from learnable.pages.comparison import render_comparison
from learnable.pages.comparison_facts import ComparisonFacts
from learnable.pages.html import code_line
from learnable.pages.lesson import render_lesson
from learnable.pages.selection import render_selection
from learnable.runs.price import Cost
from learnable.runs.records import Outcome
from test_comparison_report import make_comparison
from test_docs import test_every_command_shown_is_understood as understood
from test_lesson_report import make_lesson
from test_reporting import Page, changed, make_facts

understood.__test__ = False
ONWARD = (
    ("The chosen rows", "runs/selection/selected/my.jsonl"),
    ("Look", "learnable explore runs/selection"),
)
PAGES = {
    "selection": lambda: render_selection(replace(make_facts(), onward=ONWARD)),
    "comparison": lambda: render_comparison(replace(make_comparison(), onward=ONWARD)),
    "lesson": lambda: render_lesson(replace(make_lesson(), onward=ONWARD)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_results_and_commands_stand_above_the_first_picture_and_that_above_what_to_distrust(
    kind: str,
) -> None:
    html = PAGES[kind]()
    shown = (code_line(ONWARD[0][1]), code_line(ONWARD[1][1]), 'class="chart"', 'id="cautions"')
    places = [html.index(each) for each in shown]
    assert places == sorted(places)
    assert html.index('class="chart"') < html.index("<nav")


@pytest.mark.parametrize("kind", PAGES)
def test_no_picture_is_there_twice(kind: str) -> None:
    page = Page(PAGES[kind]())
    assert all(page.html.count(f'id="chart-{name}"') == 1 for name in page.chart_data["charts"])


def test_short_answers_and_a_score_that_follows_length_are_one_matter() -> None:
    facts = make_facts()
    rank = pl.col("learnability").rank("ordinal", descending=True)
    short = changed(facts, response_tokens=rank.fill_null(300).cast(pl.Int64))
    kept = short.scores.fill_nan(None).sort("learnability", descending=True, nulls_last=True).head(60)
    case = replace(short, kept=kept.select("id", rank=pl.int_range(pl.len()), gain="learnability"))
    plain = Page(render_selection(case)).plain
    assert "1 thing to distrust" in plain
    assert plain.count("Compare it with a selection by length_matched") == 1


# ---------------------------------------------------------------- one training


def alone() -> ComparisonFacts:
    """The page of one training on all 60 pairs."""
    facts = make_comparison({}, budgets=(3000,), seeds=1, pool=60)
    given = {name: getattr(facts, name) for name in ("table", "results", "arms", "selections", "scores")}
    given |= {"baseline": "random", "findings": ["mean tokens of answers: untuned 4, random 5"]}
    picks = facts.scores.select(
        method=pl.lit("random"), budget_tokens=3000, seed=0, rank=pl.int_range(pl.len()), id="id"
    )
    given["selections"] = picks
    assert _takes_all(given)
    return replace(facts, **_with_all_pairs(given))


def test_one_training_on_all_pairs_is_no_random_draw() -> None:
    plain = Page(render_comparison(alone())).plain
    assert ALL_PAIRS in plain
    assert "random draw" not in plain.partition("How this was made")[0]
    for nothing in ("0 ways", "0 training", "of each method", "Nothing was compared"):
        assert nothing not in plain.partition("How this was made")[0], nothing


def test_pairs_that_were_drawn_are_a_random_draw() -> None:
    facts = make_comparison({}, budgets=(600,), pool=60)
    assert not _takes_all({"selections": facts.selections, "scores": facts.scores})


def test_several_budgets_without_a_rival_are_a_curve() -> None:
    page = Page(render_comparison(make_comparison({}, budgets=(300, 600))))
    assert len(page.chart_data["charts"]["growth"]["layer"]) == 3
    assert "random draws of 2 sizes" in page.plain


# ---------------------------------------------------------------- what can be typed next


def outcome(verb: str, folder: Path, **facts) -> Outcome:
    links = {"scores": folder} if verb == "select" else {}
    return Outcome(
        verb=verb, folder=folder, identity="0", inputs={}, facts=facts, cost=Cost(), ran=True, links=links
    )


def commands(onward: list[tuple[str, str]]) -> list[list[str]]:
    return [shlex.split(code)[1:] for _, code in onward if code.startswith("learnable ")]


def test_every_command_after_a_selection_is_understood(tmp_path: Path) -> None:
    chosen = outcome(
        "select", tmp_path, written=["selected/my rows.jsonl"], kept_tokens=1259, by="learnability"
    )
    scored = outcome("score", tmp_path, model="my model")
    reading = {"on_error": "5%", "columns": "prompt=a,response=b", "format": None, "holdout": 0.0}
    onward = after_selection(chosen, scored, files=["my rows.jsonl"], reading=reading)
    assert onward[0][1] == str(tmp_path / "selected" / "my rows.jsonl")
    assert len(commands(onward)) == 2
    assert "--on-error 5% --columns prompt=a,response=b --model" in onward[-1][1]
    for words in commands(onward):
        understood(words)


def test_losses_from_elsewhere_name_no_model_to_compare_with(tmp_path: Path) -> None:
    chosen = outcome("select", tmp_path, written=[], kept_tokens=9, by="learnability")
    assert commands(after_selection(chosen, None, files=[])) == [["explore", str(tmp_path)]]


def test_few_seeds_are_answered_by_the_same_command_with_more(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "unseen_wording.jsonl").touch()
    done = outcome("teach", tmp_path, seeds=2)
    words = commands(after_contest(done, command="learnable run delia task.jsonl --seeds 2 --model M"))
    assert words[-1] == ["run", "delia", "task.jsonl", "--model", "M", "--seeds", "5"]
    assert words[0] == [
        "evaluate",
        f"heldout:{tmp_path / 'unseen_wording.jsonl'}",
        "--model",
        str(tmp_path / "model"),
    ]
    for each in words:
        understood(each)


@pytest.mark.parametrize(
    "words",
    [
        "ado a b",
        "merge a",
        "irft a",
        "slora a --by category",
        "dpo a",
        "compare a",
        "delia a",
        "target a --target b",
    ],
    ids=lambda words: words.split()[0],
)
def test_every_recipe_with_such_a_page_takes_more_seeds(words: str) -> None:
    understood(["run", *words.split(), "--seeds", "5"])
