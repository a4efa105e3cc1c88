"""Odd inputs do not break the report, and hostile ones do nothing."""

import base64
import hashlib
import re
from dataclasses import replace

import polars as pl
import pytest

from learnable.pages import SelectionFacts
from learnable.pages import selection_pictures as pictures
from learnable.pages.selection import render_selection as render
from test_reporting import EVIL, Page, changed, make_facts


@pytest.fixture(scope="module")
def facts() -> SelectionFacts:
    return make_facts()


@pytest.fixture(scope="module")
def page(facts: SelectionFacts) -> Page:
    return Page(render(facts))


@pytest.mark.parametrize(
    "missing",
    [
        ["loss_after", "learnability", "difference"],
        ["loss_before", "loss_after"],
        ["response_tokens", "tokens"],
        ["truncated", "undefined", "source"],
        [
            "source",
            "tokens",
            "response_tokens",
            "truncated",
            "undefined",
            "loss_before",
            "loss_after",
            "difference",
        ],
        [
            "source",
            "tokens",
            "response_tokens",
            "truncated",
            "undefined",
            "loss_after",
            "learnability",
            "difference",
        ],
    ],
    ids=lambda names: "-".join(names),
)
def test_missing_columns_leave_parts_out(facts: SelectionFacts, missing: list[str]) -> None:
    scores = facts.scores.drop(missing)
    by = "learnability" if "learnability" not in missing else "loss_before"
    case = replace(
        facts,
        scores=scores,
        by=by,
        scorers=[s for s in facts.scorers if s not in missing],
        rows=None,
        examples=None,
    )
    page = Page(render(case))
    assert ("plane" in page.chart_data["charts"]) == ({"loss_before", "loss_after"} <= set(scores.columns))
    assert ("length" in page.chart_data["charts"]) == ("response_tokens" in scores.columns)
    assert "Could not be looked for" in page.plain
    assert "as far as these figures go" in page.plain or "to distrust" in page.plain
    assert "the scores came from a table without texts" in page.plain


def test_a_score_that_is_no_column_is_said(facts: SelectionFacts) -> None:
    page = Page(render(replace(facts, by="learnability - loss_before")))
    assert "there is no column learnability - loss_before" in page.plain
    assert "60 of 300 examples chosen" in page.plain


def test_an_empty_selection(facts: SelectionFacts) -> None:
    page = Page(render(replace(facts, kept=facts.kept.clear())))
    assert "0 of 300 examples chosen" in page.plain
    assert "No example was chosen" in page.plain
    assert set(page.chart_data["charts"]) == {"plane", "spread", "length"}


def test_all_undefined(facts: SelectionFacts) -> None:
    nan = pl.lit(float("nan"), dtype=pl.Float32)
    case = changed(facts, learnability=nan, difference=nan, loss_before=nan, loss_after=nan)
    page = Page(render(replace(case, kept=facts.kept.clear())))
    assert "100.0% of the examples (300 of 300) have no score" in page.plain
    assert page.scripts == []
    assert "no example has a value of learnability" in page.plain


@pytest.mark.parametrize(
    ("n", "keep", "sources"), [(0, 0, 1), (5, 1, 1), (5, 0, 3), (40, 40, 1), (600, 60, 60)]
)
def test_extremes(n: int, keep: int, sources: int) -> None:
    facts = make_facts(max(n, 5), min(keep, max(n, 5)), sources=sources)
    if n == 0:
        facts = replace(
            facts, scores=facts.scores.clear(), kept=facts.kept.clear(), dropped=facts.dropped.clear()
        )
        facts = replace(
            facts, examples=facts.examples.clear(), rows=facts.rows.clear(), steps=[], reference={}
        )
    page = Page(render(facts))
    assert f"{keep:,} of {n:,} examples chosen" in page.plain
    assert ("50 more sources" in page.plain) == (sources == 60)


def test_one_row(facts: SelectionFacts) -> None:
    one = facts.kept["id"][0]
    parts = {
        name: getattr(facts, name).filter(pl.col("id") == one)
        for name in ("examples", "rows", "scores", "kept")
    }
    page = Page(render(replace(facts, **parts, dropped=facts.dropped.clear())))
    assert "1 of 1 example chosen" in page.plain
    assert page.chart_data["points"]["group"] == ["chosen"]


def test_extreme_values_do_not_squeeze_the_pictures(facts: SelectionFacts) -> None:
    first = pl.int_range(pl.len()) == 5
    wild = {"learnability": -1e6, "loss_after": 1e6}
    case = changed(
        facts, **{name: pl.when(first).then(value).otherwise(name) for name, value in wild.items()}
    )
    case = replace(case, kept=facts.kept.filter(pl.col("id") != facts.scores["id"][5]))
    edges, _, (below, _) = pictures.histogram(case)
    assert below == 1
    assert edges[0] > -2
    assert "1 with higher losses lie" in pictures.plane(case).remark


def test_a_scorer_may_be_called_score(facts: SelectionFacts) -> None:
    case = replace(
        facts,
        scores=facts.scores.rename({"learnability": "score"}),
        scorers=["score", "difference"],
        by="score",
    )
    assert "score used" in [row[0] for rows in Page(render(case)).tables.values() for row in rows]


def test_a_column_called_score_is_not_the_score_used(facts: SelectionFacts) -> None:
    case = replace(facts, scores=facts.scores.with_columns(score=1.0), by="absent")
    assert not case.has("score")
    assert "there is no column absent" in Page(render(case)).plain


def test_data_texts_stay_texts() -> None:
    facts = make_facts(evil=True)
    facts = replace(
        facts, title=EVIL, command=EVIL, model=EVIL, budget=EVIL, shortfall=EVIL, files=[EVIL, EVIL]
    )
    facts = replace(facts, reference={"kind": "trained", "folds": 0, EVIL: EVIL})
    page = Page(render(facts))
    assert "<script>window.hacked" not in page.html
    assert "<img src=x" not in page.html
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "{{7*7}} ${7*7}" in page.plain
    assert any(name.startswith("<script>window.hacked") for name in page.chart_data["points"]["source"])
    (data,) = (text for attrs, text in page.scripts if attrs.get("id") == "chart-data")
    assert not re.search(r"[<>]", data)


def test_only_the_scripts_of_the_page_may_run_and_nothing_may_be_loaded(page: Page) -> None:
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    own = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for a, text in page.scripts if not a
    ]
    assert own == allowed
    addresses = [a[name] for _, a in page.tags for name in ("src", "href") if a.get(name)]
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_the_same_facts_give_the_same_page(facts: SelectionFacts, page: Page) -> None:
    assert render(facts) == page.html
